"""The cost of a meta step in training steps: FLOPs and memory as counted by XLA, and time. All rows are measured in one run.

    python -m benchmarks.meta_step                                  VGG16-UNet at 256, 512 and 1024 px, batch 2
    python -m benchmarks.meta_step --size=256 --json=FILE
    python -m benchmarks.meta_step --size=1024 --repeats=0          what XLA counts; nothing is run
    python -m benchmarks.meta_step --approximations --weights=FILE  how close the approximations are to the exact gradient

`train_plain` is `value_and_grad` and Adam on the same network and loss and nothing else, to show that no other row looks
cheap because of a slow training step.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from benchmarks.measure import drawn_batch, numbers, ratio, show, time_columns, timed_in_turns, write_rows
from benchmarks.meta_gradients import OTHER_META_GRADIENTS, same_batch_step
from pldmlt_jax.config import Config, LossConfig, MetaConfig, OptimConfig
from pldmlt_jax.method import losses
from pldmlt_jax.method.diagnostics import abstract_batch, program_cost
from pldmlt_jax.method.state import Method, MethodState, Params, init_method_state, make_method
from pldmlt_jax.method.steps import meta_step, train_step
from pldmlt_jax.method.virtual_step import META_GRADIENTS, apply_network
from pldmlt_jax.models.weights.load import load_encoder_weights
from pldmlt_jax.types import NUM_GRADES, Batch

META_GRADIENTS.update(OTHER_META_GRADIENTS)


class Row(NamedTuple):
    """A step and the changes to its method."""

    step: Any  # jitted
    meta: Mapping[str, Any] = {}
    model: Mapping[str, Any] = {}
    microbatches: int = 1


@partial(jax.jit, static_argnames="method")
def train_plain(state: MethodState, batch: Batch, *, method: Method) -> tuple[Params, optax.OptState, Array]:
    """Takes the simplest possible training step of this network, with given labels and without metrics."""
    labels = jax.nn.one_hot(batch.grade, NUM_GRADES)

    def loss(params: Params):
        output, batch_stats = apply_network(params, state.network.batch_stats, batch, method)
        return losses.total_loss(output, labels, batch, method.loss).total, batch_stats

    (value, batch_stats), grads = jax.value_and_grad(loss, has_aux=True)(state.network.params)
    updates, opt_state = method.optimizer.update(grads, state.network.opt_state, state.network.params)
    return optax.apply_updates(state.network.params, updates), (opt_state, batch_stats), value


ANCHORED = {"loss": "anchored"}
ROWS: dict[str, Row] = {
    "train_plain": Row(train_plain),
    "train": Row(train_step),
    "meta_paper": Row(meta_step, {"loss": "paper"}),
    "meta_indirect": Row(meta_step, {"loss": "indirect"}),
    "meta_anchored": Row(meta_step, ANCHORED),
    "meta_maxl": Row(meta_step, {"loss": "maxl"}),
    "meta_forward": Row(meta_step, ANCHORED | {"gradient": "forward"}),
    "meta_finite_difference": Row(meta_step, ANCHORED | {"gradient": "finite_difference"}),
    "meta_first_order": Row(meta_step, {"loss": "paper", "gradient": "first_order"}),
    "round_same_batch": Row(same_batch_step, ANCHORED),
}
LESS_MEMORY: dict[str, Row] = {
    f"{name}_{how}": ROWS[name]._replace(**change)
    for how, change in {
        "remat_convs": {"model": {"rematerialisation": "convs"}},
        "remat_blocks": {"model": {"rematerialisation": "blocks"}},
        "microbatches_2": {"microbatches": 2},
    }.items()
    for name in ("train", "meta_anchored", "meta_forward")
}

LESS_TIME: dict[str, Row] = {
    **{f"train_frozen_{n}": Row(train_step, model={"frozen_stages": n}) for n in (1, 2, 3)},
    "train_bfloat16_gradients": Row(train_step, model={"weight_gradients": "bfloat16"}),
    "train_frozen_2_bfloat16_gradients": Row(train_step, model={"frozen_stages": 2, "weight_gradients": "bfloat16"}),
}


def main() -> None:
    arguments = parse()
    rows = []
    for size_px in arguments.size:
        if arguments.approximations:
            rows += approximations(size_px, arguments)
        else:
            rows += costs(size_px, arguments)
    write_rows(arguments.json, rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=numbers, default=[256, 512, 1024])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--dtype", default="float32", help="of the activations: float32 or bfloat16")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns; 0: only what XLA counts")
    parser.add_argument("--rows", default="", help="comma-separated, default all")
    parser.add_argument("--less-memory", action="store_true", help="further rows: rematerialisation and microbatches")
    parser.add_argument("--less-time", action="store_true", help="further rows: frozen stages, bfloat16 weight gradients")
    parser.add_argument("--approximations", action="store_true", help="directions instead of costs")
    parser.add_argument("--weights", default="", help="ImageNet weights of VGG16, for --approximations")
    parser.add_argument("--steps", type=int, default=20, help="training steps before the gradients are compared")
    parser.add_argument("--cache", default="data_cache")
    parser.add_argument("--json", default="", help="file for the rows")
    return parser.parse_args()


def config_of(row: Row, dtype: str) -> Config:
    """Returns the config of a row: the recommended losses on the paper's network."""
    config = Config(loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"))
    config.model = dataclasses.replace(config.model, dtype=dtype, **row.model)
    config.meta = dataclasses.replace(MetaConfig(inner_learning_rate=1e-2), **row.meta)
    config.train.microbatches = row.microbatches
    return config


def costs(size_px: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures every row at one size. Factors are in training steps."""
    chosen = ROWS | (LESS_MEMORY if arguments.less_memory else {}) | (LESS_TIME if arguments.less_time else {})
    if arguments.rows:
        chosen = {name: chosen[name] for name in dict.fromkeys(("train", *arguments.rows.split(",")))}
    state = init_method_state(make_method(config_of(ROWS["train"], arguments.dtype), total_steps=1))
    batch = jax.tree.map(jnp.asarray, drawn_batch(size_px, arguments.batch, arguments.cache))
    compiled = {}
    for name, row in chosen.items():
        method = make_method(config_of(row, arguments.dtype), total_steps=1)
        shapes = abstract_batch(size_px, arguments.batch)
        compiled[name] = row.step.lower(jax.eval_shape(lambda: state), shapes, method=method).compile()
    counted = {name: program_cost(program) for name, program in compiled.items()}
    jobs = {name: partial(program, state, batch) for name, program in compiled.items()}
    seconds = timed_in_turns(jobs, arguments.repeats) if arguments.repeats else {}
    shared = {
        "library": f"jax {jax.__version__}",
        "size_px": size_px,
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "device": jax.devices()[0].device_kind,
    }
    rows = []
    for name, cost in counted.items():
        row = {"what": name} | shared | {"flops": cost.flops, "temp_bytes": cost.temp_bytes}
        row |= {"flops_of_train": cost.flops / counted["train"].flops}
        row |= {"temp_bytes_of_train": cost.temp_bytes / counted["train"].temp_bytes}
        if seconds:
            row |= time_columns(seconds[name]) | {"seconds_of_train": ratio(seconds[name], seconds["train"])}
        rows.append(row)
    columns = {"flops": ".3e", "temp_bytes": ".3e", "seconds_median": ".3f"}
    columns |= {"flops_of_train": ".2f", "temp_bytes_of_train": ".2f", "seconds_of_train": ".2f"}
    show(f"{size_px} px, batch {arguments.batch}, {arguments.dtype}, {shared['device']}", rows, columns)
    return rows


def approximations(size_px: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Compares each approximation with the exact meta-gradient after some training steps, by meta loss and epsilon."""
    batch = jax.tree.map(jnp.asarray, drawn_batch(size_px, arguments.batch, arguments.cache))
    config = config_of(ROWS["train"], arguments.dtype)
    config.optim = OptimConfig(learning_rate=1e-4, decoder_factor=10.0)
    method = make_method(config, total_steps=arguments.steps)
    state = init_method_state(method)
    if arguments.weights:
        state = init_method_state(method, lambda variables: load_encoder_weights(variables, arguments.weights, "vgg16")[0])
    for _ in range(arguments.steps):
        state, _ = train_step(state, batch, method=method)
    rows = []
    for loss in ("paper", "indirect", "anchored", "maxl"):
        for epsilon in (5e-5, 1e-2):
            rows += compare_gradients(loss, epsilon, state, batch, method)
    shared = {"size_px": size_px, "batch": arguments.batch, "dtype": arguments.dtype, "steps": arguments.steps}
    rows = [row | shared | {"weights": bool(arguments.weights)} for row in rows]
    columns = {"cosine": ".6f", "relative_error": ".2e", "norm": ".2e"}
    show(f"meta-gradients at {size_px} px after {arguments.steps} training steps", rows, columns)
    return rows


def compare_gradients(loss: str, epsilon: float, state: MethodState, batch: Batch, method: Method) -> list[dict[str, Any]]:
    """Returns one row for each way to the gradient."""
    meta = dataclasses.replace(method.meta, loss=loss, inner_learning_rate=epsilon)
    changed = dataclasses.replace(method, meta=meta)
    gradients = {
        name: jax.jit(lambda s, b, f=META_GRADIENTS[name]: f(s, b, changed)[1])(state, batch)
        for name in ("exact", "forward", "finite_difference", "first_order")
    }
    return [
        {"what": f"{loss}, epsilon {epsilon:g}: {name}", "meta_loss": loss, "inner_learning_rate": epsilon, "gradient": name}
        | distance(gradient, gradients["exact"])
        for name, gradient in gradients.items()
    ]


def distance(gradient: Params, exact: Params) -> dict[str, float | None]:
    """Returns the cosine with the exact gradient, the error relative to its norm, and the norm."""
    norm, exact_norm = (float(optax.tree.norm(tree)) for tree in (gradient, exact))
    error = float(optax.tree.norm(jax.tree.map(jnp.subtract, gradient, exact))) / exact_norm
    cosine = float(cast(Array, optax.tree.vdot(gradient, exact))) / (norm * exact_norm) if norm else None
    return {"cosine": cosine, "relative_error": error, "norm": norm}


if __name__ == "__main__":
    main()

"""Steps on 2 and 8 devices against the same steps on one, in float64 under SGD: prints the largest differences as JSON.

A program of its own, for the number of devices is fixed when JAX starts; `test_parallel.py` runs it once.
"""

import dataclasses
import functools
import json
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pldmlt_jax.config import GraderConfig, LossConfig, MetaConfig, ParallelConfig
from pldmlt_jax.method.diagnostics import gradient_balance, meta_gradient_paths
from pldmlt_jax.method.grader import Grader, grader_eval, grader_step, init_grader
from pldmlt_jax.method.state import Method, MethodState, TrainState
from pldmlt_jax.method.steps import StepMetrics, eval_step, meta_step, train_step
from pldmlt_jax.models.classifier import Classifier
from pldmlt_jax.models.encoders.vgg import VGG
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.parallel import Devices, select_training_devices
from pldmlt_jax.types import Batch
from tests.method.methods import tiny_method, tiny_state

NUM, SIZE_PX = 8, 8
NET = {"encoder_filters": (4, 6), "encoder_convs": (1, 1), "decoder_filters": (5, 4), "encoder_norm": True}


def make_batch(seed: int) -> Batch:
    """Eight images of which two do not count, with fields of view of different sizes; one device of eight has none."""
    rng = np.random.default_rng(seed)
    shape = (NUM, SIZE_PX, SIZE_PX)
    bits = np.where(rng.random(shape) < 0.2, 1 + 2 + 64, 1)
    bits[rng.random(shape) < rng.random((NUM, 1, 1))] = 0
    return Batch(
        image=rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
        mask_bits=bits.astype(np.uint8),
        grade=np.array([2, 3, 4, 1, 0, 2, 2, 3], np.int32),
        admissible=np.ones((NUM, 5), bool),
        sample_mask=np.array([1, 1, 0, 1, 1, 1, 0, 1], np.float64),
        index=np.arange(NUM, dtype=np.int32),
    )


def make_method(segmentation: str, meta_loss: str, **fields) -> Method:
    """Batch normalisation in encoder and decoder; `fields` of Method and of its model."""
    model = NET | {"rematerialisation": fields.pop("rematerialisation", "none")}
    method = tiny_method(
        model=model,
        loss=LossConfig(segmentation=segmentation, reduction="pixel_mean"),
        meta=MetaConfig(loss=meta_loss, inner_learning_rate=0.1, learning_rate=0.1, hidden=(8,)),
    )
    return dataclasses.replace(method, **fields)


@functools.partial(jax.jit, static_argnames="method")
def both_steps(state: MethodState, batch: Batch, *, method: Method) -> tuple[MethodState, StepMetrics]:
    """(A), then (B), on one batch."""
    state, metrics = train_step(state, batch, method=method)
    state, label_metrics = meta_step(state, batch, method=method)
    return state, metrics | label_metrics


@functools.partial(jax.jit, static_argnames="method")
def both_diagnostics(state: MethodState, batch: Batch, *, method: Method) -> StepMetrics:
    return gradient_balance(state, batch, method=method) | meta_gradient_paths(state, batch, method=method)


@functools.cache
def devices(mode: str, count: int, *, shard: bool = False) -> Devices:
    return select_training_devices(ParallelConfig(mode, count, shard_params=shard), NUM, "train.batch_size")


def difference(actual: Any, expected: Any) -> float:
    """Largest one of two trees, relative to the expected number where that is above 1e-3."""

    def of_leaf(a: Any, b: Any) -> float:
        a, b = (np.asarray(x) for x in (a, b))
        if b.dtype == bool:  # whether a step was finite
            return float((a != b).any())
        return float((abs(a - b) / (1e-3 + abs(b))).max(initial=0))

    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return float(np.max([of_leaf(a, b) for a, b in pairs]))


def on(where: Devices, step, state, batch, *, updates: bool, **static):
    """A step on some devices, with the axis that a pmap needs."""
    static = {name: dataclasses.replace(value, axis_name=where.axis_name) for name, value in static.items()}
    make = where.make_training_step if updates else where.make_evaluation
    return make(step, **static)(where.put_state(state), where.put_batch(batch))


class Case(NamedTuple):
    """A step on some devices."""

    name: str
    step: Any
    updates: bool  # the state, and so is a training step
    static: tuple[str, Any]  # "method" or "grader"
    state: Any
    where: Devices

    def __str__(self) -> str:
        spread = ", parameters in parts" if self.where.shard_params else ""
        return f"{self.name}{self.step.__name__}, {self.where.mode} of {self.where.mesh.size}{spread}"


def cases() -> Iterator[Case]:
    whole, parts = (
        make_method("dice_ce", "maxl"),
        make_method("focal", "paper", microbatches=2, rematerialisation="blocks"),
    )
    state = tiny_state(whole)
    for step in (both_steps, eval_step):
        for where in (devices("mesh", 8), devices("pmap", 8)):
            yield Case("dice_ce maxl ", step, step is both_steps, ("method", whole), state, where)
    yield Case("dice_ce maxl ", both_steps, True, ("method", whole), state, devices("mesh", 2, shard=True))
    for step in (train_step, meta_step):
        for where in (devices("mesh", 2), devices("pmap", 2)):
            yield Case("focal paper in microbatches ", step, True, ("method", parts), state, where)
    yield Case("focal paper in microbatches ", both_diagnostics, False, ("method", parts), state, devices("pmap", 2))
    grader, grader_state = make_grader()
    for where in (devices("mesh", 2), devices("pmap", 8)):
        yield Case("", grader_step, True, ("grader", grader), grader_state, where)
    yield Case("", grader_eval, False, ("grader", grader), grader_state, devices("pmap", 2))


class SgdGrader(Grader):
    """AdamW would hide a gradient that is a multiple of the right one."""

    @property
    def optimizer(self):
        return tiny_method().optimizer


def make_grader() -> tuple[Grader, TrainState]:
    grader = SgdGrader(Classifier(VGG((4, 6), (1, 1), norm=True)), GraderConfig(), 10, (0.5, 1.0, 1.0, 2.0, 1.0))
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), init_grader(grader, jax.random.key(0)))
    return grader, TrainState(variables["params"], variables["batch_stats"], grader.optimizer.init(variables["params"]))


def compare_all(batch: Batch) -> dict[str, float]:
    """Largest difference from one device of every case; compiled by two threads."""
    all_cases = list(cases())
    on_one = {(case.step, case.static): case for case in all_cases}

    def run_alone(case: Case) -> Any:
        return case.step(case.state, batch, **dict([case.static]))

    def run_spread(case: Case) -> Any:
        return on(case.where, case.step, case.state, batch, updates=case.updates, **dict([case.static]))

    with ThreadPoolExecutor(2) as pool:
        expected = dict(zip(on_one, pool.map(run_alone, on_one.values()), strict=True))
        found = pool.map(run_spread, all_cases)
        pairs = zip(all_cases, found, strict=True)
        return {str(case): difference(output, expected[case.step, case.static]) for case, output in pairs}


def go_on_elsewhere(batch: Batch) -> dict[str, float]:
    """A round on 2 devices, a checkpoint, and another on 1, 2 and 8; the state is donated while it is still being saved."""
    method = make_method("dice_ce", "maxl")
    state = tiny_state(method)
    after_one, _ = both_steps(state, batch, method=method)
    after_two, _ = both_steps(after_one, batch, method=method)
    two, eight = devices("mesh", 2, shard=True), devices("mesh", 8)
    program = two.make_training_step(both_steps, method=method)
    placed = two.put_state(state)
    before = jax.tree.map(np.array, placed)
    saved, _ = program(placed, two.put_batch(batch))
    found = {"input kept by the caller": difference(before, state)}
    found["input used up"] = float(any(not leaf.is_deleted() for leaf in jax.tree.leaves(placed)))
    with tempfile.TemporaryDirectory() as directory:
        with Checkpoints(Path(directory)) as checkpoints:
            checkpoints.save(1, saved, {"round": 1}, 0.5)
            found["went on with 2 devices"] = difference(program(saved, two.put_batch(batch))[0], after_two)
        with Checkpoints(Path(directory)) as checkpoints:
            alone, _ = checkpoints.restore(1, jax.eval_shape(lambda: state))
            found["restored on 1 device"] = difference(alone, after_one)
            found["went on with 1 device"] = difference(both_steps(alone, batch, method=method)[0], after_two)
            spread, _ = checkpoints.restore(1, eight.put_state(state))
            again = eight.make_training_step(both_steps, method=method)(spread, eight.put_batch(batch))
            found["went on with 8 devices"] = difference(again[0], after_two)
    return found


def compilations_of_another_run(batch: Batch) -> dict[str, float]:
    """Of programs, when runs with an equal method come after the first, in both modes."""
    count = 0

    def listen(event: str, duration_s: float, **_: object) -> None:
        nonlocal count
        count += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    for mode in ("mesh", "pmap"):
        method = dataclasses.replace(make_method("dice_ce", "maxl"), axis_name=devices(mode, 8).axis_name)
        where = select_training_devices(ParallelConfig(mode, 8), NUM, "train.batch_size")
        state, placed = where.put_state(tiny_state(method)), where.put_batch(batch)
        before = count
        for _ in range(2):
            state, _ = where.make_training_step(both_steps, method=method)(state, placed)
            where.make_evaluation(eval_step, method=method)(state, placed)
        if count != before:
            return {"compilations of another run": float(count - before)}
    return {"compilations of another run": 0.0, "compilations were not counted": float(not count)}


def main() -> None:
    """`parallel_program.py FILE`."""
    jax.config.update("jax_enable_x64", True)  # `jax.enable_x64` would be of one thread
    batch = make_batch(0)
    found = compare_all(batch) | go_on_elsewhere(batch) | compilations_of_another_run(batch)
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()

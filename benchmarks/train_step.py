"""Seconds per training step of VGG16-U-Net here and in segmentation_models.pytorch, measured in one run.

    python -m benchmarks.train_step                                     256, 512 and 1024 px, batch 2
    python -m benchmarks.train_step --size=256 --memory --json=FILE     also peak memory, each row in its own process

Same encoder, decoder, head and loss (soft Dice + cross-entropy of the lesions, focal loss of the grades), Adam, and the
same synthetic images. Rows: this project's train and meta step (on a CPU also the train step with
`model.weight_gradients=bfloat16`), and PyTorch's train step eager, channels-last and compiled. All in float32; on a GPU
also in bfloat16. Rounds are interleaved. For a GPU in PEAK_FLOPS each row has its share of the device's peak, by XLA's
count of the operations of our train step.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.measure import drawn_batch, numbers, peak_rss_bytes, show, time_columns, timed_in_turns, write_rows
from benchmarks.pytorch import Variant, load, normalised
from pldmlt_jax.config import Config, LossConfig, MetaConfig
from pldmlt_jax.method.diagnostics import program_cost
from pldmlt_jax.method.losses import DICE_SMOOTH
from pldmlt_jax.method.state import init_method_state, make_method
from pldmlt_jax.method.steps import meta_step, train_step
from pldmlt_jax.training.parallel import select_local_devices
from pldmlt_jax.types import MASK_BITS, NUM_GRADES, Batch

PEAK_FLOPS = {"NVIDIA H100 80GB HBM3": {"float32": 494.5e12, "bfloat16": 989.4e12}}
"""Peak FLOP/s of dense matrix products by NVIDIA's data sheet; float32 as TF32."""

Job = tuple[dict[str, Any], Callable[[], Any]]


def main() -> None:
    arguments = parse()
    rows: list[dict[str, Any]] = []
    for size_px in arguments.size:
        for batch_size in arguments.batch:
            found = measure(size_px, batch_size, arguments)
            columns = {"seconds_median": ".3f", "images_per_s": ".2f", "of_best_torch": ".2f"}
            columns |= {"peak_rss_bytes": ".2e"} if arguments.memory else {}
            columns |= {"share_of_peak": ".3f"} if "share_of_peak" in found[0] else {}
            show(f"{size_px} px, batch {batch_size}, {found[0]['device']}", found, columns)
            rows += found
    write_rows(arguments.json, rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=numbers, default=[256, 512, 1024], help="sides of the square, px")
    parser.add_argument("--batch", type=numbers, default=[2])
    parser.add_argument("--dtype", default="", help="float32 or bfloat16; both on a GPU, else float32")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each row, after one untimed step")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="names of rows, default all")
    parser.add_argument("--memory", action="store_true", help="also run each row in its own process, for its peak memory")
    parser.add_argument("--cache", default="data_cache")
    parser.add_argument("--json", default="", help="file for the rows")
    return parser.parse_args()


def measure(size_px: int, batch_size: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for each job, timed in turns."""
    batch = drawn_batch(size_px, batch_size, arguments.cache)
    types = (
        [arguments.dtype] if arguments.dtype else ["float32", "bfloat16"] if jax.default_backend() != "cpu" else ["float32"]
    )
    jobs: dict[str, Job] = {}
    for dtype in types:
        jobs |= ours(batch, dtype, arguments.only) | theirs(batch, dtype)
    jobs = {name: job for name, job in jobs.items() if not arguments.only or name in arguments.only}
    seconds = timed_in_turns({name: run for name, (_, run) in jobs.items()}, arguments.rounds)
    rows = []
    for name, (row, _) in jobs.items():
        times = time_columns(seconds[name])
        row = {"what": name, "size_px": size_px, "batch": batch_size} | row | times
        row["images_per_s"] = batch_size / times["seconds_median"]
        if arguments.memory:
            command = [sys.executable, "-m", "benchmarks.train_step", f"--size={size_px}", f"--batch={batch_size}"]
            row["peak_rss_bytes"] = peak_rss_bytes([*command, f"--dtype={row['dtype']}", f"--only={name}", "--rounds=2"])
        rows.append(row)
    return [row | compared(row, rows) for row in rows]


def compared(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the time relative to the fastest PyTorch row of the same dtype, and the share of the device's peak."""
    same = [other for other in rows if other["dtype"] == row["dtype"]]
    best = min((other["seconds_median"] for other in same if "torch" in other["library"]), default=None)
    flops = next((other["flops"] for other in same if other["what"].startswith("train ")), None)
    peak = PEAK_FLOPS.get(row["device"], {}).get(row["dtype"])
    found = {"of_best_torch": row["seconds_median"] / best} if best else {}
    return found | ({"share_of_peak": row.get("flops", flops) / row["seconds_median"] / peak} if peak and flops else {})


def ours(batch: Batch, dtype: str, only: list[str]) -> dict[str, Job]:
    """Returns this project's steps as the training loop runs them: states are donated, metrics stay on the device."""
    steps = {"train": (train_step, "xla"), "meta": (meta_step, "xla")}
    if jax.default_backend() == "cpu" and dtype == "float32":
        steps["train_bfloat16_gradients"] = train_step, "bfloat16"
    return {
        f"{name} {dtype}": our_job(step, batch, dtype, weight_gradients)
        for name, (step, weight_gradients) in steps.items()
        if not only or f"{name} {dtype}" in only
    }


def our_job(step: Any, batch: Batch, dtype: str, weight_gradients: str) -> Job:
    config = Config(loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"))
    config.model.dtype, config.model.weight_gradients = dtype, weight_gradients
    config.meta = MetaConfig(loss="anchored", inner_learning_rate=1e-2)
    method = make_method(config, total_steps=1)
    devices = select_local_devices(config.parallel)
    on_device = devices.put_batch(batch)
    state = devices.put_state(init_method_state(method))
    program = devices.make_training_step(step, method=method).lower(state, on_device).compile()  # pyright: ignore[reportFunctionMemberAccess]
    held = [state]

    def run() -> Any:
        held[0], metrics = program(held[0], on_device)
        return metrics

    row = {"library": f"jax {jax.__version__}", "dtype": dtype, "device": jax.devices()[0].device_kind}
    return row | program_cost(program)._asdict(), run


def theirs(batch: Batch, dtype: str) -> dict[str, Job]:
    """Returns PyTorch's train step in each form. The batch is on the device, as for our steps."""
    if (pytorch := load()) is None:
        return {}
    torch, device = pytorch.torch, pytorch.device
    lesion = np.asarray(batch.mask_bits) & MASK_BITS["fused"] != 0
    truth = torch.from_numpy(np.stack([~lesion, lesion], axis=1).astype(np.float32)).to(device)
    valid = torch.from_numpy((np.asarray(batch.mask_bits) & MASK_BITS["valid"] != 0)[:, None].astype(np.float32)).to(device)
    labels = torch.from_numpy(np.eye(NUM_GRADES, dtype=np.float32)[np.asarray(batch.grade)]).to(device)
    type_of = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]

    def job(variant: Variant) -> Callable[[], Any]:
        model = variant.model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-5, fused=True)
        x = normalised(torch, np.asarray(batch.image), variant.layout, device)

        def run() -> Any:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, type_of, enabled=dtype != "float32"):
                masks, grades = model(x)
            loss = total_loss(torch, masks.float(), grades.float(), truth, valid, labels)
            loss.backward()
            optimizer.step()
            return loss.item()

        return run

    row = {"library": pytorch.library, "dtype": dtype, "device": pytorch.name}
    return {f"torch {name} {dtype}": (row, job(variant)) for name, variant in pytorch.variants.items()}


def total_loss(torch: Any, masks: Any, grades: Any, truth: Any, valid: Any, labels: Any, beta: float = 0.8) -> Any:
    """Our loss: soft Dice of the lesion + cross-entropy over valid pixels + beta times the focal loss of the grade."""
    log_p = masks.log_softmax(dim=1)
    p, y = log_p[:, 1:].exp() * valid, truth[:, 1:] * valid
    dice = (2 * (p * y).sum() + DICE_SMOOTH) / (p.sum() + y.sum() + DICE_SMOOTH)
    cross_entropy = -((truth * log_p).sum(dim=1, keepdim=True) * valid).sum() / valid.sum()
    log_q = grades.log_softmax(dim=1)
    focal = (-0.25 * labels * (1 - log_q.exp()) ** 2 * log_q).sum(dim=1).mean()
    return 1 - dice + cross_entropy + beta * focal


if __name__ == "__main__":
    main()

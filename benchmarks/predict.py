"""Seconds per predicted batch of VGG16-U-Net here and in segmentation_models.pytorch, measured in one run.

    python -m benchmarks.predict                                     256, 512 and 1024 px, one image
    python -m benchmarks.predict --size=512 --batch=4 --json=FILE

Rows: this project with each installed engine (requirements-export.txt; also bfloat16 if the processor has it), and
PyTorch eager, channels-last and compiled if it is installed (requirements-bench.txt). Encoder, decoder filters and input
are the same. Rounds are interleaved, so that other load on the machine slows all rows alike. Idle threads of one library
may still slow the next: `--only=NAME,NAME` rules that out. XLA's rows have its own count of operations and of temporary
memory.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import numbers, time_columns, timed_in_turns, write_rows
from benchmarks.pytorch import Variant, load, normalised
from pldmlt_jax.config import Config, InferenceConfig
from pldmlt_jax.errors import UserError
from pldmlt_jax.evaluation.inference import TrainedNetwork, inference_forward
from pldmlt_jax.export.engines import make_forward
from pldmlt_jax.method.diagnostics import program_cost
from pldmlt_jax.method.state import init_method_state, make_method


def main() -> None:
    arguments = parse()
    rows: list[dict[str, Any]] = []
    for size_px in arguments.size:
        for batch in arguments.batch:
            found = list(measure(size_px, batch, arguments.rounds, set(arguments.only)))
            rows += found
            show(found)
    write_rows(arguments.json, rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=numbers, default=[256, 512, 1024], help="sides of the square, px")
    parser.add_argument("--batch", type=numbers, default=[1])
    parser.add_argument("--rounds", type=int, default=7, help="timed batches of each row, after one untimed batch")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="names of rows, default all")
    parser.add_argument("--json", default="", help="file for the rows")
    return parser.parse_args()


def measure(size_px: int, batch: int, rounds: int, only: set[str]) -> Iterator[dict[str, Any]]:
    """Returns a row for each contender, timed in turns."""
    images = np.random.default_rng(0).integers(0, 256, (batch, size_px, size_px, 3)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        contenders = {**ours(size_px, batch, images, Path(folder)), **theirs(images)}
        contenders = {name: row for name, row in contenders.items() if not only or name in only}
        seconds = timed_in_turns({name: run for name, (_, run) in contenders.items()}, rounds)
    for name, (row, _) in contenders.items():
        times = time_columns(seconds[name])
        shared = {"what": f"predict, {name}", "size_px": size_px, "batch": batch}
        yield row | shared | times | {"images_per_s": batch / times["seconds_median"]}


Contender = tuple[dict[str, Any], Callable[[], Any]]


def ours(size_px: int, batch: int, images: np.ndarray, folder: Path) -> dict[str, Contender]:
    """Returns this project's network with every installed engine and random weights."""
    config = Config()
    config.data.size_px = size_px
    device = jax.devices()[0]
    contenders: dict[str, Contender] = {}
    types = ("float32", "bfloat16") if device.platform != "cpu" else ("float32",)
    for dtype in types:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))
        network = _network(config, folder)
        row = {"library": f"jax {jax.__version__}", "dtype": dtype, "device": device.device_kind} | _analysis(
            network, images
        )
        contenders[f"xla {dtype}"] = row, lambda network=network: network(images, batch)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float32"))
    for engine, dtype in (("onnx", "float32"), ("openvino", "float32"), ("openvino", "bfloat16")):
        inference = InferenceConfig(engine_dtype=dtype)
        try:
            forward = make_forward(engine, _network(config, folder), inference)
        except UserError as error:
            print(f"  {engine} {dtype}: {error.found}")
            continue
        row = {"library": engine, "dtype": dtype, "device": "cpu"}
        contenders[f"{engine} {dtype}"] = row, lambda forward=forward: forward(images, batch)
    return contenders


def _network(config: Config, folder: Path) -> TrainedNetwork:
    return TrainedNetwork(config, init_method_state(make_method(config, total_steps=1)), 0, folder)


def _analysis(network: TrainedNetwork, images: np.ndarray) -> dict[str, Any]:
    """Returns XLA's own count of operations and of temporary memory."""
    function = jax.jit(inference_forward, static_argnames=("network", "target"))
    compiled = function.lower(
        network.variables, jnp.asarray(images), network=network.module, target=network.config.loss.target
    ).compile()
    return program_cost(compiled)._asdict()


def theirs(images: np.ndarray) -> dict[str, Contender]:
    """Returns smp's U-Net of the same encoder and decoder, with a classification head and random weights."""
    if (pytorch := load()) is None:
        return {}
    torch = pytorch.torch

    def forward(variant: Variant, dtype: Any) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode(), torch.autocast(pytorch.device.type, dtype, enabled=dtype != torch.float32):
                masks, grades = variant.model(normalised(torch, images, variant.layout, pytorch.device))
                return masks.float().softmax(dim=1).cpu().numpy(), grades.float().softmax(dim=1).cpu().numpy()

        return run

    contenders: dict[str, Contender] = {}
    for variant in pytorch.variants.values():
        variant.model.eval()
    for dtype, torch_type in {"float32": torch.float32, "bfloat16": torch.bfloat16}.items():
        row = {"library": pytorch.library, "dtype": dtype, "device": pytorch.name}
        for name, variant in pytorch.variants.items():
            contenders[f"torch {name} {dtype}"] = row, forward(variant, torch_type)
    return contenders


def show(rows: list[dict[str, Any]]) -> None:
    """Prints seconds, images/s and the speed relative to the fastest float32 PyTorch row."""
    print(f"\n{rows[0]['size_px']} px, batch {rows[0]['batch']}")
    torch_rows = [row for row in rows if "torch" in row["library"] and row["dtype"] == "float32"]
    torch_best = min((row["seconds_median"] for row in torch_rows), default=None)
    for row in rows:
        ratio = f"{torch_best / row['seconds_median']:6.2f} x the fastest float32 PyTorch" if torch_best else ""
        print(f"  {row['what']:<36}{row['seconds_median']:9.3f} s {row['images_per_s']:8.2f} images/s {ratio}", flush=True)


if __name__ == "__main__":
    main()

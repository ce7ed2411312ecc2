"""The cost of a training step and of reading an epoch, by image size, batch, devices and number of images.

    python -m benchmarks.scaling                        all rows, each in its own process
    python -m benchmarks.scaling --table=images --json=FILE

Time is the median of some steps of VGG16-U-Net in float32. `temp_bytes` is what XLA needs on each device in addition to
state and batch. `peak_rss_bytes` is the peak memory of the process, its libraries included. The devices are parts of one
processor: they show the overhead, not a gain. The rows by number of images read an epoch with augmentation and score
a prediction for each image.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.measure import drawn_batch, peak_rss_bytes, resident_bytes, show, write_rows

SIZES_PX = (256, 512, 1024)
BATCHES = (1, 2, 4, 8)
DEVICES = (1, 2, 4, 8)
IMAGES = (100, 1000, 5000)

TABLES: dict[str, list[dict[str, Any]]] = {
    "size": [{"what": f"{size} px, batch 2", "size_px": size, "batch": 2, "devices": 1} for size in SIZES_PX],
    "batch": [{"what": f"256 px, batch {batch}", "size_px": 256, "batch": batch, "devices": 1} for batch in BATCHES],
    "devices": [{"what": f"128 px, batch 8, {n} devices", "size_px": 128, "batch": 8, "devices": n} for n in DEVICES],
    "images": [{"what": f"{n} images of 64 px", "images": n, "size_px": 64, "batch": 4} for n in IMAGES],
}


def main() -> None:
    arguments = parse()
    if arguments.row:
        row = json.loads(arguments.row)
        found = read_and_score(row, arguments.cache) if "images" in row else steps(row, arguments)
        Path(arguments.json).write_text(json.dumps(row | found), encoding="utf-8")
        return
    rows = []
    for name in arguments.table.split(","):
        found = [in_own_process(row, arguments) for row in TABLES[name]]
        columns = {"seconds_median": ".3f", "images_per_s": ".2f", "temp_bytes": ".2e", "growth_bytes": ".2e"}
        columns = {key: form for key, form in columns.items() if key in found[0]} | {"peak_rss_bytes": ".2e"}
        show(f"by {name}", found, columns)
        rows += found
        write_rows(arguments.json, rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default=",".join(TABLES), help="comma-separated, default all")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps, after one untimed step")
    parser.add_argument("--cache", default="data_cache")
    parser.add_argument("--json", default="", help="file for the rows")
    parser.add_argument("--row", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(row: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the row in a new process, and adds the peak memory of that process."""
    if "images" in row:
        prepared_split(row["images"], row["size_px"], arguments.cache)  # else the peak would include drawing the images
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "benchmarks.scaling", "--row", json.dumps(row), "--json", file.name]
        peak = peak_rss_bytes([*command, f"--rounds={arguments.rounds}", f"--cache={arguments.cache}"])
        return json.loads(Path(file.name).read_text(encoding="utf-8")) | {"peak_rss_bytes": peak}


def steps(row: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Times a training step as the training loop runs it."""
    jax.config.update("jax_num_cpu_devices", row["devices"])
    from pldmlt_jax.config import Config, LossConfig
    from pldmlt_jax.method.diagnostics import program_cost
    from pldmlt_jax.method.state import init_method_state, make_method
    from pldmlt_jax.method.steps import train_step
    from pldmlt_jax.training.parallel import select_training_devices

    config = Config(loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"))
    method = make_method(config, total_steps=1)
    devices = select_training_devices(config.parallel, row["batch"], "train.batch_size")
    batch = devices.put_batch(drawn_batch(row["size_px"], row["batch"], arguments.cache))
    state = devices.put_state(init_method_state(method))
    program = devices.make_training_step(train_step, method=method).lower(state, batch).compile()  # pyright: ignore[reportFunctionMemberAccess]
    seconds = []
    for _ in range(arguments.rounds + 1):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, batch))
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    row = {"library": f"jax {jax.__version__}", "device": jax.devices()[0].device_kind, "dtype": "float32"}
    return row | program_cost(program)._asdict() | {"seconds_median": median, "images_per_s": len(batch.image) / median}


def prepared_split(num_images: int, size_px: int, cache: str) -> tuple[Any, Any]:
    """Returns a training split of this many small synthetic images, prepared if it is not yet, and its settings."""
    from pldmlt_jax.config import DataConfig, SyntheticConfig
    from pldmlt_jax.data.store import open_prepared

    drawn = SyntheticConfig(
        height_px=96, num_segmentation_train=num_images, num_segmentation_test=1, num_grading_train=5, num_grading_test=1
    )
    data = DataConfig(segmentation="synthetic_s", cache_dir=cache, synthetic=drawn)
    return open_prepared("synthetic_s", data, size_px)["train"], data


def read_and_score(row: dict[str, Any], cache: str) -> dict[str, Any]:
    """Reads an epoch of training batches and counts a made-up prediction of each image. Returns the growth of memory."""
    from pldmlt_jax.data.loader import eval_batches, train_batches, true_labels
    from pldmlt_jax.evaluation.metrics.segmentation import SegmentationCounts, segmentation_counts

    split, data = prepared_split(row["images"], row["size_px"], cache)
    labels, indices, batch_size = true_labels(split), np.arange(len(split)), row["batch"]
    stream = train_batches(split, indices, labels, batch_size=batch_size, config=data, seed=0)
    for _ in range(10):
        next(stream)
    before, start = resident_bytes(), time.perf_counter()
    for _ in range(len(split) // batch_size):
        next(stream)
    seconds = time.perf_counter() - start
    counts, rng = SegmentationCounts.empty("lesions"), np.random.default_rng(0)
    for batch in eval_batches(split, indices, labels, batch_size=batch_size):
        probabilities = rng.random((*batch.mask_bits.shape, 4), np.float32)
        scored = segmentation_counts(
            probabilities, np.asarray(batch.mask_bits), np.asarray(batch.sample_mask), target="lesions", threshold=0.5
        )
        counts = counts.merge(scored)
    return {"images_per_s": len(split) / seconds, "growth_bytes": resident_bytes() - before}


if __name__ == "__main__":
    main()

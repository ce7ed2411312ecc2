"""Measures the input pipeline: time of each part, images per second by threads and processes, and what a train step waits.

    python -m benchmarks.input_pipeline                                    synthetic images at 512 and 1024 px
    python -m benchmarks.input_pipeline --root=DIR                         IDRiD's images, from DIR/IDRiD
    python -m benchmarks.input_pipeline --sizes=1024 --storage=jpeg --json=FILE

Each sample is what training sees: RGB and all masks, decoded, warped by one random geometry, with colour jitter.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags, logging

from benchmarks.measure import numbers, resident_bytes, time_columns, write_rows
from pldmlt_jax.config import AugmentConfig, DataConfig, SyntheticConfig
from pldmlt_jax.data.augment import augment, jitter_colours, random_affine
from pldmlt_jax.data.loader import stack_batch, train_batches, train_samples, true_labels
from pldmlt_jax.data.preprocessing.prepared_split import PreparedSplit
from pldmlt_jax.data.store import open_prepared
from pldmlt_jax.types import MASK_BITS

BATCH_SIZE = 2
AUGMENT = AugmentConfig(photometric=0.1)
NUM_SYNTHETIC = 24
WARM_UP_BATCHES = 4


def main() -> None:
    arguments = parse_arguments()
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl's flags
    logging.set_verbosity(logging.ERROR)
    rows: list[dict[str, Any]] = []
    for size_px in arguments.sizes:
        for storage in arguments.storage:
            split, data = open_split(arguments, size_px, storage)
            shared = {"size_px": size_px, "storage": storage}
            found = [*time_parts(split), *measure_pipelines(split, data, arguments)]
            if arguments.step:
                found += [time_train_step(split, data, size_px)]
            rows += [shared | row for row in found]
            print_rows(rows[-len(found) :])
    write_rows(arguments.json, rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers, default=[512, 1024], help="sides of the square, px")
    parser.add_argument("--storage", type=lambda text: text.split(","), default=["png", "jpeg"])
    parser.add_argument("--threads", type=numbers, default=[1, 2, 4])
    parser.add_argument("--workers", type=numbers, default=[2], help="numbers of worker processes, of two threads each")
    parser.add_argument("--root", default="", help="folder that contains IDRiD/; without it synthetic images are used")
    parser.add_argument("--cache", default="data_cache")
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of each measurement")
    parser.add_argument("--step", action="store_true", help="also time a train step of VGG16-UNet, which is slow on a CPU")
    parser.add_argument("--json", default="", help="file for the results")
    return parser.parse_args()


def open_split(arguments: argparse.Namespace, size_px: int, storage: str) -> tuple[PreparedSplit, DataConfig]:
    """Opens prepared images whose originals are at least as large as the square, so that none is enlarged."""
    data = DataConfig(
        segmentation="idrid_s" if arguments.root else "synthetic_s",
        root=arguments.root,
        cache_dir=arguments.cache,
        image_format=storage,
        augment=AUGMENT,
        synthetic=SyntheticConfig(
            height_px=880,
            num_segmentation_train=NUM_SYNTHETIC,
            num_segmentation_test=1,
            num_grading_train=5,
            num_grading_test=1,
        ),
    )
    return open_prepared(data.segmentation, data, size_px)["train"], data


def time_call(function: Callable[[], Any], times: int = 30) -> dict[str, float]:
    function()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return time_columns(seconds)


def time_parts(split: PreparedSplit) -> Iterator[dict[str, Any]]:
    """Times the parts of one sample on one thread."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    stored, sample = split.source[0], split[0]
    affine = random_affine(sample.image.shape[0], AUGMENT, rng)
    valid = sample.mask_bits & MASK_BITS["valid"] != 0
    decoded = {name: np.frombuffer(stored[name], np.uint8) for name in ("image", "mask_bits")}
    size = sample.image.shape[:2]
    jobs: dict[str, Callable[[], Any]] = {
        "read": lambda: split.source[0],
        "decode image": lambda: cv2.imdecode(decoded["image"], cv2.IMREAD_COLOR),
        "decode masks": lambda: cv2.imdecode(decoded["mask_bits"], cv2.IMREAD_UNCHANGED),
        "warp image": lambda: cv2.warpAffine(sample.image, affine, size, flags=cv2.INTER_LINEAR),
        "warp masks": lambda: cv2.warpAffine(sample.mask_bits, affine, size, flags=cv2.INTER_NEAREST),
        "jitter": lambda: jitter_colours(sample.image, valid, 0.1, rng),
    }
    rows: list[dict[str, Any]] = [{"what": what} | time_call(job) for what, job in jobs.items()]
    whole = time_call(lambda: augment((fresh := split[0]).image, fresh.mask_bits, AUGMENT, rng))
    for row in rows:
        yield row | {"share": row["seconds_median"] / whole["seconds_median"]}
    yield {"what": "a sample, one thread", "images_per_s": 1 / whole["seconds_median"]} | whole


def measure_pipelines(split: PreparedSplit, data: DataConfig, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measures batches as training uses them, and the growth of memory over ten epochs."""
    labels, indices = true_labels(split), np.arange(len(split))
    for threads in arguments.threads:
        data.num_threads = threads
        start = time.perf_counter()
        stream = train_batches(split, indices, labels, batch_size=BATCH_SIZE, config=data, seed=0)
        next(stream)
        first = time.perf_counter() - start
        yield {"what": f"pipeline, {threads} threads", "first_batch_s": first} | measure_rate(stream, arguments.seconds)
    for workers in arguments.workers:
        samples = train_samples(split, indices, config=data, seed=0)
        dataset = samples.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)).batch(
            BATCH_SIZE, batch_fn=partial(stack_batch, labels=labels, batch_size=BATCH_SIZE)
        )
        stream = iter(dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)))
        yield {"what": f"pipeline, {workers} processes of 2 threads"} | measure_rate(stream, arguments.seconds)
        del stream
    data.num_threads = arguments.threads[-1]
    stream = train_batches(split, indices, labels, batch_size=BATCH_SIZE, config=data, seed=0)
    memory = [memory_after(stream, len(split) * epochs // BATCH_SIZE) for epochs in (2, 10)]
    yield {"what": "memory, ten epochs after the second", "rss_bytes": memory, "growth_bytes": memory[1] - memory[0]}


def measure_rate(stream: Iterator, seconds: float) -> dict[str, float]:
    for _ in range(WARM_UP_BATCHES):
        next(stream)
    num, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        next(stream)
        num += 1
    return {"images_per_s": num * BATCH_SIZE / passed, "batch": BATCH_SIZE}


def memory_after(stream: Iterator, num_batches: int) -> int:
    for _ in range(num_batches):
        next(stream)
    return resident_bytes()


def time_train_step(split: PreparedSplit, data: DataConfig, size_px: int) -> dict[str, Any]:
    """Times a train step of the recommended VGG16-UNet, and the share of it that waits for the batch."""
    import jax

    from configs.idrid_laptop import get_config
    from pldmlt_jax.method.state import init_method_state, make_method
    from pldmlt_jax.method.steps import train_step

    config = get_config()
    method = make_method(config, total_steps=100)
    labels = true_labels(split)
    labels.grade[:] = 2
    stream = train_batches(split, np.arange(len(split)), labels, batch_size=BATCH_SIZE, config=data, seed=0)
    state, _ = train_step(init_method_state(method), next(stream), method=method)
    waited, stepped = [], []
    for _ in range(4):
        start = time.perf_counter()
        batch = next(stream)
        waited.append(time.perf_counter() - start)
        state, _ = jax.block_until_ready(train_step(state, batch, method=method))
        stepped.append(time.perf_counter() - start)
    return {
        "what": "train step, VGG16-UNet", "batch": BATCH_SIZE, "device": jax.devices()[0].device_kind,
        "seconds_median": statistics.median(stepped), "share_waiting_for_input": sum(waited) / sum(stepped),
    }  # fmt: skip


def print_rows(rows: list[dict[str, Any]]) -> None:
    print(f"\n{rows[0]['size_px']} px, images stored as {rows[0]['storage']}")
    for row in rows:
        cells = [f"  {row['what']:<36}"]
        if "seconds_median" in row:
            cells.append(f"{1e3 * row['seconds_median']:9.2f} ms")
        if "share" in row:
            cells.append(f"{100 * row['share']:5.0f} %")
        if "images_per_s" in row:
            cells.append(f"{row['images_per_s']:9.1f} images/s")
        if "first_batch_s" in row:
            cells.append(f"first batch after {row['first_batch_s']:.2f} s")
        if "growth_bytes" in row:
            cells.append(f"{row['growth_bytes'] / 2**20:+9.1f} MiB")
        if "share_waiting_for_input" in row:
            cells.append(f"{100 * row['share_waiting_for_input']:.2f} % of it waiting for input")
        print(" ".join(cells), flush=True)


if __name__ == "__main__":
    main()

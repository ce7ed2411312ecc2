"""Shared by the benchmarks: synthetic images, interleaved timing, result rows and tables."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pldmlt_jax.config import DataConfig, SyntheticConfig
from pldmlt_jax.data.loader import GradeLabels, stack_batch
from pldmlt_jax.data.store import open_prepared
from pldmlt_jax.types import NUM_GRADES, Batch

NUM_DRAWN = 8


def drawn_batch(size_px: int, batch_size: int, cache_dir: str) -> Batch:
    """Returns synthetic images with masks and grades, as training reads them. Random noise would be a different load."""
    data = DataConfig(
        segmentation="synthetic_s",
        cache_dir=cache_dir,
        synthetic=SyntheticConfig(
            height_px=880,
            num_segmentation_train=NUM_DRAWN,
            num_segmentation_test=1,
            num_grading_train=NUM_GRADES,
            num_grading_test=1,
        ),
    )
    split = open_prepared("synthetic_s", data, size_px)["train"]
    grades = np.array([record.true_grade for record in split.records], np.int32)
    labels = GradeLabels(grades, np.ones((len(split), NUM_GRADES), bool))
    positions = [i % len(split) for i in range(batch_size)]
    return stack_batch([(i, split[i]) for i in positions], labels, batch_size)


def timed_in_turns(jobs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Times the jobs in turns, so that a machine that slows down slows all of them down. Returns seconds.

    Each job first runs once, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            jax.block_until_ready(job())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def numbers(text: str) -> list[int]:
    """Parses the comma-separated value of a flag."""
    return [int(part) for part in text.split(",") if part]


def time_columns(seconds: Sequence[float]) -> dict[str, float]:
    """Returns the median, the minimum and the maximum."""
    return {"seconds_median": statistics.median(seconds), "seconds_min": min(seconds), "seconds_max": max(seconds)}


def ratio(seconds: Sequence[float], of: Sequence[float]) -> float:
    """Returns the median of the ratios of each turn."""
    return statistics.median(a / b for a, b in zip(seconds, of, strict=True))


PEAK_OF = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stderr=subprocess.STDOUT).returncode
print("\\npeak of the command, KiB:", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
"""An intermediate process: Linux counts the memory of the starting process as that of the started one."""


def peak_rss_bytes(command: Sequence[str]) -> int:
    """Runs a command in its own process and returns its peak memory.

    Raises:
        RuntimeError: The command failed. Its output is in the message.
    """
    done = subprocess.run([sys.executable, "-c", PEAK_OF, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    return int(done.stdout.rsplit(":", 1)[1]) * 1024


def write_rows(path: str, rows: list[dict[str, Any]]) -> None:
    if path:
        Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def show(title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Prints the columns (key -> format) of the rows, under a title."""
    width = max(len(str(row["what"])) for row in rows)
    print(f"\n{title}\n  {'':<{width}} " + " ".join(f"{name:>20}" for name in columns))
    for row in rows:
        cells = [format(row[name], form) if row.get(name) is not None else "" for name, form in columns.items()]
        print(f"  {row['what']:<{width}} " + " ".join(f"{cell:>20}" for cell in cells), flush=True)

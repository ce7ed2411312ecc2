"""Trains the tiny network for many steps and looks at its process from outside: memory, open files and threads stay flat.

    python -m tests.faults.long_run [--steps=10000]

Prints what they were in each tenth of the run, and exits with 1 where one of them has grown.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from pldmlt_jax.training.log import read_log
from tests.faults.runs import finish, start

STEPS_A_ROUND = 50
MAY_GROW_MIB = 20.0
"""From the second quarter of a run to the last one: the first still compiles, and memory that is free is not given back."""


class Sample(NamedTuple):
    """What a process had at one moment."""

    step: int
    mib: float
    files: int
    threads: int


def sample(process: int, log: Path) -> Sample:
    """Reads /proc; the step is the last one of the log."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    with open(log, "rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
        lines = file.read().split(b"\n")
    step = int(lines[-2].split(b'"step": ')[1].split(b",")[0]) if len(lines) > 1 else 0
    files = len(os.listdir(f"/proc/{process}/fd"))
    return Sample(step, int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"]))


def watched(workdir: Path, cache: Path, steps: int, every_s: float) -> list[Sample]:
    """Trains for so many steps, in a workdir that has its pseudo-labels."""
    rounds = -(-steps // STEPS_A_ROUND)
    length = (f"--config.train.theta_units={STEPS_A_ROUND - 10}", "--config.train.label_units=10",
              f"--config.train.max_rounds={rounds}", f"--config.train.patience_rounds={rounds + 1}",
              "--config.train.log_every_steps=10", "--config.train.save_every_minutes=0.05")  # fmt: skip
    output = workdir.parent / "long_run.txt"
    process, samples = start(workdir, cache, "train", *length, log=output), []
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError, KeyError):  # not begun, or just ended
            samples.append(sample(process.pid, workdir / "log.jsonl"))
        time.sleep(every_s)
    if process.returncode:
        raise AssertionError(output.read_text(errors="replace"))
    assert read_log(workdir / "log.jsonl")[-1]["step"] == rounds * STEPS_A_ROUND
    return [each for each in samples if 0 < each.step < rounds * STEPS_A_ROUND]  # at the end all is closed


def growth(samples: list[Sample]) -> Sample:
    """The least of the last quarter of the steps above that of the second; a checkpoint that is being saved opens files."""
    last = samples[-1].step
    second, fourth = ([s for s in samples if low < s.step / last <= high] for low, high in ((0.25, 0.5), (0.75, 1.0)))
    return Sample(last, *(min(s[i] for s in fourth) - min(s[i] for s in second) for i in (1, 2, 3)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        workdir, cache = Path(folder) / "run", Path(folder) / "cache"
        finish(workdir, cache)
        shutil.rmtree(workdir / "checkpoints")
        begin = time.monotonic()
        samples = watched(workdir, cache, steps, every_s=0.5)
        print(f"{samples[-1].step} steps in {time.monotonic() - begin:.0f} s")
    for tenth in range(10):
        part = [s for s in samples if tenth < 10 * s.step / samples[-1].step <= tenth + 1]
        if part:
            ranges = ", ".join(f"{min(s[i] for s in part):.0f} to {max(s[i] for s in part):.0f} {what}"
                               for i, what in ((1, "MiB"), (2, "open files"), (3, "threads")))  # fmt: skip
            print(f"up to step {part[-1].step}: {ranges}")
    grown = growth(samples)
    print(f"from the second quarter to the last: {grown.mib:+.1f} MiB, {grown.files:+d} files, {grown.threads:+d} threads")
    return 1 if grown.mib > MAY_GROW_MIB or grown.files > 2 or grown.threads > 2 else 0


if __name__ == "__main__":
    sys.exit(main())

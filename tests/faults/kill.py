"""Kills every stage with SIGKILL at random moments, lets it finish, and compares what it leaves with an undisturbed run.

    python -m tests.faults.kill [--kills=50] [--seed=0] [--stages=train,evaluate]

Prints a line for each stage, and exits with 1 where anything differs.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from tests.faults.runs import differences, finish, kill_session, results, start

STAGES = ("prepare", "train-grader", "pseudo-label", "train", "evaluate", "compare")
"""Verbs in their order; one that is added here is killed as well."""

EARLIEST_S = 0.8
"""Before that Python has hardly begun to import."""


class Reference:
    """An undisturbed run, with its workdir as it was before each stage, and the time that each took."""

    def __init__(self, root: Path, stages: tuple[str, ...] = STAGES):
        self.root, self.cache, self.workdir = root, root / "cache", root / "whole"
        self.seconds: dict[str, float] = {}
        self.workdir.mkdir(parents=True)
        for stage in stages:
            shutil.copytree(self.workdir, self.before(stage))
            self.seconds[stage] = finish(self.workdir, self.cache, stage)
            shutil.copytree(self.workdir, self.after(stage))

    def before(self, stage: str) -> Path:
        return self.root / f"before_{stage}"

    def after(self, stage: str) -> Path:
        return self.root / f"after_{stage}"


def disturbed(reference: Reference, stage: str, kills: int, rng: random.Random) -> tuple[int, list[str]]:
    """Kills one stage so many times, in a workdir that it goes on in until it has ended, then in a fresh one.

    Returns:
        How often it has ended, and what differed then from the undisturbed run.
    """
    met, ended, differing = 0, 0, []
    while met < kills:
        workdir, cache, log = fresh(reference, stage)
        running = True
        while running and met < kills:
            process = start(workdir, cache, stage, log=log)
            try:
                process.wait(rng.uniform(EARLIEST_S, reference.seconds[stage]))
                running = False
            except subprocess.TimeoutExpired:
                kill_session(process)
                met += 1
            if process.wait() > 0:
                return ended, [f"exit status {process.returncode}:\n{log.read_text(errors='replace')[-2000:]}"]
        finish(workdir, cache, stage)
        ended += 1
        differing += differences(results(reference.after(stage)), results(workdir))
        if stage == "prepare":
            differing += different_cache(reference.cache, cache)
    return ended, differing


def fresh(reference: Reference, stage: str) -> tuple[Path, Path, Path]:
    """A workdir as it was before the stage, its cache (an empty one for `prepare`, which fills it) and its log."""
    workdir, cache = reference.root / f"killed_{stage}", reference.cache
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(reference.before(stage), workdir)
    if stage == "prepare":
        cache = reference.root / "cache_killed"
        shutil.rmtree(cache, ignore_errors=True)
    return workdir, cache, reference.root / f"killed_{stage}.log"


def different_cache(a: Path, b: Path) -> list[str]:
    """Files of two caches that differ: drawn photographs, prepared ones, and their packed records."""
    first, second = (
        {
            path.relative_to(root): _records(path) if ".array_record" in path.name else path.read_bytes()
            for pattern in ("synthetic-*/**/*", "photographs/*", "tfds/**/*.array_record*")
            for path in root.glob(pattern)
            if path.is_file()
        }
        for root in (a, b)
    )
    return [str(name) for name in first.keys() | second.keys() if first.get(name) != second.get(name)]


def _records(path: Path) -> list[bytes]:
    """The records' bytes, sorted: protobuf writes the fields of a record in any order."""
    reader = ArrayRecordReader(str(path))
    try:
        return [bytes(sorted(record)) for record in reader.read_all()]
    finally:
        reader.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="in all, spread over the stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES))
    options = parser.parse_args()
    rng, chosen, failed = random.Random(options.seed), options.stages.split(","), 0
    kills = -(-options.kills // len(chosen))
    with tempfile.TemporaryDirectory() as folder:
        reference = Reference(Path(folder) / "runs")
        for stage in chosen:
            ended, differing = disturbed(reference, stage, kills, rng)
            failed += bool(differing)
            what = ", ".join(differing) or "nothing differs"
            print(f"{stage}: killed {kills} times while it ran, ended {ended} times: {what}", flush=True)
    print(f"{kills * len(chosen)} kills, {failed} stages differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Feeds damaged files to everything that reads one: each ends in a result, or in one clear error that names the file.

    python -m tests.faults.fuzz [--inputs=5000] [--seed=0] [--kinds=jpeg,csv] [--keep=DIR]

A failure is any other exception, a hang (10 s), more than 2 GiB of memory, or a crash. Prints a line for each kind, and
exits with 1 where there was a failure; `--keep` is where their inputs go. Real photographs and masks are among the seeds
where ../shared has them, beside ones that are made here.
"""

import argparse
import contextlib
import io
import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from pldmlt_jax.errors import ConfigError, ErrorGroup, UserError  # noqa: E402
from tests.faults.fuzz_kinds import KINDS, Kind  # noqa: E402

MOST_SECONDS, MOST_MIB = 10.0, 2048

NUMBERS = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\0\1\0\0")


def mutated(kind: Kind, seeds: list[bytes], rng: random.Random) -> bytes:
    """A whole example with some of its bytes changed, cut, repeated, moved or replaced by words of its kind."""
    content = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 9))):
        at, other = rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)
        if rng.random() < 0.4:  # headers are at the beginning, and short
            at = rng.randrange(min(len(content), 64) + 1)
        low, high = min(at, other), max(at, other)
        match rng.randrange(8):
            case 0 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(content):
                content[at] = rng.randrange(256)
            case 2:
                del content[at:]
            case 3:
                del content[at : at + rng.choice((1, 2, 4, 16, 256))]
            case 4:
                content[at:at] = content[low : min(high, low + rng.choice((1, 8, 64, 4096)))]
            case 5:
                number = rng.choice(NUMBERS)
                content[at : at + len(number)] = number
            case 6 if kind.words:
                word = rng.choice(kind.words)
                content[at : at + rng.choice((0, len(word)))] = word
            case 7:
                theirs = rng.choice(seeds)
                content[at:] = theirs[rng.randrange(len(theirs) + 1) :]
    return bytes(content)


class Outcome(NamedTuple):
    """What became of one input."""

    number: int
    what: str  # "result", "error" or "failure"
    detail: str
    seconds: float
    mib: float  # that the process's peak was above what it had before


def one(kind: Kind, content: bytes, number: int, directory: Path) -> Outcome:
    """Reads one input."""
    path = directory / kind.name
    path.write_bytes(content)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from here
    before_mib = peak_mib()
    begin, what, detail = time.monotonic(), "result", ""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            kind.read(path)
    except UserError as error:
        named = directory.name in str(error) or all(
            isinstance(each, ConfigError) for each in (error.errors if isinstance(error, ErrorGroup) else [error])
        )  # which names a field
        what = "error" if named else "failure"
        detail = str(error).splitlines()[0] if what == "error" else f"an error that does not name the file: {error}"
    except BaseException:
        what, detail = "failure", traceback.format_exc()
    seconds, mib = time.monotonic() - begin, peak_mib() - before_mib
    if what != "failure" and (seconds > MOST_SECONDS or mib > MOST_MIB):
        what, detail = "failure", f"{seconds:.1f} s, {mib:.0f} MiB"
    return Outcome(number, what, detail, seconds, mib)


def peak_mib() -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


@cache
def seeds_of(name: str) -> list[bytes]:
    return KINDS[name].seeds()


def content_of(name: str, seed: int, number: int) -> bytes:
    """The input of that number, the same in every process."""
    return mutated(KINDS[name], seeds_of(name), random.Random(f"{seed} {name} {number}"))


def work(name: str, seed: int, first: int, count: int) -> None:
    """The child: says what it begins with, and then what became of it, a line of JSON each."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # decoders print what they think
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with tempfile.TemporaryDirectory() as directory:
        for number in range(first, first + count):
            answers.write(f"{number}\n")
            outcome = one(KINDS[name], content_of(name, seed, number), number, Path(directory))
            answers.write(json.dumps(outcome) + "\n")


def outcomes(name: str, seed: int, count: int) -> Iterator[Outcome]:
    """Reads so many inputs of a kind in children, of which each goes on after the one that ended the child before."""
    first = 0
    while first < count:
        command = [sys.executable, "-m", "tests.faults.fuzz", "--work", name, str(seed), str(first), str(count - first)]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        assert child.stdout is not None
        number, buffer = first, b""
        patience = 120.0  # until it has imported everything
        while True:
            ready, _, _ = select.select([child.stdout], [], [], patience)
            chunk = os.read(child.stdout.fileno(), 65536) if ready else b""
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                if line.isdigit():
                    number, patience = int(line), MOST_SECONDS + 5
                else:
                    yield Outcome(*json.loads(line))
                    number += 1
        child.kill()
        if number < count:
            status = child.wait()
            yield Outcome(number, "failure", f"no answer in {patience:.0f} s" if not ready else f"status {status}", 0, 0)
        child.wait()
        first = number + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000, help="in all, spread over the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, *numbers = options.work
        work(name, *map(int, numbers))
        return 0
    failures, total, chosen = 0, 0, options.kinds.split(",")
    for name in chosen:
        counts: Counter[str] = Counter()
        slowest = most = 0.0
        for outcome in outcomes(name, options.seed, -(-options.inputs // len(chosen))):
            counts[outcome.what] += 1
            slowest, most = max(slowest, outcome.seconds), max(most, outcome.mib)
            if outcome.what == "failure":
                print(f"{name} {outcome.number}: {outcome.detail}", flush=True)
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    content = content_of(name, options.seed, outcome.number)
                    (options.keep / f"{name}_{outcome.number}_{KINDS[name].name}").write_bytes(content)
        failures, total = failures + counts["failure"], total + counts.total()
        print(
            f"{name:<18}{counts.total():>6} inputs: {counts['result']:>5} results, {counts['error']:>5} errors, "
            f"{counts['failure']} failures; slowest {slowest:.2f} s, {most:.0f} MiB",
            flush=True,
        )
    print(f"{total} inputs, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs of the program on the tiny config, and what they leave, in a form in which two runs can be compared."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from training.event_file import written

from pldmlt_jax.training.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
TINY, TINY_TABLE = "tests/faults/tiny.py", "tests/faults/tiny_table.py"


def arguments(workdir: Path, cache: Path, *more: str) -> list[str]:
    """The command line of a run; a verb is among `more`."""
    config = TINY_TABLE if "compare" in more else TINY
    return [*more, f"--config={config}", f"--workdir={workdir}", f"--config.data.cache_dir={cache}"]


def start(workdir: Path, cache: Path, *more: str, log: Path | None = None, isolated: bool = False) -> subprocess.Popen:
    """A process of its own, and the leader of its session; what it prints goes to `log`.

    `isolated` leaves it no network, where the system lets a process be started so.
    """
    out = open(log or os.devnull, "ab")
    command = [*(without_network() if isolated else ()), sys.executable, "main.py", *arguments(workdir, cache, *more)]
    try:
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    finally:
        out.close()


def kill_session(process: subprocess.Popen) -> None:
    """Kills a process of `start` and all that it has started; the runs of a table have process groups of their own."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(path.name)) == process.pid:
                os.kill(int(path.name), signal.SIGKILL)


@functools.cache
def without_network() -> tuple[str, ...]:
    """The beginning of a command that then has no network; nothing where that is not permitted."""
    command = ("unshare", "--map-root-user", "--net")
    try:
        return command if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0 else ()
    except OSError:
        return ()


def finish(workdir: Path, cache: Path, *more: str, isolated: bool = False) -> float:
    """Runs to the end and returns the seconds that it took."""
    begin, log = time.monotonic(), workdir.parent / f"{workdir.name}.log"
    status = start(workdir, cache, *more, log=log, isolated=isolated).wait()
    if status:
        raise AssertionError(f"{' '.join(more)}: exit status {status}\n{log.read_text(errors='replace')[-4000:]}")
    return time.monotonic() - begin


COMPARED = (
    "data.json", "folds.csv", "weights.json", "parameters.txt", "pseudo_labels.csv", "pseudo_labels.json", "log.jsonl",
    "metrics.json", "per_image.csv", "per_graded_image.csv", "cams/*", "examples/*", "predictions/examples/*",
    "contact_sheet.*", "graders/*/metrics.json", "graders/*/per_graded_image.csv", "graders/*/log.jsonl",
    "graders/*/parameters.txt",
)  # fmt: skip


COMPARED_OF_CELLS = tuple(name for name in COMPARED if name != "weights.json")
"""Of a row that starts from another one it names that one's folder."""


def without_cost(table: bytes) -> bytes:
    """A table's JSON less its times and memory, and the command line."""
    value = json.loads(table)
    for row in value["rows"]:
        for part in (row, *row["cells"]):
            del part["cost"]
    return json.dumps(value | {"command": ""}).encode()


@dataclasses.dataclass
class Results:
    """What a run has left: files by name, and checkpoints' arrays and progress by folder."""

    files: dict[str, bytes]
    checkpoints: dict[str, dict[str, Any]]


def results(workdir: Path) -> Results:
    """All that must not depend on whether a run was disturbed: neither times nor what was set aside."""
    cells = sorted(workdir.glob("*/fold*_seed*"))  # of a table
    files = {
        str(path.relative_to(workdir)): path.read_bytes()
        for root, patterns in ((workdir, COMPARED), *((cell, COMPARED_OF_CELLS) for cell in cells))
        for pattern in patterns
        for path in sorted(root.glob(pattern))
        if path.is_file()
    }
    if (workdir / "table.json").is_file():
        files["table.json"] = without_cost((workdir / "table.json").read_bytes())
    for path in sorted(workdir.glob("**/events.*")):
        if "set_aside" not in path.parts:
            files[str(path.parent.relative_to(workdir) / "events")] = repr(written(path.parent)).encode()
    folders = sorted(path for path in workdir.glob("**/checkpoints") if "set_aside" not in path.parts)
    return Results(files, {str(folder.relative_to(workdir)): checkpointed(folder) for folder in folders})


def checkpointed(folder: Path) -> dict[str, Any]:
    """Steps, arrays and progress of the latest and of the best checkpoint of a folder."""
    with Checkpoints(folder) as checkpoints:
        latest, best = checkpoints.latest_step, checkpoints.require_best_step()
        assert latest is not None
        progress = json.loads((folder / str(latest) / "progress" / "metadata").read_text())
        return {
            "steps": [latest, best],
            "progress": {name: value for name, value in progress.items() if name != "seconds"},
            "states": [checkpoints.restore_raw(step) for step in (latest, best)],
        }


def differences(ours: Results, theirs: Results) -> list[str]:
    """Names of what differs, bit by bit."""
    found = [name for name in ours.files.keys() | theirs.files.keys() if ours.files.get(name) != theirs.files.get(name)]
    for name in ours.checkpoints.keys() | theirs.checkpoints.keys():
        a, b = ours.checkpoints.get(name), theirs.checkpoints.get(name)
        if a is None or b is None or a["steps"] != b["steps"] or a["progress"] != b["progress"]:
            found.append(f"{name}: steps or progress")
        elif not same_arrays(a["states"], b["states"]):
            found.append(f"{name}: arrays")
    return sorted(found)


def same_arrays(a: Any, b: Any) -> bool:
    """Whether two trees hold the same arrays, bit by bit."""
    first, second = (jax.tree.leaves_with_path(tree) for tree in (a, b))
    return len(first) == len(second) and all(
        p == q and np.asarray(x).tobytes() == np.asarray(y).tobytes() for (p, x), (q, y) in zip(first, second, strict=True)
    )

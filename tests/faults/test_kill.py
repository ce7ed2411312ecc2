"""A short form of `python -m tests.faults.kill`: two stages, each killed once, at moments that the seed says."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from faults.runs import differences, finish, results, start

KEPT_FOR_TRAINING = ("pseudo_labels.csv", "pseudo_labels.json", "graders", "data.json", "contact_sheet.jpg")


def kill_when(process: subprocess.Popen, happens, after_s: float) -> None:
    """Kills a process so long after something has happened."""
    until = time.monotonic() + 120
    while not happens():
        assert process.poll() is None and time.monotonic() < until, "it ended before"
        time.sleep(0.005)
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("seed", [0])
def test_killed_training_ends_as_an_undisturbed_one(whole: Path, tmp_path: Path, seed):
    """Killed around its second checkpoint, when something may be half written; its end has no network at all."""
    workdir = tmp_path / "killed"
    workdir.mkdir()
    for name in KEPT_FOR_TRAINING:
        source = whole / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, workdir / name)
    process = start(workdir, whole.parent / "cache", "train")
    kill_when(process, (workdir / "checkpoints" / "5").exists, random.Random(seed).uniform(0.0, 0.1))
    finish(workdir, whole.parent / "cache", "train", isolated=True)
    ours, theirs = results(workdir), results(whole)
    theirs.files = {name: content for name, content in theirs.files.items() if name in ours.files}
    assert "log.jsonl" in ours.files and "checkpoints" in ours.checkpoints
    assert not differences(ours, theirs)


def test_killed_preparation_ends_as_an_undisturbed_one(whole: Path, tmp_path: Path):
    cache, workdir = tmp_path / "cache", tmp_path / "killed"
    process = start(workdir, cache, "prepare")
    kill_when(process, lambda: any(cache.glob("photographs/*.npz")), 0.02)
    finish(workdir, cache, "prepare")
    assert (workdir / "data.json").read_bytes() == (whole / "data.json").read_bytes()
    for pattern in ("photographs/*", "synthetic-*/**/*"):
        first, second = (
            {path.relative_to(root): path.read_bytes() for path in root.glob(pattern) if path.is_file()}
            for root in (whole.parent / "cache", cache)
        )
        assert second and second.items() <= first.items()

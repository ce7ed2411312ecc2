"""Runs that are stopped, killed or long, compared with one that was left alone: in one file, for they share it."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from faults.long_run import MAY_GROW_MIB, growth, watched
from faults.runs import arguments, differences, finish, results, start

from pldmlt_jax.cli.app import run
from pldmlt_jax.io.signals import STOP
from pldmlt_jax.training.nonfinite import NonfiniteWatch

pytestmark = pytest.mark.slow


def test_pipeline_stopped_in_graders_and_network_leaves_what_an_uninterrupted_one_leaves(
    whole: Path, tmp_path: Path, monkeypatch, capsys, no_signal
):
    """Both networks, both optimisers, running statistics, order, augmentation, logs, figures: bit by bit.

    It is the same seed twice on one machine as well, `metrics.json` included.
    """
    workdir, follow = tmp_path / "parts", NonfiniteWatch.record
    plan = [
        ("grader", 3, signal.SIGTERM),
        ("theta", 2, signal.SIGINT),
        ("label", 10, signal.SIGTERM),
        ("theta", 13, signal.SIGINT),
    ]
    for phase, number, signum in plan:

        def signalled(watch, step, phase_, *more, phase=phase, number=number, signum=signum):
            follow(watch, step, phase_, *more)
            if (phase_, step) == (phase, number):
                os.kill(os.getpid(), signum)
                watch_for_signal()

        monkeypatch.setattr(NonfiniteWatch, "record", signalled)
        assert run(["main.py", *arguments(workdir, whole.parent / "cache")]) == 128 + signum
        message = capsys.readouterr().err
        assert f"stopped by {signum.name}: saved at step {number}; the same command resumes from there" in message
    monkeypatch.setattr(NonfiniteWatch, "record", follow)
    assert run(["main.py", *arguments(workdir, whole.parent / "cache")]) == 0
    assert "resumes from step 13 of 20" in capsys.readouterr().out
    ours, theirs = results(workdir), results(whole)
    assert {"metrics.json", "log.jsonl", "graders/vgg16/log.jsonl", "per_image.csv"} <= ours.files.keys()
    assert len(ours.checkpoints) == 2
    assert not differences(ours, theirs)


def watch_for_signal() -> None:
    """Until the thread that watches has seen it: it comes when it comes."""
    for _ in range(1000):
        if STOP.signum:
            return
        threading.Event().wait(0.01)
    raise AssertionError("no signal was seen")


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
    assert not any(cache.glob("photographs/*"))
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.glob("synthetic-*/**/*") if path.is_file()}
        for root in (whole.parent / "cache", cache)
    )
    assert second and second.items() <= first.items()


def test_memory_files_and_threads_do_not_grow_with_the_steps(whole: Path, tmp_path: Path):
    """A short form of `python -m tests.faults.long_run`."""
    (tmp_path / "run").mkdir()
    shutil.copy(whole / "pseudo_labels.csv", tmp_path / "run")
    samples = watched(tmp_path / "run", whole.parent / "cache", steps=500, every_s=0.05)
    grown = growth(samples)
    assert 400 < grown.step < 500
    assert grown.mib <= MAY_GROW_MIB
    assert grown.files <= 2 and grown.threads <= 2

"""Signals end a run in good order, and it goes on as if it had never stopped; without them nothing varies either."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from faults.runs import ROOT, arguments, differences, results

from pldmlt_jax.cli.app import run
from pldmlt_jax.interruption import STOP, Interrupted, stopping_on_signals
from pldmlt_jax.training.nonfinite import FiniteWatch


def test_pipeline_stopped_in_graders_and_network_leaves_what_an_uninterrupted_one_leaves(
    whole: Path, tmp_path: Path, monkeypatch, capsys, no_signal
):
    """Both networks, both optimisers, running statistics, order, augmentation, logs, figures: bit by bit.

    It is the same seed twice on one machine as well, `metrics.json` included.
    """
    workdir, follow = tmp_path / "parts", FiniteWatch.follow
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

        monkeypatch.setattr(FiniteWatch, "follow", signalled)
        assert run(["main.py", *arguments(workdir, whole.parent / "cache")]) == 128 + signum
        message = capsys.readouterr().err
        assert f"stopped by {signum.name}: saved at step {number}; the same command goes on from there" in message
    monkeypatch.setattr(FiniteWatch, "follow", follow)
    assert run(["main.py", *arguments(workdir, whole.parent / "cache")]) == 0
    assert "goes on from step 13 of 20" in capsys.readouterr().out
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


def test_signal_outside_of_training_stops_at_once_with_its_status(monkeypatch, tmp_path, capsys, no_signal):
    def interrupted(_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(30)

    monkeypatch.setattr("pldmlt_jax.cli.report.main", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert run(["main.py", "report", f"--workdir={tmp_path}"]) == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


TWICE = """
import hashlib, os, signal, time
from pldmlt_jax.interruption import STOP, stopping_on_signals
with stopping_on_signals(), STOP.postponing():
    os.kill(os.getpid(), signal.SIGINT)
    while not STOP.signum:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # like a compilation: one instruction, which runs no handler
"""


def test_second_signal_ends_a_process_that_runs_no_handler():
    ended = subprocess.run([sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 130
    assert "once more stops at once" in ended.stderr


def test_in_another_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def inside() -> None:
        with stopping_on_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


def test_interruption_says_what_was_done():
    assert str(Interrupted(signal.SIGINT, "saved at step 7")) == "stopped by SIGINT: saved at step 7"
    assert str(Interrupted(signal.SIGTERM)) == "stopped by SIGTERM"

"""A first signal ends a run cleanly, a second one at once; that it goes on as if it had never stopped is in test_runs.py."""

import os
import signal
import subprocess
import sys
import threading

from faults.runs import ROOT

from pldmlt_jax.cli.app import run
from pldmlt_jax.io.signals import Interrupted, stop_on_signals


def test_signal_outside_of_training_stops_at_once_with_its_status(monkeypatch, tmp_path, capsys, no_signal):
    def interrupted(_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(30)

    monkeypatch.setattr("pldmlt_jax.workflow.stages.report.main", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert run(["main.py", "report", f"--workdir={tmp_path}"]) == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


TWICE = """
import hashlib, os, signal, time
from pldmlt_jax.io.signals import STOP, stop_on_signals
with stop_on_signals(), STOP.deferred():
    os.kill(os.getpid(), signal.SIGINT)
    while not STOP.signum:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # like a compilation: one instruction, which runs no handler
"""


def test_second_signal_ends_a_process_that_runs_no_handler():
    ended = subprocess.run([sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 130
    assert "press Ctrl-C again to stop immediately" in ended.stderr


def test_in_another_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def inside() -> None:
        with stop_on_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


def test_interruption_says_what_was_done():
    assert str(Interrupted(signal.SIGINT, "saved at step 7")) == "stopped by SIGINT: saved at step 7"
    assert str(Interrupted(signal.SIGTERM)) == "stopped by SIGTERM"

"""What a person sees while something runs: a line in a terminal, lines now and then in a log."""

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pldmlt_jax.io.progress import PLAIN_INTERVAL_S, format_duration, show_progress

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Its one item is the time."""
    now = [100.0]
    monkeypatch.setattr("pldmlt_jax.io.progress.time.monotonic", lambda: now[0])
    return now


def plain_lines(capsys) -> list[str]:
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_log_has_a_line_now_and_then_with_speed_and_time_left(clock, capsys):
    with show_progress("train", 200, images=4) as task:
        for done in range(1, 41):  # the first takes a minute, for it is compiled, each other one second
            clock[0] += 60 if done == 1 else 1
            task.update(done, f"loss {1 / done:.3f}")
    *lines, last = plain_lines(capsys)
    assert lines[0] == "train: 1/200 (60 s) loss 1.000"
    assert lines[1] == "train: 16/200 (75 s) 4 images/s, 3 min left, loss 0.062"
    assert len(lines) == 1 + 39 // int(PLAIN_INTERVAL_S) and last == "train: 40 done in 99.0 s"


def test_what_an_earlier_session_did_is_not_this_ones_speed(clock, capsys):
    with show_progress("train", 1000) as task:
        for done in range(901, 921):
            clock[0] += 2
            task.update(done)
    assert "train: 908/1000 (16 s) 0.5 images/s, 3 min left" in plain_lines(capsys)


def test_speed_is_of_the_last_seconds_and_time_left_of_all(clock, capsys):
    with show_progress("train", 200) as task:
        for done in range(1, 101):
            clock[0] += 1 if done <= 51 else 3
            task.update(done)
    lines = plain_lines(capsys)
    assert "train: 94/200 (180 s) 0.333 images/s, 3 min left" in lines  # at 3 s a unit it would be 5 min


def test_time_left_is_bounded_where_the_time_is(clock, capsys):
    with show_progress("train", 200) as task:
        for done in (1, 2, 3):
            clock[0] += 20
            task.update(done, limit_s=7.0)
    assert "train: 3/200 (60 s) 0.05 images/s, 7 s left" in plain_lines(capsys)


def test_second_set_of_a_pool_begins_again(clock, capsys):
    with show_progress("prepare a+b") as task:
        for done in (1, 2, 3, 1, 2, 3):
            clock[0] += 20
            task(done, 3, f"IDRiD_{done:02d}")
    assert "prepare a+b: 2/3 (100 s) 0.05 images/s, 20 s left, IDRiD_02" in plain_lines(capsys)


def test_what_is_no_photograph_has_no_speed(clock, capsys):
    with show_progress("export", 3, images=0) as task:
        for name in ("folder", "onnx"):
            clock[0] += 20
            task.advance(name)
    assert "export: 2/3 (40 s) 20 s left, onnx" in plain_lines(capsys)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5990, "100 min"), (6000, "1.7 h")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


PROGRAM = """
import time
from pldmlt_jax.io.progress import show_progress
with show_progress("train", 20, images=2) as task:
    for i in range(1, 21):
        time.sleep(0.03)
        task.update(i, f"loss {1 / i:.3f}, [round] {i} " + "and so on " * 9)
        if i == 10:
            print("a line in between")
"""


def shown_in_a_terminal(columns: int, term: str = "xterm") -> list[str]:
    """What a terminal of this width is sent, line by line, each state of a redrawn one as a line; no line may wrap."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    outside = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=theirs, stderr=theirs, env=outside | {"TERM": term}, cwd=ROOT
    ) as process:
        os.close(theirs)
        sent = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # so Linux tells that the other end is closed
                break
            if not part:
                break
            sent += part
    os.close(ours)
    assert process.returncode == 0, sent
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent.decode())
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert max(map(len, lines)) <= columns
    return lines


@pytest.mark.parametrize("columns", [80, 120])
def test_terminal_has_one_line_that_says_loss_speed_and_time_left(columns):
    lines = shown_in_a_terminal(columns)
    pattern = r"  train [━╸╺ ]+ +\d+/20 0:00:0\d [\d.]+ images/s, \d s left, loss 0\.\d\d\d.*…"
    assert any(re.fullmatch(pattern, line.rstrip()) for line in lines), lines
    assert "a line in between" in [line.strip() for line in lines]
    assert lines[-1].startswith("  train: 20 done in ")


def test_terminal_that_cannot_redraw_gets_plain_lines():
    assert [line[:17] for line in shown_in_a_terminal(80, term="dumb")] == ["a line in between", "  train: 20 done "]

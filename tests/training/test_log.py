"""TensorBoard's files: what they hold, and that no kind of end and resumption loses, repeats or reorders any of it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from training.event_file import written

from pldmlt_jax.training.log import RunLog
from pldmlt_jax.training.tensorboard import EventFile

ROOT = Path(__file__).parents[2]


def test_scalars_pictures_and_the_config_are_read_back(tmp_path):
    picture = np.zeros((16, 48, 3), np.uint8)
    picture[:, 16:] = (250, 120, 10)
    with RunLog(tmp_path, text="    seed = 0") as log:
        shown = {"loss": np.float32(0.25), "histogram": [0.5, 0.75], "entropy": np.nan, "val/dice": 0.5}
        assert log.write(3, "val", shown, seconds=2.0, round=1) == {**shown, "loss": 0.25, "entropy": None}
        log.write_images(3, "val", {"IDRiD 55": picture})
        log.sync()
        assert len(written(tmp_path)) == 6  # others can read it while it is written
    *scalars, (step, tag, jpeg) = written(tmp_path)
    assert scalars == [
        (0, "config/text_summary", "    seed = 0"),
        (3, "val/loss", 0.25),
        (3, "val/histogram_0", 0.5),
        (3, "val/histogram_1", 0.75),
        (3, "val/dice", 0.5),
    ]
    read = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert (step, tag) == (3, "val/IDRiD 55") and np.abs(read.astype(int) - picture)[:, [4, 40]].max() < 8
    assert "seconds" not in json.loads((tmp_path / "log.jsonl").read_text())


def add(folder, steps, after_step):
    events = EventFile(folder, after_step, "the config")
    for step in steps:
        events.add_scalar("theta/loss", float(step), step)
        events.add_scalar("label/loss", float(-step), step)
    return events


def test_what_was_logged_after_the_checkpoint_is_left_away(tmp_path):
    add(tmp_path / "whole", range(1, 9), 0).close()
    add(tmp_path / "parts", range(1, 7), 0).close()
    add(tmp_path / "parts", range(5, 9), 4).close()
    assert written(tmp_path / "parts") == written(tmp_path / "whole")


def test_what_was_logged_before_the_checkpoint_survives_a_kill(tmp_path):
    """Just when a record is written after it."""
    events = add(tmp_path / "run", range(1, 5), 0)
    events.sync()
    (path,) = (tmp_path / "run").glob("events.*")
    there = path.read_bytes()  # without anything closed
    events.close()
    path.write_bytes(there + there[-30:-10])
    add(tmp_path / "run", range(5, 9), 4).close()
    add(tmp_path / "whole", range(1, 9), 0).close()
    assert written(tmp_path / "run") == written(tmp_path / "whole")


def test_what_was_logged_before_the_checkpoint_survives_sigkill(tmp_path):
    program = f"""
import os, signal
from pathlib import Path
from pldmlt_jax.training.tensorboard import EventFile
events = EventFile(Path({str(tmp_path / "run")!r}), 0, "the config")
for step in range(1, 201):
    events.add_scalar("theta/loss", float(step), step)
    events.add_scalar("label/loss", float(-step), step)
events.sync()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    add(tmp_path / "whole", range(1, 201), 0).close()
    assert written(tmp_path / "run") == written(tmp_path / "whole")


def test_config_that_is_shown_is_that_of_the_last_session(tmp_path):
    for text in ("a", "b"):
        EventFile(tmp_path, 5, text).close()
    assert written(tmp_path) == [(0, "config/text_summary", "b")]

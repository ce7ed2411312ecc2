"""A full disk, a read-only workdir, and two processes in one: one message, and what was there before stays."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faults.runs import ROOT, arguments

from pldmlt_jax.cli import app
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.io.csv_files import write_rows
from pldmlt_jax.io.files import PARTIAL, atomic_write, write_json
from pldmlt_jax.io.locks import locked
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.manifest import find_damage

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_write_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "metrics.json"
    write_json(path, {"dice": 1.0})
    before = path.read_bytes()

    def fails(*_: object) -> None:
        raise NO_SPACE

    monkeypatch.setattr(*((os, call) if call == "fsync" else (Path, call)), fails)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"dice": 2.0})
    with pytest.raises(OSError, match="No space"), atomic_write(path, "wb") as file:
        file.write(b"half")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"metrics.json": before}


def test_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "rows.csv"
    write_rows(path, [{"a": 1}])
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"a\r\n1\r\n"
    assert not list(tmp_path.glob(f"*{PARTIAL}*"))


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("free", [None, 2**40], ids=["told before", "met while writing"])
def test_full_disk_is_told_and_the_last_good_checkpoint_stays(small_disk, monkeypatch, free):
    if free:
        monkeypatch.setattr("pldmlt_jax.training.checkpoint.free_bytes", lambda _: free)
    rng = np.random.default_rng(0)

    def state(step: int) -> dict:  # 1 MB that hardly can be compressed: the third does not fit beside two
        return {"kernel": rng.standard_normal(260_000).astype(np.float32) + step}

    kept = None
    with pytest.raises(OSError, match="No space left on device") as error, Checkpoints(small_disk / "c") as checkpoints:
        for step in range(1, 9):
            value = state(step)
            checkpoints.save(step, value, {"round": step}, -float(step))
            checkpoints.wait()
            kept = step, value
    assert error.value.errno == errno.ENOSPC
    assert kept is not None
    with Checkpoints(small_disk / "c") as checkpoints:
        assert checkpoints.latest_step == kept[0]
        restored, _ = checkpoints.restore(kept[0], kept[1])
    np.testing.assert_array_equal(restored["kernel"], kept[1]["kernel"])
    assert not find_damage(small_disk / "c" / str(kept[0]))


def test_full_disk_ends_the_program_with_one_message(monkeypatch, tmp_path, capsys):
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.json")

    monkeypatch.setattr("pldmlt_jax.workflow.stages.report.main", full)
    assert app.run(["main.py", "report", f"--workdir={tmp_path}"]) == 1
    message = capsys.readouterr().err
    assert "metrics.json: No space left on device" in message and "resumes from its last checkpoint" in message
    assert "Traceback" not in message


def test_workdir_that_cannot_be_written_to_is_refused_before_any_work(tmp_path, capsys):
    """Root may write to read-only folders, but not below a file."""
    (tmp_path / "file").touch()
    assert app.run(["main.py", *arguments(tmp_path / "file" / "run", tmp_path, "train")]) == 2
    message = capsys.readouterr().err
    assert "a folder that can be written to" in message and str(tmp_path / "file" / "run") in message


def test_read_only_file_system_is_refused_before_any_work(small_disk, capsys):
    made_read_only = subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, check=False)
    if made_read_only.returncode:
        pytest.skip("it cannot be made read-only here")
    assert app.run(["main.py", *arguments(small_disk, small_disk / "cache", "train")]) == 2
    assert "Read-only file system" in capsys.readouterr().err


HOLDS = """
import sys
from pathlib import Path
from pldmlt_jax.io.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that works in `tmp_path`/run."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_process_in_a_workdir_is_refused_and_takes_over_from_a_dead_one(holder, tmp_path, capsys):
    command = ["main.py", "report", f"--workdir={tmp_path / 'run'}"]
    assert app.run(command) == 2
    message = capsys.readouterr().err
    assert f"in use by process {holder.pid} on {os.uname().nodename} since 20" in message
    holder.kill()
    holder.wait()
    assert app.run(command) == 0
    assert f"process {os.getpid()} on" in (tmp_path / "run" / ".lock").read_text()


def test_lock_is_free_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path / ".lock", lambda who: ConfigError("", who, "", "")):
            raise ZeroDivisionError

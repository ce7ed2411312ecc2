"""`--print_config` and docs/configs.md, as a user reads them."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pldmlt_jax.cli.app import run
from pldmlt_jax.config import Config, to_dict

ROOT = Path(__file__).parents[2]
PRINTED = [sys.executable, "main.py", "--print_config"]


def test_config_is_printed_at_once_and_nothing_runs(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*PRINTED, "train", "--config=configs/idrid.py", "--config.seed=7", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5
    assert "* seed = 7  # Seed of initial weights" in done.stdout and not done.stderr
    assert not (tmp_path / "run").exists()


def test_reader_that_closes_the_pipe_is_no_failure():
    with subprocess.Popen(PRINTED, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_verbs_of_a_trained_network_print_its_own_config(tmp_path, capsys):
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    trained = Config(name="mine", seed=3)
    (tmp_path / "checkpoints" / "config.json").write_text(json.dumps(to_dict(trained)))
    assert (
        run(["main.py", "evaluate", "--print_config", f"--checkpoint={tmp_path}", "--config.evaluation.batch_size=1"]) == 0
    )
    shown = capsys.readouterr().out
    assert "* name = 'mine'" in shown and "* seed = 3" in shown and "* evaluation.batch_size = 1" in shown


def test_mistakes_are_reported_all_the_same(capsys):
    assert run(["main.py", "--print_config", "--config.loss.beat=1"]) == 2
    assert "did you mean --config.loss.beta?" in capsys.readouterr().err


def test_reference_is_what_make_docs_writes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    config_reference = pytest.importorskip("config_reference")
    assert (ROOT / "docs" / "configs.md").read_text() == config_reference.page(), "make docs"
    assert "| `train.crop_px` | int | `0` | 0 to 8192 px |" in config_reference.page()
    assert (
        "| `meta.loss` | str | `'paper'` | `paper`, `indirect`, `anchored`, `maxl`, `trusted` |" in config_reference.page()
    )

"""The command line: every mistake at once, exit status 2, help at once."""

import dataclasses
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pldmlt_jax.cli.app import VERBS, run
from pldmlt_jax.cli.flags import FLAGS, parse
from pldmlt_jax.config import from_dict, to_dict
from pldmlt_jax.config_checks import validate_config
from pldmlt_jax.errors import ConfigError

IDRID = "--config=configs/idrid.py"


def failure(capsys, *arguments: str) -> str:
    assert run(["main.py", *arguments]) == 2
    return capsys.readouterr().err


def test_overrides_nest_and_keep_their_types():
    arguments = parse(
        ["main.py", "train", "--config.data.size_px=256", IDRID, "--config.meta.hidden=(8,4)", "--workdir", "w"],
        tuple(VERBS),
    )
    assert arguments is not None
    assert arguments.verb == "train"
    assert arguments.config.data.size_px == 256
    assert arguments.config.meta.hidden == (8, 4)
    assert str(arguments.workdir) == "w"


def test_the_home_folder_is_meant_by_a_tilde_that_the_shell_has_left(monkeypatch):
    monkeypatch.setenv("HOME", "/home_of_someone")
    given = ("--input=~/a.jpg,b~.jpg,~/c", "--output=~", "--config.data.root=~/data", "--checkpoint=~x")
    arguments = parse(["main.py", "predict", *given], tuple(VERBS))
    assert arguments is not None
    assert arguments.input == "/home_of_someone/a.jpg,b~.jpg,/home_of_someone/c"
    assert (arguments.output, arguments.checkpoint) == ("/home_of_someone", "~x")
    assert arguments.config.data.root == "/home_of_someone/data"


def test_a_pattern_that_the_shell_has_taken_is_told_once(capsys):
    text = failure(capsys, "predict", "--input", "photos/1.jpg", *(f"photos/{i}.jpg" for i in range(2, 30)))
    assert text.count("to do:") == 1
    assert "photos/2.jpg, photos/3.jpg, photos/4.jpg and 25 more" in text and "in quotes" in text


def test_a_python_without_the_packages_is_told_which_one_has_them():
    done = subprocess.run([sys.executable, "-S", "main.py"], capture_output=True, text=True)
    assert done.returncode == 1 and ".venv/bin/python" in done.stderr
    assert sys.executable in done.stderr and "Traceback" not in done.stderr


def test_all_mistakes_are_reported_at_once_with_the_nearest_name(capsys):
    text = failure(capsys, IDRID, "--config.data.rot=x", "--config.data.size_px=abc", "--workdri=3", "evalute")
    for part in ("data.rot", "data.root?", "size_px", "'abc'", "--workdir?", "did you mean evaluate?"):
        assert part in text


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("--config=configs/idird.py", "configs/idrid.py"),
        ("--size_px=64", "--config.data.size_px"),
        ("--config.grader_size_px=64", "--config.grader.size_px"),
        ("--config.batch_size=2", "--config.train.batch_size"),
        ("--print-config", "--print_config"),
        ("--config.data.segmentation=idrid_s+diaretdb", "diaretdb1"),
        ("--config.loss.target=leisons", "lesions"),
        ("--config.model.encoder=resnet_50", "resnet50"),
    ],
)
def test_what_is_not_known_is_told_with_the_nearest_name(capsys, argument, nearest):
    assert f"did you mean {nearest}?" in failure(capsys, argument)


@pytest.mark.parametrize("wrong", [(), ("--config.data.rot=x", "--config.loss.beta=-1")])
@pytest.mark.parametrize(
    ("verb", "definition"),
    [
        ("train", "def get_config():\n    return Config()\n"),
        ("compare", "def get_table():\n    return Table('a', 'A', (Row('one', Config()), Row('two', Config())))\n"),
    ],
    ids=["config", "table"],
)
def test_the_config_file_is_executed_once(capsys, tmp_path, verb, definition, wrong):
    file, executions = tmp_path / "counted.py", tmp_path / "executions"
    file.write_text(
        "from pldmlt_jax.config import Config\nfrom pldmlt_jax.table_config import Row, Table\n"
        f"with open({str(executions)!r}, 'a') as file:\n    file.write('x')\n{definition}"
    )
    command = [verb, f"--config={file}", "--config.loss.beta=0.5", "--config.data.size_px=64", "--debug", *wrong]
    if wrong:
        text = failure(capsys, *command)
        assert "did you mean --config.data.root?" in text and "loss.beta" in text
    else:
        assert parse(["main.py", *command], tuple(VERBS)) is not None
    assert executions.read_text() == "x"


def test_a_file_without_a_config_does_not_take_that_of_the_file_read_before(capsys, tmp_path):
    assert parse(["main.py", IDRID], tuple(VERBS)) is not None
    path = tmp_path / "empty.py"
    path.write_text("SIZE_PX = 64\n")
    assert "get_config" in failure(capsys, f"--config={path}")


def test_all_bad_values_are_reported_at_once(capsys):
    bad = ("--config.loss.beta=-1", "--config.meta.loss=papr", "--config.data.size_px=100", "--config.data.fold=7")
    text = failure(capsys, IDRID, *bad)
    for part in ("loss.beta", "meta.loss", "'papr'", "anchored", "data.size_px", "data.fold"):
        assert part in text


def test_values_out_of_range_are_reported_with_fields_that_do_not_exist(capsys):
    text = failure(capsys, IDRID, "--config.data.rot=x", "--config.loss.beta=-1", "--config.meta.loss=papr", "evalute")
    for part in ("data.root?", "loss.beta", "'papr'", "did you mean evaluate?"):
        assert part in text


def test_missing_config_and_missing_data_say_what_to_do(capsys, tmp_path):
    assert "configs/idrid.py" in failure(capsys, "--config=configs/nope.py")
    text = failure(capsys, "prepare", IDRID, f"--config.data.root={tmp_path}", f"--workdir={tmp_path / 'w'}")
    assert "A. Segmentation" in text
    assert "data.root" in text


def test_weights_that_are_not_there_are_told_before_anything_runs(capsys, tmp_path):
    laptop = "--config=configs/idrid_laptop.py"
    assert "grader.weights" in failure(capsys, laptop, f"--workdir={tmp_path}")
    text = failure(capsys, laptop, "--config.model.weights=nowhere.pth", f"--workdir={tmp_path}")
    assert "nowhere.pth: no such file" in text
    assert not (tmp_path / "data.json").exists()


def test_config_file_with_an_unknown_field_is_told_in_one_line(capsys, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(
        "from pldmlt_jax.config import *\ndef get_config():\n    return Config(train=TrainConfig(batchsize=4))\n"
    )
    text = failure(capsys, f"--config={file}")
    assert "unexpected keyword argument 'batchsize'" in text
    assert "did you mean batch_size?" in text
    assert "Traceback" not in text


def test_verbs_are_given_a_config_that_cannot_be_changed(monkeypatch, tmp_path):
    given: list[Any] = []
    monkeypatch.setattr("pldmlt_jax.workflow.stages.report.main", given.append)
    assert run(["main.py", "report", f"--workdir={tmp_path}"]) == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        given[0].config.train.batch_size = 3


@pytest.mark.parametrize(
    "text", ["def get_config():\n    return 3\n", "raise SystemExit\n", "def get_config(:\n", "x = 1\n"]
)
def test_config_files_that_make_no_config_are_told(capsys, tmp_path, text):
    file = tmp_path / "wrong.py"
    file.write_text(text)
    message = failure(capsys, f"--config={file}")
    assert str(file) in message and "get_config() -> Config" in message
    assert "Traceback" not in message


CONFIGS = sorted(path.stem for path in Path("configs").glob("*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_valid_and_survive_json(name):
    needs_weights = "laptop" in name or name == "shipped_start"
    weights = ["--config.model.weights=vgg16.pth"] if needs_weights else []
    arguments = parse(["main.py", f"--config=configs/{name}.py", *weights], tuple(VERBS))
    assert arguments is not None
    validate_config(arguments.config)
    assert from_dict(to_dict(arguments.config)) == arguments.config


def test_help_answers_at_once_and_lists_the_verbs():
    def spent_s() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent_s()
    done = subprocess.run([sys.executable, "main.py", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert spent_s() - before < 1.0  # of the processor, whatever else keeps it busy; on an idle machine it takes no longer
    assert all(verb in done.stdout for verb in VERBS if verb != "run")
    assert all(f"--{flag}" in done.stdout for flag in (*FLAGS, "config", "help"))
    lines = done.stdout.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    check = "import sys, pldmlt_jax.cli.app; assert not {'jax', 'flax', 'cv2'} & set(sys.modules), 'heavy import'"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_flag_without_effect_on_the_verb_is_told():
    with pytest.raises(ConfigError, match=r"--checkpoint: no effect on 'run'\n  expected: it with evaluate or predict"):
        parse(["main.py", "--checkpoint=runs/demo"], tuple(VERBS))
    assert parse(["main.py", "evaluate", "--checkpoint=runs/demo", "--split=val"], tuple(VERBS)) is not None


CACHE_PROGRAM = """
import jax, sys
from pldmlt_jax.cli.app import configure_libraries
configure_libraries()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("/cache_hits")))
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((3, 3))).block_until_ready()
print(jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size, any(hits))
"""


def test_compiled_programs_are_kept_between_runs_in_a_bounded_place(tmp_path):
    """In the home folder by default; JAX's variables name another place and size."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")} | {"JAX_PLATFORMS": "cpu"}

    def run_with(**variables: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", CACHE_PROGRAM], env=outside | variables, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    default = str(tmp_path / ".cache" / "pldmlt_jax" / "xla")
    assert run_with(HOME=str(tmp_path)) == [default, str(2**30), "False"]
    assert run_with(HOME=str(tmp_path)) == [default, str(2**30), "True"]
    assert run_with(HOME=str(tmp_path), JAX_COMPILATION_CACHE_MAX_SIZE="1000000") == [default, "1000000", "True"]
    assert run_with(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "b")) == [str(tmp_path / "b"), "-1", "False"]

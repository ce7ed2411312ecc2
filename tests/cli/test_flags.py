"""The command line: every mistake at once, exit status 2, help at once."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pldmlt_jax.cli.app import VERBS, run
from pldmlt_jax.cli.flags import parse
from pldmlt_jax.config import Config, from_dict, to_dict
from pldmlt_jax.errors import ConfigError, UserError
from pldmlt_jax.validation import CHOICES, RANGES, fields, validate

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


def test_all_mistakes_are_reported_at_once_with_the_nearest_name(capsys):
    text = failure(capsys, IDRID, "--config.data.rot=x", "--config.data.size_px=abc", "--workdri=3", "evalute")
    for part in ("data.rot", "data.root?", "size_px", "'abc'", "--workdir?", "did you mean evaluate?"):
        assert part in text


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


def test_pairs_without_sense_are_refused():
    config = Config()
    config.loss.grading = False
    config.meta.inner_optimizer = "adam"
    config.optim.optimizer = "sgd"
    with pytest.raises(UserError) as error:
        validate(config)
    assert "meta.enabled" in str(error.value)
    assert "meta.inner_optimizer" in str(error.value)


def test_config_file_with_an_unknown_field_is_told_in_one_line(capsys, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(
        "from pldmlt_jax.config import *\ndef get_config():\n    return Config(train=TrainConfig(batchsize=4))\n"
    )
    text = failure(capsys, f"--config={file}")
    assert "unexpected keyword argument 'batchsize'" in text
    assert "Traceback" not in text


def test_fields_of_another_type_and_fields_that_do_not_exist_are_refused_together():
    config: Any = Config()
    config.train.batch_size, config.train.theta_units, config.meta.hidden = "4", 2.5, [8]
    config.train.batchsize, config.loss = 4, None
    with pytest.raises(UserError) as error:
        validate(config)
    for part in ("train.batch_size", "'4'", "train.theta_units", "2.5", "meta.hidden", "train.batchsize", "loss: None"):
        assert part in str(error.value)


def test_every_number_and_name_of_the_config_is_checked():
    for path, value in fields(Config()):
        items = value if isinstance(value, tuple) else (value,)
        if all(isinstance(item, int | float) and not isinstance(item, bool) for item in items):
            assert path in RANGES, path
    assert set(CHOICES) <= {path for path, _ in fields(Config())}


CONFIGS = sorted(path.stem for path in Path("configs").glob("*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_valid_and_survive_json(name):
    weights = ["--config.model.weights=vgg16.pth"] if "laptop" in name else []
    arguments = parse(["main.py", f"--config=configs/{name}.py", *weights], tuple(VERBS))
    assert arguments is not None
    validate(arguments.config)
    assert from_dict(to_dict(arguments.config)) == arguments.config


def test_help_answers_at_once_and_lists_the_verbs():
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "main.py", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert time.monotonic() - begun < 5.0  # a second on an idle machine; JAX alone takes longer to import when it is busy
    for verb in VERBS:
        assert verb == "run" or verb in done.stdout
    check = "import sys, pldmlt_jax.cli.app; assert not {'jax', 'flax', 'cv2'} & set(sys.modules), 'heavy import'"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_flag_without_effect_on_the_verb_is_told():
    with pytest.raises(ConfigError, match=r"--checkpoint: no effect on 'run'\n  expected: it with evaluate or predict"):
        parse(["main.py", "--checkpoint=runs/demo"], tuple(VERBS))
    assert parse(["main.py", "evaluate", "--checkpoint=runs/demo", "--split=val"], tuple(VERBS)) is not None

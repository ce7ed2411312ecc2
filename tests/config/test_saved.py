"""Configs as config.json: they come back as they were, and old ones load as far as their meaning is still known."""

import json
from pathlib import Path

import pytest

from pldmlt_jax.config import RETIRED_FIELDS, Config, RetiredField, field_infos, from_dict, to_dict
from pldmlt_jax.config_checks import config_errors
from pldmlt_jax.errors import CheckpointError, ConfigError
from pldmlt_jax.evaluation.inference import saved_config


@pytest.fixture
def retired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fields that went."""
    monkeypatch.setitem(RETIRED_FIELDS, "train.old_flag", RetiredField(False, "train again without it"))
    monkeypatch.setitem(RETIRED_FIELDS, "old_widths", RetiredField([8, 4], "use meta.hidden"))


def saved(path: Path, **changes: object) -> Path:
    """A folder with the config.json of the default config, changed in its section `train`."""
    values = to_dict(Config(seed=7))
    values["train"] |= changes
    (path / "config.json").write_text(json.dumps(values))
    return path


def test_config_survives_json():
    config = Config(name="mine", seed=3)
    config.meta.hidden, config.loss.class_weights, config.data.augment.flip = (8, 4), (1.0, 2.0), False
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_absent_fields_take_their_defaults():
    assert from_dict({"seed": 7, "train": {"batch_size": 4}}).train.batch_size == 4
    assert from_dict({}) == Config()


def test_retired_field_with_its_old_default_loads(retired, tmp_path):
    assert saved_config(saved(tmp_path, old_flag=False)) == Config(seed=7)
    assert from_dict({"old_widths": [8, 4]}) == Config()


def test_retired_field_with_another_value_is_an_error_that_names_it(retired, tmp_path):
    with pytest.raises(ConfigError, match=r"^train\.old_flag: True\n.*False: .*\n.*train again without it$"):
        from_dict({"train": {"old_flag": True}})
    with pytest.raises(CheckpointError) as error:
        saved_config(saved(tmp_path, old_flag=True))
    for part in ("config.json", "train.old_flag: True", "False", "train again without it"):
        assert part in str(error.value)


def test_unknown_field_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match="unknown fields: others, wordkir"):
        from_dict({"wordkir": "", "others": 1})
    with pytest.raises(CheckpointError, match=r"unknown fields: train\.batchsize"):
        saved_config(saved(tmp_path, batchsize=4))


def test_retired_choice_loads_and_is_an_error_of_its_field(tmp_path):
    config = saved_config(saved(tmp_path, monitor="kappa"))
    (error,) = config_errors(config)
    assert error.where == "train.monitor" and "'kappa'" in error.found and error.expected == "one of loss, dice"


def test_retired_field_in_a_config_file_is_told_what_to_do(retired):
    config = Config()
    config.train.old_flag = False  # pyright: ignore[reportAttributeAccessIssue]
    (error,) = config_errors(config)
    assert (error.where, error.action) == ("train.old_flag", "train again without it")


def test_no_field_is_retired_and_still_there():
    assert not RETIRED_FIELDS.keys() & field_infos(Config).keys()

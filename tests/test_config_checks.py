"""Validation of a config: every field by its declaration, and every relation between fields."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from pldmlt_jax.config import Config, InferenceConfig, field_infos, fields
from pldmlt_jax.config_checks import config_errors, validate_config
from pldmlt_jax.data.datasets.registry import DATASETS
from pldmlt_jax.errors import UserError
from pldmlt_jax.evaluation.tta import VIEWS
from pldmlt_jax.method.losses import SEGMENTATION_LOSSES
from pldmlt_jax.method.virtual_step import META_LOSSES
from pldmlt_jax.models.build import ENCODERS

INFOS = field_infos(Config)
ROOT = Path(__file__).parents[1]


def with_value(path: str, value: Any) -> Config:
    config: Any = Config()
    *parts, name = path.split(".")
    setattr(functools.reduce(getattr, parts, config), name, value)
    return config


def bad_values(path: str) -> list[Any]:
    """Values of the right type that the field must refuse."""
    info, default = INFOS[path], dict(fields(Config()))[path]
    if info.choices:
        values = ["nonsense", ""]
    elif info.min is not None and info.max is not None:
        is_float = (
            isinstance(default[0] if default else 0.0, float) if isinstance(default, tuple) else isinstance(default, float)
        )
        values = [info.min - 1, info.max + 1, *([float("nan"), float("inf"), float("-inf")] if is_float else [])]
    elif path == "name":
        values = ["", "../up", "a/b", "-x", "x" * 200, "a\n"]
    else:
        values = ["a\nb", "x" * 5000, "nul\0"] if not isinstance(default, bool) else []
    return [(value,) if isinstance(default, tuple) else value for value in values]


@pytest.mark.parametrize("path", [path for path in INFOS if bad_values(path)])
def test_field_refuses_what_its_declaration_excludes(path):
    for bad in bad_values(path):
        errors = config_errors(with_value(path, bad))
        assert any(error.where == path for error in errors), bad


@pytest.mark.parametrize("path", [path for path, info in INFOS.items() if info.min is not None])
def test_limits_of_a_range_are_allowed(path):
    info, default = INFOS[path], dict(fields(Config()))[path]
    for limit in (info.min, info.max):
        assert limit is not None
        value = type(default)([limit]) if isinstance(default, tuple) else type(default)(limit)
        own = [error for error in config_errors(with_value(path, value)) if "a number from" in error.expected]
        assert own == []


def test_every_switch_takes_both_values_and_nothing_else():
    for path, value in fields(Config()):
        if isinstance(value, bool):
            assert "a value of type bool" in str(config_errors(with_value(path, 1))[0])


@pytest.mark.parametrize(
    ("path", "table"),
    [
        ("loss.segmentation", SEGMENTATION_LOSSES),
        ("meta.loss", META_LOSSES),
        ("model.encoder", ENCODERS),
        ("inference.tta", VIEWS),
    ],
)
def test_entry_that_a_user_adds_to_a_table_is_accepted(path, table, monkeypatch):
    (error,) = config_errors(with_value(path, "mine"))
    assert error.where == path and "unknown name 'mine'" in error.found
    monkeypatch.setitem(table, "mine", next(iter(table.values())))
    assert config_errors(with_value(path, "mine")) == []


def test_data_sets_pool_and_only_graded_ones_can_be_none(monkeypatch):
    def errors(path: str, value: str) -> list[str]:
        return [f"{error.found}; {error.expected}; {error.action}" for error in config_errors(with_value(path, value))]

    assert errors("data.segmentation", "idrid_s+diaretdb1") == [] == errors("data.grading", "idrid_d+ddr_d")
    (error,) = errors("data.segmentation", "idrid_s+diaretdb")
    assert "'diaretdb'" in error and error.endswith("did you mean diaretdb1?") and "idrid_d" not in error
    assert "'none'" in errors("data.segmentation", "none")[0]
    (error,) = errors("data.grading", "idrid_d+none")
    assert "unknown name 'none'" in error and "synthetic_d, none;" in error
    assert not any("unknown name" in error for error in errors("data.grading", "none"))
    assert "unknown name 'mine'" in errors("data.segmentation", "idrid_s+mine")[0]
    monkeypatch.setitem(DATASETS, "mine", DATASETS["idrid_s"])
    assert errors("data.segmentation", "idrid_s+mine") == []


def test_fields_of_another_type_and_fields_that_do_not_exist_are_reported_together():
    config: Any = Config()
    config.train.batch_size, config.train.theta_units, config.meta.hidden = "4", 2.5, [8]
    config.loss.class_weights, config.optim.clip_norm = (1, 2.0), 1  # whole numbers are numbers
    config.train.batchsize, config.grader = 4, None
    with pytest.raises(UserError) as error:
        validate_config(config)
    text = str(error.value)
    for part in (
        "train.batch_size: '4'",
        "of type int",
        "train.theta_units: 2.5",
        "meta.hidden: [8]",
        "of type tuple[int, ...]",
    ):
        assert part in text
    assert "train.batchsize: no such config field" in text and "did you mean train.batch_size?" in text
    assert "grader: None" in text and "class_weights" not in text and "clip_norm" not in text


def test_errors_of_fields_and_of_relations_are_reported_together():
    config = Config(inference=InferenceConfig(mode="tiles", tile_px=100))
    config.data.size_px, config.data.fold, config.meta.loss, config.loss.beta = 100, 7, "papr", -1.0
    with pytest.raises(UserError) as error:
        validate_config(config)
    text = str(error.value)
    for part in (
        "data.size_px: 100",
        "use 96",
        "data.fold: 7",
        "did you mean paper?",
        "loss.beta: -1.0",
        "inference.tile_px: 100",
    ):
        assert part in text


def test_contradictions_are_refused():
    config = Config()
    config.loss.grading = False
    config.meta.inner_optimizer = "adam"
    config.optim.optimizer = "sgd"
    with pytest.raises(UserError) as error:
        validate_config(config)
    assert "meta.enabled" in str(error.value)
    assert "meta.inner_optimizer" in str(error.value)


FILES = sorted(path for path in (ROOT / "configs").rglob("*.py") if path.stem != "rows")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_and_every_row_of_a_table_is_valid(path):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "get_table"):
        configs = {row.name: row.config for row in module.get_table().rows}
    else:
        configs = {path.stem: module.get_config()}
    for name, config in configs.items():
        starts_from = config.model.weights or config.train.init_from  # else the user names weights on the command line
        needs_weights = config.model.frozen_stages and not starts_from
        assert [error.where for error in config_errors(config)] == ["model.frozen_stages"] * bool(needs_weights), name

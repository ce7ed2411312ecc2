"""The network that ships: small, complete, with no path of the machine that trained it, and taken where none is named."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from evaluation.tiny_network import photograph, tiny_config, write_tiny
from PIL import Image
from safetensors.numpy import load_file

import pldmlt_jax as pj
from pldmlt_jax.cli.app import run
from pldmlt_jax.config import from_dict
from pldmlt_jax.config_checks import validate_config
from pldmlt_jax.evaluation.inference import BUNDLED_MODEL
from pldmlt_jax.evaluation.operating_points import read_points
from pldmlt_jax.export.model_card import operating_points_table
from pldmlt_jax.models.weights.checkpoint_io import WEIGHTS
from pldmlt_jax.types import LESIONS, NUM_GRADES
from pldmlt_jax.workflow import load_checkpoint

MAX_BYTES = 16_000_000


@pytest.fixture(scope="module")
def config():
    return from_dict(json.loads((BUNDLED_MODEL / "config.json").read_text()))


def test_weights_are_small_and_of_8_bits():
    assert (BUNDLED_MODEL / WEIGHTS).stat().st_size <= MAX_BYTES
    kernels = {name: array for name, array in load_file(BUNDLED_MODEL / WEIGHTS).items() if name.endswith("kernel")}
    assert kernels and all(array.dtype == np.int8 for array in kernels.values())


def test_folder_is_whole_and_names_no_place_of_its_training(config):
    validate_config(config)
    assert not any(Path(text).is_absolute() for text in (config.data.root, config.model.weights, config.train.init_from))
    points = read_points(BUNDLED_MODEL, read_points_step())
    assert set(points.lesions) == set(LESIONS) and points.temperature
    assert points.field_px == (1226, 3802)  # of IDRiD at 1024 px height, and as released: no warning of either
    card = (BUNDLED_MODEL / "model_card.md").read_text()
    said = ["Not a medical device", "CC BY 4.0", "Porwal", "held-out", "python main.py train", f"{config.data.size_px} px"]
    said += operating_points_table(points, LESIONS).splitlines()[:-1]  # the last line is said in other words
    for line in said:
        assert line in card, line


def read_points_step() -> int:
    return json.loads((BUNDLED_MODEL / "operating_points.json").read_text())["step"]


def test_package_data_hold_the_folder():
    project = tomllib.loads((BUNDLED_MODEL.parents[1] / "pyproject.toml").read_text())
    assert "pretrained/*" in project["tool"]["setuptools"]["package-data"]["pldmlt_jax"]


def test_loaded_without_a_path_it_answers_at_the_photographs_own_size():
    answer = pj.load().predict(photograph(200, 300))
    assert set(answer.masks) == set(LESIONS) and answer.masks["EX"].shape == (200, 300)
    assert answer.calibrated and answer.grade_probabilities is not None
    assert answer.grade_probabilities.shape == (NUM_GRADES,)
    assert answer.grade_probabilities.sum() == pytest.approx(1, abs=1e-5)


@pytest.fixture
def other_shipped(tmp_path, monkeypatch):
    """A tiny network in its place, which is quick."""
    folder = write_tiny(tmp_path / "pretrained", tiny_config("lesions")).resolve()
    monkeypatch.setattr(load_checkpoint, "BUNDLED_MODEL", folder)
    return folder


def test_predict_takes_it_where_nothing_is_named_and_says_so(other_shipped, tmp_path, monkeypatch, capsys):
    Image.fromarray(photograph()).save(tmp_path / "eye.png")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").write_bytes(Path("configs/demo.py").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert run(["main.py", "predict", "--input=eye.png"]) == 0
    assert "using the bundled model" in capsys.readouterr().out
    assert (tmp_path / "runs" / "pretrained" / "predictions" / "predictions.csv").is_file()
    assert {path.name for path in other_shipped.iterdir()} == {"config.json", WEIGHTS}
    assert run(["main.py", "predict", "--input=eye.png", "--workdir=runs/mine"]) == 2
    assert "no checkpoint in it" in capsys.readouterr().err

"""What makes a stage run anew, and what names predictions get."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from data.idrid_files import SHAPE, write_grading, write_segmentation

from pldmlt_jax.cli.app import run
from pldmlt_jax.cli.flags import parse
from pldmlt_jax.cli.predict import unique_names
from pldmlt_jax.pipeline import raw_files


@pytest.fixture
def config(tmp_path):
    write_segmentation(tmp_path / "IDRiD", {"IDRiD_01": ["MA"]})
    write_grading(tmp_path / "IDRiD", {"IDRiD_001": 2, "IDRiD_002": 0})
    arguments = parse(["main.py", "--config=configs/idrid.py", f"--config.data.root={tmp_path}"], ("run",))
    assert arguments is not None
    return arguments.config


def contents(config):
    text, errors = raw_files(config)
    assert not errors
    return text


def test_what_is_wrong_with_both_sets_and_the_weights_is_told_at_once(config, tmp_path, capsys):
    (tmp_path / "IDRiD" / "A. Segmentation").rename(tmp_path / "IDRiD" / "A")
    write_grading(tmp_path / "IDRiD", {"IDRiD_001": 7, "IDRiD_002": 0})
    more = (f"--config.data.root={tmp_path}", f"--workdir={tmp_path / 'run'}", "--config.model.weights=none.pth")
    assert run(["main.py", "--config=configs/idrid.py", *more]) == 2
    message = capsys.readouterr().err
    for part in ("no images in", "grade '7' of IDRiD_001", "none.pth: no such file"):
        assert part in message


def test_corrected_grade_changes_the_fingerprint(config, tmp_path):
    before = contents(config)
    assert contents(config) == before
    write_grading(tmp_path / "IDRiD", {"IDRiD_001": 3, "IDRiD_002": 0})
    assert contents(config) != before


def test_redrawn_mask_of_the_same_size_changes_the_fingerprint(config, tmp_path):
    path = next((tmp_path / "IDRiD").rglob("IDRiD_01_MA.tif"))
    masks = []
    for column in (40, 41):
        mask = np.zeros((*SHAPE, 3), np.uint8)
        mask[20:22, column] = (0, 0, 255)
        cv2.imwrite(str(path), mask, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
        masks.append((path.stat().st_size, contents(config)))
    assert masks[0][0] == masks[1][0]
    assert masks[0][1] != masks[1][1]


def test_moved_data_root_keeps_the_fingerprint(config, tmp_path):
    before = contents(config)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "IDRiD").rename(tmp_path / "elsewhere" / "IDRiD")
    config.data.root = str(tmp_path / "elsewhere")
    assert contents(config) == before


def test_no_two_predictions_share_a_name():
    names = unique_names([Path(name) for name in ("a.jpg", "a.png", "a_2.jpg", "b/a.jpg")])
    assert sorted(names.values()) == ["a", "a_2", "a_2_2", "a_3"]

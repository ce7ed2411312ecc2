"""`predict` on files of every kind that cameras and programs write, and what it leaves."""

import csv
import gc
import re
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from evaluation.tiny_network import photograph, tiny_config, write_tiny
from PIL import Image

from pldmlt_jax.cli.app import run
from pldmlt_jax.data.input_images import find_images, unique_names
from pldmlt_jax.errors import UserError
from pldmlt_jax.io.progress import ProgressTask
from pldmlt_jax.io.signals import Interrupted
from pldmlt_jax.reporting.overlays import LESION_COLOURS
from pldmlt_jax.reporting.predictions_table import exclude_predictions, write_prediction
from pldmlt_jax.workflow.load_checkpoint import load
from pldmlt_jax.workflow.stages.predict import predict_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("trained"), tiny_config("lesions"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """The same photograph in every form; `turned` is stored on its side, with EXIF data that say so."""
    root = tmp_path_factory.mktemp("photographs")
    rgb = photograph(100, 160)
    grey = rgb.mean(axis=-1).astype(np.uint8)
    alpha = np.full(grey.shape, 255, np.uint8)
    (root / "below").mkdir()
    for name in ("plain.png", "plain.tif", "plain.bmp", "plain.jpg", "below/UPPER.JPG"):
        Image.fromarray(rgb).save(root / name)
    cv2.imwrite(str(root / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(root / "deep.tif"), rgb[..., ::-1].astype(np.uint16) * 257)
    Image.fromarray(np.dstack([rgb, alpha])).save(root / "alpha.png")
    Image.fromarray(np.dstack([rgb, alpha])).save(root / "alpha.tif")
    Image.fromarray(grey).save(root / "grey.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(rgb).copy()).save(root / "turned.jpg", exif=exif, quality=95)
    (root / "broken.png").write_bytes(b"\x89PNG not an image")
    (root / "cut.jpg").write_bytes((root / "plain.jpg").read_bytes()[:700])
    return root


@pytest.fixture(scope="module")
def predicted(folder, photographs, tmp_path_factory):
    """Exit status, output and rows by file name."""
    output = tmp_path_factory.mktemp("out")
    status = run(
        ["main.py", "predict", f"--checkpoint={folder}", f"--input={photographs}", f"--output={output}", "--probabilities"]
    )
    with open(output / "predictions.csv", newline="") as file:
        rows = {row["image"].rsplit("/", 1)[1]: row for row in csv.DictReader(file)}
    return status, output, rows


def test_every_form_is_read_and_the_rest_is_done_where_one_is_not(predicted):
    status, _, rows = predicted
    assert status == 2
    assert len(rows) == 11 and not {"broken.png", "cut.jpg"} & set(rows)
    for name, row in rows.items():
        assert (row["height_px"], row["width_px"]) == ("100", "160"), name
    same = ("plain.tif", "plain.bmp", "deep.png", "deep.tif", "alpha.png", "alpha.tif")
    for column in ("MA_px", "EX_count", "grade", "grade_3", "field_px"):
        assert {rows[name][column] for name in same} == {rows["plain.png"][column]}, column
    assert float(rows["turned.jpg"]["grade_3"]) == pytest.approx(float(rows["plain.jpg"]["grade_3"]), abs=0.02)


def test_masks_are_indexed_with_the_colours_of_the_overlay_and_agree_with_the_row(predicted):
    _, output, rows = predicted
    row = rows["plain.png"]
    picture = Image.open(output / row["mask"])
    label = np.asarray(picture)
    assert picture.mode == "P" and label.shape == (100, 160)
    assert picture.getpalette()[3:15] == [part for lesion in ("MA", "HE", "EX", "SE") for part in LESION_COLOURS[lesion]]
    assert (label == 1).sum() == int(row["MA_px"])  # microaneurysms lie on top
    probability = cv2.imread(str(output / row["MA_probability"]), cv2.IMREAD_UNCHANGED)
    assert probability.dtype == np.uint16
    certain = np.abs(probability.astype(int) - 65535 // 2) > 1
    np.testing.assert_array_equal((probability > 65535 // 2)[certain], (label == 1)[certain])
    number, _ = cv2.connectedComponents((label == 1).astype(np.uint8), connectivity=8)
    assert number - 1 == int(row["MA_count"])
    share = 100 * int(row["MA_px"]) / int(row["field_px"])
    assert float(row["MA_percent_of_field"]) == pytest.approx(share, abs=1e-4)
    for name in ("overlay", "grade_map"):
        assert cv2.imread(str(output / row[name])).shape == (100, 160, 3)


def test_odd_pictures_carry_a_warning(predicted):
    _, _, rows = predicted
    assert rows["plain.png"]["warning"] == ""
    assert "not red" in rows["grey.jpg"]["warning"]


def test_the_page_describes_every_column(predicted):
    page = (Path(__file__).parents[3] / "docs" / "predicting.md").read_text(encoding="utf-8")
    table = page[page.index("| column |") :].split("\n\n")[0]
    described = {name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}
    assert {re.sub("^(MA|HE|EX|SE)_", "LESION_", name) for name in predicted[2]["plain.png"]} == described


def test_inputs_are_files_folders_and_patterns_each_image_once(photographs):
    assert len(find_images(str(photographs))) == 13
    assert [path.name for path in find_images(f"{photographs}/deep.*")] == ["deep.png", "deep.tif"]
    assert [path.name for path in find_images(f"{photographs}/**/UP*")] == ["UPPER.JPG"]
    both = find_images(f"{photographs}/below, {photographs}/plain.png,{photographs}/*.png")
    assert [path.name for path in both] == ["UPPER.JPG", "plain.png", "alpha.png", "broken.png", "deep.png"]
    with pytest.raises(UserError, match=r"nowhere[\s\S]*no image fits"):
        find_images(f"{photographs}/nowhere,{photographs}/*.gif,{photographs}/plain.png")


def test_a_name_with_a_comma_or_a_mark_of_patterns_is_taken_as_it_is(tmp_path):
    for name in ("a,b.png", "c[1].png"):
        Image.fromarray(photograph()).save(tmp_path / name)
        assert find_images(str(tmp_path / name)) == [tmp_path / name]


def test_what_was_predicted_and_hidden_folders_are_passed_over_and_what_must_be_converted_is_not(tmp_path):
    for name in (
        "a.jpg",
        "b_mask.png",
        ".thumbnails/a.jpg",
        "c.HEIC",
        "out/a_mask.png",
        "out/a_overlay.jpg",
        "out/late.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "out" / "predictions.csv").touch()
    kept = exclude_predictions(find_images(str(tmp_path)))
    assert [str(path.relative_to(tmp_path)) for path in kept] == ["a.jpg", "b_mask.png", "c.HEIC", "out/late.jpg"]


def test_predicting_twice_into_the_folder_of_the_photographs_is_the_same(folder, tmp_path, capsys):
    Image.fromarray(photograph()).save(tmp_path / "eye.png")
    command = ["main.py", "predict", f"--checkpoint={folder}", f"--input={tmp_path}", f"--output={tmp_path}"]
    tables = []
    for _ in range(2):
        assert run(command) == 0
        tables.append((tmp_path / "predictions.csv").read_text())
    assert tables[0] == tables[1] and "3 pictures of an earlier prediction are skipped" in capsys.readouterr().out
    assert run([*command[:3], f"--input={tmp_path}/*_mask.png", command[4]]) == 2
    assert "photographs, not predictions" in capsys.readouterr().err


def test_a_photograph_that_has_to_be_converted_is_told(folder, tmp_path, capsys):
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    assert run(["main.py", "predict", f"--checkpoint={folder}", f"--input={tmp_path}", f"--output={tmp_path / 'out'}"]) == 2
    told = capsys.readouterr()
    assert "phone.HEIC" in told.out and "convert it" in told.out and "1 of 1 images not read" in told.err


def test_what_was_done_before_a_signal_is_kept_and_told(folder, tmp_path, monkeypatch, capsys):
    for i in range(4):
        Image.fromarray(photograph(seed=i)).save(tmp_path / f"{i}.png")

    def stopped(path: Path, *rest: Any) -> dict[str, Any]:
        if path.name == "3.png":
            raise Interrupted(15)
        return write_prediction(path, *rest)

    monkeypatch.setattr("pldmlt_jax.workflow.stages.predict.write_prediction", stopped)
    assert (
        run(["main.py", "predict", f"--checkpoint={folder}", f"--input={tmp_path}", f"--output={tmp_path / 'out'}"]) == 143
    )
    assert "stopped by SIGTERM: 2 of 4 images are done" in capsys.readouterr().err
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        assert [Path(row["image"]).name for row in csv.DictReader(file)] == ["0.png", "1.png", "2.png"]


def test_outputs_of_equal_names_do_not_overwrite_each_other():
    names = unique_names([Path("a/x.png"), Path("b/x.jpg"), Path("x_2.png"), Path("c/X.png")])
    assert len({name.lower() for name in names}) == 4 and names[0] == "x"


def test_memory_does_not_grow_with_the_number_of_photographs(folder, tmp_path):
    paths = []
    for i in range(40):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(photograph(200, 240, seed=i)).save(paths[-1])
    predictor, peaks = load(folder), []
    for few in (paths[:4], paths[:8], paths):
        gc.collect()
        tracemalloc.start()
        outcome = predict_files(predictor, few, tmp_path / "out", ProgressTask("", None, len(few)), num_threads=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(outcome.rows) == len(few)
    assert peaks[2] < 1.25 * peaks[1]  # a photograph and its answers are 3 MB, a batch 6 MB

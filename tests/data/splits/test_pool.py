"""Pooled sets, folds over all their photographs, folds from a file, and no photograph in two places."""

import csv
import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from data.diaretdb1_files import circle, marking, write_set
from data.idrid_files import photograph, write_grading, write_segmentation

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.splits.folds import write_folds
from pldmlt_jax.data.splits.selection import select_graded, select_segmented
from pldmlt_jax.data.splits.summary import dataset_summary, fold_rows
from pldmlt_jax.data.store import open_prepared
from pldmlt_jax.errors import DataError, ErrorGroup

DOT = (marking(circle(41, 31, 3), "High", "Red_small_dots"),) * 4
EXUDATE = (marking(circle(41, 31, 3), "High", "Hard_exudates"),) * 4


@pytest.fixture
def data(tmp_path) -> DataConfig:
    """IDRiD-S with 8 + 3 photographs and DiaRetDB1 with 6 + 3."""
    write_segmentation(tmp_path / "IDRiD", {f"IDRiD_{i:02d}": ["MA", "HE"] if i % 2 else ["EX"] for i in range(1, 9)})
    write_segmentation(tmp_path / "IDRiD", {f"IDRiD_{i:02d}": ["MA"] for i in range(9, 12)}, "test")
    relabel_test_photographs(tmp_path / "IDRiD")
    write_set(tmp_path / "DiaRetDB1", {i: [DOT] * 4 if i % 2 else [EXUDATE] * 4 for i in range(1, 7)}, seed=40)
    write_set(tmp_path / "DiaRetDB1", {i: [DOT] * 4 for i in range(11, 14)}, "test", seed=40)
    write_grading(tmp_path / "IDRiD", {f"IDRiD_{i:03d}": i % 5 for i in range(1, 16)})
    return DataConfig(
        segmentation="idrid_s+diaretdb1", split="all_folds", root=str(tmp_path), cache_dir=str(tmp_path / "cache"),
        size_px=64, num_threads=2,
    )  # fmt: skip


def relabel_test_photographs(root: Path) -> None:
    """The helper draws the photographs of both splits alike: here they must differ."""
    folder = root / "A. Segmentation" / "1. Original Images" / "b. Testing Set"
    for i, path in enumerate(sorted(folder.glob("*.jpg"))):
        cv2.imwrite(str(path), photograph(70 + i))


def images_of(data: DataConfig) -> Path:
    return Path(data.root) / "IDRiD" / "A. Segmentation" / "1. Original Images"


def test_pool_holds_both_sets_split_by_split(data):
    splits = open_prepared(data.segmentation, data, 64)
    assert {name: len(split) for name, split in splits.items()} == {"train": 14, "test": 6}
    train = splits["train"]
    assert train.origins[0] == ("idrid_s", "IDRiD_01")
    assert train.origins[8] == ("diaretdb1", "diaretdb1_image001")
    apart = open_prepared("diaretdb1", data, 64)["train"]
    for i in range(6):
        np.testing.assert_array_equal(train[8 + i].mask_bits, apart[i].mask_bits)
        assert train[8 + i].image_id == apart[i].image_id == train.metadata[8 + i].image_id


def test_every_photograph_of_the_pool_is_held_out_once_and_sets_are_spread_evenly(data):
    held_out: list[str] = []
    for fold in range(5):
        selections = select_segmented(dataclasses.replace(data, fold=fold))
        parts = {name: selections[name].image_ids for name in ("train", "val", "test")}
        assert sum(map(len, parts.values())) == len({image for part in parts.values() for image in part}) == 20
        from_idrid = sum(name.startswith("IDRiD") for name in parts["test"])
        assert from_idrid in (2, 3)
        held_out += parts["test"]
    assert len(set(held_out)) == len(held_out) == 20


def test_names_that_recur_in_two_sets_are_told_apart(data):
    for path in (Path(data.root) / "DiaRetDB1").rglob("*image00[12]*"):
        path.rename(path.with_name(path.name.replace("diaretdb1_image0", "IDRiD_")))
    for table in (Path(data.root) / "DiaRetDB1").glob("*.txt"):
        for number in ("01", "02"):
            table.write_text(table.read_text().replace(f"diaretdb1_image0{number}", f"IDRiD_{number}"))
    train = open_prepared(data.segmentation, data, 64)["train"]
    assert len(set(train.image_ids)) == 14
    assert {"idrid_s-IDRiD_01", "diaretdb1-IDRiD_01"} <= set(train.image_ids)


def test_the_same_photograph_is_never_in_two_folds(data):
    """Under other names, in the other official split, in the other set."""
    shutil.copy(images_of(data) / "a. Training Set" / "IDRiD_01.jpg", images_of(data) / "b. Testing Set" / "IDRiD_10.jpg")
    shutil.copy(images_of(data) / "a. Training Set" / "IDRiD_02.jpg", images_of(data) / "a. Training Set" / "IDRiD_05.jpg")
    source = images_of(data) / "a. Training Set" / "IDRiD_03.jpg"
    cv2.imwrite(str(Path(data.root) / "DiaRetDB1" / "images" / "diaretdb1_image004.png"), cv2.imread(str(source)))
    same = [("IDRiD_01", "IDRiD_10"), ("IDRiD_02", "IDRiD_05"), ("IDRiD_03", "diaretdb1_image004")]
    for fold in range(5):
        selections = select_segmented(dataclasses.replace(data, fold=fold))
        place = {image: name for name in ("train", "val", "test") for image in selections[name].image_ids}
        assert len(place) == 20
        for first, second in same:
            assert place[first] == place[second]


def test_training_photographs_that_stand_in_the_official_test_part_are_left_out(data):
    official = dataclasses.replace(data, split="official")
    shutil.copy(images_of(data) / "a. Training Set" / "IDRiD_01.jpg", images_of(data) / "b. Testing Set" / "IDRiD_10.jpg")
    segmented = select_segmented(official)
    assert "IDRiD_01" not in {*segmented["train"].image_ids, *segmented["val"].image_ids}
    assert "IDRiD_10" in segmented["test"].image_ids
    graded = select_graded(official, 64, segmented)
    assert dataset_summary(segmented, graded, official)["leakage"]["repeated"]["segmentation"]["train"] == ["IDRiD_01"]
    as_paper = select_segmented(dataclasses.replace(official, leakage="as_paper"))
    assert len(as_paper["train"]) + len(as_paper["val"]) == 14


def test_folds_written_to_a_file_are_the_folds_read_from_it(data, tmp_path):
    path = tmp_path / "folds.csv"
    rows = fold_rows(select_segmented(data), data)
    write_folds(path, rows)
    with open(path, newline="") as file:
        assert next(csv.reader(file)) == ["set", "image", "stratum", "fold"]
    given = dataclasses.replace(data, folds_file=str(path), split_seed=7)
    for fold in range(5):
        ours = select_segmented(dataclasses.replace(data, fold=fold))
        theirs = select_segmented(dataclasses.replace(given, fold=fold))
        assert sorted(ours["test"].image_ids) == sorted(theirs["test"].image_ids)


def test_folds_of_others_need_a_row_for_each_image_and_a_fold_in_range(data, tmp_path):
    path = tmp_path / "folds.csv"
    rows = fold_rows(select_segmented(data), data)
    write_folds(path, [(*rows[0][:3], 9), *rows[1:-2]])
    with pytest.raises(ErrorGroup) as caught:
        select_segmented(dataclasses.replace(data, folds_file=str(path)))
    assert "line 2: fold '9'" in str(caught.value)
    assert "no fold for 3 of 20 images" in str(caught.value)
    path.write_text("name,part\na,1\n")
    with pytest.raises(DataError, match="no column image, fold"):
        select_segmented(dataclasses.replace(data, folds_file=str(path)))


def test_given_folds_that_tear_a_photograph_apart_are_refused(data, tmp_path):
    shutil.copy(images_of(data) / "a. Training Set" / "IDRiD_02.jpg", images_of(data) / "a. Training Set" / "IDRiD_05.jpg")
    rows = fold_rows(select_segmented(data), data)
    path = tmp_path / "folds.csv"
    write_folds(path, [(*row[:3], (row[3] + 1) % 5 if row[1] == "IDRiD_05" else row[3]) for row in rows])
    given = dataclasses.replace(data, folds_file=str(path))
    with pytest.raises(DataError, match="IDRiD_05 and IDRiD_02"):
        select_segmented(given)
    assert len(select_segmented(dataclasses.replace(given, leakage="as_paper"))["test"]) in (3, 4, 5)


def test_bad_files_are_skipped_counted_and_listed_where_the_config_says_so(data):
    (images_of(data) / "a. Training Set" / "IDRiD_04.jpg").write_bytes(b"")
    (Path(data.root) / "DiaRetDB1" / "groundtruth" / "diaretdb1_image002_03.xml").unlink()
    with pytest.raises(ErrorGroup) as caught:
        select_segmented(data)
    assert len(caught.value.errors) == 2
    skipping = dataclasses.replace(data, on_bad_file="skip")
    segmented = select_segmented(skipping)
    assert sum(len(segmented[name]) for name in ("train", "val", "test")) == 18
    messages = dataset_summary(segmented, select_graded(skipping, 64, segmented), skipping)["segmentation"]["bad_files"]
    assert len(messages) == 2
    assert any("IDRiD_04.jpg: an empty file" in message for message in messages)
    assert any("diaretdb1_image002_03.xml" in message for message in messages)

"""DDR's layout, read from small files of its exact form."""

import shutil

import cv2
import numpy as np
import pytest
from data.ddr_files import write_grading, write_segmentation
from data.idrid_files import SHAPE
from data.valid_records import valid_records

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.ddr import list_grading, list_segmentation
from pldmlt_jax.data.splits.selection import select_graded, select_segmented
from pldmlt_jax.data.splits.summary import dataset_summary
from pldmlt_jax.data.store import open_prepared
from pldmlt_jax.errors import DataError, ErrorGroup
from pldmlt_jax.method.pseudo_labels import admissible_grades

LESION_FILES = {"007-0004-100": ["MA"], "20170413102628830": ["EX", "HE"], "007-0005-200": []}


@pytest.fixture
def root(tmp_path):
    """All three splits, of which the validation split spells its folder of masks in its own way."""
    folder = tmp_path / "DDR-dataset"
    write_segmentation(folder, LESION_FILES)
    write_segmentation(folder, {"007-0100-300": ["SE"]}, "valid", first_seed=20)
    write_segmentation(folder, {"007-0200-400": ["MA"]}, "test", first_seed=30)
    write_grading(folder, {"007-1000-000": 0, "007-1001-500": 5, "007-1002-200": 2, "007-1003-300": 3, "a": 1, "b": 4})
    write_grading(folder, {"007-1100-000": 0, "c": 2}, "valid", first_seed=200)
    write_grading(folder, {"007-1200-400": 4, "007-1201-500": 5, "d": 5}, "test", first_seed=300)
    return folder


@pytest.fixture
def data(root) -> DataConfig:
    return DataConfig(
        segmentation="ddr_s", grading="ddr_d", root=str(root.parent), cache_dir=str(root.parent / "cache"), size_px=64
    )


def test_both_spellings_of_the_folder_of_masks_are_read_in_every_split(root):
    first = valid_records(list_segmentation(root))
    assert {split: len(records) for split, records in first.items()} == {"train": 3, "val": 1, "test": 1}
    assert first["val"][0].masks["SE"].parents[1].name == "segmentation label"
    for split, (old, new) in {"train": ("label", "segmentation label"), "valid": ("segmentation label", "label")}.items():
        (root / "lesion_segmentation" / split / old).rename(root / "lesion_segmentation" / split / new)
    second = valid_records(list_segmentation(root))
    assert second["val"][0].masks["SE"].parents[1].name == "label"
    assert [record.image_id for record in second["train"]] == [record.image_id for record in first["train"]]


def test_black_mask_means_none_of_that_lesion_and_no_photograph_is_healthy(data):
    rows = open_prepared("ddr_s", data, 64)["train"].metadata
    found = {row.image_id: row.evidence_px.tolist() for row in rows}
    assert found == {
        "007-0004-100": [6, 0, 0, 0, 0], "007-0005-200": [0, 0, 0, 0, 0], "20170413102628830": [0, 6, 6, 0, 0],
    }  # fmt: skip
    grades = {row.image_id: np.flatnonzero(admissible_grades(row.evidence_px, row.least_grade)).tolist() for row in rows}
    assert grades == {"007-0004-100": [1], "007-0005-200": [1, 2, 3, 4], "20170413102628830": [2, 3, 4]}


def test_missing_masks_are_all_named_for_here_every_lesion_has_a_file(root):
    masks = root / "lesion_segmentation" / "train" / "label"
    (masks / "HE" / "007-0004-100.tif").unlink()
    shutil.rmtree(masks / "SE")
    with pytest.raises(ErrorGroup) as caught:
        valid_records(list_segmentation(root))
    assert len(caught.value.errors) == 4
    assert "HE/007-0004-100.tif: no such file" in str(caught.value)


def test_mask_without_image_is_named(root):
    (root / "lesion_segmentation" / "test" / "image" / "007-0200-400.jpg").rename(
        root / "lesion_segmentation" / "test" / "image" / "007-0201-400.jpg"
    )
    with pytest.raises(ErrorGroup, match=r"007-0200-400\.tif: a mask without its image"):
        valid_records(list_segmentation(root))


def test_incomplete_join_of_the_archive_is_explained(root):
    shutil.rmtree(root / "lesion_segmentation" / "valid" / "segmentation label")
    with pytest.raises(DataError, match="join all parts"):
        list_segmentation(root)
    shutil.rmtree(root / "lesion_segmentation")
    with pytest.raises(DataError, match="no images in"):
        list_segmentation(root)


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 128)])
def test_any_two_levels_are_a_mask(data, root, values):
    mask = np.full(SHAPE, values[0], np.uint8)
    mask[10:12, 40:45] = values[1]
    cv2.imwrite(str(root / "lesion_segmentation" / "train" / "label" / "MA" / "007-0004-100.tif"), mask)
    rows = {row.image_id: row for row in open_prepared("ddr_s", data, 64)["train"].metadata}
    assert rows["007-0004-100"].lesion_px.tolist() == [10, 0, 0, 0]


def test_more_than_two_levels_are_an_error(data, root):
    mask = np.zeros(SHAPE, np.uint8)
    mask[10, 40:43] = (255, 128, 10)
    path = root / "lesion_segmentation" / "train" / "label" / "MA" / "007-0004-100.tif"
    cv2.imwrite(str(path), mask)
    with pytest.raises(DataError) as caught:
        open_prepared("ddr_s", data, 64)
    assert f"{path}: 4 grey levels, 0 to 255" in str(caught.value)


def test_ungradable_photographs_are_dropped_and_counted(root, data):
    listing = list_grading(root)
    assert {split: [r.grade for r in records] for split, records in valid_records(listing).items()} == {
        "train": [0, 2, 3, 1, 4], "val": [0, 2], "test": [4],
    }  # fmt: skip
    assert listing.dropped == {"train": 1, "val": 0, "test": 2}
    segmented = select_segmented(data)
    facts = dataset_summary(segmented, select_graded(data, 64, segmented), data)
    assert facts["grading"]["ungradable"] == {"train": 1, "val": 0, "test": 2}


def test_official_validation_images_are_the_sets_own(data):
    segmented = select_segmented(data)
    graded = select_graded(data, 64, segmented)
    assert {name: len(selection) for name, selection in segmented.items()} == {
        "train": 3, "val": 1, "official_test": 1, "test": 1,
    }  # fmt: skip
    assert segmented["val"].image_ids == ["007-0100-300"]
    assert {name: len(selection) for name, selection in graded.items()} == {
        "train": 5, "val": 2, "official_test": 1, "test": 1,
    }  # fmt: skip


def test_pixel_labelled_photographs_are_kept_out_of_the_graders_training(root, data):
    source = root / "lesion_segmentation" / "train" / "image" / "007-0004-100.jpg"
    shutil.copy(source, root / "DR_grading" / "train" / "a.jpg")
    segmented = select_segmented(data)
    graded = select_graded(data, 64, segmented)
    assert "a" not in graded["train"].image_ids
    assert len(graded["train"]) == 4


def test_lists_of_other_systems_are_read(root):
    table = root / "DR_grading" / "train.txt"
    table.write_bytes(table.read_bytes().replace(b"\n", b"\r\n").rstrip())
    assert len(valid_records(list_grading(root))["train"]) == 5


def test_every_wrong_line_is_named_at_once(root):
    table = root / "DR_grading" / "train.txt"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(["007-1000-000.jpg 6", "x.jpg 1", "a.jpg", "a.jpg 1 2", *lines[2:5], "007-1002-200.jpg 3"]))
    with pytest.raises(ErrorGroup) as caught:
        valid_records(list_grading(root))
    text = str(caught.value)
    for part in ("line 1: '007-1000-000.jpg 6'", "a row for x.jpg", "line 3: 'a.jpg'", "line 4: 'a.jpg 1 2'",
                 "line 8: 007-1002-200.jpg again", "007-1001-500.jpg: no row", "b.jpg: no row"):  # fmt: skip
        assert part in text


def test_missing_set_shows_the_layout_and_the_source(tmp_path):
    for listing in (list_segmentation, list_grading):
        with pytest.raises(DataError) as caught:
            listing(tmp_path / "DDR-dataset")
        text = str(caught.value)
        assert "no such folder" in text
        assert "segmentation label" in text
        assert "https://" in text
        assert "--config.data.ddr_root" in text

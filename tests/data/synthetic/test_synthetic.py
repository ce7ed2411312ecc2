"""The drawn set: like the real one where it can be measured, graded by the clinical rule, and reproducible."""

import csv
import dataclasses

import cv2
import numpy as np
import pytest
from data.mask_statistics import recorded, statistics
from data.valid_records import valid_records

from pldmlt_jax.config import SyntheticConfig
from pldmlt_jax.data.datasets.idrid import list_grading, list_segmentation
from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.data.synthetic.dataset import corrupt_grades, draw_fundus, ensure_synthetic_set
from pldmlt_jax.data.synthetic.lesions import DrawnSigns, grade_from_signs
from pldmlt_jax.types import LESIONS

SMALL = SyntheticConfig(
    height_px=96, num_segmentation_train=6, num_segmentation_test=3, num_grading_train=20, num_grading_test=5
)
REAL_GRADES = (2,) * 20 + (3,) * 7 + (4,) * 4
"""In about the shares that the 42 known grades of IDRiD's pixel-labelled images have."""


@pytest.fixture(scope="module")
def drawn() -> dict[str, dict[str, list[float]]]:
    """Statistics of drawn photographs, of the demo's height and with the real set's grades."""
    photographs = [draw_fundus((11, i), grade, 320) for i, grade in enumerate(REAL_GRADES)]
    return statistics((photograph.image, photograph.masks) for photograph in photographs)


FIGURES = [(group, name) for group, columns in recorded().items() for name in columns]


@pytest.mark.parametrize(("group", "name"), FIGURES)
def test_median_lies_within_the_real_images_10_to_90_percent(drawn, group, name):
    low, _, high = recorded()[group][name]
    assert low <= drawn[group][name][1] <= high


def signs(counts: dict[str, int] | None = None, **more) -> DrawnSigns:
    none = {lesion: np.zeros((2, 2), bool) for lesion in LESIONS}
    return DrawnSigns(none, counts=dict.fromkeys(LESIONS, 0) | (counts or {}), **more)


QUADRANTS = [(0.5, 0.5), (-0.5, 0.5), (0.5, -0.5), (-0.5, -0.5)]


@pytest.mark.parametrize(
    ("seen", "grade"),
    [
        (signs(), 0),
        (signs({"MA": 3}), 1),
        (signs({"MA": 3, "HE": 1}), 2),
        (signs({"EX": 1}), 2),
        (signs({"SE": 1}), 2),
        (signs({"HE": 80}, haemorrhages=QUADRANTS * 20), 2),
        (signs({"HE": 84}, haemorrhages=QUADRANTS * 21), 3),
        (signs({"HE": 93}, haemorrhages=QUADRANTS[:3] * 31), 2),
        (signs({"MA": 1}, beading=True), 3),
        (signs({"MA": 1}, irma=True), 3),
        (signs({"HE": 84}, haemorrhages=QUADRANTS * 21, proliferative=True), 4),
    ],
)
def test_grade_follows_the_international_clinical_scale(seen, grade):
    """Wilkinson et al. 2003, Table 3; severe: more than 20 haemorrhages in each of the four quadrants."""
    assert grade_from_signs(seen) == grade


@pytest.mark.parametrize("grade", range(5))
def test_drawn_photograph_has_the_grade_asked_for_and_its_lesions(grade):
    for seed in range(4):
        photograph = draw_fundus((seed,), grade, 128)
        assert photograph.grade == grade
        found = {lesion for lesion in LESIONS if photograph.masks[lesion].any()}
        if grade == 0:
            assert not found
        elif grade == 1:
            assert found == {"MA"}
        else:
            assert found >= {"MA", "HE", "EX"}


def test_photograph_depends_on_the_seed_alone():
    first, again, other = (draw_fundus((seed,), 2, 96) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image != other.image).any()


def test_photograph_looks_like_a_fundus_camera_s():
    """Black outside a round field, darker towards its edge, a bright disc in it, a dark fovea beside it."""
    for seed in range(3):
        photograph = draw_fundus((seed,), 0, 256)
        grey = photograph.image.astype(float).mean(axis=-1)
        fov = field_of_view(photograph.image)
        assert 0.6 < fov.mean() < 0.95
        assert photograph.image[~cv2.dilate(fov.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)].max() < 30
        distance = cv2.distanceTransform(fov.astype(np.uint8), cv2.DIST_L2, 5)
        assert grey[fov & (distance < 12)].mean() < grey[distance > 60].mean()
        assert grey[photograph.disc].mean() > 1.2 * grey[fov].mean()
        assert 0.01 < photograph.disc.sum() / fov.sum() < 0.05


def test_masks_lie_inside_the_field_of_view():
    photograph = draw_fundus((0,), 4, 256)
    fov = cv2.dilate(field_of_view(photograph.image).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    for mask in photograph.masks.values():
        assert not (mask & ~fov).any()


def test_written_set_is_read_like_the_real_one(tmp_path):
    root = ensure_synthetic_set(SMALL, str(tmp_path))
    segmented, graded = valid_records(list_segmentation(root)), valid_records(list_grading(root))
    assert {name: len(records) for name, records in segmented.items()} == {"train": 6, "test": 3}
    assert {name: len(records) for name, records in graded.items()} == {"train": 20, "test": 5}
    assert {record.true_grade for records in segmented.values() for record in records} <= set(range(5))
    assert all(record.grade == record.true_grade for record in segmented["train"])
    assert all(record.grade == record.true_grade for record in graded["train"])


def _interrupt(*_):
    raise KeyboardInterrupt


def test_set_is_drawn_once_and_anew_after_an_interruption(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pldmlt_jax.data.synthetic.dataset._write_csv", _interrupt)
        ensure_synthetic_set(SMALL, str(tmp_path))
    root = ensure_synthetic_set(SMALL, str(tmp_path))
    assert len(valid_records(list_segmentation(root))["train"]) == 6
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert ensure_synthetic_set(SMALL, str(tmp_path)) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == stamps
    assert ensure_synthetic_set(dataclasses.replace(SMALL, seed=1), str(tmp_path)) != root


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_corruption_changes_exactly_that_share_of_the_training_grades_and_keeps_the_true_ones(tmp_path, share):
    root = ensure_synthetic_set(dataclasses.replace(SMALL, corrupt_share=share), str(tmp_path))
    records = valid_records(list_grading(root))
    assert sum(record.grade != record.true_grade for record in records["train"]) == round(share * 20)
    assert all(record.grade == record.true_grade for record in records["test"])
    segmented = valid_records(list_segmentation(root))
    assert sum(record.grade != record.true_grade for record in segmented["train"]) == round(share * 6)
    assert all(record.grade == record.true_grade for record in segmented["test"])
    with open(root / "true_grades_of_grading_images.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 25


def test_corrupted_grades_are_other_valid_grades():
    grades = np.arange(1000) % 5
    changed = corrupt_grades(grades, 0.4, np.random.default_rng(0))
    assert (changed != grades).sum() == 400
    assert set(changed) == set(range(5))
    for grade in range(5):  # each of the four others in turn
        wrong = changed[(grades == grade) & (changed != grades)]
        assert set(wrong) == set(range(5)) - {grade}

"""Folds: each image in one place, strata spread evenly. Leakage: the same photograph under other names, the same eye."""

from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing.difference_hash import difference_hash
from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.data.splits.folds import split_indices, stratified_folds
from pldmlt_jax.data.splits.near_duplicates import SAME_IMAGE_BITS, find_near_duplicates
from pldmlt_jax.data.splits.selection import ALL, choose_splits
from pldmlt_jax.data.synthetic.dataset import draw_fundus
from pldmlt_jax.errors import ConfigError

DISTANCE = DataConfig().leakage_distance


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=10, max_size=80), st.integers(2, 6), st.integers(0, 3))
def test_folds_are_even_in_size_and_in_every_stratum(strata, num_folds, seed):
    folds = stratified_folds(strata, num_folds, seed)
    sizes = np.bincount(folds, minlength=num_folds)
    assert sizes.max() - sizes.min() <= 1
    for stratum in set(strata):
        counts = np.bincount(folds[np.array(strata) == stratum], minlength=num_folds)
        assert counts.max() - counts.min() <= 1


def test_folds_depend_on_the_seed_alone():
    strata = [i % 3 for i in range(40)]
    np.testing.assert_array_equal(stratified_folds(strata, 5, 7), stratified_folds(strata, 5, 7))
    assert (stratified_folds(strata, 5, 7) != stratified_folds(strata, 5, 8)).any()


@pytest.mark.parametrize("with_folds", [True, False])
def test_splits_are_disjoint_and_complete(with_folds):
    strata = [i % 4 for i in range(54)]
    folds = stratified_folds(strata, 5, 0) if with_folds else None
    parts = split_indices(strata, DataConfig(val_share=0.15), folds=folds)
    assert set(parts) == ({"train", "val", "test"} if with_folds else {"train", "val"})
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(54))


def test_every_image_is_held_out_in_exactly_one_fold():
    strata = [i % 4 for i in range(54)]
    folds = stratified_folds(strata, 5, 0)
    held_out = [split_indices(strata, DataConfig(fold=fold), folds=folds)["test"] for fold in range(5)]
    assert Counter(np.concatenate(held_out).tolist()) == Counter(range(54))


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    return [draw_fundus((0, i), grade=2, height_px=384).image for i in range(6)]


def hashed(image: np.ndarray) -> np.ndarray:
    return difference_hash(image, field_of_view(image))


def test_hash_survives_size_compression_and_border(photographs):
    image = photographs[0]
    smaller = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    compressed = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    bordered = cv2.copyMakeBorder(image, 30, 30, 50, 50, cv2.BORDER_CONSTANT)
    for other in (smaller, compressed, bordered):
        assert len(find_near_duplicates([hashed(image)], [hashed(other)], distance=SAME_IMAGE_BITS)) == 1


def test_second_photograph_of_an_eye_is_found_and_not_taken_for_the_first(photographs):
    """Lit otherwise, and the camera has moved a little."""
    for image in photographs:
        height, width = image.shape[:2]
        light = np.linspace(0.5, 1.0, width)[None, :, None]
        moved = cv2.warpAffine(image, np.array([[1.0, 0.02, 0.0], [-0.02, 1.0, 3.0]]), (width, height))
        second = np.where(field_of_view(image)[..., None], moved * light, 0).astype(np.uint8)
        ((_, _, bits),) = find_near_duplicates([hashed(image)], [hashed(second)], distance=DISTANCE)
        assert bits > SAME_IMAGE_BITS


def test_pairs_are_named_with_their_distance_and_others_are_not(photographs):
    hashes = [hashed(image) for image in photographs]
    assert find_near_duplicates(hashes, [hashes[4], hashes[1]], distance=DISTANCE) == [(1, 1, 0), (4, 0, 0)]
    assert find_near_duplicates(hashes, [], distance=DISTANCE) == []


def test_blocks_change_nothing(monkeypatch):
    hashes = list(np.random.default_rng(0).integers(0, 256, (9, 1), np.uint8).repeat(32, axis=1))
    whole = find_near_duplicates(hashes, hashes[:5], distance=100)
    assert len(whole) > 5
    monkeypatch.setattr("pldmlt_jax.data.splits.near_duplicates.BLOCK", 4)
    assert find_near_duplicates(hashes, hashes[:5], distance=100) == whole


def test_distance_counts_differing_bits():
    a, b = np.zeros(32, np.uint8), np.zeros(32, np.uint8)
    b[0], b[31] = 0b101, 0b1
    assert find_near_duplicates([a], [b], distance=3) == [(0, 0, 3)]
    assert find_near_duplicates([a], [b], distance=2) == []


def test_split_is_taken_from_each_set_that_has_it():
    """Folds of the pixel-labelled set, official test images of the graded one only."""
    sets = {"seg": ("train", "val", "test"), "grade": ("train", "val", "official_test")}
    assert choose_splits(sets) == {"seg": "test", "grade": "val"}
    assert choose_splits(sets, "val") == {"seg": "val", "grade": "val"}
    assert choose_splits(sets, "official_test") == {"grade": "official_test"}
    assert choose_splits(sets | {"none": ()}, ALL) == {"seg": ALL, "grade": ALL}
    with pytest.raises(ConfigError, match=r"train, val, test \(seg\); train, val, official_test \(grade\)"):
        choose_splits(sets, "nope")

"""Thresholds and smallest components: against counting each pair by itself, and what is written is what is read."""

import dataclasses
import json

import numpy as np
import pytest

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.evaluation.operating_points import (
    HALF,
    MIN_AREAS_PX,
    OPERATING_POINTS_FILE,
    THRESHOLDS,
    OperatingPoint,
    OperatingPoints,
    PairCounts,
    PointCounts,
    PointSearch,
    _choose_pair,
    average_points,
    drop_small_components,
    make_masks,
    pooled_dices,
    read_points,
    write_points,
)
from pldmlt_jax.types import LESIONS, MASK_BITS


def images(num: int = 3):
    """Noisy probabilities of blobs, surer in each, with specks that are none, and a rim that does not count."""
    rng = np.random.default_rng(3)
    for i in range(num):
        truth = np.zeros((40, 40, 2), bool)
        truth[5:12, 8:16, 0] = truth[20:30, 20:24, 1] = True
        p = np.where(truth, 0.45 + 0.2 * i, 0.1) + 0.15 * rng.normal(size=truth.shape)
        p[rng.random(truth.shape) < 0.02] = 0.9
        bits = np.where(truth[..., 0], MASK_BITS["MA"] | MASK_BITS["fused"], 0)
        bits |= np.where(truth[..., 1], MASK_BITS["EX"] | MASK_BITS["fused"], 0)
        bits[3:] |= MASK_BITS["valid"]
        scores = np.zeros((40, 40, 4), np.float32)
        scores[..., [0, 2]] = p.clip(0, 1)
        yield scores, bits.astype(np.uint8)


def by_pair(found, lesion):
    """Dice of every pair, each counted by itself over the images."""
    dices = np.zeros((len(THRESHOLDS), len(MIN_AREAS_PX)))
    for at in np.ndindex(*dices.shape):
        pair = OperatingPoint(float(THRESHOLDS[at[0]]), float(MIN_AREAS_PX[at[1]]))
        counts = PointCounts("lesions", OperatingPoints({lesion: pair}))
        for scores, bits in found:
            valid = bits & MASK_BITS["valid"] != 0
            counts.add(scores * valid[..., None], bits)
        dices[at] = counts.compute()[f"seg/{lesion}/dice_at_operating_point"] or 0.0
    return dices


@pytest.fixture(scope="module")
def searched():
    search, found = PointSearch("lesions"), list(images())
    for scores, bits in found:
        search.add(scores, bits)
    return search, found


@pytest.mark.parametrize("lesion", ["MA", "EX"])
def test_point_is_the_plainest_within_one_standard_error_of_the_best(searched, lesion):
    """Against the jackknife's own definition, with every pair counted by itself."""
    search, found = searched
    point, dices = search.choose()[lesion], by_pair(found, lesion)
    at = (list(THRESHOLDS).index(point.threshold), MIN_AREAS_PX.index(point.min_area_px))
    assert point.dice == pytest.approx(dices[at])
    assert point.dice_at_half == pytest.approx(dices[HALF, 0])
    assert point.images == 3
    assert point.min_area_px > 0 and point.dice > point.dice_at_half  # specks are dropped
    best = np.unravel_index(dices.argmax(), dices.shape)
    assert at != best
    without = np.stack([by_pair(found[:i] + found[i + 1 :], lesion) for i in range(3)])
    deficits = without[:, *best][:, None, None] - without
    error = np.sqrt(2 / 3 * ((deficits - deficits.mean(axis=0)) ** 2).sum(axis=0))
    alike = dices[best] - dices <= error
    away = np.abs(np.arange(len(THRESHOLDS)) - HALF)[:, None] + np.arange(len(MIN_AREAS_PX))
    assert alike[at] and away[at] == away[alike].min()
    assert dices[at] == pytest.approx(dices[alike & (away == away[at])].max())


def counted(dices, target_px=100):
    """Counts of images by threshold, whose Dice is as given where all of what is predicted is as large as the truth."""
    dices = np.array(dices)[:, :, None]
    shape = (len(dices), len(THRESHOLDS), len(MIN_AREAS_PX))
    tp = np.zeros(shape, np.int64)
    tp[:, : dices.shape[1], :1] = target_px * dices
    return PairCounts(tp, np.full(shape, target_px), np.full((len(dices), 1, 1), target_px))


def test_pair_within_one_standard_error_by_hand():
    """The first threshold is best. Of n images of equal size the jackknife's error is that of a mean: sd / sqrt(n)."""
    best, half = np.array([0.70, 0.72, 0.68, 0.70]), np.zeros((4, HALF))
    deficit = np.array([0.06, 0.00, 0.10, 0.00])  # mean 0.04, sd 0.049, and so an error of 0.0245
    error = deficit.std(ddof=1) / 2
    for scale, expected in ((1.0, 0), (0.5, HALF)):
        shifted = deficit - deficit.mean() + scale * 1.2 * error
        half[:, 0] = best
        table = np.column_stack([half, best - shifted]).round(2)
        at = _choose_pair(counted(table))
        assert at == (expected, 0), scale
    lost = (table[:, 0] - table[:, HALF]).mean()
    assert 0 < lost <= (table[:, 0] - table[:, HALF]).std(ddof=1) / 2  # it is worse, but not by more than its error


def test_one_large_image_that_differs_from_the_others_does_not_move_the_point():
    """It holds most of the pixels, so that the pooled Dice is best above 0.6; where all images ask for that, so it is."""

    def chosen(better):
        search = PointSearch("lesions")
        for asks in better:
            p, bits = np.zeros((128, 128, 4)), np.full((128, 128), MASK_BITS["valid"], np.uint8)
            side = 60 if asks else 10
            bits[:side, :side] |= MASK_BITS["EX"]
            p[:side, :side, 2] = 0.9 if asks else 0.6
            p[68:, 68:, 2] = 0.6 if asks else 0.0  # false marks
            search.add(p, bits)
        assert pooled_dices(search.counts("EX"))[HALF, 0] < pooled_dices(search.counts("EX")).max() - 0.1
        return search.choose()["EX"].threshold

    assert chosen([True, False, False, False]) == 0.5
    assert chosen([True] * 4) == pytest.approx(0.6)  # strictly above 0.6, and nearest to 0.5


@pytest.mark.parametrize("num", [0, 1])
def test_a_lesion_of_fewer_than_two_images_has_one_half(num):
    search = PointSearch("lesions")
    for scores, bits in images(num):
        search.add(scores, bits)
    for scores, bits in images(2):
        search.add(scores, bits & MASK_BITS["valid"])
    assert search.choose() == {name: OperatingPoint(images=num if name in ("MA", "EX") else 0) for name in LESIONS}


def test_foreground_is_the_union_of_the_lesions():
    counts = PointCounts("lesions", OperatingPoints({"MA": OperatingPoint(0.5), "EX": OperatingPoint(0.5)}))
    scores, bits = next(images())
    counts.add(scores, bits)
    valid, marked = bits & MASK_BITS["valid"] != 0, bits & MASK_BITS["fused"] != 0
    union = (scores > 0.5).any(axis=-1) & valid
    expected = 2 * (union & marked).sum() / (union.sum() + (marked & valid).sum())
    assert counts.compute()["seg/foreground/dice_at_operating_point"] == pytest.approx(expected)


def test_small_components_go_and_diagonal_neighbours_are_one():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = mask[5, 5] = True
    np.testing.assert_array_equal(drop_small_components(mask, 3), np.diag([1, 1, 1, 0, 0, 0, 0, 0]).astype(bool))
    np.testing.assert_array_equal(drop_small_components(mask, 1), mask)


def test_smallest_component_grows_with_the_image():
    points = OperatingPoints({"lesion": OperatingPoint(0.5, 4.0)})
    scores = np.zeros((20, 20, 1), np.float32)
    scores[2:4, 2:6] = 0.9  # 8 pixels
    assert make_masks(scores, ["lesion"], points)["lesion"].sum() == 8
    assert make_masks(scores, ["lesion"], points, area_scale=4.0)["lesion"].sum() == 0


def test_points_are_read_as_written_and_those_of_another_step_are_not_used(tmp_path):
    points = OperatingPoints(
        {"MA": OperatingPoint(0.35, 6.0, 9, 0.4, 0.3)}, 1.7, 40, 120, {"mode": "whole", "tta": "none"}, (900, 1000)
    )
    write_points(tmp_path, points)
    assert read_points(tmp_path, 120) == points
    assert read_points(tmp_path, 121) == OperatingPoints()
    assert read_points(tmp_path / "nowhere", 1).point_for("MA") == OperatingPoint(0.5, 0.0)
    (tmp_path / OPERATING_POINTS_FILE).write_text(json.dumps({"lesions": {"MA": {"treshold": 1}}}))
    with pytest.raises(CheckpointError, match="treshold"):
        read_points(tmp_path, 120)


def test_an_ensemble_has_the_mean_and_is_calibrated_if_all_are():
    a = OperatingPoints({"MA": OperatingPoint(0.2, 4.0)}, temperature=2.0)
    b = dataclasses.replace(a, lesions={"MA": OperatingPoint(0.4, 8.0)}, temperature=None)
    assert average_points([a, b]).point_for("MA") == OperatingPoint(pytest.approx(0.3), 6.0)
    assert average_points([a, b]).temperature is None
    assert average_points([a, a]).temperature == 1.0
    assert average_points([b]) is b

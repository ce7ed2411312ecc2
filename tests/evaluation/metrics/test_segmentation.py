"""Segmentation metrics against scikit-learn on the same pixels, slow direct forms, and their invariants."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as oracle

from pldmlt_jax.evaluation.metrics.curves import CURVE_POINTS, SCORE_BINS, average_precision, precision_recall, score_bin
from pldmlt_jax.evaluation.metrics.segmentation import (
    SegmentationCounts,
    foreground_score,
    lesion_scores,
    segmentation_counts,
)
from pldmlt_jax.types import LESIONS, MASK_BITS

TARGETS = ("fused", "lesions", "exclusive")
SHAPE = (4, 24, 20)  # images, height, width
OVERLAP_ORDER = ("EX", "HE", "SE", "MA")  # the paper's set has one class a pixel: the later wins


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _masks(seed: int = 0) -> np.ndarray:
    """Overlapping lesions and their fused mask with a few pixels more; bits outside the field of view are garbage."""
    rng = np.random.default_rng(seed)
    bits = np.zeros(SHAPE, np.uint8)
    for lesion in LESIONS:
        bits[rng.random(SHAPE) < 0.08] |= MASK_BITS[lesion]
    bits[(bits > 0) | (rng.random(SHAPE) < 0.05)] |= MASK_BITS["fused"]
    valid = np.hypot(*(np.indices(SHAPE[1:]) - np.array([[[11.5]], [[9.5]]]))) < 10
    return np.where(valid, bits | MASK_BITS["valid"], rng.integers(0, 128, SHAPE) & ~MASK_BITS["valid"]).astype(np.uint8)


def _probabilities(bits: np.ndarray, target: str, seed: int = 1) -> np.ndarray:
    """What a fair network would predict: noise that leans towards the truth."""
    noise = np.random.default_rng(seed).normal(size=(*bits.shape, 5))
    truth = np.stack([bits & MASK_BITS[name] > 0 for name in ("fused", *LESIONS)], axis=-1)
    logits = (noise + 1.5 * truth - 0.7).astype(np.float32)
    if target == "lesions":
        return 1.0 / (1.0 + np.exp(-logits[..., 1:]))
    channels = logits[..., :1] if target == "fused" else logits[..., 1:] + 0.7
    return _softmax(np.concatenate([np.zeros_like(channels[..., :1]), channels], axis=-1))


def _count(
    probabilities: np.ndarray,
    bits: np.ndarray,
    target: str,
    *,
    sample_mask: np.ndarray | None = None,
    threshold: float = 0.5,
) -> SegmentationCounts:
    sample_mask = np.ones(len(bits), np.float32) if sample_mask is None else sample_mask
    return segmentation_counts(probabilities, bits, sample_mask, target=target, threshold=threshold)


def _metrics(target: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Computed metrics; probabilities and bits of the valid pixels alone."""
    bits = _masks()
    probabilities = _probabilities(bits, target)
    valid = bits & MASK_BITS["valid"] > 0
    return _count(probabilities, bits, target).compute(), probabilities[valid], bits[valid]


def _assert_same(a: SegmentationCounts, b: SegmentationCounts) -> None:
    for field in dataclasses.fields(a):
        if field.name != "target":
            np.testing.assert_allclose(getattr(a, field.name), getattr(b, field.name), rtol=1e-12, err_msg=field.name)


# ---- against scikit-learn


@pytest.mark.parametrize("target", TARGETS)
def test_pooled_metrics_are_scikit_learns(target: str) -> None:
    metrics, probabilities, bits = _metrics(target)
    truth, predicted = bits & MASK_BITS["fused"] > 0, foreground_score(probabilities, target) > 0.5
    one_hot = [np.stack([~labels, labels], axis=1).astype(int) for labels in (truth, predicted)]
    expected = {
        "seg/foreground/dice": oracle.f1_score(truth, predicted),
        "seg/foreground/iou": oracle.jaccard_score(truth, predicted),
        "seg/foreground/precision": oracle.precision_score(truth, predicted),
        "seg/foreground/recall": oracle.recall_score(truth, predicted),
        "seg/micro_bg/dice": oracle.f1_score(*one_hot, average="micro"),
        "seg/micro_bg/iou": oracle.jaccard_score(*one_hot, average="micro"),
        "seg/macro_bg/dice": oracle.f1_score(truth, predicted, average="macro"),
        "seg/macro_bg/iou": oracle.jaccard_score(truth, predicted, average="macro"),
        "seg/micro_bg/dice_all_background": oracle.accuracy_score(truth, np.zeros_like(truth)),
        "seg/macro_bg/dice_all_background": oracle.f1_score(truth, np.zeros_like(truth), average="macro", zero_division=0.0),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert metrics["seg/micro_bg/dice"] == pytest.approx(oracle.accuracy_score(truth, predicted), abs=1e-12)


@pytest.mark.parametrize("target", ["lesions", "exclusive"])
def test_metrics_of_each_lesion_are_scikit_learns(target: str) -> None:
    metrics, probabilities, bits = _metrics(target)
    scores = lesion_scores(probabilities, target)
    expected, ap = {}, {}
    for i, lesion in enumerate(LESIONS):
        truth, predicted = bits & MASK_BITS[lesion] > 0, scores[:, i] > 0.5
        expected |= {
            f"seg/{lesion}/dice": oracle.f1_score(truth, predicted),
            f"seg/{lesion}/iou": oracle.jaccard_score(truth, predicted),
            f"seg/{lesion}/recall": oracle.recall_score(truth, predicted),
        }
        ap[f"seg/{lesion}/ap"] = oracle.average_precision_score(truth, scores[:, i])
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert {name: metrics[name] for name in ap} == pytest.approx(ap, abs=2e-3)
    assert metrics["seg/mean/dice"] == pytest.approx(np.mean([expected[f"seg/{lesion}/dice"] for lesion in LESIONS]))


def test_a_fused_prediction_has_the_share_of_each_lesion_that_it_finds_and_no_dice() -> None:
    metrics, probabilities, bits = _metrics("fused")
    for lesion in LESIONS:
        recall = oracle.recall_score(bits & MASK_BITS[lesion] > 0, probabilities[:, 1] > 0.5)
        assert metrics[f"seg/{lesion}/recall"] == pytest.approx(recall, abs=1e-12)
        assert f"seg/{lesion}/dice" not in metrics and f"seg/{lesion}/ap" not in metrics


def test_precision_recall_is_scikit_learns_curve_at_its_points() -> None:
    rng = np.random.default_rng(6)
    has = rng.random(20_000) < 0.05
    scores = 1.0 / (1.0 + np.exp(-rng.normal(3.0 * has - 2.0)))
    bins = score_bin(scores)
    curve = precision_recall(*(np.bincount(bins[has == flag], minlength=SCORE_BINS) for flag in (False, True)))
    assert curve is not None and len(curve["points"]) <= CURVE_POINTS
    assert curve["prevalence"] == has.mean()
    precision, recall, thresholds = oracle.precision_recall_curve(has, bins)
    found = np.array(curve["points"])
    places = np.searchsorted(thresholds, score_bin(found[:, 0] + 1e-6))
    np.testing.assert_allclose(found[:, 1:], np.stack([recall, precision], axis=1)[places], atol=0.01)
    assert (np.diff(found[:, 0]) > 0).all() and (np.diff(found[:, 1]) < 0).all()
    assert found[0, 1] == 1.0 and np.diff(found[::-1, 1]).max() < 0.02  # whole, and without gaps
    assert np.trapezoid(found[::-1, 2], found[::-1, 1]) == pytest.approx(curve["ap"], abs=0.02)
    predicted = scores > 0.5
    at_half = (np.mean(predicted[has]), np.mean(has[predicted]))
    assert curve["at_half"] == pytest.approx((0.5, *at_half), abs=0.002)


def test_a_curve_of_no_lesion_is_left_out() -> None:
    bits = np.where(_masks() & MASK_BITS["SE"] > 0, MASK_BITS["valid"], _masks()).astype(np.uint8)
    curves = _count(_probabilities(bits, "lesions"), bits, "lesions").curves()
    assert list(curves) == ["lesion", "MA", "HE", "EX"]
    assert list(_count(_probabilities(bits, "fused"), bits, "fused").curves()) == ["lesion"]


def test_average_precision_of_binned_scores_is_exactly_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    has = rng.random(500) < 0.1
    bins = rng.integers(0, 40, 500) + 5 * has
    histogram = [np.bincount(bins[has == flag], minlength=SCORE_BINS) for flag in (False, True)]
    assert average_precision(*histogram) == pytest.approx(oracle.average_precision_score(has, bins), abs=1e-12)


@pytest.mark.parametrize("shift", [-9.0, 0.0, 9.0])
def test_the_bins_rank_scores_near_0_and_1_as_well_as_others(shift: float) -> None:
    """A timid network may have every score below 1e-3, a bold one above 0.999."""
    rng = np.random.default_rng(0)
    has = rng.random(20_000) < 0.02
    logits = rng.normal(size=20_000) + 2.0 * has
    scores = (1.0 / (1.0 + np.exp(-(logits + shift)))).astype(np.float32)
    bins = score_bin(scores)
    histogram = [np.bincount(bins[has == flag], minlength=SCORE_BINS) for flag in (False, True)]
    assert average_precision(*histogram) == pytest.approx(oracle.average_precision_score(has, logits), abs=2e-3)


def test_bins_keep_the_order_of_all_probabilities_from_0_to_1() -> None:
    scores = np.array([0.0, 1e-30, 1e-6, 1e-3, 0.49, 0.5, 0.51, 0.999, 1 - 1e-6, 1.0], np.float32)
    bins = score_bin(scores)
    assert bins[0] == bins[1] == 0 and bins[-1] == SCORE_BINS - 1
    assert (np.diff(bins[1:]) > 0).all()


# ---- closed and slow direct forms


def test_soft_dice_by_its_definition() -> None:
    metrics, probabilities, bits = _metrics("fused")
    p = probabilities.astype(np.float64)
    lesion = (bits & MASK_BITS["fused"] > 0).astype(np.float64)
    truth = np.stack([1.0 - lesion, lesion], axis=1)
    expected = np.mean(2.0 * (p * truth).sum(axis=0) / (p.sum(axis=0) + truth.sum(axis=0)))
    assert metrics["seg/macro_bg/dice_soft"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("target", "probabilities", "foreground", "lesions"),
    [
        ("fused", [0.3, 0.7], 0.7, [0.7] * 4),
        ("lesions", [0.1, 0.6, 0.2, 0.3], 0.6, [0.1, 0.6, 0.2, 0.3]),
        ("exclusive", [0.4, 0.1, 0.2, 0.3, 0.0], 0.6, [0.1, 0.2, 0.3, 0.0]),  # a lesion, though no single one is likely
    ],
)
def test_scores_of_one_pixel(target: str, probabilities: list, foreground: float, lesions: list) -> None:
    p = np.array(probabilities)[None]
    assert foreground_score(p, target) == pytest.approx(foreground)
    assert lesion_scores(p, target)[0] == pytest.approx(lesions)


def _aupr_11_directly(scores: np.ndarray, bits: np.ndarray, lesion: str) -> float:
    """Threshold by threshold, pixel by pixel."""
    wins = OVERLAP_ORDER[OVERLAP_ORDER.index(lesion) + 1 :]
    exclusively = [
        bool(b & MASK_BITS[lesion]) and not any(b & MASK_BITS[stronger] for stronger in wins) for b in bits.tolist()
    ]
    precision, recall = [], []
    for threshold in np.linspace(0.0, 1.0, 11):
        found = [has for score, has in zip(scores.tolist(), exclusively, strict=True) if score > threshold]
        precision.append(sum(found) / len(found) if found else 1.0)
        recall.append(sum(found) / sum(exclusively))
    return float(oracle.auc(recall, precision))


@pytest.mark.parametrize("target", ["lesions", "exclusive"])
def test_aupr_of_11_thresholds_by_its_definition(target: str) -> None:
    metrics, probabilities, bits = _metrics(target)
    scores = lesion_scores(probabilities, target)
    expected = [_aupr_11_directly(scores[:, i], bits, lesion) for i, lesion in enumerate(LESIONS)]
    assert [metrics[f"seg/{lesion}/aupr_11_exclusive"] for lesion in LESIONS] == pytest.approx(expected, abs=1e-12)


def test_scores_on_a_threshold_are_not_above_it() -> None:
    bits = np.full((1, 1, 11), MASK_BITS["valid"] | MASK_BITS["MA"] | MASK_BITS["fused"], np.uint8)
    probabilities = np.repeat(np.linspace(0.0, 1.0, 11)[None, None, :, None], 4, axis=-1)
    counts = _count(probabilities, bits, "lesions")
    np.testing.assert_array_equal(counts.exclusive_above[0, 1], np.arange(10, -1, -1))
    assert counts.compute()["seg/foreground/recall"] == pytest.approx(5 / 11)


def test_ap_takes_the_ranking_alone_and_aupr_of_11_thresholds_the_scale_as_well() -> None:
    """Scores below the first threshold leave two points of the curve: all pixels, and none at precision 1."""
    bits = _masks()
    probabilities = _probabilities(bits, "lesions")
    timid_probabilities = probabilities / (probabilities + 2000.0 * (1.0 - probabilities))
    assert timid_probabilities.max() < 0.1
    fair, timid = (_count(p, bits, "lesions").compute() for p in (probabilities, timid_probabilities))
    assert fair["seg/MA/ap"] == pytest.approx(timid["seg/MA/ap"], abs=2e-3)
    prevalence = np.mean(bits[bits & MASK_BITS["valid"] > 0] & MASK_BITS["MA"] > 0)
    assert timid["seg/MA/aupr_11_exclusive"] == pytest.approx((1.0 + prevalence) / 2.0)
    assert fair["seg/MA/aupr_11_exclusive"] != pytest.approx(timid["seg/MA/aupr_11_exclusive"], abs=0.02)


# ---- invariants


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_counters_merged_over_batches_are_those_of_the_whole_set(target: str, batch_size: int) -> None:
    bits = _masks()
    probabilities = _probabilities(bits, target)
    merged = SegmentationCounts.empty(target)
    for start in range(0, len(bits), batch_size):
        chunk = slice(start, start + batch_size)
        merged = merged.merge(_count(probabilities[chunk], bits[chunk], target))
    _assert_same(merged, _count(probabilities, bits, target))


@pytest.mark.parametrize("target", TARGETS)
def test_rows_of_weight_0_and_pixels_outside_the_field_of_view_change_nothing(target: str) -> None:
    bits = _masks()
    probabilities = _probabilities(bits, target)
    sample_mask = np.array([1, 0, 1, 0], np.float32)
    changed, changed_bits = probabilities.copy(), bits.copy()
    outside = bits & MASK_BITS["valid"] == 0
    changed[outside], changed_bits[outside] = 0.5, MASK_BITS["fused"]
    padded = _count(changed, changed_bits, target, sample_mask=sample_mask)
    _assert_same(padded, _count(probabilities[::2], bits[::2], target))


@pytest.mark.parametrize("target", TARGETS)
def test_a_prediction_of_background_everywhere_scores_the_baseline(target: str) -> None:
    bits = _masks()
    probabilities = np.zeros_like(_probabilities(bits, target))
    if target != "lesions":
        probabilities[..., 0] = 1.0
    metrics = _count(probabilities, bits, target).compute()
    for name in ("micro_bg/dice", "micro_bg/iou", "macro_bg/dice", "macro_bg/iou"):
        assert metrics[f"seg/{name}"] == metrics[f"seg/{name}_all_background"]
    assert 0.5 < metrics["seg/micro_bg/dice"] < 1.0
    assert metrics["seg/foreground/dice"] == 0.0 and metrics["seg/foreground/precision"] is None


@pytest.mark.parametrize("target", TARGETS)
def test_the_truth_itself_scores_1(target: str) -> None:
    bits = _masks()
    for i, lesion in enumerate(LESIONS):  # one lesion a pixel, so that the exclusive target can tell all
        bits[:, i::4] &= MASK_BITS["valid"] | MASK_BITS[lesion] | MASK_BITS["fused"]
    of_lesion = np.stack([bits & MASK_BITS[lesion] > 0 for lesion in LESIONS], axis=-1)
    lesion = of_lesion.any(axis=-1, keepdims=True)
    bits = np.where(lesion[..., 0], bits | MASK_BITS["fused"], bits & ~np.uint8(MASK_BITS["fused"])).astype(np.uint8)
    probabilities = {
        "fused": np.concatenate([~lesion, lesion], axis=-1),
        "lesions": of_lesion,
        "exclusive": np.concatenate([~lesion, of_lesion], axis=-1),
    }[target].astype(np.float32)
    metrics = _count(probabilities, bits, target).compute()
    perfect = {name: value for name, value in metrics.items() if not name.endswith(("_all_background", "_n", "_undefined"))}
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0), abs=1e-12)


def test_dice_of_each_image_and_images_without_lesions() -> None:
    bits = _masks()
    probabilities = _probabilities(bits, "fused")
    bits[1:] &= MASK_BITS["valid"]
    probabilities[1], probabilities[3] = [1.0, 0.0], [0.9, 0.1]  # nothing there, nothing found; in image 2 it is found
    metrics = _count(probabilities, bits, "fused").compute()
    assert metrics["seg/foreground/dice_per_image_undefined"] == 2 and metrics["seg/foreground/dice_per_image_n"] == 2
    valid = bits[0] & MASK_BITS["valid"] > 0
    own = oracle.f1_score(bits[0][valid] & MASK_BITS["fused"] > 0, probabilities[0][valid][:, 1] > 0.5)
    assert metrics["seg/foreground/dice_per_image"] == pytest.approx((own + 0.0) / 2)


def test_a_lesion_absent_in_truth_and_prediction_is_left_out_of_the_mean_and_counted() -> None:
    bits = _masks() & ~np.uint8(MASK_BITS["SE"] | MASK_BITS["EX"])
    probabilities = _probabilities(bits, "lesions")
    probabilities[..., LESIONS.index("SE")] = 0.1
    metrics = _count(probabilities, bits, "lesions").compute()
    assert metrics["seg/SE/dice"] is None and metrics["seg/SE/ap"] is None and metrics["seg/SE/recall"] is None
    assert metrics["seg/EX/dice"] == 0.0 and metrics["seg/EX/ap"] is None  # found where there is none
    assert metrics["seg/mean/dice_undefined"] == 1 and metrics["seg/mean/ap_undefined"] == 2
    assert metrics["seg/mean/dice"] == pytest.approx((metrics["seg/MA/dice"] + metrics["seg/HE/dice"]) / 3)
    assert metrics["seg/mean/ap"] == pytest.approx((metrics["seg/MA/ap"] + metrics["seg/HE/ap"]) / 2)


@pytest.mark.parametrize("target", TARGETS)
def test_metrics_of_no_image_are_undefined_and_all_metrics_are_json_without_nan(target: str) -> None:
    bits = _masks()
    empty, full = SegmentationCounts.empty(target).compute(), _count(_probabilities(bits, target), bits, target).compute()
    assert all(value is None or value == 0 for name, value in empty.items() if not name.endswith("_undefined"))
    assert empty.keys() == full.keys()
    json.dumps([empty, full], allow_nan=False)


def test_sums_beyond_int32_and_float32_are_exact() -> None:
    many = dataclasses.replace(
        SegmentationCounts.empty(), foreground=np.array([2**33, 2**33, 2**33, 2**34]), soft=np.array([2.0**33, 2.0**33])
    )
    one = dataclasses.replace(SegmentationCounts.empty(), foreground=np.array([0, 1, 0, 1]), soft=np.array([0.0, 1.0]))
    merged = many.merge(one)
    assert merged.foreground.tolist() == [2**33, 2**33 + 1, 2**33, 2**34 + 1]
    assert merged.soft.tolist() == [2.0**33, 2.0**33 + 1.0]
    assert merged.compute()["seg/foreground/dice"] < 1.0


def test_counters_of_different_targets_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="'fused' and 'lesions'"):
        SegmentationCounts.empty("fused").merge(SegmentationCounts.empty("lesions"))

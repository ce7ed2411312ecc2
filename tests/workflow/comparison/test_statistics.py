"""Statistics over runs, against other ways to the same numbers."""

import statistics

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, cohen_kappa_score

from pldmlt_jax.evaluation.metrics.segmentation import SegmentationCounts, segmentation_counts
from pldmlt_jax.evaluation.original_size import compute_area_columns
from pldmlt_jax.types import MASK_BITS
from pldmlt_jax.workflow.comparison.statistics import (
    PerImageResults,
    aggregate_runs,
    grading_count_metrics,
    overlap_metrics,
    paired_differences,
)

RNG = np.random.default_rng(0)


def counts_of(p: np.ndarray, bits: np.ndarray) -> SegmentationCounts:
    return segmentation_counts(np.stack([1 - p, p], -1)[None], bits[None], np.ones(1), target="fused", threshold=0.5)


def drawn(number: int, shift: float, seed: int) -> list[dict[str, str]]:
    """Lines of `per_image.csv` of random predictions, as `evaluate` writes them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(number):
        truth = np.random.default_rng(i).random((16, 16)) < 0.2
        bits = np.full(truth.shape, MASK_BITS["valid"], np.uint8) | np.where(truth, MASK_BITS["fused"], 0).astype(np.uint8)
        p = np.clip(0.4 * truth + rng.random(truth.shape) * 0.6 + shift, 0, 1)
        rows.append(
            {"image": f"i{i}"} | {name: str(value) for name, value in compute_area_columns(counts_of(p, bits)).items()}
        )
    return rows


def cell(
    rows: list[dict[str, str]], fold: int = 0, seed: int = 0, graded: list[dict[str, str]] | None = None
) -> PerImageResults:
    return PerImageResults(fold, seed, rows, graded or [])


def graded(answers: np.ndarray, truth: np.ndarray) -> list[dict[str, str]]:
    return [
        {"image": f"g{i}", "true_grade": str(t), "predicted_grade": str(a)}
        for i, (t, a) in enumerate(zip(truth, answers, strict=True))
    ]


def test_mean_and_standard_deviation_are_pythons() -> None:
    values = [0.3, 0.7, 0.9]
    found = aggregate_runs([{"a": value, "b": None, "c": "text", "d": True} for value in values] + [{"e": 1}])
    assert found == {
        "a": {"mean": pytest.approx(statistics.mean(values)), "sd": pytest.approx(statistics.stdev(values)), "n": 3},
        "e": {"mean": 1.0, "sd": None, "n": 1},
    }


def test_figures_of_pooled_pixels_are_those_that_evaluate_writes() -> None:
    for share in (0.0, 0.3):
        p, truth = RNG.random((20, 20)), RNG.random((20, 20)) < share
        bits = np.where(RNG.random((20, 20)) < 0.9, MASK_BITS["valid"], 0) | np.where(truth, MASK_BITS["fused"], 0)
        counted = counts_of(p, bits.astype(np.uint8))
        ours, theirs = overlap_metrics(counted.foreground[None].astype(float)), counted.compute()
        for name, value in ours.items():
            expected = np.nan if theirs[name] is None else theirs[name]
            np.testing.assert_allclose(value[0], expected, rtol=1e-12, err_msg=name)


def test_accuracy_and_kappa_of_confusion_matrices_are_scikit_learns() -> None:
    truth, answers = RNG.integers(0, 5, 40), RNG.integers(0, 5, 40)
    counts = np.zeros((1, 5, 5))
    np.add.at(counts[0], (truth, answers), 1)
    found = grading_count_metrics(counts)
    assert found["grade/accuracy"][0] == pytest.approx(accuracy_score(truth, answers))
    assert found["grade/kappa"][0] == pytest.approx(cohen_kappa_score(truth, answers, weights="quadratic"))


def test_interval_of_a_paired_difference_is_scipys() -> None:
    """SciPy resamples the same images for both methods; another generator, and so the same but for chance."""
    a, b = drawn(30, 0.0, 1), drawn(30, 0.08, 2)
    pixels = [
        np.array([[int(row[c]) for c in ("overlap_px", "predicted_px", "truth_px")] for row in rows]) for rows in (a, b)
    ]

    def difference(places: np.ndarray) -> float:
        tp, predicted, marked = zip(*(part[places].sum(axis=0) for part in pixels), strict=True)
        dices = [2 * t / (p + m) for t, p, m in zip(tp, predicted, marked, strict=True)]
        return dices[0] - dices[1]

    expected = bootstrap((np.arange(30),), difference, vectorized=False, n_resamples=4000, method="percentile", rng=0)
    found = paired_differences([cell(a)], [cell(b)])["seg/foreground/dice"]
    assert found["difference"] == pytest.approx(difference(np.arange(30)), abs=1e-12)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert found["low"] == pytest.approx(expected.confidence_interval.low, abs=0.06 * width)
    assert found["high"] == pytest.approx(expected.confidence_interval.high, abs=0.06 * width)
    assert found["images"] == 30


def test_only_what_both_have_is_paired_and_the_two_ways_round_are_opposite() -> None:
    """Other folds, seeds and images of one of them change nothing; the same against the same differs by 0."""
    a, b = drawn(12, 0.0, 1), drawn(12, 0.05, 2)
    truth = RNG.integers(0, 5, 20)
    more = [graded(truth, truth), graded(np.roll(truth, 1), truth)]
    ours, theirs = [cell(a, graded=more[0])], [cell(b, graded=more[1])]
    there, back = paired_differences(ours, theirs), paired_differences(theirs, ours)
    assert {"seg/foreground/dice", "seg/foreground/dice_per_image", "grade/accuracy", "grade/kappa"} <= there.keys()
    for name, found in there.items():
        assert found["difference"] == pytest.approx(-back[name]["difference"])
        assert found["low"] == pytest.approx(-back[name]["high"])
    assert there["grade/accuracy"]["difference"] == pytest.approx(1 - np.mean(np.roll(truth, 1) == truth))
    others = [cell(drawn(5, 0.3, 3), fold=1), cell(drawn(5, 0.3, 3), seed=7), *ours]
    assert paired_differences(others, [theirs[0]._replace(images=[*b, b[0] | {"image": "more"}])]) == there
    same = paired_differences(ours, ours)
    assert all(found["difference"] == found["low"] == found["high"] == 0 for found in same.values())
    assert paired_differences(ours, [cell(b, fold=3)]) == {}


def test_seeds_are_added_up_image_by_image() -> None:
    """Two seeds with the same answers say what one says: no image counts as two."""
    a, b = drawn(15, 0.0, 1), drawn(15, 0.05, 2)
    one = paired_differences([cell(a)], [cell(b)])
    two = paired_differences([cell(a), cell(a, seed=1)], [cell(b), cell(b, seed=1)])
    for name, found in one.items():
        assert two[name] == pytest.approx(found), name

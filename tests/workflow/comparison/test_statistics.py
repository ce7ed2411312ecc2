"""Statistics over runs against SciPy, scikit-learn and Python's statistics module."""

import functools
import statistics
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, cohen_kappa_score

from pldmlt_jax.evaluation.metrics.segmentation import SegmentationCounts, segmentation_counts
from pldmlt_jax.evaluation.scoring import compute_area_columns
from pldmlt_jax.types import MASK_BITS
from pldmlt_jax.workflow.comparison.statistics import (
    PerImageResults,
    aggregate_runs,
    paired_differences,
)

RNG = np.random.default_rng(0)


def counts_of(p: np.ndarray, bits: np.ndarray) -> SegmentationCounts:
    return segmentation_counts(np.stack([1 - p, p], -1)[None], bits[None], np.ones(1), target="fused", threshold=0.5)


def random_counts(number: int, shift: float, seed: int) -> Iterator[SegmentationCounts]:
    """Counters of random predictions; the first image has no lesion in target and prediction."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        lesion = (np.random.default_rng(i).random((16, 16)) < 0.2) & (i > 0)
        bits = np.where(lesion, MASK_BITS["valid"] | MASK_BITS["fused"], MASK_BITS["valid"]).astype(np.uint8)
        p = np.clip(0.4 * lesion + rng.random(lesion.shape) * 0.6 + shift, 0, 1) * (i > 0)
        yield counts_of(p, bits)


def random_rows(number: int, shift: float, seed: int) -> list[dict[str, str]]:
    """Rows of `per_image.csv` for these predictions, as `evaluate` writes them."""
    columns = (compute_area_columns(counts) for counts in random_counts(number, shift, seed))
    return [{"image": f"i{i}"} | {name: str(value) for name, value in row.items()} for i, row in enumerate(columns)]


def merged_counts(number: int, shift: float, seed: int) -> SegmentationCounts:
    return functools.reduce(SegmentationCounts.merge, random_counts(number, shift, seed))


def run(
    rows: list[dict[str, str]], fold: int = 0, seed: int = 0, graded: list[dict[str, str]] | None = None
) -> PerImageResults:
    return PerImageResults(fold, seed, rows, graded or [])


def graded(predicted: np.ndarray, truth: np.ndarray) -> list[dict[str, str]]:
    return [
        {"image": f"g{i}", "true_grade": str(t), "predicted_grade": str(a)}
        for i, (t, a) in enumerate(zip(truth, predicted, strict=True))
    ]


def test_mean_and_standard_deviation_are_pythons() -> None:
    values = [0.3, 0.7, 0.9]
    found = aggregate_runs([{"a": value, "b": None, "c": "text", "d": True} for value in values] + [{"e": 1}])
    assert found == {
        "a": {"mean": pytest.approx(statistics.mean(values)), "sd": pytest.approx(statistics.stdev(values)), "n": 3},
        "e": {"mean": 1.0, "sd": None, "n": 1},
    }


def test_differences_of_pooled_pixels_are_those_of_the_merged_counters() -> None:
    """Per-image areas from a CSV give what `evaluate` computes from the counters of all pixels."""
    a, b = random_rows(9, 0.0, 1), random_rows(9, 0.08, 2)
    ours, theirs = (merged_counts(9, shift, seed).compute() for shift, seed in ((0.0, 1), (0.08, 2)))
    found = paired_differences([run(a)], [run(b)])
    assert len(found) == 9
    for name, values in found.items():
        assert values["difference"] == pytest.approx(ours[name] - theirs[name], abs=1e-12), name


def test_differences_of_accuracy_and_kappa_are_scikit_learns() -> None:
    truth, *predicted = RNG.integers(0, 5, (3, 40))
    found = paired_differences(*([run([], graded=graded(grades, truth))] for grades in predicted))
    accuracies = [accuracy_score(truth, grades) for grades in predicted]
    kappas = [cohen_kappa_score(truth, grades, weights="quadratic") for grades in predicted]
    assert found["grade/accuracy"]["difference"] == pytest.approx(accuracies[0] - accuracies[1])
    assert found["grade/kappa"]["difference"] == pytest.approx(kappas[0] - kappas[1])


def test_interval_of_a_paired_difference_is_scipys() -> None:
    """SciPy resamples the same images for both methods; another generator, and so the same but for chance."""
    a, b = random_rows(30, 0.0, 1), random_rows(30, 0.08, 2)
    pixels = [
        np.array([[int(row[c]) for c in ("overlap_px", "predicted_px", "truth_px")] for row in rows]) for rows in (a, b)
    ]

    def difference(places: np.ndarray) -> float:
        tp, predicted, marked = zip(*(part[places].sum(axis=0) for part in pixels), strict=True)
        dices = [2 * t / (p + m) for t, p, m in zip(tp, predicted, marked, strict=True)]
        return dices[0] - dices[1]

    expected = bootstrap((np.arange(30),), difference, vectorized=False, n_resamples=4000, method="percentile", rng=0)
    found = paired_differences([run(a)], [run(b)])["seg/foreground/dice"]
    assert found["difference"] == pytest.approx(difference(np.arange(30)), abs=1e-12)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert found["low"] == pytest.approx(expected.confidence_interval.low, abs=0.06 * width)
    assert found["high"] == pytest.approx(expected.confidence_interval.high, abs=0.06 * width)
    assert found["images"] == 30


def test_only_what_both_have_is_paired_and_the_two_ways_round_are_opposite() -> None:
    """Other folds, seeds and images of one of them change nothing; the same against the same differs by 0."""
    a, b = random_rows(12, 0.0, 1), random_rows(12, 0.05, 2)
    truth = RNG.integers(0, 5, 20)
    more = [graded(truth, truth), graded(np.roll(truth, 1), truth)]
    ours, theirs = [run(a, graded=more[0])], [run(b, graded=more[1])]
    there, back = paired_differences(ours, theirs), paired_differences(theirs, ours)
    assert {"seg/foreground/dice", "seg/foreground/dice_per_image", "grade/accuracy", "grade/kappa"} <= there.keys()
    for name, found in there.items():
        assert found["difference"] == pytest.approx(-back[name]["difference"])
        assert found["low"] == pytest.approx(-back[name]["high"])
    assert there["grade/accuracy"]["difference"] == pytest.approx(1 - np.mean(np.roll(truth, 1) == truth))
    others = [run(random_rows(5, 0.3, 3), fold=1), run(random_rows(5, 0.3, 3), seed=7), *ours]
    assert paired_differences(others, [theirs[0]._replace(images=[*b, b[0] | {"image": "more"}])]) == there
    same = paired_differences(ours, ours)
    assert all(found["difference"] == found["low"] == found["high"] == 0 for found in same.values())
    assert paired_differences(ours, [run(b, fold=3)]) == {}


def test_seeds_are_added_up_image_by_image() -> None:
    """Two seeds with the same predictions give the result of one: no image counts twice."""
    a, b = random_rows(15, 0.0, 1), random_rows(15, 0.05, 2)
    one = paired_differences([run(a)], [run(b)])
    two = paired_differences([run(a), run(a, seed=1)], [run(b), run(b, seed=1)])
    for name, found in one.items():
        assert two[name] == pytest.approx(found), name

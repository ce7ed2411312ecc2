"""Grading metrics against scikit-learn and closed forms, and where they are undefined."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from sklearn import metrics as oracle

from pldmlt_jax.evaluation.metrics.grading import (
    auc_one_vs_rest,
    binary_auc,
    calibration_error,
    grading_metrics,
    quadratic_kappa,
    reliability,
    wilson_interval,
)


def _graded(seed: int, n: int = 83, *, grades: tuple[int, ...] = (0, 1, 2, 3, 4)) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that lean towards the true grade, with ties, and the grades."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(grades, n)
    logits = rng.normal(size=(n, 5)).round(1) + np.eye(5)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32).astype(np.float64), truth


@pytest.mark.parametrize("seed", range(3))
def test_every_metric_is_scikit_learns(seed: int) -> None:
    probabilities, truth = _graded(seed)
    predicted = probabilities.argmax(axis=1)
    metrics = grading_metrics(probabilities, truth, majority_grade=2)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    expected = {
        "grade/n": len(truth),
        "grade/accuracy": oracle.accuracy_score(truth, predicted),
        "grade/kappa": oracle.cohen_kappa_score(truth, predicted, weights="quadratic"),
        "grade/macro_f1": oracle.f1_score(truth, predicted, average="macro"),
        "grade/auc_ovr": oracle.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro"),
        "grade/majority": oracle.accuracy_score(truth, np.full(len(truth), 2)),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    np.testing.assert_array_equal(metrics["grade/confusion"], oracle.confusion_matrix(truth, predicted, labels=range(5)))


def test_grades_that_do_not_occur_are_left_out_as_in_scikit_learn() -> None:
    probabilities, truth = _graded(3, grades=(2, 3))
    probabilities[:, 4] = 0.0  # neither true nor predicted
    predicted = probabilities.argmax(axis=1)
    metrics = grading_metrics(probabilities, truth, majority_grade=2)
    assert metrics["grade/macro_f1"] == pytest.approx(oracle.f1_score(truth, predicted, average="macro"))
    areas = [oracle.roc_auc_score(truth == grade, probabilities[:, grade]) for grade in (2, 3)]
    assert metrics["grade/auc_ovr"] == pytest.approx(np.mean(areas))


def test_ties_count_half_in_the_area_under_the_curve() -> None:
    scores, positive = np.array([0.1, 0.5, 0.5, 0.5, 0.9]), np.array([False, True, False, True, True])
    assert binary_auc(scores, positive) == pytest.approx(oracle.roc_auc_score(positive, scores))
    assert binary_auc(np.zeros(5), positive) == 0.5


def test_undefined_is_none_and_never_nan() -> None:
    truth = np.full(6, 2)
    metrics = grading_metrics(np.tile(np.eye(5)[2], (6, 1)), truth, majority_grade=2)
    assert metrics["grade/accuracy"] == 1.0 and metrics["grade/macro_f1"] == 1.0
    assert metrics["grade/kappa"] is None and metrics["grade/auc_ovr"] is None
    none = grading_metrics(np.zeros((0, 5)), np.zeros(0, int), majority_grade=2)
    assert {name for name, value in none.items() if value is not None} == {
        "grade/n", "grade/majority_grade", "grade/confusion", "grade/reliability"
    }  # fmt: skip
    assert not any(isinstance(value, float) and math.isnan(value) for value in (metrics | none).values())


def test_kappa_of_chance_is_zero_of_agreement_one_of_reversal_minus_one() -> None:
    assert quadratic_kappa(np.full((5, 5), 4)) == pytest.approx(0.0)
    assert quadratic_kappa(np.eye(5, dtype=int)) == pytest.approx(1.0)
    assert quadratic_kappa(np.fliplr(np.eye(5, dtype=int))) == pytest.approx(-1.0)


@pytest.mark.parametrize(("correct", "n"), [(44, 83), (0, 10), (10, 10), (1, 1), (500, 1000)])
def test_the_wilson_interval_is_its_closed_form(correct: int, n: int) -> None:
    share, z = correct / n, NormalDist().inv_cdf(0.975)
    centre, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    expected = ((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert wilson_interval(correct, n) == pytest.approx(expected, abs=1e-12)


def test_the_wilson_interval_of_8_in_10_as_printed_in_textbooks() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 1.0])
    correct = np.array([True, False, True, True, True])
    # the last bin holds three: confidence 2.9 / 3, accuracy 2 / 3; the sixth two: confidence 0.55, accuracy 1
    assert calibration_error(reliability(confidence, correct)) == pytest.approx(0.6 * 0.3 + 0.4 * 0.45)


def test_reliability_by_hand() -> None:
    bins = reliability(np.array([0.95, 0.95, 0.55, 0.55, 1.0]), np.array([True, False, True, True, True]))
    np.testing.assert_allclose(bins[[5, 9]], [[2, 0.55, 1], [3, 2.9 / 3, 2 / 3]])
    assert not bins[[0, 1, 2, 3, 4, 6, 7, 8]].any()
    assert calibration_error(reliability(np.zeros(0), np.zeros(0, bool))) is None


def test_a_calibrated_grader_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1.0, 40_000)
    correct = rng.random(40_000) < confidence
    error, overconfident = (calibration_error(reliability(stated, correct)) for stated in (confidence, np.sqrt(confidence)))
    assert error is not None and overconfident is not None
    assert error < 0.015 < 0.1 < overconfident


def test_one_grade_alone_has_no_area_under_the_curve() -> None:
    assert auc_one_vs_rest(np.full((4, 5), 0.2), np.full(4, 1)) is None

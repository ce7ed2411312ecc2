"""Grading metrics from predicted probabilities and true grades, with the majority-grade baseline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pldmlt_jax.types import NUM_GRADES

CALIBRATION_BINS = 10


def grading_metrics(
    probabilities: Float[np.ndarray, "n c"], grades: Int[np.ndarray, "n"], majority_grade: int
) -> dict[str, Any]:
    """Computes every grading metric.

    Args:
        probabilities: Predicted probability of each grade; rows sum to 1, and the arg-max is the predicted grade.
        grades: True grades, 0 to 4.
        majority_grade: The most frequent grade of the *training* images.

    Returns:
        The metrics by name (see docs/metrics.md); None where one is undefined.
    """
    n, predicted = len(grades), probabilities.argmax(axis=1)
    confusion = confusion_matrix(grades, predicted)
    correct = int(np.trace(confusion))
    low, high = wilson_interval(correct, n)
    bins = reliability(probabilities.max(axis=1), predicted == grades)
    return {
        "grade/n": n,
        "grade/accuracy": accuracy(confusion),
        "grade/accuracy_low": low,
        "grade/accuracy_high": high,
        "grade/kappa": quadratic_kappa(confusion),
        "grade/macro_f1": macro_f1(confusion),
        "grade/auc_ovr": auc_one_vs_rest(probabilities, grades),
        "grade/ece": calibration_error(bins),
        "grade/majority": float(np.mean(grades == majority_grade)) if n else None,
        "grade/majority_grade": majority_grade,
        "grade/confusion": confusion.tolist(),
        "grade/reliability": bins.tolist(),
    }


def grade_rows(
    names: Sequence[str], probabilities: Float[np.ndarray, "n c"], grades: Int[np.ndarray, "n"]
) -> list[dict[str, Any]]:
    """Makes the rows of `per_graded_image.csv`: true grade, predicted grade and the probability of every grade."""
    rows = []
    for name, p, grade in zip(names, probabilities, grades, strict=True):
        columns = {f"grade_{i}": round(float(value), 4) for i, value in enumerate(p)}
        rows.append({"image": name, "true_grade": int(grade), "predicted_grade": int(p.argmax())} | columns)
    return rows


def confusion_matrix(grades: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"]) -> Int[np.ndarray, "c c"]:
    """Counts images by true grade (rows) and predicted grade (columns)."""
    return np.bincount(grades * NUM_GRADES + predicted, minlength=NUM_GRADES**2).reshape(NUM_GRADES, NUM_GRADES)


def accuracy(confusion: np.ndarray) -> float | None:
    """Returns the share of images on the diagonal of a confusion matrix; None without images."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else None


def wilson_interval(correct: int, n: int) -> tuple[float | None, float | None]:
    """Returns the 95 % confidence interval of a proportion (Wilson 1927); None, None without images."""
    from scipy.stats import binomtest  # here, not above: the import takes a second, and most commands need no interval

    if not n:
        return None, None
    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def quadratic_kappa(confusion: np.ndarray) -> float | None:
    """Computes Cohen's kappa with quadratic weights.

    Args:
        confusion: Counts or weights, see `confusion_matrix`.

    Returns:
        Kappa, at most 1; None if all images have the same true and predicted grade, or there are none.
    """
    total = confusion.sum()
    if not total:
        return None
    distance = (np.arange(NUM_GRADES)[:, None] - np.arange(NUM_GRADES)) ** 2
    expected = np.outer(confusion.sum(axis=1), confusion.sum(axis=0)) / total
    disagreement = (distance * expected).sum()
    return float(1.0 - (distance * confusion).sum() / disagreement) if disagreement else None


def macro_f1(confusion: np.ndarray) -> float | None:
    """Returns the mean F1 over the grades that occur among the true or the predicted grades; None without images."""
    correct, occurrences = np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1)
    present = occurrences > 0
    return float(np.mean(2.0 * correct[present] / occurrences[present])) if present.any() else None


def auc_one_vs_rest(probabilities: Float[np.ndarray, "n c"], grades: Int[np.ndarray, "n"]) -> float | None:
    """Returns the mean area under the ROC curve of each grade against the rest.

    Grades that no image has, or that every image has, are left out; None if no grade remains. This is scikit-learn's
    `roc_auc_score(multi_class="ovr", average="macro")`.
    """
    areas = [
        binary_auc(probabilities[:, grade], grades == grade)
        for grade in range(NUM_GRADES)
        if 0 < np.sum(grades == grade) < len(grades)
    ]
    return float(np.mean(areas)) if areas else None


def binary_auc(scores: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"]) -> float:
    """Returns the area under the ROC curve: the share of (positive, negative) pairs in the right order, ties half."""
    from scipy.stats import rankdata  # as in `wilson_interval`

    p, n = positive.sum(), (~positive).sum()
    return float((rankdata(scores)[positive].sum() - p * (p + 1) / 2.0) / (p * n))


def reliability(confidence: Float[np.ndarray, "n"], correct: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "bins 3"]:
    """Returns the number of images, mean confidence and accuracy in each of ten equal bins of confidence.

    The row of a bin without images is zero.
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    images = np.bincount(bins, minlength=CALIBRATION_BINS)
    sums = [np.bincount(bins, weights=values, minlength=CALIBRATION_BINS) for values in (confidence, correct)]
    return np.stack([images, *(values / np.maximum(images, 1) for values in sums)], axis=1)


def calibration_error(bins: Float[np.ndarray, "bins 3"]) -> float | None:
    """Computes the expected calibration error from `reliability` (Guo et al. 2017); None without images."""
    images, confidence, accuracies = bins.T
    return float(np.sum(images * np.abs(accuracies - confidence)) / images.sum()) if images.sum() else None

"""Grading figures from probabilities and true grades, with the baseline that always answers the majority grade."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pldmlt_jax.types import NUM_GRADES

CALIBRATION_BINS = 10
WILSON_Z = 1.959964  # 95 %


def grading_metrics(
    probabilities: Float[np.ndarray, "n c"], grades: Int[np.ndarray, "n"], majority_grade: int
) -> dict[str, Any]:
    """Every grading figure by name; None where one is undefined.

    Args:
        probabilities: Rows sum to 1; the arg-max is the answer.
        grades: True grades, 0..4.
        majority_grade: The most frequent grade of the *training* images.
    """
    n, answers = len(grades), probabilities.argmax(axis=1)
    confusion = confusion_matrix(grades, answers)
    correct = int(np.trace(confusion))
    low, high = wilson_interval(correct, n)
    bins = reliability(probabilities.max(axis=1), answers == grades)
    return {
        "grade/n": n,
        "grade/accuracy": correct / n if n else None,
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
    """Each image's line of `per_graded_image.csv`: true grade, answer, and the probability of every grade."""
    rows = []
    for name, p, grade in zip(names, probabilities, grades, strict=True):
        shown = {f"grade_{i}": round(float(value), 4) for i, value in enumerate(p)}
        rows.append({"image": name, "true_grade": int(grade), "predicted_grade": int(p.argmax())} | shown)
    return rows


def confusion_matrix(grades: np.ndarray, answers: np.ndarray) -> Int[np.ndarray, "c c"]:
    """Rows are true grades, columns answers."""
    return np.bincount(grades * NUM_GRADES + answers, minlength=NUM_GRADES**2).reshape(NUM_GRADES, NUM_GRADES)


def wilson_interval(correct: int, n: int) -> tuple[float | None, float | None]:
    """95 % interval of a proportion (Wilson 1927)."""
    if not n:
        return None, None
    share, z2 = correct / n, WILSON_Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = WILSON_Z * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return float(centre - half), float(centre + half)


def quadratic_kappa(confusion: np.ndarray) -> float | None:
    """Cohen's kappa with quadratic weights; None where truth or answers leave nothing to disagree about."""
    total = confusion.sum()
    if not total:
        return None
    distance = (np.arange(NUM_GRADES)[:, None] - np.arange(NUM_GRADES)) ** 2
    expected = np.outer(confusion.sum(axis=1), confusion.sum(axis=0)) / total
    disagreement = (distance * expected).sum()
    return float(1.0 - (distance * confusion).sum() / disagreement) if disagreement else None


def macro_f1(confusion: np.ndarray) -> float | None:
    """Mean F1 over the grades that occur in truth or answers."""
    counts = np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1)
    present = counts[1] > 0
    return float(np.mean(2.0 * counts[0][present] / counts[1][present])) if present.any() else None


def auc_one_vs_rest(probabilities: np.ndarray, grades: np.ndarray) -> float | None:
    """Mean area under the ROC curve over the grades that have both kinds (scikit-learn's one-vs-rest, macro)."""
    areas = [
        binary_auc(probabilities[:, grade], grades == grade)
        for grade in range(NUM_GRADES)
        if 0 < np.sum(grades == grade) < len(grades)
    ]
    return float(np.mean(areas)) if areas else None


def binary_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Share of pairs in the right order, ties half (Mann and Whitney)."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    p, n = positive.sum(), (~positive).sum()
    return float((ranks[positive].sum() - p * (p + 1) / 2.0) / (p * n))


def reliability(confidence: Float[np.ndarray, "n"], correct: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "bins 3"]:
    """Images, mean confidence and accuracy in each of ten equal bins of confidence; a row of zeros where it has no image."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    images = np.bincount(bins, minlength=CALIBRATION_BINS)
    sums = [np.bincount(bins, weights=values, minlength=CALIBRATION_BINS) for values in (confidence, correct)]
    return np.stack([images, *(values / np.maximum(images, 1) for values in sums)], axis=1)


def calibration_error(bins: Float[np.ndarray, "bins 3"]) -> float | None:
    """Expected calibration error of the bins of `reliability` (Guo et al. 2017); None without images."""
    images, confidence, accuracy = bins.T
    return float(np.sum(images * np.abs(accuracy - confidence)) / images.sum()) if images.sum() else None

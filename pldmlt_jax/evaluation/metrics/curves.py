"""Precision-recall curves from binned scores: counts add up over images, and no pixel's score has to be kept."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

CURVES_FILE = "curves.json"
"""File of a workdir with the curves of the evaluated split, at the network's size and at the images' original size."""

SCORE_BINS = 4096
"""Number of histogram bins behind `ap`, of equal width in the logit."""

MAX_LOGIT = 24 * np.log(2.0)
"""The bins cover -MAX_LOGIT to MAX_LOGIT, the resolution of float32: p from 2^-24 to 1 - 2^-24."""

CURVE_THRESHOLDS = np.linspace(0.0, 1.0, 11)
"""The thresholds of `aupr_11_exclusive`."""

CURVE_POINTS = 201
"""Maximum number of points of `precision_recall`, besides the point at threshold 0.5."""


def score_bin(scores: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Returns the bin of each probability, 0 to SCORE_BINS - 1; bins have equal width in the logit.

    Most scores of a network are close to 0 or 1, where bins of equal width in p would tie them. With these bins, the order
    of two scores is lost only if their odds differ by less than exp(2 MAX_LOGIT / SCORE_BINS) - 1 = 0.8 %.
    """
    end = np.float32(2.0**-24)
    p = np.clip(scores.astype(np.float32), end, np.float32(1.0) - end)
    position = (np.log(p) - np.log1p(-p) + MAX_LOGIT) * (SCORE_BINS / (2.0 * MAX_LOGIT))
    return np.clip(position.astype(np.int64), 0, SCORE_BINS - 1)


def average_precision(negatives: Int[np.ndarray, "bins"], positives: Int[np.ndarray, "bins"]) -> float | None:
    """Computes the average precision of binned scores: the sum of precision times gain in recall, without interpolation.

    This is scikit-learn's `average_precision_score` of the bins. It differs from that of the scores only as far as the
    order within a bin matters.

    Args:
        negatives: Pixels without the lesion, by `score_bin`.
        positives: Pixels with the lesion, by `score_bin`.

    Returns:
        The average precision; None if no pixel has the lesion.
    """
    total = positives.sum()
    if not total:
        return None
    tp, fp = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    precision = tp / np.maximum(tp + fp, 1)
    return float(np.sum(precision * positives[::-1]) / total)


def aupr_11(negatives: Int[np.ndarray, "11"], positives: Int[np.ndarray, "11"], target_px: int) -> float | None:
    """Computes the area under the precision-recall curve at 11 thresholds, as M2MRF does.

    The area is a trapezoid sum; precision is 1 where nothing is predicted.

    Args:
        negatives: Pixels without the lesion whose score is strictly above each of CURVE_THRESHOLDS.
        positives: Pixels with the lesion whose score is strictly above each of CURVE_THRESHOLDS.
        target_px: Pixels with the lesion.

    Returns:
        The area; None if no pixel has the lesion.
    """
    if not target_px:
        return None
    predicted = negatives + positives
    precision = np.where(predicted > 0, positives / np.maximum(predicted, 1), 1.0)
    recall = positives / target_px
    return float(-np.trapezoid(precision, recall))


def precision_recall(negatives: Int[np.ndarray, "bins"], positives: Int[np.ndarray, "bins"]) -> dict[str, Any] | None:
    """Computes the precision-recall curve of binned scores, thinned to what a chart can show.

    Args:
        negatives: Pixels without the lesion, by `score_bin`.
        positives: Pixels with the lesion, by `score_bin`.

    Returns:
        None if no pixel has the lesion, else a dictionary with

        - `ap`: average precision over all bins
        - `prevalence`: share of lesion pixels, which is the average precision of a random prediction
        - `points`: rows of threshold, recall and precision, by rising threshold
        - `at_half`: the row at threshold 0.5
    """
    total = int(positives.sum())
    if not total:
        return None
    tp, predicted = (np.cumsum(counts[::-1])[::-1] for counts in (positives, positives + negatives))
    nonempty = np.flatnonzero(predicted)[::-1]
    logits = np.arange(SCORE_BINS) * (2.0 * MAX_LOGIT / SCORE_BINS) - MAX_LOGIT
    rows = np.stack([1.0 / (1.0 + np.exp(-logits)), tp / total, tp / np.maximum(predicted, 1)], axis=1)
    recalls = np.linspace(0.0, 1.0, CURVE_POINTS)
    nearest = np.searchsorted(rows[nonempty, 1], recalls, side="left").clip(0, len(nonempty) - 1)
    return {
        "ap": average_precision(negatives, positives),
        "prevalence": total / int(total + negatives.sum()),
        "points": rows[np.unique(nonempty[nearest])].round(5).tolist(),
        "at_half": rows[SCORE_BINS // 2].round(5).tolist(),
    }

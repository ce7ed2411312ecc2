"""Precision over recall from binned scores: the counts of many images add up, and no pixel's score is kept."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

CURVES_FILE = "curves.json"
"""In a workdir: the curves of the evaluated split, at the network's size and at the images' own."""

SCORE_BINS = 4096
"""Bins of the score histograms behind `ap`, of equal width in the logit."""

MAX_LOGIT = 24 * np.log(2.0)
"""The bins reach from -MAX_LOGIT to MAX_LOGIT, where float32 ends: p = 2^-24 and 1 - 2^-24."""

CURVE_THRESHOLDS = np.linspace(0.0, 1.0, 11)
"""Of `aupr_11_exclusive`."""

CURVE_POINTS = 201
"""Of `precision_recall` at most, beside the point at a threshold of 0.5."""


def score_bin(scores: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Bin of each probability, 0 to SCORE_BINS - 1, of equal width in the logit.

    Networks press most scores against 0 and 1, where bins of equal width in p would tie them. Here the order of two
    scores is lost only where their odds differ by less than exp(2 MAX_LOGIT / SCORE_BINS) - 1 = 0.8 %.
    """
    end = np.float32(2.0**-24)
    p = np.clip(scores.astype(np.float32), end, np.float32(1.0) - end)
    place = (np.log(p) - np.log1p(-p) + MAX_LOGIT) * (SCORE_BINS / (2.0 * MAX_LOGIT))
    return np.clip(place.astype(np.int64), 0, SCORE_BINS - 1)


def average_precision(negatives: np.ndarray, positives: np.ndarray) -> float | None:
    """Average precision of binned scores: the sum of precision times gain in recall, no interpolation.

    It is scikit-learn's `average_precision_score` of the bins, and so differs from that of the scores by no more than
    the order within a bin can change it.
    """
    total = positives.sum()
    if not total:
        return None
    tp, fp = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    precision = tp / np.maximum(tp + fp, 1)
    return float(np.sum(precision * positives[::-1]) / total)


def aupr_11(negatives: np.ndarray, positives: np.ndarray, marked: int) -> float | None:
    """Area under precision over recall as M2MRF takes it (trapezoid, precision 1 where nothing is predicted).

    Args:
        negatives: Pixels without the lesion above each of CURVE_THRESHOLDS (strictly).
        positives: The same with it.
        marked: Pixels with the lesion.
    """
    if not marked:
        return None
    predicted = negatives + positives
    precision = np.where(predicted > 0, positives / np.maximum(predicted, 1), 1.0)
    recall = positives / marked
    return float(-np.trapezoid(precision, recall))


def precision_recall(negatives: Int[np.ndarray, "bins"], positives: Int[np.ndarray, "bins"]) -> dict[str, Any] | None:
    """The curve of binned scores, thinned to what a chart shows.

    Args:
        negatives: Pixels without the lesion by `score_bin`.
        positives: Pixels with it.

    Returns:
        `ap` of all points; `prevalence`, which is the average precision of answers at random; `points`, a row each of
        threshold, recall and precision of the pixels from that score on, the threshold rising; `at_half`, the row of 0.5.
        None where no pixel has the lesion.
    """
    total = int(positives.sum())
    if not total:
        return None
    tp, predicted = (np.cumsum(counts[::-1])[::-1] for counts in (positives, positives + negatives))
    some = np.flatnonzero(predicted)
    logits = np.arange(SCORE_BINS) * (2.0 * MAX_LOGIT / SCORE_BINS) - MAX_LOGIT
    rows = np.stack([1.0 / (1.0 + np.exp(-logits)), tp / total, tp / np.maximum(predicted, 1)], axis=1)
    recalls = np.linspace(0.0, 1.0, CURVE_POINTS)
    places = np.unique(some[::-1][np.searchsorted(rows[some[::-1], 1], recalls, side="left").clip(0, len(some) - 1)])
    return {
        "ap": average_precision(negatives, positives),
        "prevalence": total / int(total + negatives.sum()),
        "points": rows[places].round(5).tolist(),
        "at_half": rows[SCORE_BINS // 2].round(5).tolist(),
    }

"""Segmentation baseline: the best threshold on a single colour channel, chosen on the training images."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from pldmlt_jax.data.splits.selection import Selection
from pldmlt_jax.evaluation.metrics.segmentation import dice, iou
from pldmlt_jax.types import MASK_BITS

CHANNELS = ("red", "green", "blue")
LEVELS = 256
EMPTY_HISTOGRAMS = np.zeros((len(CHANNELS), 2, LEVELS), np.int64)


class Threshold(NamedTuple):
    """A rule that calls a pixel lesion by the level of one of its channels."""

    channel: int
    level: int
    brighter: bool  # True: lesion where the channel is at least `level`; False: where it is at most `level`


def pixel_histograms(image: UInt8[np.ndarray, "h w 3"], mask_bits: UInt8[np.ndarray, "h w"]) -> Int[np.ndarray, "3 2 256"]:
    """Counts the pixels inside the field of view by channel, by class (background, lesion) and by level."""
    histograms = np.zeros((len(CHANNELS), 2, LEVELS), np.int64)
    valid, lesion = (mask_bits & MASK_BITS[name] != 0 for name in ("valid", "fused"))
    for label, region in enumerate((valid & ~lesion, valid & lesion)):
        pixels = image[region]
        for channel in range(len(CHANNELS)):
            histograms[channel, label] = np.bincount(pixels[:, channel], minlength=LEVELS)
    return histograms


def channel_histograms(selection: Selection) -> Int[np.ndarray, "3 2 256"]:
    """Sums `pixel_histograms` over the prepared images of a selection."""
    samples = (selection.split[int(i)] for i in selection.indices)
    return sum((pixel_histograms(sample.image, sample.mask_bits) for sample in samples), EMPTY_HISTOGRAMS)


def selected_levels(threshold: Threshold) -> Bool[np.ndarray, "256"]:
    """Marks the levels of the channel that the threshold calls lesion."""
    levels = np.arange(LEVELS)
    return levels >= threshold.level if threshold.brighter else levels <= threshold.level


def threshold_counts(histograms: Int[np.ndarray, "3 2 256"], threshold: Threshold) -> tuple[int, int, int]:
    """Returns the true positive, predicted and lesion pixels of a threshold, as `dice` and `iou` take them."""
    (negatives, positives), levels = histograms[threshold.channel], selected_levels(threshold)
    return int(positives[levels].sum()), int((negatives + positives)[levels].sum()), int(positives.sum())


def best_threshold(histograms: Int[np.ndarray, "3 2 256"]) -> Threshold:
    """Finds the threshold with the highest pooled lesion Dice."""
    candidates = itertools.starmap(Threshold, itertools.product(range(len(CHANNELS)), range(LEVELS), (False, True)))
    return max(candidates, key=lambda threshold: dice(*threshold_counts(histograms, threshold)) or 0.0)


def threshold_metrics(threshold: Threshold, histograms: Int[np.ndarray, "3 2 256"], suffix: str = "") -> dict[str, Any]:
    """Scores a threshold on some images; a metric is None if no pixel is lesion and none is predicted.

    Args:
        threshold: The rule to score.
        histograms: Pixels of these images, see `channel_histograms`.
        suffix: Appended to the names of the metrics.
    """
    counts = threshold_counts(histograms, threshold)
    return {
        f"baseline/channel_threshold/dice{suffix}": dice(*counts),
        f"baseline/channel_threshold/iou{suffix}": iou(*counts),
    }


def format_threshold(threshold: Threshold) -> str:
    """Writes a threshold as text, such as `green <= 63`."""
    return f"{CHANNELS[threshold.channel]} {'>=' if threshold.brighter else '<='} {threshold.level}"

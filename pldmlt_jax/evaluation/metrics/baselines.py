"""What a figure has to be compared with: one threshold on one colour channel, chosen on training images."""

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
    channel: int
    level: int
    brighter: bool  # lesions are where the channel is at least, or at most, the level


def pixel_histograms(image: UInt8[np.ndarray, "h w 3"], mask_bits: UInt8[np.ndarray, "h w"]) -> Int[np.ndarray, "3 2 256"]:
    """Pixels of each channel by level, without and with a lesion, inside the field of view."""
    histograms = np.zeros((len(CHANNELS), 2, LEVELS), np.int64)
    valid, lesion = (mask_bits & MASK_BITS[name] != 0 for name in ("valid", "fused"))
    for has, region in enumerate((valid & ~lesion, valid & lesion)):
        pixels = image[region]
        for channel in range(len(CHANNELS)):
            histograms[channel, has] = np.bincount(pixels[:, channel], minlength=LEVELS)
    return histograms


def channel_histograms(selection: Selection) -> Int[np.ndarray, "3 2 256"]:
    """The same of some prepared images together."""
    samples = (selection.split[int(i)] for i in selection.indices)
    return sum((pixel_histograms(sample.image, sample.mask_bits) for sample in samples), EMPTY_HISTOGRAMS)


def selected_levels(threshold: Threshold) -> Bool[np.ndarray, "256"]:
    """Which levels of its channel a threshold calls a lesion."""
    levels = np.arange(LEVELS)
    return levels >= threshold.level if threshold.brighter else levels <= threshold.level


def threshold_counts(histograms: Int[np.ndarray, "3 2 256"], threshold: Threshold) -> tuple[int, int, int]:
    """True positive, chosen and marked pixels."""
    (negatives, positives), levels = histograms[threshold.channel], selected_levels(threshold)
    return int(positives[levels].sum()), int((negatives + positives)[levels].sum()), int(positives.sum())


def best_threshold(histograms: Int[np.ndarray, "3 2 256"]) -> Threshold:
    """The threshold of the best pooled foreground Dice."""
    candidates = itertools.starmap(Threshold, itertools.product(range(len(CHANNELS)), range(LEVELS), (False, True)))
    return max(candidates, key=lambda threshold: dice(*threshold_counts(histograms, threshold)) or 0.0)


def threshold_metrics(threshold: Threshold, histograms: Int[np.ndarray, "3 2 256"], suffix: str = "") -> dict[str, Any]:
    """What a threshold scores on some images; None where no pixel is marked or chosen."""
    counts = threshold_counts(histograms, threshold)
    return {
        f"baseline/channel_threshold/dice{suffix}": dice(*counts),
        f"baseline/channel_threshold/iou{suffix}": iou(*counts),
    }


def format_threshold(threshold: Threshold) -> str:
    """A threshold in words."""
    return f"{CHANNELS[threshold.channel]} {'>=' if threshold.brighter else '<='} {threshold.level}"

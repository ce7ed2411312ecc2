"""What a figure has to be compared with: one threshold on one colour channel, chosen on training images."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from pldmlt_jax.data.selection import Selection
from pldmlt_jax.evaluation.segmentation_metrics import dice
from pldmlt_jax.types import MASK_BITS

CHANNELS = ("red", "green", "blue")
LEVELS = 256


class Threshold(NamedTuple):
    channel: int
    level: int
    brighter: bool  # lesions are where the channel is at least, or at most, the level


def channel_histograms(selection: Selection) -> Int[np.ndarray, "3 2 256"]:
    """Pixels of each channel by level, without and with a lesion, inside the field of view."""
    histograms = np.zeros((len(CHANNELS), 2, LEVELS), np.int64)
    for i in selection.indices:
        sample = selection.split[int(i)]
        valid = sample.mask_bits & MASK_BITS["valid"] != 0
        lesion = sample.mask_bits & MASK_BITS["fused"] != 0
        for has, region in enumerate((valid & ~lesion, valid & lesion)):
            pixels = sample.image[region]
            for channel in range(len(CHANNELS)):
                histograms[channel, has] += np.bincount(pixels[:, channel], minlength=LEVELS)
    return histograms


def threshold_dice(histograms: Int[np.ndarray, "3 2 256"], threshold: Threshold) -> float | None:
    """Pooled foreground Dice of a threshold; None where no pixel is marked or chosen."""
    levels = np.arange(LEVELS)
    chosen = levels >= threshold.level if threshold.brighter else levels <= threshold.level
    negatives, positives = histograms[threshold.channel]
    return dice(positives[chosen].sum(), (negatives + positives)[chosen].sum(), positives.sum())


def channel_threshold_baseline(train: Selection, test: Selection) -> dict[str, Any]:
    """The threshold of the best pooled foreground Dice on the training images, scored on the test images."""
    histograms = channel_histograms(train)
    candidates = [
        Threshold(channel, level, brighter)
        for channel in range(len(CHANNELS))
        for level in range(LEVELS)
        for brighter in (False, True)
    ]
    best = max(candidates, key=lambda threshold: threshold_dice(histograms, threshold) or 0.0)
    return {
        "baseline/channel_threshold/dice": threshold_dice(channel_histograms(test), best),
        "baseline/channel_threshold/dice_train": threshold_dice(histograms, best),
        "baseline/channel_threshold/rule": f"{CHANNELS[best.channel]} {'>=' if best.brighter else '<='} {best.level}",
    }

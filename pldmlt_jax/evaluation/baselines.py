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
    histograms = np.zeros((3, 2, LEVELS), np.int64)
    for i in selection.indices:
        sample = selection.split[int(i)]
        valid = sample.mask_bits & MASK_BITS["valid"] != 0
        lesion = sample.mask_bits & MASK_BITS["fused"] != 0
        for channel in range(3):
            for has, region in enumerate((valid & ~lesion, valid & lesion)):
                histograms[channel, has] += np.bincount(sample.image[..., channel][region], minlength=LEVELS)
    return histograms


def threshold_dice(histograms: np.ndarray, threshold: Threshold) -> float:
    """Pooled foreground Dice of a threshold."""
    levels = np.arange(LEVELS)
    chosen = levels >= threshold.level if threshold.brighter else levels <= threshold.level
    negatives, positives = histograms[threshold.channel]
    return dice(positives[chosen].sum(), (negatives + positives)[chosen].sum(), positives.sum()) or 0.0


def channel_threshold_baseline(train: Selection, test: Selection) -> dict[str, Any]:
    """The best threshold on the training images, scored on the test images."""
    histograms = channel_histograms(train)
    candidates = [
        Threshold(channel, level, brighter) for channel in range(3) for level in range(LEVELS) for brighter in (False, True)
    ]
    best = max(candidates, key=lambda threshold: threshold_dice(histograms, threshold))
    return {
        "baseline/channel_threshold/dice": threshold_dice(channel_histograms(test), best),
        "baseline/channel_threshold/rule": f"{CHANNELS[best.channel]} {'>=' if best.brighter else '<='} {best.level}",
    }

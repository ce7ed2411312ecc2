"""Streaming segmentation metrics: counters that add up over batches, turned into named metrics at the end.

Every counter is a sum over the valid pixels, so merging batches equals counting the whole set. Counters are numpy int64 and
float64, because a set of 1024 x 1024 images overflows int32 and loses unit steps in float32.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import clu.metrics
import numpy as np
from flax import struct
from jaxtyping import Float, Int, UInt8

from pldmlt_jax.evaluation.metrics.curves import (
    CURVE_THRESHOLDS,
    SCORE_BINS,
    aupr_11,
    average_precision,
    precision_recall,
    score_bin,
)
from pldmlt_jax.method.losses import EXCLUSIVE_ORDER
from pldmlt_jax.types import LESIONS, MASK_BITS

FOREGROUND_SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fused": lambda p: p[..., 1],
    "lesions": lambda p: p.max(axis=-1),
    "exclusive": lambda p: 1.0 - p[..., 0],
}
"""Target -> probability that a pixel is any lesion: the lesion channel, the largest sigmoid, 1 - background."""

Number = float | np.number


@struct.dataclass
class SegmentationCounts(clu.metrics.Metric):
    """Pixel counters of one or many images at one size."""

    foreground: np.ndarray  # int64 [4]: true positive, predicted, target and valid pixels of the fused lesion mask
    soft: np.ndarray  # float64 [2]: lesion probability summed over the target pixels, and over the valid pixels
    lesions: np.ndarray  # int64 [4, 3]: true positive, predicted, target; `fused`: predicted is the fused prediction
    foreground_histogram: np.ndarray  # int64 [2, SCORE_BINS]: pixels without and with any lesion, by score
    lesion_histograms: np.ndarray  # int64 [4, 2, SCORE_BINS]: the same for each lesion
    exclusive_above: np.ndarray  # int64 [4, 2, 11]: pixels above each threshold, without and with the exclusive label
    exclusive_px: np.ndarray  # int64 [4]: pixels with the exclusive label
    dice_sum: np.ndarray  # float64: sum of the foreground Dice of single images
    dice_defined: np.ndarray  # int64: images where that Dice is defined
    dice_undefined: np.ndarray  # int64: images without lesion in target and prediction
    target: str = struct.field(pytree_node=False, default="fused")

    @classmethod
    def empty(cls, target: str = "fused") -> "SegmentationCounts":
        """Returns the counters of no image."""
        n = len(LESIONS)

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, np.int64)

        return cls(
            foreground=zeros(4),
            soft=np.zeros(2),
            lesions=zeros(n, 3),
            foreground_histogram=zeros(2, SCORE_BINS),
            lesion_histograms=zeros(n, 2, SCORE_BINS),
            exclusive_above=zeros(n, 2, len(CURVE_THRESHOLDS)),
            exclusive_px=zeros(n),
            dice_sum=np.zeros(()),
            dice_defined=zeros(),
            dice_undefined=zeros(),
            target=target,
        )

    def merge(self, other: "SegmentationCounts") -> "SegmentationCounts":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Adds the counters of other images.

        Raises:
            ValueError: The two count different targets.
        """
        if self.target != other.target:
            raise ValueError(f"cannot add counters of target {self.target!r} and {other.target!r}")
        names = [field.name for field in dataclasses.fields(self) if field.name != "target"]
        added = {name: getattr(self, name) + getattr(other, name) for name in names}
        return SegmentationCounts(**added, target=self.target)

    @property
    def target_px(self) -> np.ndarray:
        """Target pixels, int64 [5]: of the fused mask, then of each lesion."""
        return np.array([self.foreground[2], *self.lesions[:, 2]])

    def compute(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Computes the metrics by name (see docs/metrics.md).

        A metric is None where it is undefined: no target pixels and, for Dice and IoU, no predicted pixels. `micro_bg` and
        `macro_bg` have two classes, background and lesion, whatever the target.
        """
        tp, predicted, target_px, valid = (int(v) for v in self.foreground)
        return {
            **overlap_metrics(tp, predicted, target_px, valid),
            **_two_class_metrics(0, 0, target_px, valid, suffix="_all_background"),
            "seg/macro_bg/dice_soft": self._soft_dice(),
            "seg/foreground/ap": average_precision(*self.foreground_histogram),
            "seg/foreground/ap_all_background": target_px / valid if valid else None,
            "seg/foreground/dice_per_image": float(self.dice_sum / self.dice_defined) if self.dice_defined else None,
            "seg/foreground/dice_per_image_n": int(self.dice_defined),
            "seg/foreground/dice_per_image_undefined": int(self.dice_undefined),
            **self._lesion_metrics(),
        }

    def curves(self) -> dict[str, dict[str, Any]]:
        """Computes `precision_recall` for the fused mask (key `lesion`) and each lesion that the prediction separates.

        Lesions without target pixels are left out.
        """
        histograms = {"lesion": self.foreground_histogram}
        if self.target != "fused":
            histograms |= dict(zip(LESIONS, self.lesion_histograms, strict=True))
        curves = {name: precision_recall(*counts) for name, counts in histograms.items()}
        return {name: curve for name, curve in curves.items() if curve}

    def _soft_dice(self) -> float | None:
        _, _, target_px, valid = (int(v) for v in self.foreground)
        tp, predicted = (float(v) for v in self.soft)
        background = (valid - target_px - predicted + tp, valid - predicted, valid - target_px)
        return mean_defined([dice(*background), dice(tp, predicted, target_px)])

    def _lesion_metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = {}
        for i, lesion in enumerate(LESIONS):
            tp, predicted, target_px = (int(v) for v in self.lesions[i])
            metrics[f"seg/{lesion}/recall"] = tp / target_px if target_px else None
            if self.target == "fused":
                continue  # the prediction does not separate lesions, so only recall is defined
            metrics[f"seg/{lesion}/dice"] = dice(tp, predicted, target_px)
            metrics[f"seg/{lesion}/iou"] = iou(tp, predicted, target_px)
            metrics[f"seg/{lesion}/ap"] = average_precision(*self.lesion_histograms[i])
            negatives, positives = self.exclusive_above[i]
            metrics[f"seg/{lesion}/aupr_11_exclusive"] = aupr_11(negatives, positives, int(self.exclusive_px[i]))
        if self.target != "fused":
            for name in ("dice", "iou", "ap", "aupr_11_exclusive"):
                values = [metrics[f"seg/{lesion}/{name}"] for lesion in LESIONS]
                metrics[f"seg/mean/{name}"] = mean_defined(values)
                metrics[f"seg/mean/{name}_undefined"] = values.count(None)
        return metrics


def segmentation_counts(
    probabilities: Float[np.ndarray, "b h w k"],
    mask_bits: UInt8[np.ndarray, "b h w"],
    sample_mask: Float[np.ndarray, "b"],
    *,
    target: str,
    threshold: float,
) -> SegmentationCounts:
    """Counts the pixels of a batch.

    Args:
        probabilities: Channels by target; `fused`: background and lesion; `lesions`: one per lesion; `exclusive`:
            background and one per lesion.
        mask_bits: Target masks, see MASK_BITS; only pixels with the `valid` bit count.
        sample_mask: Images whose entry is 0 do not count.
        target: One of these three.
        threshold: A pixel is predicted if its lesion probability is above it.
    """
    counts = SegmentationCounts.empty(target)
    for image_probabilities, bits, w in zip(probabilities, mask_bits, sample_mask, strict=True):
        if w > 0:
            valid = bits & MASK_BITS["valid"] != 0
            counts = counts.merge(_count_image(image_probabilities[valid], bits[valid], target, threshold))
    return counts


def foreground_score(probabilities: Float[np.ndarray, "... k"], target: str) -> Float[np.ndarray, "..."]:
    """Returns the probability that a pixel is any lesion."""
    return FOREGROUND_SCORES[target](probabilities)


def lesion_scores(probabilities: Float[np.ndarray, "... k"], target: str) -> Float[np.ndarray, "... 4"]:
    """Returns the probability of each lesion, possibly as a read-only view; `fused` gives all lesions the fused one."""
    if target == "fused":
        return np.broadcast_to(probabilities[..., 1:2], (*probabilities.shape[:-1], len(LESIONS)))
    return probabilities if target == "lesions" else probabilities[..., 1:]


def exclusive_label(bits: UInt8[np.ndarray, "n"]) -> UInt8[np.ndarray, "n"]:
    """Returns one label per pixel: 0 for none, else 1 + index in LESIONS. In overlaps the later of EXCLUSIVE_ORDER wins."""
    label = np.zeros(bits.shape, np.uint8)
    for lesion in EXCLUSIVE_ORDER:
        label[bits & MASK_BITS[lesion] != 0] = 1 + LESIONS.index(lesion)
    return label


def overlap_metrics(tp: Number, predicted: Number, target_px: Number, valid: Number) -> dict[str, float | None]:
    """Computes the metrics of a binary lesion mask from its pooled pixels.

    Args:
        tp: Pixels that are lesion in both prediction and target.
        predicted: Pixels that are lesion in the prediction.
        target_px: Pixels that are lesion in the target.
        valid: Pixels inside the field of view, lesion or not.

    Returns:
        The metrics by name; None where one is undefined.
    """
    return {
        "seg/foreground/dice": dice(tp, predicted, target_px),
        "seg/foreground/iou": iou(tp, predicted, target_px),
        "seg/foreground/precision": float(tp / predicted) if predicted else None,
        "seg/foreground/recall": float(tp / target_px) if target_px else None,
        **_two_class_metrics(tp, predicted, target_px, valid),
    }


def _two_class_metrics(
    tp: Number, predicted: Number, target_px: Number, valid: Number, suffix: str = ""
) -> dict[str, float | None]:
    """Metrics of the classes background and lesion together; arguments as in `overlap_metrics`."""
    lesion = (tp, predicted, target_px)
    background = (valid - predicted - target_px + tp, valid - predicted, valid - target_px)
    pooled = [a + b for a, b in zip(background, lesion, strict=True)]
    return {
        f"seg/micro_bg/dice{suffix}": dice(*pooled),
        f"seg/micro_bg/iou{suffix}": iou(*pooled),
        f"seg/macro_bg/dice{suffix}": mean_defined([dice(*background), dice(*lesion)]),
        f"seg/macro_bg/iou{suffix}": mean_defined([iou(*background), iou(*lesion)]),
    }


def dice(tp: Number, predicted: Number, target_px: Number) -> float | None:
    """Returns 2 |X ∩ Y| / (|X| + |Y|); None if both masks are empty."""
    return float(2.0 * tp / (predicted + target_px)) if predicted + target_px else None


def iou(tp: Number, predicted: Number, target_px: Number) -> float | None:
    """Returns |X ∩ Y| / |X ∪ Y|; None if both masks are empty."""
    union = predicted + target_px - tp
    return float(tp / union) if union else None


def mean_defined(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values that are not None; None if there are none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _count_image(
    p: Float[np.ndarray, "n k"], bits: UInt8[np.ndarray, "n"], target: str, threshold: float
) -> SegmentationCounts:
    """Counts the valid pixels of one image."""
    score = foreground_score(p, target)
    predicted, target_mask = score > threshold, bits & MASK_BITS["fused"] != 0
    foreground = np.array([*count_overlap(predicted, target_mask), target_mask.size], np.int64)
    image_dice = dice(*foreground[:3])
    scores = lesion_scores(p, target)
    overlaps = [count_overlap(scores[:, i] > threshold, bits & MASK_BITS[k] != 0) for i, k in enumerate(LESIONS)]
    counts = dataclasses.replace(
        SegmentationCounts.empty(target),
        foreground=foreground,
        soft=np.array([score[target_mask].sum(dtype=np.float64), score.sum(dtype=np.float64)]),
        foreground_histogram=_histogram(score_bin(score), target_mask, SCORE_BINS),
        lesions=np.array(overlaps, np.int64),
        dice_sum=np.float64(image_dice or 0.0),
        dice_defined=np.int64(image_dice is not None),
        dice_undefined=np.int64(image_dice is None),
    )
    return counts if target == "fused" else dataclasses.replace(counts, **_curve_counts(scores, bits))


def count_overlap(predicted: np.ndarray, target_mask: np.ndarray) -> list[int]:
    """Counts true positive, predicted and target pixels of two masks."""
    return [int(np.count_nonzero(mask)) for mask in (predicted & target_mask, predicted, target_mask)]


def _curve_counts(scores: Float[np.ndarray, "n 4"], bits: UInt8[np.ndarray, "n"]) -> dict[str, np.ndarray]:
    """The counters of each lesion behind `ap` and `aupr_11_exclusive`."""
    label = exclusive_label(bits)
    histograms, above, exclusive_px = [], [], []
    for i, lesion in enumerate(LESIONS):
        has_lesion = bits & MASK_BITS[lesion] != 0
        histograms.append(_histogram(score_bin(scores[:, i]), has_lesion, SCORE_BINS))
        exclusive = label == 1 + i
        thresholds_below = np.searchsorted(CURVE_THRESHOLDS, scores[:, i], side="left")  # strictly below the score
        counts = _histogram(thresholds_below, exclusive, len(CURVE_THRESHOLDS) + 1)
        above.append(np.cumsum(counts[:, :0:-1], axis=1)[:, ::-1])
        exclusive_px.append(np.count_nonzero(exclusive))
    return {
        "lesion_histograms": np.stack(histograms),
        "exclusive_above": np.stack(above),
        "exclusive_px": np.array(exclusive_px),
    }


def _histogram(values: np.ndarray, flag: np.ndarray, num: int) -> Int[np.ndarray, "2 num"]:
    """Counts the values 0 to num - 1, where the flag is not set (row 0) and where it is (row 1)."""
    return np.bincount(values + num * flag, minlength=2 * num).reshape(2, num)

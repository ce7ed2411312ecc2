"""Streaming segmentation figures, each named by its convention: counters that add up, computed and named at the end.

Every counter is a sum over the valid pixels, so that merging batches equals counting the whole set. Counters are numpy
int64 and float64: a set of 1024 x 1024 images overflows int32 and loses unit steps in float32.
"""

import dataclasses
from collections.abc import Callable
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
"""Target -> probability that a pixel is of any lesion: the lesion channel, the largest sigmoid, 1 - background."""

Number = float | np.number


@struct.dataclass
class SegmentationCounts(clu.metrics.Metric):
    """Counters of one or many images at one size."""

    foreground: np.ndarray  # int64 [4]: true positives, predicted, marked, valid pixels of the lesion mask
    soft: np.ndarray  # float64 [2]: lesion probability summed over marked, and over valid pixels
    lesions: np.ndarray  # int64 [4, 3]: true positives, predicted, marked; `fused`: predicted is the fused prediction
    any_histogram: np.ndarray  # int64 [2, SCORE_BINS]: pixels that lack and that have any lesion, by score
    histogram: np.ndarray  # int64 [4, 2, SCORE_BINS]: the same of each lesion
    exclusive: np.ndarray  # int64 [4, 2, 11]: pixels above each threshold, that lack and that have it exclusively
    exclusive_marked: np.ndarray  # int64 [4]
    dice_sum: np.ndarray  # float64: of per-image foreground Dice
    dice_defined: np.ndarray  # int64: images where it is defined
    dice_undefined: np.ndarray  # int64: images without lesion in truth and prediction
    target: str = struct.field(pytree_node=False, default="fused")

    @classmethod
    def empty(cls, target: str = "fused") -> "SegmentationCounts":
        """Counters of no image."""
        n = len(LESIONS)

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, np.int64)

        return cls(
            foreground=zeros(4),
            soft=np.zeros(2),
            lesions=zeros(n, 3),
            any_histogram=zeros(2, SCORE_BINS),
            histogram=zeros(n, 2, SCORE_BINS),
            exclusive=zeros(n, 2, len(CURVE_THRESHOLDS)),
            exclusive_marked=zeros(n),
            dice_sum=np.zeros(()),
            dice_defined=zeros(),
            dice_undefined=zeros(),
            target=target,
        )

    def merge(self, other: "SegmentationCounts") -> "SegmentationCounts":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Counters of the images of both.

        Raises:
            ValueError: They count different targets.
        """
        if self.target != other.target:
            raise ValueError(f"counters of target {self.target!r} and {other.target!r} do not add up")
        names = [field.name for field in dataclasses.fields(self) if field.name != "target"]
        added = {name: getattr(self, name) + getattr(other, name) for name in names}
        return SegmentationCounts(**added, target=self.target)

    @property
    def target_px(self) -> np.ndarray:
        """int64 [5]: pixels of the fused truth, then of each lesion's."""
        return np.array([self.foreground[2], *self.lesions[:, 2]])

    def compute(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The figures by name; None where one is undefined: nothing marked and, for Dice and IoU, nothing predicted.

        `micro_bg` and `macro_bg` are of two channels, background and lesion, whatever the target.
        """
        return self._background_figures() | self._foreground_figures() | self._lesion_figures()

    def curves(self) -> dict[str, dict[str, Any]]:
        """`precision_recall` of any lesion (`lesion`) and, where the prediction tells them apart, of each that there is."""
        histograms = {"lesion": self.any_histogram}
        if self.target != "fused":
            histograms |= dict(zip(LESIONS, self.histogram, strict=True))
        found = {name: precision_recall(*counts) for name, counts in histograms.items()}
        return {name: curve for name, curve in found.items() if curve}

    def _background_figures(self) -> dict[str, Any]:
        tp, predicted, marked, valid = (int(v) for v in self.foreground)
        soft_tp, soft_predicted = (float(v) for v in self.soft)
        background = (valid - predicted - marked + tp, valid - predicted, valid - marked)
        channels = np.array([background, (tp, predicted, marked)])
        soft_background = (valid - marked - soft_predicted + soft_tp, valid - soft_predicted, valid - marked)
        all_background = np.array([(valid - marked, valid, valid - marked), (0, 0, marked)])
        figures = {}
        for suffix, counts in (("", channels), ("_all_background", all_background)):
            figures |= {
                f"seg/micro_bg/dice{suffix}": dice(*counts.sum(axis=0)),
                f"seg/micro_bg/iou{suffix}": iou(*counts.sum(axis=0)),
                f"seg/macro_bg/dice{suffix}": mean_defined([dice(*row) for row in counts]),
                f"seg/macro_bg/iou{suffix}": mean_defined([iou(*row) for row in counts]),
            }
        soft = [dice(*soft_background), dice(soft_tp, soft_predicted, marked)]
        return figures | {"seg/macro_bg/dice_soft": mean_defined(soft)}

    def _foreground_figures(self) -> dict[str, Any]:
        tp, predicted, marked, valid = (int(v) for v in self.foreground)
        return {
            "seg/foreground/dice": dice(tp, predicted, marked),
            "seg/foreground/iou": iou(tp, predicted, marked),
            "seg/foreground/precision": tp / predicted if predicted else None,
            "seg/foreground/recall": tp / marked if marked else None,
            "seg/foreground/ap": average_precision(*self.any_histogram),
            "seg/foreground/ap_all_background": marked / valid if valid else None,
            "seg/foreground/dice_per_image": float(self.dice_sum / self.dice_defined) if self.dice_defined else None,
            "seg/foreground/dice_per_image_n": int(self.dice_defined),
            "seg/foreground/dice_per_image_undefined": int(self.dice_undefined),
        }

    def _lesion_figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for i, lesion in enumerate(LESIONS):
            tp, predicted, marked = (int(v) for v in self.lesions[i])
            figures[f"seg/{lesion}/recall"] = tp / marked if marked else None
            if self.target == "fused":
                continue  # the prediction does not tell lesions apart: only the share that it finds is defined
            figures[f"seg/{lesion}/dice"] = dice(tp, predicted, marked)
            figures[f"seg/{lesion}/iou"] = iou(tp, predicted, marked)
            figures[f"seg/{lesion}/ap"] = average_precision(self.histogram[i, 0], self.histogram[i, 1])
            above, exclusively = self.exclusive[i], int(self.exclusive_marked[i])
            figures[f"seg/{lesion}/aupr_11_exclusive"] = aupr_11(above[0], above[1], exclusively)
        if self.target != "fused":
            for name in ("dice", "iou", "ap", "aupr_11_exclusive"):
                values = [figures[f"seg/{lesion}/{name}"] for lesion in LESIONS]
                figures[f"seg/mean/{name}"] = mean_defined(values)
                figures[f"seg/mean/{name}_undefined"] = values.count(None)
        return figures


def segmentation_counts(
    probabilities: Float[np.ndarray, "b h w k"],
    mask_bits: UInt8[np.ndarray, "b h w"],
    sample_mask: Float[np.ndarray, "b"],
    *,
    target: str,
    threshold: float,
) -> SegmentationCounts:
    """Counts a batch.

    Args:
        probabilities: `fused`: background and lesion; `lesions`: one a lesion; `exclusive`: background and one a lesion.
        mask_bits: The truth; only pixels with the `valid` bit count.
        sample_mask: Images whose entry is 0 do not count.
        target: Which of the three.
        threshold: A pixel is predicted where its lesion probability is above it.
    """
    counts = SegmentationCounts.empty(target)
    for image_probabilities, bits, w in zip(probabilities, mask_bits, sample_mask, strict=True):
        if w > 0:
            valid = bits & MASK_BITS["valid"] != 0
            counts = counts.merge(_count_image(image_probabilities[valid], bits[valid], target, threshold))
    return counts


def foreground_score(probabilities: Float[np.ndarray, "... k"], target: str) -> Float[np.ndarray, "..."]:
    """Probability that a pixel is of any lesion."""
    return FOREGROUND_SCORES[target](probabilities)


def lesion_scores(probabilities: Float[np.ndarray, "... k"], target: str) -> Float[np.ndarray, "... 4"]:
    """Probability of each lesion; `fused` gives every lesion the fused one. May be a view that is not writeable."""
    if target == "fused":
        return np.broadcast_to(probabilities[..., 1:2], (*probabilities.shape[:-1], len(LESIONS)))
    return probabilities if target == "lesions" else probabilities[..., 1:]


def exclusive_label(bits: UInt8[np.ndarray, "n"]) -> UInt8[np.ndarray, "n"]:
    """One lesion a pixel, 1 + its place in LESIONS, 0 for none: where they overlap the later of EXCLUSIVE_ORDER wins."""
    label = np.zeros(bits.shape, np.uint8)
    for lesion in EXCLUSIVE_ORDER:
        label[bits & MASK_BITS[lesion] != 0] = 1 + LESIONS.index(lesion)
    return label


def dice(tp: Number, predicted: Number, marked: Number) -> float | None:
    """2 |X and Y| / (|X| + |Y|); None where both are empty."""
    return float(2.0 * tp / (predicted + marked)) if predicted + marked else None


def iou(tp: Number, predicted: Number, marked: Number) -> float | None:
    """|X and Y| / |X or Y|; None where both are empty."""
    union = predicted + marked - tp
    return float(tp / union) if union else None


def mean_defined(values: list[float | None]) -> float | None:
    """Mean of those that are defined, None where none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _count_image(
    p: Float[np.ndarray, "n k"], bits: UInt8[np.ndarray, "n"], target: str, threshold: float
) -> SegmentationCounts:
    """Counters of the valid pixels of one image."""
    score = foreground_score(p, target)
    predicted, marked = score > threshold, bits & MASK_BITS["fused"] != 0
    foreground = np.array([*_overlap(predicted, marked), marked.size], np.int64)
    own_dice = dice(*foreground[:3])
    scores = lesion_scores(p, target)
    overlaps = [_overlap(scores[:, i] > threshold, bits & MASK_BITS[k] != 0) for i, k in enumerate(LESIONS)]
    counts = dataclasses.replace(
        SegmentationCounts.empty(target),
        foreground=foreground,
        soft=np.array([score[marked].sum(dtype=np.float64), score.sum(dtype=np.float64)]),
        any_histogram=_histogram(score_bin(score), marked, SCORE_BINS),
        lesions=np.array(overlaps, np.int64),
        dice_sum=np.float64(own_dice or 0.0),
        dice_defined=np.int64(own_dice is not None),
        dice_undefined=np.int64(own_dice is None),
    )
    return counts if target == "fused" else dataclasses.replace(counts, **_curve_counts(scores, bits))


def _overlap(predicted: np.ndarray, marked: np.ndarray) -> list[int]:
    """True positives, predicted, marked."""
    return [int(np.count_nonzero(mask)) for mask in (predicted & marked, predicted, marked)]


def _curve_counts(scores: Float[np.ndarray, "n 4"], bits: UInt8[np.ndarray, "n"]) -> dict[str, np.ndarray]:
    """What `ap` and `aupr_11_exclusive` need of each lesion."""
    label = exclusive_label(bits)
    histogram, above, marked = [], [], []
    for i, lesion in enumerate(LESIONS):
        has = bits & MASK_BITS[lesion] != 0
        histogram.append(_histogram(score_bin(scores[:, i]), has, SCORE_BINS))
        exclusively = label == 1 + i
        thresholds_below = np.searchsorted(CURVE_THRESHOLDS, scores[:, i], side="left")  # strictly below the score
        counts = _histogram(thresholds_below, exclusively, len(CURVE_THRESHOLDS) + 1)
        above.append(np.cumsum(counts[:, :0:-1], axis=1)[:, ::-1])
        marked.append(np.count_nonzero(exclusively))
    return {"histogram": np.stack(histogram), "exclusive": np.stack(above), "exclusive_marked": np.array(marked)}


def _histogram(values: np.ndarray, has: np.ndarray, num: int) -> Int[np.ndarray, "2 num"]:
    """Counts of the values 0 to num - 1 where the flag is not set, and where it is."""
    return np.bincount(values + num * has, minlength=2 * num).reshape(2, num)

"""Streaming segmentation figures, by convention (see docs/metrics.md): counters that add up, named at the end.

Every counter is a sum over the valid pixels, so that merging batches equals counting the whole set. Counters are numpy
int64 and float64: a set of 1024 x 1024 images overflows int32 and loses unit steps in float32.
"""

import dataclasses
from typing import Any

import clu.metrics
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.method.losses import EXCLUSIVE_ORDER
from pldmlt_jax.types import LESIONS, MASK_BITS

SCORE_BINS = 4096
"""Bins of the score histograms behind `ap`: scores closer than 1/4096 count as ties."""

CURVE_THRESHOLDS = np.linspace(0.0, 1.0, 11)
"""Of `aupr_11_exclusive`."""


@struct.dataclass
class SegmentationCounts(clu.metrics.Metric):
    """Counters of one or many images at one size."""

    channels: np.ndarray  # int64 [2, 3]: true positives, predicted, marked; of background and lesion
    soft: np.ndarray  # float64 [2, 3]: the same with probabilities in place of the prediction
    foreground: np.ndarray  # int64 [4]: true positives, predicted, marked, valid pixels of the lesion mask
    lesions: np.ndarray  # int64 [4, 3]: true positives, predicted, marked; `fused`: predicted is the fused prediction
    histogram: np.ndarray  # int64 [4, 2, SCORE_BINS]: pixels that lack and that have the lesion, by score
    exclusive: np.ndarray  # int64 [4, 2, 11]: pixels above each threshold, that lack and that have it exclusively
    exclusive_marked: np.ndarray  # int64 [4]
    dice_sum: np.ndarray  # float64: of per-image foreground Dice
    dice_defined: np.ndarray  # int64: images where it is defined
    dice_undefined: np.ndarray  # int64: images without lesion in truth and prediction
    target: str = struct.field(pytree_node=False, default="fused")

    @classmethod
    def empty(cls, target: str = "fused") -> "SegmentationCounts":
        n = len(LESIONS)

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, np.int64)

        return cls(
            channels=zeros(2, 3),
            soft=np.zeros((2, 3)),
            foreground=zeros(4),
            lesions=zeros(n, 3),
            histogram=zeros(n, 2, SCORE_BINS),
            exclusive=zeros(n, 2, len(CURVE_THRESHOLDS)),
            exclusive_marked=zeros(n),
            dice_sum=np.zeros(()),
            dice_defined=zeros(),
            dice_undefined=zeros(),
            target=target,
        )

    def merge(self, other: "SegmentationCounts") -> "SegmentationCounts":  # pyright: ignore[reportIncompatibleMethodOverride]
        counters = [field.name for field in dataclasses.fields(self) if field.name != "target"]
        added = {name: getattr(self, name) + getattr(other, name) for name in counters}
        return SegmentationCounts(**added, target=self.target)

    def compute(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The figures by name; None where one is undefined."""
        tp, predicted, marked, valid = (int(v) for v in self.foreground)
        figures: dict[str, Any] = {
            "seg/micro_bg/dice": dice(*self.channels.sum(axis=0)),
            "seg/micro_bg/iou": iou(*self.channels.sum(axis=0)),
            "seg/micro_bg/dice_all_background": 1.0 - marked / valid if valid else None,
            "seg/macro_bg/dice": mean_defined([dice(*row) for row in self.channels]),
            "seg/macro_bg/dice_soft": mean_defined([dice(*row) for row in self.soft]),
            "seg/macro_bg/iou": mean_defined([iou(*row) for row in self.channels]),
            "seg/foreground/dice": dice(tp, predicted, marked),
            "seg/foreground/iou": iou(tp, predicted, marked),
            "seg/foreground/precision": tp / predicted if predicted else None,
            "seg/foreground/recall": tp / marked if marked else None,
            "seg/foreground/dice_per_image": float(self.dice_sum / self.dice_defined) if self.dice_defined else None,
            "seg/foreground/dice_per_image_n": int(self.dice_defined),
            "seg/foreground/dice_per_image_undefined": int(self.dice_undefined),
        }
        return figures | self._lesion_figures()

    def _lesion_figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for i, lesion in enumerate(LESIONS):
            tp, predicted, marked = (int(v) for v in self.lesions[i])
            figures[f"seg/{lesion}/recall"] = tp / marked if marked else None
            if self.target == "fused":
                continue  # the prediction does not tell lesions apart: only the share that it finds is defined
            figures[f"seg/{lesion}/dice"] = dice(tp, predicted, marked)
            figures[f"seg/{lesion}/iou"] = iou(tp, predicted, marked)
            figures[f"seg/{lesion}/ap"] = average_precision(*self.histogram[i])
            figures[f"seg/{lesion}/aupr_11_exclusive"] = aupr_11(
                self.exclusive[i, 0], self.exclusive[i, 1], self.exclusive_marked[i]
            )
        if self.target != "fused":
            for name in ("dice", "iou", "ap", "aupr_11_exclusive"):
                figures[f"seg/mean/{name}"] = mean_defined([figures[f"seg/{lesion}/{name}"] for lesion in LESIONS])
        return figures


def dice(tp: float, predicted: float, marked: float) -> float | None:
    """2 |X and Y| / (|X| + |Y|); None where both are empty."""
    return float(2.0 * tp / (predicted + marked)) if predicted + marked else None


def iou(tp: float, predicted: float, marked: float) -> float | None:
    """|X and Y| / |X or Y|; None where both are empty."""
    union = predicted + marked - tp
    return float(tp / union) if union else None


def mean_defined(values: list[float | None]) -> float | None:
    """Mean of those that are defined, None where none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def average_precision(negatives: np.ndarray, positives: np.ndarray) -> float | None:
    """Exact average precision of scores in bins (scikit-learn's convention): sum of precision times gain in recall."""
    total = positives.sum()
    if not total:
        return None
    tp, fp = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    precision = tp / np.maximum(tp + fp, 1)
    return float(np.sum(precision * positives[::-1]) / total)


def aupr_11(negatives: np.ndarray, positives: np.ndarray, marked: int) -> float | None:
    """M2MRF's area under precision-recall: 11 thresholds, precision 1 where nothing is predicted, trapezoid."""
    if not marked:
        return None
    predicted = negatives + positives
    precision = np.where(predicted > 0, positives / np.maximum(predicted, 1), 1.0)
    recall = positives / marked
    return float(-np.trapezoid(precision, recall))


def segmentation_counts(
    probabilities: Float[np.ndarray, "b h w k"],
    mask_bits: UInt8[np.ndarray, "b h w"],
    weight: Float[np.ndarray, "b"],
    *,
    target: str,
    threshold: float,
) -> SegmentationCounts:
    """Counts a batch.

    Args:
        probabilities: `fused`: background and lesion; `lesions`: one a lesion; `exclusive`: background and one a lesion.
        mask_bits: The truth; only pixels with the `valid` bit count.
        weight: Images of weight 0 do not count.
        target: Which of the three.
        threshold: A pixel is predicted where its lesion probability is above it.
    """
    counts = SegmentationCounts.empty(target)
    for image_probabilities, bits, w in zip(np.asarray(probabilities), np.asarray(mask_bits), weight, strict=True):
        if w > 0:
            valid = bits & MASK_BITS["valid"] != 0
            counts = counts.merge(_count_image(image_probabilities[valid], bits[valid], target, threshold))
    return counts


def lesion_scores(probabilities: np.ndarray, target: str) -> np.ndarray:
    """Probability of each lesion, [..., 4]; `fused` gives every lesion the fused one."""
    if target == "fused":
        return np.repeat(probabilities[..., 1:2], len(LESIONS), axis=-1)
    return probabilities if target == "lesions" else probabilities[..., 1:]


def foreground_score(probabilities: np.ndarray, target: str) -> np.ndarray:
    """Probability that a pixel is of any lesion: the lesion channel, the largest sigmoid, or 1 - background."""
    scores = {
        "fused": lambda p: p[..., 1],
        "lesions": lambda p: p.max(axis=-1),
        "exclusive": lambda p: 1.0 - p[..., 0],
    }
    return scores[target](probabilities)


def _count_image(p: Float[np.ndarray, "n k"], bits: UInt8[np.ndarray, "n"], target: str, threshold: float):
    score = foreground_score(p, target)
    predicted = score > threshold
    truth = bits & MASK_BITS["fused"] != 0
    masks = np.stack([bits & MASK_BITS[lesion] != 0 for lesion in LESIONS], axis=-1)
    scores = lesion_scores(p, target)
    found = scores > threshold
    foreground = np.array([(predicted & truth).sum(), predicted.sum(), truth.sum(), truth.size], np.int64)
    channels, soft = _channel_counts(score, predicted, truth)
    own = dice(*foreground[:3])
    counts = dataclasses.replace(
        SegmentationCounts.empty(target),
        channels=channels,
        soft=soft,
        foreground=foreground,
        lesions=np.stack([(found & masks).sum(axis=0), found.sum(axis=0), masks.sum(axis=0)], axis=1),
        dice_sum=np.float64(own or 0.0),
        dice_defined=np.int64(own is not None),
        dice_undefined=np.int64(own is None),
    )
    return counts if target == "fused" else dataclasses.replace(counts, **_curve_counts(scores, masks))


def _channel_counts(score: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True positives, predicted and marked of background and lesion, thresholded and soft."""
    hard = [((~predicted & ~truth).sum(), (~predicted).sum(), (~truth).sum()),
            ((predicted & truth).sum(), predicted.sum(), truth.sum())]  # fmt: skip
    score = score.astype(np.float64)
    soft = [((1.0 - score)[~truth].sum(), (1.0 - score).sum(), (~truth).sum()),
            (score[truth].sum(), score.sum(), truth.sum())]  # fmt: skip
    return np.array(hard, np.int64), np.array(soft, np.float64)


def exclusive_masks(masks: Bool[np.ndarray, "n 4"]) -> Bool[np.ndarray, "n 4"]:
    """One lesion a pixel: where they overlap the later of EX < HE < SE < MA wins."""
    taken = np.zeros(len(masks), bool)
    exclusive = np.zeros_like(masks)
    for lesion in reversed(EXCLUSIVE_ORDER):
        i = LESIONS.index(lesion)
        exclusive[:, i] = masks[:, i] & ~taken
        taken |= masks[:, i]
    return exclusive


def _curve_counts(scores: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    bins = np.minimum((scores * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
    histogram = np.stack(
        [
            [np.bincount(bins[masks[:, i] == has, i], minlength=SCORE_BINS) for has in (False, True)]
            for i in range(len(LESIONS))
        ]
    )
    exclusive = exclusive_masks(masks)
    above = np.stack(
        [
            [[(scores[exclusive[:, i] == has, i] > t).sum() for t in CURVE_THRESHOLDS] for has in (False, True)]
            for i in range(len(LESIONS))
        ]
    )
    return {"histogram": histogram, "exclusive": above, "exclusive_marked": exclusive.sum(axis=0)}

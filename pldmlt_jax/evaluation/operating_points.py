"""Each lesion's operating point: the threshold and the smallest component, as the validation images ask for."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from pldmlt_jax.errors import CheckpointError, DataError
from pldmlt_jax.evaluation.metrics.segmentation import dice, lesion_scores
from pldmlt_jax.io.files import read_json, write_json
from pldmlt_jax.types import LESIONS, MASK_BITS

FILE = "operating_points.json"
"""Beside the checkpoints, or beside exported weights."""

THRESHOLDS = np.round(np.arange(0.05, 0.951, 0.05), 2)
MIN_AREAS_PX = (0, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Of components at the network's size, where 0 keeps them all."""

HALF = int(np.argmin(np.abs(THRESHOLDS - 0.5)))
"""Place of 0.5 among the thresholds."""

MIN_IMAGES = 2
"""That have a lesion, for its point to be chosen by them: one tells nothing of the next."""


@dataclass(frozen=True)
class OperatingPoint:
    """What makes a mask of one lesion's probabilities."""

    threshold: float = 0.5
    min_area_px: float = 0.0  # of a component at the network's size: smaller ones are dropped; 0 = none
    images: int = 0  # validation images that have the lesion; below MIN_IMAGES nothing was chosen by them
    dice: float | None = None  # pooled over the validation images, at this point
    dice_at_half: float | None = None  # and at a threshold of 0.5


@dataclass(frozen=True)
class OperatingPoints:
    """What is chosen on the validation images, kept beside the checkpoint."""

    lesions: Mapping[str, OperatingPoint] = field(default_factory=dict)  # by `lesion_names`; an absent one has 0.5
    temperature: float | None = None  # of the grades; None: no truly graded validation images, uncalibrated
    graded_images: int = 0  # that the temperature was fitted on
    step: int = -1  # of the checkpoint that they belong to; -1: nothing was chosen
    inference: Mapping[str, Any] = field(default_factory=dict)  # how the network was asked
    field_px: tuple[int, int] | None = None  # least and greatest longer side of the training photographs' field of view

    def of(self, name: str) -> OperatingPoint:
        return self.lesions.get(name, OperatingPoint())

    @classmethod
    def at(cls, threshold: float, names: Sequence[str], points: "OperatingPoints") -> "OperatingPoints":
        """The points with one threshold for every lesion, and no component dropped."""
        return dataclasses.replace(points, lesions={name: OperatingPoint(threshold) for name in names})


def lesion_names(target: str) -> tuple[str, ...]:
    """The masks that a network makes: one of any lesion, or one of each."""
    return ("lesion",) if target == "fused" else LESIONS


def mask_scores(probabilities: Float[np.ndarray, "... k"], target: str) -> Float[np.ndarray, "... l"]:
    """Probability of each of `lesion_names`."""
    return probabilities[..., 1:2] if target == "fused" else lesion_scores(probabilities, target)


def lesion_masks(
    bits: UInt8[np.ndarray, "h w"], probabilities: Float[np.ndarray, "h w k"], target: str, threshold: float
) -> tuple[dict[str, Bool[np.ndarray, "h w"]], dict[str, Bool[np.ndarray, "h w"]]]:
    """Truth and prediction inside the field of view, of any lesion or of each, as the network tells them apart."""
    valid = bits & MASK_BITS["valid"] != 0
    names, scores = lesion_names(target), mask_scores(probabilities, target)
    truth = {name: bits & MASK_BITS["fused" if name == "lesion" else name] != 0 for name in names}
    predicted = {name: (scores[..., i] > threshold) & valid for i, name in enumerate(names)}
    return truth, predicted


def drop_small_components(mask: Bool[np.ndarray, "h w"], min_area_px: float) -> Bool[np.ndarray, "h w"]:
    """The mask without components (8-connected) of fewer pixels."""
    if min_area_px <= 1:
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = np.asarray(stats[:, cv2.CC_STAT_AREA] >= min_area_px)
    kept[0] = False  # the background
    return kept[np.asarray(labels, np.intp)]


def make_masks(
    scores: Float[np.ndarray, "h w l"], names: Sequence[str], points: OperatingPoints, area_scale: float = 1.0
) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Masks at the operating points.

    Args:
        scores: Probabilities by lesion.
        names: Of the lesions.
        points: Thresholds and smallest components.
        area_scale: Pixels of `scores` to one at the network's size (`Geometry.area_scale`).
    """
    masks = {}
    for i, name in enumerate(names):
        point = points.of(name)
        masks[name] = drop_small_components(scores[..., i] > point.threshold, point.min_area_px * area_scale)
    return masks


class PairCounts(NamedTuple):
    """Pixels of one lesion in n images, at each of t thresholds with each of a smallest components."""

    tp: Int[np.ndarray, "n t a"]
    predicted: Int[np.ndarray, "n t a"]
    marked: Int[np.ndarray, "n 1 1"]


class PointSearch:
    """Counts every pair of threshold and smallest component over validation images, one image at a time."""

    def __init__(self, target: str):
        self.target, self.names = target, lesion_names(target)
        self.tp: list[Int[np.ndarray, "l t a"]] = []
        self.predicted: list[Int[np.ndarray, "l t a"]] = []
        self.marked: list[Int[np.ndarray, " l"]] = []

    def add(self, probabilities: Float[np.ndarray, "s s k"], mask_bits: UInt8[np.ndarray, "s s"]) -> None:
        """Counts one image; only pixels with the `valid` bit count."""
        valid = mask_bits & MASK_BITS["valid"] != 0
        scores = mask_scores(probabilities, self.target)
        shape = (len(self.names), len(THRESHOLDS), len(MIN_AREAS_PX))
        tp, predicted = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        marked = np.zeros(len(self.names), np.int64)
        for i, name in enumerate(self.names):
            truth = valid & (mask_bits & MASK_BITS["fused" if name == "lesion" else name] != 0)
            marked[i] = np.count_nonzero(truth)
            for t, threshold in enumerate(THRESHOLDS):
                area, true_positives = _components((scores[..., i] > threshold) & valid, truth)
                kept = area[:, None] >= np.array(MIN_AREAS_PX)
                predicted[i, t] = area @ kept
                tp[i, t] = true_positives @ kept
        for counts, one in ((self.tp, tp), (self.predicted, predicted), (self.marked, marked)):
            counts.append(one)

    def choose(self) -> dict[str, OperatingPoint]:
        """Of each lesion; 0.5 and no smallest component where fewer than `MIN_IMAGES` have it. See `_choose_pair`."""
        points = {}
        for name in self.names:
            counts = self.counts(name)
            images = int(np.count_nonzero(counts.marked))
            if images < MIN_IMAGES:
                points[name] = OperatingPoint(images=images)
                continue
            t, a = _choose_pair(counts)
            dices = pooled_dices(counts)
            threshold, min_area_px = float(THRESHOLDS[t]), float(MIN_AREAS_PX[a])
            points[name] = OperatingPoint(threshold, min_area_px, images, float(dices[t, a]), float(dices[HALF, 0]))
        return points

    def counts(self, name: str) -> PairCounts:
        """Of one lesion, image by image; at least one image was added."""
        i = self.names.index(name)
        tp, predicted, marked = (np.stack([one[i] for one in counts]) for counts in (self.tp, self.predicted, self.marked))
        return PairCounts(tp, predicted, marked[:, None, None])


def pooled_dices(counts: PairCounts) -> Float[np.ndarray, "t a"]:
    """Of every pair, over the images; 0 where there is nothing to find and nothing found."""
    tp, predicted, marked = (count.sum(axis=0) for count in counts)
    return _dices(tp, predicted, marked)


def _dices(tp: np.ndarray, predicted: np.ndarray, marked: np.ndarray) -> np.ndarray:
    return 2.0 * tp / np.maximum(predicted + marked, 1)


def _choose_pair(counts: PairCounts) -> tuple[int, int]:
    """The plainest pair whose pooled Dice is not worse than the best one's by more than one standard error.

    Plainest: the fewest places of THRESHOLDS and MIN_AREAS_PX away from 0.5 and from keeping all, then the highest Dice. A
    handful of images, one of which may hold most of the pixels, would else choose what does worse than 0.5 on the next ones.
    After the rule of Breiman et al. 1984, section 3.4.3; differs: the error is that of the difference between the two pairs,
    by the jackknife over images.
    """
    dices = pooled_dices(counts)
    best = np.unravel_index(np.argmax(dices), dices.shape)
    without = _dices(*(count.sum(axis=0) - count for count in counts))  # [n, t, a]: each image left out in turn
    deficits = without[:, *best][:, None, None] - without
    error = np.sqrt((len(without) - 1) * deficits.var(axis=0))
    thresholds, areas = np.indices(dices.shape)
    away = np.abs(thresholds - HALF) + areas
    alike = [at for at in np.ndindex(*dices.shape) if dices[best] - dices[at] <= error[at]]
    return min(alike, key=lambda at: (away[at], -dices[at]))


def _components(
    predicted: Bool[np.ndarray, "s s"], truth: Bool[np.ndarray, "s s"]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Area of each component, and how many of its pixels are right."""
    number, labels, stats, _ = cv2.connectedComponentsWithStats(predicted.astype(np.uint8), connectivity=8)
    true_positives = np.bincount(labels[truth], minlength=number)
    return stats[1:, cv2.CC_STAT_AREA].astype(np.int64), true_positives[1:]


class PointCounts:
    """True positives, predicted and marked pixels at the operating points, over many images."""

    def __init__(self, target: str, points: OperatingPoints):
        self.target, self.points, self.names = target, points, lesion_names(target)
        counted = ("fused", *(name for name in self.names if name != "lesion"))
        self.counts = {name: np.zeros(3, np.int64) for name in counted}

    def add(self, probabilities: np.ndarray, mask_bits: np.ndarray, area_scale: float = 1.0) -> None:
        """Counts one image, at any size; see `make_masks`."""
        valid = mask_bits & MASK_BITS["valid"] != 0
        masks = make_masks(mask_scores(probabilities, self.target), self.names, self.points, area_scale)
        masks["fused"] = np.logical_or.reduce(list(masks.values()))
        for name in self.counts:
            predicted, truth = masks[name] & valid, (mask_bits & MASK_BITS[name] != 0) & valid
            found = np.array([np.count_nonzero(mask) for mask in (predicted & truth, predicted, truth)], np.int64)
            self.counts[name] = self.counts[name] + found

    def compute(self) -> dict[str, float | None]:
        """`seg/NAME/dice_at_operating_point`, precision and recall; None where undefined."""
        figures: dict[str, float | None] = {}
        for name, counts in self.counts.items():
            tp, predicted, marked = (int(count) for count in counts)
            key = "foreground" if name == "fused" else name
            figures |= {
                f"seg/{key}/dice_at_operating_point": dice(tp, predicted, marked),
                f"seg/{key}/precision_at_operating_point": tp / predicted if predicted else None,
                f"seg/{key}/recall_at_operating_point": tp / marked if marked else None,
            }
        return figures


def write_points(directory: Path, points: OperatingPoints) -> None:
    write_json(directory / FILE, dataclasses.asdict(points))


def read_points(directory: Path, step: int) -> OperatingPoints:
    """The points beside a checkpoint; 0.5 and no calibration where there are none, or they belong to another step.

    Raises:
        CheckpointError: The file is not one of this version.
    """
    path = directory / FILE
    if not path.is_file():
        return OperatingPoints()
    try:
        values = read_json(path)
        lesions = {name: OperatingPoint(**point) for name, point in values.pop("lesions").items()}
        field_px = tuple(values.pop("field_px") or ()) or None
        points = OperatingPoints(lesions=lesions, field_px=field_px, **values)
    except (DataError, ValueError, TypeError, KeyError, AttributeError) as error:
        action = "remove it, or choose the points again: python main.py train goes on and ends with them"
        raise CheckpointError(path, str(error), "operating points as `train` writes them", action) from error
    return points if points.step == step else OperatingPoints()


def average_points(points: Sequence[OperatingPoints]) -> OperatingPoints:
    """Those of an ensemble, whose probabilities are averaged: thresholds and smallest components are averaged as well.

    Chosen by each network for itself, they are a guess for the mean; the temperatures are applied before it.
    """
    if len(points) == 1:
        return points[0]
    names = dict.fromkeys(name for one in points for name in one.lesions)
    lesions = {
        name: OperatingPoint(
            float(np.mean([one.of(name).threshold for one in points])),
            float(np.mean([one.of(name).min_area_px for one in points])),
        )
        for name in names
    }
    calibrated = all(one.temperature is not None for one in points)
    return dataclasses.replace(points[0], lesions=lesions, temperature=1.0 if calibrated else None)

"""Operating points: the threshold and the smallest component of each lesion's mask, chosen on validation images."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from pldmlt_jax.errors import CheckpointError, DataError
from pldmlt_jax.evaluation.metrics.segmentation import count_overlap, dice, lesion_scores
from pldmlt_jax.io.files import read_json, write_json
from pldmlt_jax.types import LESIONS, MASK_BITS

OPERATING_POINTS_FILE = "operating_points.json"
"""Name of the file, in a folder of checkpoints or of exported weights."""

THRESHOLDS = np.round(np.arange(0.05, 0.951, 0.05), 2)
MIN_AREAS_PX = (0, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Smallest components that are tried, in pixels at the network's size; 0 keeps all components."""

HALF = int(np.argmin(np.abs(THRESHOLDS - 0.5)))
"""Index of 0.5 in THRESHOLDS."""

MIN_IMAGES = 2
"""Validation images that must have a lesion for its point to be chosen: one image says nothing about the next."""


@dataclass(frozen=True)
class OperatingPoint:
    """How one lesion's probabilities become a mask.

    Attributes:
        threshold: A pixel is predicted where its probability is above it.
        min_area_px: Components with fewer pixels at the network's size are dropped; 0 keeps all.
        images: Validation images that have the lesion; below MIN_IMAGES the defaults are used.
        dice: Dice pooled over the validation images, at this point.
        dice_at_half: The same Dice at a threshold of 0.5, with all components kept.
    """

    threshold: float = 0.5
    min_area_px: float = 0.0
    images: int = 0
    dice: float | None = None
    dice_at_half: float | None = None


@dataclass(frozen=True)
class OperatingPoints:
    """What is chosen on the validation images and kept beside the checkpoint.

    Attributes:
        lesions: By `lesion_names`; a lesion that is absent has the default point.
        temperature: Temperature of the grade probabilities; None: uncalibrated, since no validation image was truly graded.
        graded_images: Images that the temperature was fitted on.
        step: Step of the checkpoint that the points belong to; -1: nothing was chosen.
        inference: The views and windows that the network was evaluated with.
        field_px: Smallest and largest longer side of the field of view, in pixels, of the training photographs.
    """

    lesions: Mapping[str, OperatingPoint] = field(default_factory=dict)
    temperature: float | None = None
    graded_images: int = 0
    step: int = -1
    inference: Mapping[str, Any] = field(default_factory=dict)
    field_px: tuple[int, int] | None = None

    def point_for(self, name: str) -> OperatingPoint:
        """Returns the point of a lesion."""
        return self.lesions.get(name, OperatingPoint())

    def with_threshold(self, threshold: float, names: Sequence[str]) -> "OperatingPoints":
        """Returns the points with one threshold for every lesion, and all components kept."""
        return dataclasses.replace(self, lesions={name: OperatingPoint(threshold) for name in names})


def lesion_names(target: str) -> tuple[str, ...]:
    """Returns the names of the masks that a network predicts: one of any lesion, or one of each."""
    return ("lesion",) if target == "fused" else LESIONS


def mask_scores(probabilities: Float[np.ndarray, "... k"], target: str) -> Float[np.ndarray, "... l"]:
    """Returns the probability of each of `lesion_names`."""
    return probabilities[..., 1:2] if target == "fused" else lesion_scores(probabilities, target)


def lesion_masks(
    bits: UInt8[np.ndarray, "h w"], probabilities: Float[np.ndarray, "h w k"], target: str, threshold: float
) -> tuple[dict[str, Bool[np.ndarray, "h w"]], dict[str, Bool[np.ndarray, "h w"]]]:
    """Returns true and predicted masks inside the field of view, by `lesion_names`."""
    valid = bits & MASK_BITS["valid"] != 0
    names, scores = lesion_names(target), mask_scores(probabilities, target)
    truth = {name: bits & MASK_BITS["fused" if name == "lesion" else name] != 0 for name in names}
    predicted = {name: (scores[..., i] > threshold) & valid for i, name in enumerate(names)}
    return truth, predicted


def drop_small_components(mask: Bool[np.ndarray, "h w"], min_area_px: float) -> Bool[np.ndarray, "h w"]:
    """Removes the 8-connected components of a mask that have fewer pixels."""
    if min_area_px <= 1:
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = np.asarray(stats[:, cv2.CC_STAT_AREA] >= min_area_px)
    kept[0] = False  # the background
    return kept[np.asarray(labels, np.intp)]


def make_masks(
    scores: Float[np.ndarray, "h w l"], names: Sequence[str], points: OperatingPoints, area_scale: float = 1.0
) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Makes masks by the operating points.

    Args:
        scores: Probability of each lesion.
        names: Names of the lesions.
        points: Thresholds and smallest components.
        area_scale: Pixels of `scores` per pixel at the network's size (`Geometry.area_scale`).
    """
    masks = {}
    for i, name in enumerate(names):
        point = points.point_for(name)
        masks[name] = drop_small_components(scores[..., i] > point.threshold, point.min_area_px * area_scale)
    return masks


class PairCounts(NamedTuple):
    """Pixels of one lesion in n images, for each pair of t thresholds and a smallest components."""

    true_positives: Int[np.ndarray, "n t a"]
    predicted: Int[np.ndarray, "n t a"]
    target: Int[np.ndarray, "n 1 1"]


class PointSearch:
    """Chooses operating points: counts every pair of threshold and smallest component, one validation image at a time."""

    def __init__(self, target: str):
        self.target, self.names = target, lesion_names(target)
        self.true_positives: list[Int[np.ndarray, "l t a"]] = []
        self.predicted: list[Int[np.ndarray, "l t a"]] = []
        self.target_px: list[Int[np.ndarray, " l"]] = []

    def add(self, probabilities: Float[np.ndarray, "s s k"], mask_bits: UInt8[np.ndarray, "s s"]) -> None:
        """Counts one image; only pixels with the `valid` bit count."""
        valid = mask_bits & MASK_BITS["valid"] != 0
        scores = mask_scores(probabilities, self.target)
        tp, predicted = np.zeros((2, len(self.names), len(THRESHOLDS), len(MIN_AREAS_PX)), np.int64)
        target_px = np.zeros(len(self.names), np.int64)
        for i, name in enumerate(self.names):
            truth = valid & (mask_bits & MASK_BITS["fused" if name == "lesion" else name] != 0)
            target_px[i] = np.count_nonzero(truth)
            for t, threshold in enumerate(THRESHOLDS):
                area, true_positives = _components((scores[..., i] > threshold) & valid, truth)
                kept = area[:, None] >= np.array(MIN_AREAS_PX)
                predicted[i, t] = area @ kept
                tp[i, t] = true_positives @ kept
        self.true_positives.append(tp)
        self.predicted.append(predicted)
        self.target_px.append(target_px)

    def choose(self) -> dict[str, OperatingPoint]:
        """Chooses the point of each lesion, see `_choose_pair`; the default where fewer than `MIN_IMAGES` images have it."""
        points = {}
        for name in self.names:
            counts = self.counts(name)
            images = int(np.count_nonzero(counts.target))
            if images < MIN_IMAGES:
                points[name] = OperatingPoint(images=images)
                continue
            t, a = _choose_pair(counts)
            dices = pooled_dices(counts)
            threshold, min_area_px = float(THRESHOLDS[t]), float(MIN_AREAS_PX[a])
            points[name] = OperatingPoint(threshold, min_area_px, images, float(dices[t, a]), float(dices[HALF, 0]))
        return points

    def counts(self, name: str) -> PairCounts:
        """Returns the counts of one lesion, image by image; at least one image must have been added."""
        i = self.names.index(name)
        of_images = (self.true_positives, self.predicted, self.target_px)
        tp, predicted, target_px = (np.stack([image[i] for image in counts]) for counts in of_images)
        return PairCounts(tp, predicted, target_px[:, None, None])


def pooled_dices(counts: PairCounts) -> Float[np.ndarray, "t a"]:
    """Computes the Dice of every pair, pooled over the images; 0 where truth and prediction are both empty."""
    return _dices(*(count.sum(axis=0) for count in counts))


def _dices(tp: np.ndarray, predicted: np.ndarray, target_px: np.ndarray) -> np.ndarray:
    return 2.0 * tp / np.maximum(predicted + target_px, 1)


def _choose_pair(counts: PairCounts) -> tuple[int, int]:
    """Chooses the plainest pair whose pooled Dice is within one standard error of the best one's.

    The plainest is the fewest steps of THRESHOLDS and MIN_AREAS_PX away from 0.5 and 0; among equals the highest Dice wins.
    With a handful of images, one of which may hold most of the pixels, the best pair itself often does worse than 0.5 on new
    images. After the rule of Breiman et al. 1984, section 3.4.3, except that the error is that of the difference between the
    two pairs, by the jackknife over images.

    Returns:
        Indices into THRESHOLDS and MIN_AREAS_PX.
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
    """Returns the area of each component, and how many of its pixels are in the truth."""
    number, labels, stats, _ = cv2.connectedComponentsWithStats(predicted.astype(np.uint8), connectivity=8)
    true_positives = np.bincount(labels[truth], minlength=number)
    return stats[1:, cv2.CC_STAT_AREA].astype(np.int64), true_positives[1:]


class PointCounts:
    """True positives, predicted and target pixels of masks at the operating points, over many images."""

    def __init__(self, target: str, points: OperatingPoints):
        self.target, self.points, self.names = target, points, lesion_names(target)
        counted = ("fused", *(name for name in self.names if name != "lesion"))
        self.counts = {name: np.zeros(3, np.int64) for name in counted}

    def add(self, probabilities: np.ndarray, mask_bits: np.ndarray, area_scale: float = 1.0) -> None:
        """Counts one image of any size; see `make_masks`."""
        valid = mask_bits & MASK_BITS["valid"] != 0
        masks = make_masks(mask_scores(probabilities, self.target), self.names, self.points, area_scale)
        masks["fused"] = np.logical_or.reduce(list(masks.values()))
        for name in self.counts:
            predicted, truth = masks[name] & valid, (mask_bits & MASK_BITS[name] != 0) & valid
            self.counts[name] = self.counts[name] + np.array(count_overlap(predicted, truth), np.int64)

    def compute(self) -> dict[str, float | None]:
        """Computes the metrics `seg/NAME/dice_at_operating_point`, precision and recall; None where undefined."""
        metrics: dict[str, float | None] = {}
        for name, counts in self.counts.items():
            tp, predicted, target_px = (int(count) for count in counts)
            key = "foreground" if name == "fused" else name
            metrics |= {
                f"seg/{key}/dice_at_operating_point": dice(tp, predicted, target_px),
                f"seg/{key}/precision_at_operating_point": tp / predicted if predicted else None,
                f"seg/{key}/recall_at_operating_point": tp / target_px if target_px else None,
            }
        return metrics


def write_points(directory: Path, points: OperatingPoints) -> None:
    """Writes the points to the OPERATING_POINTS_FILE of a folder."""
    write_json(directory / OPERATING_POINTS_FILE, dataclasses.asdict(points))


def read_points(directory: Path, step: int) -> OperatingPoints:
    """Reads the points beside a checkpoint; the default ones where there are none, or they belong to another step.

    Raises:
        CheckpointError: The file is damaged or was written by another version.
    """
    path = directory / OPERATING_POINTS_FILE
    if not path.is_file():
        return OperatingPoints()
    try:
        values = read_json(path)
        lesions = {name: OperatingPoint(**point) for name, point in values.pop("lesions").items()}
        field_px = tuple(values.pop("field_px") or ()) or None
        points = OperatingPoints(lesions=lesions, field_px=field_px, **values)
    except (DataError, ValueError, TypeError, KeyError, AttributeError) as error:
        action = "remove it, or choose the points again: `python main.py train` resumes and ends with that"
        raise CheckpointError(path, str(error), "operating points as `train` writes them", action) from error
    return points if points.step == step else OperatingPoints()


def average_points(points: Sequence[OperatingPoints]) -> OperatingPoints:
    """Averages the points of several networks, whose probabilities are averaged.

    Each network's points were chosen for itself, so the mean is only a guess. Temperatures are applied before averaging.
    """
    if len(points) == 1:
        return points[0]
    names = dict.fromkeys(name for one in points for name in one.lesions)
    lesions = {
        name: OperatingPoint(
            float(np.mean([one.point_for(name).threshold for one in points])),
            float(np.mean([one.point_for(name).min_area_px for one in points])),
        )
        for name in names
    }
    calibrated = all(one.temperature is not None for one in points)
    return dataclasses.replace(points[0], lesions=lesions, temperature=1.0 if calibrated else None)

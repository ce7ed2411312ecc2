"""Figures of many runs together: mean and standard deviation, and paired differences with an interval.

Intervals are percentiles of a bootstrap over images: how much a difference hangs on the images that happen to be held out.
How much it hangs on the training is seen in the standard deviation over folds and seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pldmlt_jax.types import NUM_GRADES

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles."""

Row = Mapping[str, str]
"""A line of a CSV by column."""

Key = tuple[int, str]
"""An image: the fold that holds it out, and its name."""


class PerImageResults(NamedTuple):
    """What a complete run says of each held-out image."""

    fold: int
    seed: int
    images: Sequence[Row]  # of `per_image.csv`
    graded: Sequence[Row]  # of the table of graded images


def aggregate_runs(runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Mean, sample standard deviation (None of one run) and number of runs of every figure that is a number in some run."""
    values: dict[str, list[float]] = {}
    for figures in runs:
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(name, []).append(float(value))
    return {
        name: {
            "mean": float(np.mean(found)),
            "sd": float(np.std(found, ddof=1)) if len(found) > 1 else None,
            "n": len(found),
        }
        for name, found in values.items()
    }


def overlap_metrics(counts: Float[np.ndarray, "r 4"]) -> dict[str, Float[np.ndarray, "r"]]:
    """Figures of pooled pixels, by the names and definitions of `SegmentationCounts`; NaN where undefined.

    Args:
        counts: Lesion pixels in prediction and truth, in the prediction, in the truth; valid pixels.
    """
    tp, predicted, marked, valid = counts.T
    tn, absent, unmarked = valid - predicted - marked + tp, valid - predicted, valid - marked

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)

    def mean_of_defined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(a), b, np.where(np.isnan(b), a, (a + b) / 2))

    lesion, background = ratio(2 * tp, predicted + marked), ratio(2 * tn, absent + unmarked)
    lesion_iou, background_iou = ratio(tp, predicted + marked - tp), ratio(tn, absent + unmarked - tn)
    return {
        "seg/foreground/dice": lesion,
        "seg/foreground/iou": lesion_iou,
        "seg/foreground/precision": ratio(tp, predicted),
        "seg/foreground/recall": ratio(tp, marked),
        "seg/micro_bg/dice": ratio(tp + tn, valid),
        "seg/micro_bg/iou": ratio(tp + tn, 2 * valid - tp - tn),
        "seg/macro_bg/dice": mean_of_defined(lesion, background),
        "seg/macro_bg/iou": mean_of_defined(lesion_iou, background_iou),
    }


def grading_count_metrics(counts: Float[np.ndarray, "r c c"]) -> dict[str, Float[np.ndarray, "r"]]:
    """Accuracy and quadratic weighted kappa of confusion matrices; NaN where undefined."""
    grades = np.arange(NUM_GRADES)
    distance = (grades[:, None] - grades) ** 2
    total = counts.sum(axis=(1, 2))
    expected = counts.sum(axis=2)[:, :, None] * counts.sum(axis=1)[:, None, :] / np.maximum(total, 1e-9)[:, None, None]
    disagreement = (distance * expected).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "grade/accuracy": np.trace(counts, axis1=1, axis2=2) / total,
            "grade/kappa": 1.0 - (distance * counts).sum(axis=(1, 2)) / disagreement,
        }


def paired_differences(
    ours: Sequence[PerImageResults], theirs: Sequence[PerImageResults], *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Every figure of `ours` less that of `theirs`, over the folds and seeds and images that both have.

    Pixels (answers, for grades) of an image are added up over the seeds, and those of all images over the folds.

    Returns:
        By figure: `difference`, `low` and `high` (95 %, bootstrap over images), and `images`. The same seed gives the same.
    """
    both = {(cell.fold, cell.seed) for cell in ours} & {(cell.fold, cell.seed) for cell in theirs}
    a, b = ([cell for cell in cells if (cell.fold, cell.seed) in both] for cells in (ours, theirs))
    found: dict[str, dict[str, Any]] = {}
    for suffix in ("", "_original_size"):
        first, second = (_pixels(cells, suffix) for cells in (a, b))
        images = sorted(first.keys() & second.keys())
        if images:
            x, y = (np.array([part[key] for key in images]) for part in (first, second))
            weights = _weights(len(images), seed)
            differences = {
                name: value - overlap_metrics(weights @ y)[name] for name, value in overlap_metrics(weights @ x).items()
            }
            per_image = overlap_metrics(x)["seg/foreground/dice"] - overlap_metrics(y)["seg/foreground/dice"]
            defined = np.isfinite(per_image)
            with np.errstate(invalid="ignore"):
                mean = weights[:, defined] @ per_image[defined] / weights[:, defined].sum(axis=1)
            differences["seg/foreground/dice_per_image"] = mean
            found |= {f"{name}{suffix}": _interval(values, len(images)) for name, values in differences.items()}
    first, second = (_answers(cells) for cells in (a, b))
    images = sorted(first.keys() & second.keys())
    if images:
        x, y = (np.array([part[key] for key in images]).reshape(len(images), -1) for part in (first, second))
        weights, shape = _weights(len(images), seed), (-1, NUM_GRADES, NUM_GRADES)
        before, after = (grading_count_metrics((weights @ part).reshape(shape)) for part in (y, x))
        found |= {name: _interval(after[name] - before[name], len(images)) for name in after}
    return {name: values for name, values in found.items() if values["difference"] is not None}


def _weights(number: int, seed: int) -> Float[np.ndarray, "r n"]:
    """How often each image is drawn: once each in the first row, which gives the figure itself, then in the resamples."""
    drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1.0 / number), RESAMPLES)
    return np.concatenate([np.ones((1, number)), drawn]).astype(float)


def _interval(values: Float[np.ndarray, "r"], images: int) -> dict[str, Any]:
    defined = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(defined):
        return {"difference": None}
    low, high = np.percentile(defined, INTERVAL)
    return {"difference": float(values[0]), "low": float(low), "high": float(high), "images": images}


def _pixels(cells: Sequence[PerImageResults], suffix: str) -> dict[Key, np.ndarray]:
    """Pixels of each image (see `overlap_metrics`), over the seeds."""
    columns = [f"{name}{suffix}" for name in ("overlap_px", "predicted_px", "truth_px", "valid_px")]
    found: dict[Key, np.ndarray] = {}
    for cell in cells:
        for row in cell.images:
            if all(row.get(column) for column in columns):
                counts = np.array([float(row[column]) for column in columns])
                found[cell.fold, row["image"]] = found.get((cell.fold, row["image"]), 0.0) + counts
    return found


def _answers(cells: Sequence[PerImageResults]) -> dict[Key, np.ndarray]:
    """The confusion matrix of each graded image, over the seeds."""
    found: dict[Key, np.ndarray] = {}
    for cell in cells:
        for row in cell.graded:
            counts = np.zeros((NUM_GRADES, NUM_GRADES))
            counts[int(row["true_grade"]), int(row["predicted_grade"])] = 1.0
            found[cell.fold, row["image"]] = found.get((cell.fold, row["image"]), 0.0) + counts
    return found

"""Statistics over runs: mean and standard deviation of metrics, and paired differences with an interval.

The intervals are percentiles of a bootstrap over images. They show how much a difference depends on which images are held
out; the standard deviation over folds and seeds shows how much a metric depends on the training.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pldmlt_jax.evaluation.metrics.grading import accuracy, quadratic_kappa
from pldmlt_jax.evaluation.metrics.segmentation import dice, overlap_metrics
from pldmlt_jax.evaluation.original_size import ORIGINAL
from pldmlt_jax.types import NUM_GRADES

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of the resamples that bound the interval."""

ImageKey = tuple[int, str]
"""An image: the fold that holds it out, and its name."""


class PerImageResults(NamedTuple):
    """Results of one complete run for each held-out image, as rows of CSV files by column."""

    fold: int
    seed: int
    images: Sequence[Mapping[str, str]]  # of `per_image.csv`
    graded: Sequence[Mapping[str, str]]  # of `per_graded_image.csv`


def aggregate_runs(runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Summarises the metrics of several runs.

    Args:
        runs: Metrics of each run by name; values that are not numbers are ignored.

    Returns:
        By metric: `mean`, `sd` (sample standard deviation, None for a single run) and `n` (runs that have it).
    """
    values: dict[str, list[float]] = {}
    for metrics in runs:
        for name, value in metrics.items():
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


def paired_differences(
    ours: Sequence[PerImageResults], theirs: Sequence[PerImageResults], *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Compares two methods on the folds, seeds and images that both have.

    The pixels (or graded answers) of an image are summed over the seeds, those of all images over the folds.

    Args:
        ours: Runs of the first method.
        theirs: Runs of the second one.
        seed: Seed of the bootstrap; the same seed gives the same intervals.

    Returns:
        By metric: `difference` (`ours` minus `theirs`), `low` and `high` (95 % bootstrap interval) and `images`. Metrics
        that are undefined for either method are left out.
    """
    both = {(run.fold, run.seed) for run in ours} & {(run.fold, run.seed) for run in theirs}
    pairs = [[run for run in runs if (run.fold, run.seed) in both] for runs in (ours, theirs)]
    intervals: dict[str, dict[str, Any]] = {}
    for suffix in ("", ORIGINAL):
        x, y = _common_images(*(_pixel_counts(runs, suffix) for runs in pairs))
        if len(x):
            weights = _bootstrap_weights(len(x), seed)
            differences = _resampled_differences(_pixel_metrics, x, y, weights)
            differences["seg/foreground/dice_per_image"] = _mean_dice_difference(x, y, weights)
            intervals |= {f"{name}{suffix}": _interval(values, len(x)) for name, values in differences.items()}
    x, y = _common_images(*(_confusion_matrices(runs) for runs in pairs))
    if len(x):
        differences = _resampled_differences(_grade_metrics, x, y, _bootstrap_weights(len(x), seed))
        intervals |= {name: _interval(values, len(x)) for name, values in differences.items()}
    return {name: values for name, values in intervals.items() if values["difference"] is not None}


def _pixel_metrics(counts: Float[np.ndarray, "4"]) -> dict[str, float | None]:
    return overlap_metrics(*counts.tolist())


def _grade_metrics(counts: Float[np.ndarray, "25"]) -> dict[str, float | None]:
    confusion = counts.reshape(NUM_GRADES, NUM_GRADES)
    return {"grade/accuracy": accuracy(confusion), "grade/kappa": quadratic_kappa(confusion)}


def _resampled_differences(
    metrics_of: Callable[[np.ndarray], dict[str, float | None]],
    x: Float[np.ndarray, "n c"],
    y: Float[np.ndarray, "n c"],
    weights: Float[np.ndarray, "r n"],
) -> dict[str, Float[np.ndarray, "r"]]:
    """Returns the differences of each metric between two methods, one for each row of weights; NaN if undefined."""
    ours, theirs = ([metrics_of(counts) for counts in weights @ part] for part in (x, y))
    return {
        name: np.array([metrics[name] for metrics in ours], float) - np.array([metrics[name] for metrics in theirs], float)
        for name in ours[0]
    }


def _mean_dice_difference(
    x: Float[np.ndarray, "n 4"], y: Float[np.ndarray, "n 4"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, "r"]:
    """Returns the mean over images of the difference of lesion Dice, for each row of weights; NaN if undefined."""
    ours, theirs = (np.array([dice(*counts[:3]) for counts in part], float) for part in (x, y))
    defined = np.isfinite(ours - theirs)
    with np.errstate(invalid="ignore"):
        return weights[:, defined] @ (ours - theirs)[defined] / weights[:, defined].sum(axis=1)


def _bootstrap_weights(number: int, seed: int) -> Float[np.ndarray, "r n"]:
    """Returns how often each image is drawn: once each in the first row, for the difference itself, then at random."""
    resampled = np.random.default_rng(seed).multinomial(number, np.full(number, 1.0 / number), RESAMPLES)
    return np.concatenate([np.ones((1, number)), resampled]).astype(float)


def _interval(values: Float[np.ndarray, "r"], images: int) -> dict[str, Any]:
    """Returns the difference (the first value) with the percentiles of the resampled ones."""
    resampled = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(resampled):
        return {"difference": None}
    low, high = np.percentile(resampled, INTERVAL)
    return {"difference": float(values[0]), "low": float(low), "high": float(high), "images": images}


def _common_images(
    ours: Mapping[ImageKey, np.ndarray], theirs: Mapping[ImageKey, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the counts of the images that both methods have, in the same order: [n, c] each, or empty."""
    images = sorted(ours.keys() & theirs.keys())
    x, y = (np.array([counts[key] for key in images]) for counts in (ours, theirs))
    return x, y


def _pixel_counts(runs: Sequence[PerImageResults], suffix: str) -> dict[ImageKey, np.ndarray]:
    """Sums the pixels of each image over the seeds, for `overlap_metrics`."""
    columns = [f"{name}{suffix}" for name in ("overlap_px", "predicted_px", "truth_px", "valid_px")]
    found: dict[ImageKey, np.ndarray] = {}
    for run in runs:
        for row in run.images:
            if all(row.get(column) for column in columns):
                counts = np.array([float(row[column]) for column in columns])
                found[run.fold, row["image"]] = found.get((run.fold, row["image"]), 0.0) + counts
    return found


def _confusion_matrices(runs: Sequence[PerImageResults]) -> dict[ImageKey, np.ndarray]:
    """Sums the flattened confusion matrix of each graded image over the seeds."""
    found: dict[ImageKey, np.ndarray] = {}
    for run in runs:
        for row in run.graded:
            counts = np.zeros(NUM_GRADES**2)
            counts[NUM_GRADES * int(row["true_grade"]) + int(row["predicted_grade"])] = 1.0
            found[run.fold, row["image"]] = found.get((run.fold, row["image"]), 0.0) + counts
    return found

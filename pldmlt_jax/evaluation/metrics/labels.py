"""Metrics of the label network: how it changes right and wrong labels, and the gradients on the encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pldmlt_jax.types import NUM_GRADES

LOGGED_METRICS = (
    *("grad_norm/seg_encoder", "grad_norm/grade_encoder", "grad_cosine_encoder"),
    *("grad_norm/grade_encoder_fixed", "grad_cosine_encoder_fixed", "direct_norm", "indirect_norm"),
    *("agreement/pseudo_label", "agreement/head", "label_entropy"),
)
"""Per-step metrics of `log.jsonl` that are summarised over training."""

FIRST_STEP_METRICS = ("direct_norm", "indirect_norm")
"""Metrics that are also reported for the first meta step: once the labels have collapsed, both are zero."""


def label_quality_metrics(
    labels: Float[np.ndarray, "n c"],
    given: Int[np.ndarray, "n"],
    true: Int[np.ndarray, "n"],
    allowed: Bool[np.ndarray, "n c"],
) -> dict[str, Any]:
    """Counts how many wrong labels the update repairs and how many right ones it spoils.

    Args:
        labels: Soft labels after the update; rows sum to 1, and the arg-max is the updated grade.
        given: Labels before the update, 0 to 4.
        true: True grades, 0 to 4.
        allowed: Grades that the hierarchy allows each image. The `..._by_hierarchy` baselines apply it alone: an allowed
            label stays, any other is replaced by an allowed grade at random.

    Returns:
        The metrics by name (see docs/metrics.md); None where no label is of the kind that is counted.
        `labels/repaired` is the share of the wrong labels whose updated grade is the true one, `labels/spoilt` the share of
        the right labels whose updated grade is not. The others are the accuracy before and after the update, and the mean
        weight of the true grade.
    """
    rows, wrong = np.arange(len(given)), given != true
    right_after = labels.argmax(axis=1) == true
    kept = allowed[rows, given][:, None]
    by_hierarchy = np.where(kept, np.eye(NUM_GRADES)[given], allowed / np.maximum(allowed.sum(axis=1, keepdims=True), 1))

    def mean(values: np.ndarray) -> float | None:
        return float(values.mean()) if len(values) else None

    return {
        "labels/n": len(given),
        "labels/n_wrong": int(wrong.sum()),
        "labels/repaired": mean(right_after[wrong]),
        "labels/spoilt": mean(~right_after[~wrong]),
        "labels/repaired_by_hierarchy": mean(by_hierarchy[rows, true][wrong]),
        "labels/spoilt_by_hierarchy": mean(1.0 - by_hierarchy[rows, true][~wrong]),
        "labels/accuracy_before": mean(~wrong),
        "labels/accuracy_after": mean(right_after),
        "labels/true_weight_of_wrong": mean(labels[rows, true][wrong]),
        "labels/true_weight_of_right": mean(labels[rows, true][~wrong]),
    }


def label_training_metrics(log: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Summarises the gradients and labels of a training run.

    Args:
        log: Lines of `log.jsonl`.

    Returns:
        `train/NAME` for each of LOGGED_METRICS: the median over the second half of training. `train/NAME_at_start` for each
        of FIRST_STEP_METRICS: the first value. What was not logged is left out.
    """
    last = max((line["step"] for line in log), default=0)
    metrics = {}
    for name in LOGGED_METRICS:
        values = [line[name] for line in log if line["step"] > last / 2 and line.get(name) is not None]
        if values:
            metrics[f"train/{name}"] = float(np.median(values))
    for name in FIRST_STEP_METRICS:
        metrics |= {f"train/{name}_at_start": float(line[name]) for line in log[::-1] if line.get(name) is not None}
    return metrics

"""What the label network has done: to right and to wrong labels, and to the gradients that they send into the encoder."""

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
"""Figures of single steps in `log.jsonl` that are summed up over training."""

FIRST_STEP_METRICS = ("direct_norm", "indirect_norm")
"""Those that are also told of the first meta step: once the labels have collapsed, both are zero."""


def label_quality_metrics(
    labels: Float[np.ndarray, "n c"],
    given: Int[np.ndarray, "n"],
    true: Int[np.ndarray, "n"],
    allowed: Bool[np.ndarray, "n c"],
) -> dict[str, Any]:
    """How many wrong labels were repaired and right ones spoilt; None where there is none of the kind.

    Args:
        labels: The soft labels, rows sum to 1; the arg-max is the updated grade.
        given: The labels before, 0..4.
        true: True grades, 0..4.
        allowed: The grades that the hierarchy allows each image. `..._by_hierarchy` is what it does without learning: a
            given label stays where it is allowed, else one of the allowed grades is drawn.

    Returns:
        `labels/repaired`: share of the wrong labels whose updated grade is the true one; `labels/spoilt`: share of the
        right ones whose updated grade is not; accuracy before and after, and the mean weight of the true grade.
    """
    rows, wrong = np.arange(len(given)), given != true
    right_now = labels.argmax(axis=1) == true
    kept = allowed[rows, given][:, None]
    untrained = np.where(kept, np.eye(NUM_GRADES)[given], allowed / np.maximum(allowed.sum(axis=1, keepdims=True), 1))

    def mean(values: np.ndarray) -> float | None:
        return float(values.mean()) if len(values) else None

    return {
        "labels/n": len(given),
        "labels/n_wrong": int(wrong.sum()),
        "labels/repaired": mean(right_now[wrong]),
        "labels/spoilt": mean(~right_now[~wrong]),
        "labels/repaired_by_hierarchy": mean(untrained[rows, true][wrong]),
        "labels/spoilt_by_hierarchy": mean(1.0 - untrained[rows, true][~wrong]),
        "labels/accuracy_before": mean(~wrong),
        "labels/accuracy_after": mean(right_now),
        "labels/true_weight_of_wrong": mean(labels[rows, true][wrong]),
        "labels/true_weight_of_right": mean(labels[rows, true][~wrong]),
    }


def label_training_metrics(log: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians of what was logged in the second half of training, by name, `train/` in front; see also FIRST_STEP_METRICS.

    The gradients' norms on the encoder tell whether the tasks are balanced, those over theta_1 what moves the labels.
    """
    last = max((line["step"] for line in log), default=0)
    figures = {}
    for name in LOGGED_METRICS:
        values = [line[name] for line in log if line["step"] > last / 2 and line.get(name) is not None]
        if values:
            figures[f"train/{name}"] = float(np.median(values))
    for name in FIRST_STEP_METRICS:
        figures |= {f"train/{name}_at_start": float(line[name]) for line in log[::-1] if line.get(name) is not None}
    return figures

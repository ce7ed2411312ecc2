"""Repaired and spoilt labels, counted by hand."""

import numpy as np
import pytest

from pldmlt_jax.evaluation.metrics.labels import label_quality_metrics, label_training_metrics

EVERY = np.ones((4, 5), bool)


def test_repaired_and_spoilt_labels_are_counted_by_hand():
    """Of two wrong labels one becomes right and one another wrong grade; of two right ones one is lost."""
    given, true = np.array([1, 4, 2, 3]), np.array([0, 0, 2, 3])
    labels = np.array(
        [[0.6, 0.4, 0, 0, 0], [0.1, 0.2, 0.7, 0, 0], [0, 0, 0.8, 0.2, 0], [0, 0.5, 0, 0.3, 0.2]],
    )
    metrics = label_quality_metrics(labels, given, true, EVERY)
    assert (metrics["labels/n"], metrics["labels/n_wrong"]) == (4, 2)
    assert (metrics["labels/repaired"], metrics["labels/spoilt"]) == (0.5, 0.5)
    assert (metrics["labels/accuracy_before"], metrics["labels/accuracy_after"]) == (0.5, 0.5)
    assert metrics["labels/true_weight_of_wrong"] == pytest.approx((0.6 + 0.1) / 2)
    assert metrics["labels/true_weight_of_right"] == pytest.approx((0.8 + 0.3) / 2)
    assert (metrics["labels/repaired_by_hierarchy"], metrics["labels/spoilt_by_hierarchy"]) == (0.0, 0.0)


def test_labels_that_stay_repair_and_spoil_nothing():
    given, true = np.array([1, 4, 2, 3]), np.array([0, 0, 2, 3])
    metrics = label_quality_metrics(np.eye(5)[given], given, true, EVERY)
    assert (metrics["labels/repaired"], metrics["labels/spoilt"]) == (0.0, 0.0)
    clean = label_quality_metrics(np.eye(5)[true], true, true, EVERY)
    assert clean["labels/repaired"] is None and clean["labels/spoilt"] == 0.0


def test_what_the_hierarchy_does_alone():
    """A label that it excludes becomes each of the allowed grades with equal chance; one that it allows stays."""
    given, true = np.array([1, 1, 2, 3]), np.array([0, 3, 2, 3])
    allowed = np.array([[1, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
    metrics = label_quality_metrics(np.eye(5)[given], given, true, allowed)
    assert metrics["labels/repaired_by_hierarchy"] == pytest.approx((1 + 1 / 3) / 2)
    assert metrics["labels/spoilt_by_hierarchy"] == pytest.approx(0.5)  # the last: its true grade is excluded


def test_training_is_summed_up_by_medians_of_its_second_half():
    log = [{"step": step, "phase": "theta", "grad_norm/seg_encoder": value} for step, value in ((5, 9), (6, 1), (10, 3))]
    log += [{"step": 8, "phase": "label", "direct_norm": 0.5, "label_histogram": [1.0]}, {"step": 9, "direct_norm": None}]
    log.insert(0, {"step": 4, "phase": "label", "direct_norm": 7.0})
    assert label_training_metrics(log) == {
        "train/grad_norm/seg_encoder": 2.0, "train/direct_norm": 0.5, "train/direct_norm_at_start": 7.0,
    }  # fmt: skip
    assert label_training_metrics([]) == {}

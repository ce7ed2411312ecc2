"""The losses against closed forms, and at their limits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.config import LossConfig
from pldmlt_jax.method import losses
from pldmlt_jax.types import LESIONS, MASK_BITS
from tests.method.methods import tiny_batch


def test_focal_by_hand():
    p = np.array([0.7, 0.2, 0.1])
    expected = -0.25 * (1 - 0.2) ** 2 * np.log(0.2)
    actual = losses.categorical_focal(jnp.log(p), jnp.array([0.0, 1.0, 0.0]), 0.25, 2.0)
    assert float(actual) == pytest.approx(expected, rel=1e-6)


def test_gamma_zero_is_weighted_cross_entropy():
    logits = jnp.array([[2.0, -1.0, 0.5]])
    target = jnp.array([[0.2, 0.3, 0.5]])
    expected = -0.25 * (target * jax.nn.log_softmax(logits)).sum()
    assert float(losses.categorical_focal(logits, target, 0.25, 0.0)[0]) == pytest.approx(float(expected), rel=1e-6)


def test_focal_is_linear_in_soft_labels():
    logits = jnp.array([[2.0, -1.0, 0.5]])
    whole = losses.categorical_focal(logits, jnp.array([[0.25, 0.0, 0.75]]), 0.25, 2.0)
    parts = [losses.categorical_focal(logits, jnp.eye(3)[None, i], 0.25, 2.0) for i in (0, 2)]
    assert float(whole[0]) == pytest.approx(float(0.25 * parts[0][0] + 0.75 * parts[1][0]), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_saturated_logits_have_finite_loss_and_gradient(scale, gamma):
    logits = scale * jnp.array([[1.0, -1.0]])
    for target in (jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])):
        value, slope = jax.value_and_grad(lambda z, t=target: losses.categorical_focal(z, t, 0.25, gamma).sum())(logits)
        assert np.isfinite(float(value))
        assert np.isfinite(np.asarray(slope)).all()
    wrong = losses.categorical_focal(logits, jnp.array([[0.0, 1.0]]), 0.25, gamma)
    assert float(wrong[0]) == pytest.approx(0.25 * 2 * scale, rel=1e-5)


def test_binary_focal_by_hand_for_both_alphas():
    logits, target = jnp.array([[0.3, -1.2]]), jnp.array([[1.0, 0.0]])
    p = 1 / (1 + np.exp(-np.array([0.3, -1.2])))
    for name, (positive, negative) in (("retinanet", (0.25, 0.75)), ("keras", (0.25, 0.25))):
        expected = -positive * (1 - p[0]) ** 2 * np.log(p[0]) - negative * p[1] ** 2 * np.log(1 - p[1])
        actual = losses.binary_focal(logits, target, 0.25, 2.0, name)
        assert float(actual[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("target", sorted(losses.TARGETS))
def test_keras_reduction_divides_by_the_channels(target):
    batch = tiny_batch()
    channels = losses.segmentation_target(batch.mask_bits, target).shape[-1]
    logits = jax.random.normal(jax.random.key(0), (*batch.mask_bits.shape, channels))
    values = [
        float(losses.segmentation_loss(logits, batch, LossConfig(target=target, reduction=reduction)))
        for reduction in ("keras", "pixel_mean")
    ]
    assert values[0] == pytest.approx(values[1] / channels, rel=1e-5)


@pytest.mark.parametrize("target", sorted(losses.TARGETS))
@pytest.mark.parametrize("name", sorted(losses.SEGMENTATION_LOSSES))
def test_only_valid_pixels_count_and_a_lesion_free_batch_is_finite(name, target):
    batch = tiny_batch()
    config = LossConfig(target=target, segmentation=name)
    channels = losses.segmentation_target(batch.mask_bits, target).shape[-1]
    logits = jax.random.normal(jax.random.key(0), (*batch.mask_bits.shape, channels))
    invalid = (batch.mask_bits & MASK_BITS["valid"]) == 0
    assert bool(invalid.any())
    changed = jnp.where(invalid[..., None], 50.0 - logits, logits)
    value = losses.segmentation_loss(logits, batch, config)
    assert float(losses.segmentation_loss(changed, batch, config)) == pytest.approx(float(value), rel=1e-6)
    free = dataclasses.replace(batch, mask_bits=batch.mask_bits & MASK_BITS["valid"])
    value, slope = jax.value_and_grad(lambda z: losses.segmentation_loss(z, free, config))(logits)
    assert np.isfinite(float(value))
    assert np.isfinite(np.asarray(slope)).all()


def test_dice_ce_is_zero_for_a_perfect_prediction():
    batch = tiny_batch()
    config = LossConfig(segmentation="dice_ce")
    logits = 100.0 * (2.0 * losses.segmentation_target(batch.mask_bits, "fused") - 1.0)
    assert float(losses.segmentation_loss(logits, batch, config)) == pytest.approx(0.0, abs=1e-5)


def test_where_lesions_overlap_the_later_one_wins():
    bits = jnp.array([[[MASK_BITS["EX"] | MASK_BITS["HE"], MASK_BITS["HE"] | MASK_BITS["SE"]], [126, 0]]], jnp.uint8)
    label = losses.segmentation_target(bits, "exclusive").argmax(axis=-1)[0]
    expected = [[1 + LESIONS.index("HE"), 1 + LESIONS.index("SE")], [1 + LESIONS.index("MA"), 0]]
    np.testing.assert_array_equal(label, expected)

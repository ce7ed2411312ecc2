"""Losses stay finite at the limits of numbers, and steps detect a loss or gradient that is not finite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.config import GraderConfig, LossConfig, MetaConfig
from pldmlt_jax.method import losses
from pldmlt_jax.method.grader import Grader, grader_step, init_grader, init_grader_state
from pldmlt_jax.method.state import Method, MethodState, init_method_state
from pldmlt_jax.method.steps import meta_step, train_step
from pldmlt_jax.models.build import build_grader
from pldmlt_jax.types import MASK_BITS, Batch
from tests.method.methods import tiny_batch, tiny_method

LESIONS_EVERYWHERE = sum(MASK_BITS[name] for name in ("valid", "MA", "HE", "EX", "SE", "fused"))

BATCHES = {
    "lesions": lambda b: b,
    "no lesion": lambda b: dataclasses.replace(b, mask_bits=jnp.full_like(b.mask_bits, MASK_BITS["valid"])),
    "one class": lambda b: dataclasses.replace(b, mask_bits=jnp.full_like(b.mask_bits, LESIONS_EVERYWHERE)),
    "all black": lambda b: dataclasses.replace(b, mask_bits=jnp.zeros_like(b.mask_bits), image=jnp.zeros_like(b.image)),
    "nothing counts": lambda b: dataclasses.replace(b, sample_mask=jnp.zeros_like(b.sample_mask)),
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("segmentation", sorted(losses.SEGMENTATION_LOSSES))
@pytest.mark.parametrize("target", sorted(losses.TARGETS))
def test_losses_of_saturated_logits_are_finite_with_their_gradients(target, segmentation, dtype, kind):
    """Logits of 1e4 and more, right and wrong at once."""
    batch = BATCHES[kind](tiny_batch())
    config = LossConfig(target=target, segmentation=segmentation)
    channels = losses.segmentation_target(batch.mask_bits, target).shape[-1]
    signs = np.random.default_rng(0).choice([-1e4, 0.0, 3e4], (*batch.mask_bits.shape, channels))
    grades = jnp.asarray([[3e4, -1e4, 0.0, 0.0, -3e4]] * 2, dtype)
    soft = jnp.asarray([[0.0, 1.0, 0.0, 0.0, 0.0], [0.2] * 5], dtype)

    def loss(logits, grade_logits):
        parts = losses.segmentation_loss(logits, batch, config)
        return parts + 0.8 * losses.grading_loss(grade_logits, soft, batch, config)

    value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(jnp.asarray(signs, dtype), grades)
    assert bool(jnp.isfinite(value))
    assert all(bool(jnp.isfinite(slope).all()) for slope in slopes)
    if kind == "nothing counts":
        assert not any(bool(jnp.any(slope)) for slope in slopes)


def method_of(dtype: str = "float32") -> Method:
    shape = {"encoder_filters": (4, 6), "encoder_convs": (1, 1), "decoder_filters": (6, 4)}
    return tiny_method(model=shape, dtype=dtype, meta=MetaConfig(hidden=(8,), optimizer="adam"))


def float32(batch: Batch) -> Batch:
    return dataclasses.replace(batch, sample_mask=batch.sample_mask.astype(jnp.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_steps_are_finite_on_images_without_lesion_of_one_class_and_all_black(dtype):
    method = method_of(dtype)
    for kind, change in BATCHES.items():
        state, batch = init_method_state(method), float32(change(tiny_batch()))
        for step in (train_step, meta_step):
            state, metrics = step(state, batch, method=method)
            assert bool(metrics["finite"]), kind
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state)), kind


def with_infinity(state: MethodState) -> MethodState:
    """A state with an infinite parameter of theta, which makes the loss NaN."""
    params = jax.tree.map(lambda leaf: leaf, state.network.params)
    leaves, tree = jax.tree.flatten(params)
    leaves[0] = jnp.full_like(leaves[0], jnp.inf)
    return dataclasses.replace(state, network=dataclasses.replace(state.network, params=jax.tree.unflatten(tree, leaves)))


@pytest.mark.parametrize("step", [train_step, meta_step])
def test_a_step_that_is_not_finite_changes_only_the_count_of_steps(step):
    method, batch = method_of(), float32(tiny_batch())
    state = init_method_state(method)
    broken = with_infinity(state)
    kept, metrics = step(broken, batch, method=method)
    assert not bool(metrics["finite"]) and int(kept.step) == 1
    jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(kept, step=broken.step), broken)
    changed, metrics = step(state, batch, method=method)
    assert bool(metrics["finite"]) and int(changed.step) == 1
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(state), strict=True))


def test_graders_steps_are_the_same():
    config = GraderConfig(architectures=("vgg16",), weights=("",), base_filters=16)
    grader = Grader(build_grader("vgg16", config), config, total_steps=10)
    batch = float32(tiny_batch())
    state = init_grader_state(grader, init_grader(grader, jax.random.key(0)))
    changed, metrics = grader_step(state, batch, grader=grader)
    assert bool(metrics["finite"])
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(state), strict=True))
    broken = dataclasses.replace(state, params=jax.tree.map(lambda leaf: leaf * jnp.inf, state.params))
    kept, metrics = grader_step(broken, batch, grader=grader)
    assert not bool(metrics["finite"])
    jax.tree.map(np.testing.assert_array_equal, kept, broken)

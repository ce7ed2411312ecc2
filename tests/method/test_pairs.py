"""Every encoder with every decoder takes both kinds of step: the paper says that the method suits most networks."""

import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pldmlt_jax.config import LossConfig, MetaConfig, ModelConfig, OptimConfig
from pldmlt_jax.method.state import Method, MethodState, init_method_state
from pldmlt_jax.method.steps import meta_step, train_step
from pldmlt_jax.method.virtual_step import meta_loss
from pldmlt_jax.models.build import (
    DECODERS,
    DILATABLE_ENCODERS,
    ENCODERS,
    STRIDE_16_DECODERS,
    build_label_network,
    build_network,
)
from pldmlt_jax.types import Batch
from tests.method.methods import tiny_batch

pytestmark = pytest.mark.slow

TINY = {
    "encoder_filters": (4, 4, 6, 6, 8),
    "encoder_convs": (1, 1, 1, 1, 1),
    "encoder_base_filters": 16,
    "encoder_max_blocks": 1,
    "decoder_filters": (8, 6, 4, 4, 4),
    "centre_filters": 4,
    "decoder_base_filters": 16,
    "atrous_rates": (1, 2, 3),
}
ALL_PAIRS = "PLDMLT_TEST_ALL_PAIRS"
USUAL = {
    ("vgg16", "fpn"),
    *((encoder, "linknet") for encoder in ("resnet18", "resnet34")),
    *((encoder, "deeplabv3plus") for encoder in ("resnet50", "resnet101")),
    *((encoder, "unet") for encoder in ("densenet121", "densenet201")),
    ("resnext50_32x4d", "fpn"),
    ("resnext101_32x8d", "unet"),
}
"""Pairs that always run, at the least depth of each block. Some are the same network and compile once."""
PAIRS = [(e, d) for e in ENCODERS for d in DECODERS if d not in STRIDE_16_DECODERS or e in DILATABLE_ENCODERS]


def tiny_pair(encoder: str, decoder: str, dtype: str = "float32") -> Method:
    return Method(
        network=build_network(ModelConfig(encoder=encoder, decoder=decoder, dtype=dtype, **TINY), "fused"),
        label_network=build_label_network(MetaConfig(hidden=(8,))),
        loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"),
        meta=MetaConfig(loss="anchored", hidden=(8,), inner_learning_rate=0.1),
        optim=OptimConfig(optimizer="sgd", learning_rate=0.01),
        total_steps=10,
        seed=0,
    )


def random_state(method: Method, dtype: Any = jnp.float32) -> MethodState:
    """He-normal kernels without a compiled initialisation."""
    rng = np.random.default_rng(0)

    def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
        if len(shape.shape) > 1:
            fan_in = np.prod(shape.shape[:-1])
            return jnp.asarray(rng.normal(size=shape.shape) * np.sqrt(2 / fan_in), dtype)
        ones = getattr(path[-1], "key", "") in ("scale", "var")
        whole = jnp.issubdtype(shape.dtype, jnp.integer)
        return jnp.full(shape.shape, 1 if ones else 0, shape.dtype if whole else dtype)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(lambda: init_method_state(method)))


@partial(jax.jit, static_argnames="method")
def both_steps(state: MethodState, batch: Batch, *, method: Method) -> tuple:
    """A train step and a meta step from one state as one program, which compiles once and shares the gradient."""
    return train_step(state, batch, method=method), meta_step(state, batch, method=method)


def changed(before: Any, after: Any) -> list[bool]:
    return [bool((a != b).any()) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_a_train_step_and_a_meta_step(encoder: str, decoder: str) -> None:
    if (encoder, decoder) not in USUAL and not os.environ.get(ALL_PAIRS):
        pytest.skip(f"{ALL_PAIRS}=1 runs it too: another compilation of some seconds")
    method = tiny_pair(encoder, decoder)
    state = random_state(method)
    (trained, metrics), (updated, meta_metrics) = both_steps(state, tiny_batch(), method=method)
    assert np.isfinite(float(metrics["loss"]))
    assert np.isfinite(float(meta_metrics["meta_loss"]))
    assert float(meta_metrics["meta_grad_norm"]) > 0  # through theta*, for `anchored` has no direct path
    assert all(any(changed(state.network.params[part], trained.network.params[part])) for part in state.network.params)
    assert all(changed(state.network.batch_stats, trained.network.batch_stats))
    assert not any(changed(state.network, updated.network))
    assert any(changed(state.label.params, updated.label.params))


def test_the_meta_gradient_through_norms_of_the_encoder_and_dilated_kernels_is_the_slope_of_the_meta_loss(float64) -> None:
    """Compared with a central difference along the gradient. Batch statistics are part of the differentiated function."""
    method = tiny_pair("resnet18", "deeplabv3plus", "float64")
    state, batch = random_state(method, jnp.float64), tiny_batch()
    value = jax.jit(lambda params: meta_loss(params, state, batch, method=method)[0])
    gradient = jax.jit(jax.grad(lambda params: meta_loss(params, state, batch, method=method)[0]))(state.label.params)
    norm = float(optax.tree.norm(gradient))
    step = 1e-6 / norm  # small, for a ReLU that turns makes a bend
    ahead, behind = (float(value(optax.tree.add_scale(state.label.params, h, gradient))) for h in (step, -step))
    assert norm > 1e-8
    assert (ahead - behind) / (2 * step) == pytest.approx(norm**2, rel=1e-5)

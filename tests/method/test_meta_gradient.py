"""The exact meta-gradient against a closed form in forward mode, and its approximations against the exact one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import meta_gradients
from pldmlt_jax.config import Config, LossConfig, MetaConfig, OptimConfig
from pldmlt_jax.config_checks import validate_config
from pldmlt_jax.errors import UserError
from pldmlt_jax.method.steps import meta_step, train_step
from pldmlt_jax.method.virtual_step import META_GRADIENTS, META_LOSSES, META_LOSSES_WITHOUT_DIRECT_PATH, meta_loss
from tests.method.methods import tiny_batch, tiny_method, tiny_state, with_graded_images

pytestmark = pytest.mark.slow

GRADIENTS = META_GRADIENTS | meta_gradients.OTHER_META_GRADIENTS


@functools.cache
def gradient(name: str, loss: str, epsilon: float = 1e-2, inner: str = "sgd"):
    """((J, aux), gradient), in float64; compiled once for each."""
    meta = MetaConfig(loss=loss, inner_learning_rate=epsilon, hidden=(16,), inner_optimizer=inner)
    method = tiny_method(meta=meta, optim=OptimConfig(optimizer=inner))
    state = tiny_state(method, moved=inner == "sgd")
    if inner == "adam":  # whose state is made by steps
        for _ in range(2):
            state, _ = train_step(state, tiny_batch(), method=method)
    return jax.jit(lambda s, b: GRADIENTS[name](s, b, method))(state, with_graded_images(tiny_batch()))


def cosine(a, b) -> float:
    return float(optax.tree.vdot(a, b) / (optax.tree.norm(a) * optax.tree.norm(b)))


def difference(a, b) -> float:
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, a, b)) / optax.tree.norm(b))


@pytest.mark.parametrize("loss", sorted(META_LOSSES))
def test_finite_difference_comes_near_the_exact_gradient(loss, float64, monkeypatch):
    (value, _), approximate = gradient("finite_difference", loss)
    (expected, _), exact = gradient("exact", loss)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    assert 0 < difference(approximate, exact) < 1e-2
    monkeypatch.setattr(meta_gradients, "STEP_NORM", 1e-5)
    assert difference(gradient.__wrapped__("finite_difference", loss)[1], exact) < 1e-5


@pytest.mark.parametrize("inner", ["sgd", "adam"])
@pytest.mark.parametrize("loss", sorted(META_LOSSES))
def test_forward_mode_gives_the_exact_gradient(loss, inner, float64):
    (value, aux), by_forward_mode = gradient("forward", loss, inner=inner)
    (expected, expected_aux), exact = gradient("exact", loss, inner=inner)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    assert difference(by_forward_mode, exact) < 1e-9
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), aux, expected_aux)


def test_finite_difference_goes_through_the_adam_look_ahead(float64):
    assert difference(gradient("finite_difference", "anchored", inner="adam")[1],
                      gradient("exact", "anchored", inner="adam")[1]) < 1e-2  # fmt: skip


@pytest.mark.parametrize("loss", sorted(META_LOSSES))
def test_first_order_is_the_exact_gradient_without_a_virtual_step(loss, float64):
    (value, _), approximate = gradient("first_order", loss)
    (expected, _), exact = gradient("exact", loss, epsilon=0.0)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    if loss in META_LOSSES_WITHOUT_DIRECT_PATH:
        assert float(optax.tree.norm(approximate)) == 0.0
    else:
        assert difference(approximate, exact) < 1e-12
        assert cosine(approximate, gradient("exact", loss, epsilon=1.0)[1]) < 1 - 1e-6  # which has an indirect path


def test_none_leaves_the_label_network_and_still_logs(float64):
    method = tiny_method(meta=MetaConfig(gradient="none", loss="anchored", hidden=(16,), learning_rate=1.0))
    state, batch = tiny_state(method), tiny_batch()
    new, metrics = meta_step(state, batch, method=method)
    jax.tree.map(np.testing.assert_array_equal, new.label.params, state.label.params)
    expected, _ = jax.jit(meta_loss, static_argnames="method")(state.label.params, state, batch, method=method)
    assert float(metrics["meta_loss"]) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    "config",
    [
        Config(meta=MetaConfig(gradient="backwards")),
        Config(loss=LossConfig(beta=0.0)),
        *(Config(meta=MetaConfig(loss=loss, inner_learning_rate=0.0)) for loss in META_LOSSES_WITHOUT_DIRECT_PATH),
    ],
)
def test_contradictory_fields_are_refused(config):
    with pytest.raises(UserError, match=r"meta\.gradient|loss\.beta|meta\.inner_learning_rate"):
        validate_config(config)

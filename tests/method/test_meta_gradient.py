"""The approximations of the meta-gradient against the exact one, and the round that shares a gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pldmlt_jax.config import Config, LossConfig, MetaConfig, OptimConfig, TrainConfig
from pldmlt_jax.config_checks import validate_config
from pldmlt_jax.errors import UserError
from pldmlt_jax.method import meta_gradient
from pldmlt_jax.method.meta_gradient import META_GRADIENTS, META_LOSSES_WITHOUT_DIRECT_PATH
from pldmlt_jax.method.steps import meta_step, round_step, train_step
from pldmlt_jax.method.virtual_step import META_LOSSES, meta_loss
from pldmlt_jax.training.loop import algorithm_rounds
from tests.method.methods import graded_beside, tiny_batch, tiny_method, tiny_state


@functools.cache
def gradient(name: str, loss: str, epsilon: float = 1e-2, inner: str = "sgd"):
    """((J, aux), gradient), in float64; compiled once for each."""
    meta = MetaConfig(loss=loss, inner_learning_rate=epsilon, hidden=(16,), inner_optimizer=inner)
    method = tiny_method(meta=meta, optim=OptimConfig(optimizer=inner))
    state = tiny_state(method, moved=inner == "sgd")
    if inner == "adam":  # whose state is made by steps
        for _ in range(2):
            state, _ = train_step(state, tiny_batch(), method=method)
    return jax.jit(lambda s, b: META_GRADIENTS[name](s, b, method))(state, graded_beside(tiny_batch()))


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
    monkeypatch.setattr(meta_gradient, "STEP_NORM", 1e-5)
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


@pytest.mark.parametrize("loss", ["paper", "anchored", "maxl"])
def test_a_round_on_one_batch_is_both_steps_from_the_same_theta(loss, float64):
    method = tiny_method(meta=MetaConfig(loss=loss, inner_learning_rate=0.1, learning_rate=0.1, hidden=(16,)))
    state, batch = tiny_state(method), tiny_batch()
    both, metrics = round_step(state, batch, method=method)
    trained, of_theta = train_step(state, batch, method=method)
    updated, of_label = meta_step(state, batch, method=method)
    expected = dataclasses.replace(updated, network=trained.network)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), both, expected)
    assert metrics.keys() == of_theta.keys() | of_label.keys()


def test_a_round_on_one_batch_is_one_phase():
    rounds = algorithm_rounds(TrainConfig(same_batch=True, theta_units=3, label_units=3), 5, label_update=True)
    assert (rounds.phases, rounds.theta_steps) == ((("both", 15),), 15 * rounds.max_rounds)


@pytest.mark.parametrize(
    "config",
    [
        Config(meta=MetaConfig(gradient="first_order", loss="anchored")),
        Config(meta=MetaConfig(gradient="backwards")),
        Config(train=TrainConfig(same_batch=True), meta=MetaConfig(enabled=False)),
        Config(train=TrainConfig(same_batch=True), meta=MetaConfig(gradient="first_order", loss="maxl")),
        Config(train=TrainConfig(same_batch=True), loss=LossConfig(graded_weight=1.0)),
        Config(train=TrainConfig(same_batch=True, label_units=2)),
        Config(loss=LossConfig(beta=0.0)),
        *(Config(meta=MetaConfig(loss=loss, inner_learning_rate=0.0)) for loss in META_LOSSES_WITHOUT_DIRECT_PATH),
    ],
)
def test_what_makes_no_sense_is_refused(config):
    with pytest.raises(UserError, match=r"meta\.gradient|train\.same_batch|loss\.beta|meta\.inner_learning_rate"):
        validate_config(config)

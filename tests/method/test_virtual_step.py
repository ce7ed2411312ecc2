"""The meta-gradient against an independent closed form, component by component, in float64."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pldmlt_jax.config import LossConfig, MetaConfig, OptimConfig
from pldmlt_jax.method import losses
from pldmlt_jax.method.steps import meta_step, train_step
from pldmlt_jax.method.virtual_step import (
    META_LOSSES,
    MetaInputs,
    apply_network,
    meta_loss,
    soft_labels,
    virtual_params,
)
from pldmlt_jax.types import NUM_GRADES
from tests.method.methods import tiny_batch, tiny_method, tiny_state, with_graded_images

pytestmark = pytest.mark.usefixtures("float64")

network_of = jax.jit(apply_network, static_argnums=3)
theta_star_of = jax.jit(virtual_params, static_argnames="method")
meta_loss_of = jax.jit(meta_loss, static_argnames="method")
"""Compiled, because they take ten times as long layer by layer."""


@partial(jax.jit, static_argnames=("method", "detach"))
def meta_gradient(state, batch, *, method, detach=""):
    return jax.grad(meta_loss, has_aux=True)(state.label.params, state, batch, method=method, detach=detach)[0]


@partial(jax.jit, static_argnames="method")
def closed_form_indirect(state, batch, *, method):
    """d J(theta*(labels)) / d theta_1 through theta* only.

    dJ/dlabels_bc = -eps beta d/dt [l_c(f_{theta + t v}(x_b))] at t = 0, with v = grad_theta* J and
    l_c = -alpha (1 - p_c)^gamma log p_c / B: one forward-mode pass, then the pull-back through the label network.
    """
    label_params = state.label.params
    theta, stats = state.network.params, state.network.batch_stats
    output, _ = apply_network(theta, stats, batch, method)
    labels, pull_labels = jax.vjp(lambda p: soft_labels(p, output.pooled, batch, method), label_params)
    theta_star = virtual_params(state.network, labels, batch, method=method)

    def outer(params):
        images = batch.graded if method.meta.loss == "trusted" else batch
        star, _ = apply_network(params, stats, images, method)
        return META_LOSSES[method.meta.loss](MetaInputs(star, labels, state.label_mean, images, method))

    v = jax.grad(outer)(theta_star)
    config = method.loss

    def per_class(params):
        log_p = jax.nn.log_softmax(apply_network(params, stats, batch, method)[0].grade_logits)
        divisor = losses.reduction_divisor(config.reduction, NUM_GRADES) * batch.image.shape[0]
        return -config.alpha * (1 - jnp.exp(log_p)) ** config.gamma * log_p / divisor

    _, slope = jax.jvp(per_class, (theta,), (v,))
    return pull_labels(-method.meta.inner_learning_rate * config.beta * slope)[0]


def relative_error(tree, expected) -> float:
    difference = jax.tree.map(jnp.subtract, tree, expected)
    return float(optax.tree.norm(difference) / optax.tree.norm(expected))


@pytest.mark.parametrize(
    ("name", "epsilon", "reduction"),
    [(name, 1e-2, "pixel_mean") for name in sorted(META_LOSSES)]
    + [("paper", 5e-5, "pixel_mean"), ("paper", 1.0, "keras"), ("maxl", 1.0, "pixel_mean")],
)
def test_path_through_theta_star_equals_closed_form(name, epsilon, reduction):
    meta = MetaConfig(loss=name, inner_learning_rate=epsilon, hidden=(16,), entropy_weight=0.0)
    method = tiny_method(meta=meta, loss=LossConfig(reduction=reduction))
    state, batch = tiny_state(method), with_graded_images(tiny_batch())
    indirect = meta_gradient(state, batch, method=method, detach="direct")
    expected = closed_form_indirect(state, batch, method=method)
    assert float(optax.tree.norm(expected)) > 0
    assert relative_error(indirect, expected) < 1e-9


def test_direct_path_of_paper_equals_softmax_formula():
    """dJ/dz_c = labels_c (l_c - sum labels l), at fixed theta*."""
    method = tiny_method(meta=MetaConfig(loss="paper", inner_learning_rate=1e-2, hidden=(16,)))
    state, batch = tiny_state(method), tiny_batch()
    direct = meta_gradient(state, batch, method=method, detach="indirect")
    output, _ = network_of(state.network.params, state.network.batch_stats, batch, method)
    labels = soft_labels(state.label.params, output.pooled, batch, method)
    theta_star = theta_star_of(state.network, labels, batch, method=method)
    log_p = jax.nn.log_softmax(network_of(theta_star, state.network.batch_stats, batch, method)[0].grade_logits)
    per_class = -method.loss.alpha * (1 - jnp.exp(log_p)) ** method.loss.gamma * log_p / batch.image.shape[0]
    slope_z = labels * (per_class - jnp.sum(labels * per_class, axis=-1, keepdims=True))
    _, pull = jax.vjp(lambda p: method.label_network.apply({"params": p}, output.pooled, batch.grade), state.label.params)
    assert relative_error(direct, pull(slope_z)[0]) < 1e-9


def test_true_grades_act_only_through_theta_star_and_on_the_graded_images():
    method = tiny_method(meta=MetaConfig(loss="trusted", inner_learning_rate=1e-1, hidden=(16,)))
    state, batch = tiny_state(method), with_graded_images(tiny_batch())
    assert float(optax.tree.norm(meta_gradient(state, batch, method=method, detach="indirect"))) == 0.0
    other = dataclasses.replace(batch, graded=dataclasses.replace(batch.graded, grade=batch.graded.grade * 0))
    assert relative_error(*(meta_gradient(state, b, method=method) for b in (other, batch))) > 0.1
    with pytest.raises(ValueError, match="truly graded"):
        meta_gradient(state, tiny_batch(), method=method)


@pytest.mark.parametrize("name", ["paper", "maxl"])
def test_paths_add_up_to_the_whole(name):
    method = tiny_method(meta=MetaConfig(loss=name, inner_learning_rate=1e-1, hidden=(16,)))
    state, batch = tiny_state(method), tiny_batch()
    whole, direct, indirect = (
        meta_gradient(state, batch, method=method, detach=detach) for detach in ("", "indirect", "direct")
    )
    assert relative_error(jax.tree.map(jnp.add, direct, indirect), whole) < 1e-9


@pytest.mark.parametrize("name", ["indirect", "anchored", "trusted"])
def test_inner_step_zero_leaves_no_meta_gradient(name):
    method = tiny_method(meta=MetaConfig(loss=name, inner_learning_rate=0.0, hidden=(16,)))
    state, batch = tiny_state(method), with_graded_images(tiny_batch())
    grads = meta_gradient(state, batch, method=method)
    assert float(optax.tree.norm(grads)) == 0.0


def test_virtual_params_equal_a_plain_gradient_step():
    method = tiny_method(meta=MetaConfig(inner_learning_rate=0.3, hidden=(16,)))
    state, batch = tiny_state(method), tiny_batch()
    labels = jnp.eye(NUM_GRADES)[batch.grade]

    def loss(params):
        output, _ = apply_network(params, state.network.batch_stats, batch, method)
        return losses.total_loss(output, labels, batch, method.loss).total

    expected = jax.tree.map(lambda p, g: p - 0.3 * g, state.network.params, jax.jit(jax.grad(loss))(state.network.params))
    actual = theta_star_of(state.network, labels, batch, method=method)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), actual, expected)


def test_adam_look_ahead_starts_from_the_networks_own_state():
    """With the network's learning rate as inner rate, theta* equals theta after the next train step.

    They differ by eps_root, which slows parameters whose gradients nearly vanish. A fresh Adam state would differ by 100 %.
    """
    optim = OptimConfig(optimizer="adam", learning_rate=1e-2, decoder_factor=3.0)
    meta = MetaConfig(inner_optimizer="adam", inner_learning_rate=1e-2, hidden=(16,))
    method = tiny_method(meta=meta, optim=optim)
    state, batch = tiny_state(method, moved=False), tiny_batch()
    for _ in range(3):
        state, _ = train_step(state, batch, method=method)
    output, _ = network_of(state.network.params, state.network.batch_stats, batch, method)
    labels = soft_labels(state.label.params, output.pooled, batch, method)
    theta_star = theta_star_of(state.network, labels, batch, method=method)
    trained, _ = train_step(state, batch, method=method)
    change = jax.tree.map(jnp.subtract, trained.network.params, state.network.params)
    difference = jax.tree.map(jnp.subtract, theta_star, trained.network.params)
    assert float(optax.tree.norm(difference)) < 1e-2 * float(optax.tree.norm(change))
    grads = meta_gradient(state, batch, method=method)
    assert np.isfinite(float(optax.tree.norm(grads)))


@partial(jax.jit, static_argnames="method")
def slope_of_labels(labels, state, batch, *, method):
    """dJ/dlabels through theta* only, and the gradient of the L_C that these labels make at theta."""

    def outer(inner_labels):
        theta_star = virtual_params(state.network, inner_labels, batch, method=method)
        output, _ = apply_network(theta_star, state.network.batch_stats, batch, method)
        return META_LOSSES[method.meta.loss](MetaInputs(output, labels, state.label_mean, batch, method))

    def grading(params):
        output, _ = apply_network(params, state.network.batch_stats, batch, method)
        return losses.grading_loss(output.grade_logits, labels, batch, method.loss)

    return jax.grad(outer)(labels), jax.grad(grading)(state.network.params)


@pytest.mark.parametrize("name", ["anchored", "indirect"])
def test_more_of_its_own_target_lowers_the_loss_of_a_batch(name):
    """To first order in epsilon dJ/dlabels . labels = -eps beta |grad L_C|^2, where the labels are J's own target.

    So `anchored` keeps the given labels, right or wrong, and `indirect` keeps the present ones.
    """
    epsilon = 1e-7
    method = tiny_method(meta=MetaConfig(loss=name, inner_learning_rate=epsilon, hidden=(16,)))
    state, batch = tiny_state(method), tiny_batch()
    labels = jnp.eye(NUM_GRADES)[batch.grade]
    if name == "indirect":
        labels = 0.6 * labels + 0.08
    slope, gradient = slope_of_labels(labels, state, batch, method=method)
    squared = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient))
    assert squared > 1e-6
    assert float(jnp.sum(slope * labels)) == pytest.approx(-epsilon * method.loss.beta * squared, rel=1e-4)


def test_entropy_of_maxl_pulls_the_mean_label_towards_all_grades_alike():
    """Its slope is lambda (log m_c + 1) / B with m the mean label: the same for all grades only where m is uniform."""
    method = tiny_method(meta=MetaConfig(loss="maxl", entropy_weight=0.3, mean_decay=0.0, hidden=(16,)))
    state, batch = tiny_state(method), tiny_batch()
    output = network_of(state.network.params, state.network.batch_stats, batch, method)[0]
    labels = jnp.array([[0.5, 0.2, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1]])

    def value(labels):
        return META_LOSSES["maxl"](MetaInputs(output, labels, state.label_mean, batch, method))

    expected = 0.3 * (jnp.log(labels.mean(axis=0)) + 1) / 2
    np.testing.assert_allclose(jax.grad(value)(labels), jnp.tile(expected, (2, 1)), rtol=1e-12)


def test_meta_step_changes_only_the_label_network():
    method = tiny_method(meta=MetaConfig(loss="anchored", inner_learning_rate=0.1, learning_rate=0.1, hidden=(16,)))
    state, batch = tiny_state(method), tiny_batch()
    new, _ = meta_step(state, batch, method=method)
    jax.tree.map(np.testing.assert_array_equal, new.network, state.network)
    assert relative_error(new.label.params, state.label.params) > 0
    assert int(new.step) == int(state.step) + 1


def test_meta_step_lowers_the_meta_loss():
    meta = MetaConfig(loss="anchored", inner_learning_rate=1.0, learning_rate=1.0, hidden=(16,))
    method = tiny_method(meta=meta)
    state, batch = tiny_state(method), tiny_batch()
    values = []
    for _ in range(20):
        state, metrics = meta_step(state, batch, method=method)
        values.append(float(metrics["meta_loss"]))
    assert values[-1] < values[0]


@pytest.mark.parametrize("name", ["paper", "indirect", "maxl"])
def test_classes_are_interchangeable_except_for_the_start(name):
    """Permuting the outputs of head and label network together changes none of these meta losses; `anchored` changes."""

    def value(loss_name, order):
        method = tiny_method(meta=MetaConfig(loss=loss_name, inner_learning_rate=0.1, hidden=(16,), kappa=0.0))
        state, batch = tiny_state(method), tiny_batch()
        head = state.network.params["head"]
        last = state.label.params["logits"]
        permuted = {"kernel": head["kernel"][:, order], "bias": head["bias"][order]}
        network = dataclasses.replace(state.network, params=state.network.params | {"head": permuted})
        label_params = state.label.params | {"logits": {"kernel": last["kernel"][:, order], "bias": last["bias"][order]}}
        state = dataclasses.replace(state, network=network, label_mean=jnp.full(5, 0.2))
        return float(meta_loss_of(label_params, state, batch, method=method)[0])

    identity, shuffled = np.arange(5), np.array([3, 0, 4, 1, 2])
    assert value(name, identity) == pytest.approx(value(name, shuffled), rel=1e-12)
    assert value("anchored", identity) != pytest.approx(value("anchored", shuffled), rel=1e-6)

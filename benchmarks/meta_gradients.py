"""Other ways to compute the gradient of J with respect to the label network, to compare cost and direction.

`forward` is also exact, from a closed form. The others are the approximations of DARTS (Liu et al. 2019). They have the
signature of `META_GRADIENTS`, and a program may add them to that table.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from pldmlt_jax.method import losses
from pldmlt_jax.method.devices import device_mean
from pldmlt_jax.method.state import Method, MethodState, Params
from pldmlt_jax.method.steps import StepMetrics, meta_step, train_step
from pldmlt_jax.method.virtual_step import (
    MetaAux,
    MetaGradient,
    apply_network,
    inner_gradient,
    meta_loss_at,
    soft_labels,
    virtual_update,
)
from pldmlt_jax.types import Batch

STEP_NORM = 0.01
"""Length of the finite difference in the space of theta (DARTS, section 2.3)."""

Derivative = Callable[[Callable[[Params], Array], Params, Params], Array]
"""(function, point, direction) -> the derivative of the function at the point along the direction."""


def first_order(state: MethodState, batch: Batch, method: Method) -> MetaGradient:
    """Takes epsilon = 0 in J (DARTS's first order): theta* is theta, and only the direct path is left."""

    def loss(label_params: Params):
        output, _ = apply_network(state.network.params, state.network.batch_stats, batch, method)
        labels = soft_labels(label_params, output.pooled, batch, method)
        return meta_loss_at(state.network.params, labels, state, batch, method), MetaAux(labels, output.grade_logits)

    return jax.value_and_grad(loss, has_aux=True)(state.label.params)


def _by_directional_derivative(state: MethodState, batch: Batch, method: Method, derivative: Derivative) -> MetaGradient:
    """Computes the indirect path as the derivative of grad_labels L along d = (d theta* / d grad L)^T grad_theta* J.

    Derivatives commute, so dJ/dlabels = d/dt [grad_labels L(theta + t d)] at t = 0. The direct path is added.
    """
    network = state.network
    output, _ = apply_network(network.params, network.batch_stats, batch, method)
    labels, pull_labels = jax.vjp(lambda p: soft_labels(p, output.pooled, batch, method), state.label.params)
    grads = inner_gradient(network, labels, batch, method=method)
    updates, pull_update = jax.vjp(lambda grads: virtual_update(network, grads, method=method), grads)
    theta_star = optax.apply_updates(network.params, updates)
    loss, (v, direct) = jax.value_and_grad(meta_loss_at, argnums=(0, 1))(theta_star, labels, state, batch, method)
    v = device_mean(v, method.axis_name)

    def grad_labels(params: Params) -> Float[Array, "b c"]:
        at_params, _ = apply_network(params, network.batch_stats, batch, method)
        return jax.grad(lambda y: losses.total_loss(at_params, y, batch, method.loss, method.axis_name).total)(labels)

    indirect = derivative(grad_labels, network.params, pull_update(v)[0])
    return (loss, MetaAux(labels, output.grade_logits)), pull_labels(direct + indirect)[0]


def forward(state: MethodState, batch: Batch, method: Method) -> MetaGradient:
    """Computes the exact gradient by one forward-mode pass. On the CPU XLA makes a program of the same cost of it."""
    return _by_directional_derivative(state, batch, method, lambda f, params, d: jax.jvp(f, (params,), (d,))[1])


def finite_difference(state: MethodState, batch: Batch, method: Method) -> MetaGradient:
    """Computes the same derivative as a central difference (DARTS's second order)."""

    def central(function: Callable[[Params], Array], params: Params, d: Params) -> Array:
        step = STEP_NORM / jnp.maximum(optax.tree.norm(d), jnp.finfo(jnp.float32).tiny)
        ahead, behind = (function(optax.tree.add_scale(params, h, d)) for h in (step, -step))
        return (ahead - behind) / (2.0 * step)

    return _by_directional_derivative(state, batch, method, central)


OTHER_META_GRADIENTS: dict[str, Callable[[MethodState, Batch, Method], MetaGradient]] = {
    "forward": forward,
    "first_order": first_order,
    "finite_difference": finite_difference,
}


@partial(jax.jit, static_argnames="method")
def same_batch_step(state: MethodState, batch: Batch, *, method: Method) -> tuple[MethodState, StepMetrics]:
    """Takes steps (A) and (B) on one batch from one theta, which is cheaper than Algorithm 1.

    In one program XLA computes the gradient that both need once. In Algorithm 1, (B) starts from the theta that (A) leaves,
    on batches of its own.
    """
    trained, metrics = train_step(state, batch, method=method)
    updated, label_metrics = meta_step(state, batch, method=method)
    return dataclasses.replace(updated, network=trained.network), metrics | label_metrics

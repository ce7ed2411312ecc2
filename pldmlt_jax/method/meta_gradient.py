"""The gradient of J with respect to the label network: exact, or by the approximations that others settle for.

`exact` is `jax.grad` of `virtual_step.meta_loss`; `forward` is the same number. The others are here to be compared with
them, in cost and in direction.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from pldmlt_jax.method import losses
from pldmlt_jax.method.devices import device_mean
from pldmlt_jax.method.state import Method, MethodState, Params
from pldmlt_jax.method.virtual_step import (
    MetaAux,
    apply_network,
    inner_gradient,
    meta_loss,
    meta_loss_at,
    soft_labels,
    virtual_update,
)
from pldmlt_jax.types import Batch

STEP_NORM = 0.01
"""Length of the finite difference in the space of theta (Liu et al.: DARTS, 2019, section 2.3)."""

MetaGradient = tuple[tuple[Float[Array, ""], MetaAux], Params]
"""((J, aux), gradient with respect to theta_1, under pmap still to be averaged over the devices)."""


def exact(state: MethodState, batch: Batch, method: Method) -> MetaGradient:
    """Through the inner optax update, second derivatives included."""
    return jax.value_and_grad(meta_loss, has_aux=True)(state.label.params, state, batch, method=method)


def first_order(state: MethodState, batch: Batch, method: Method) -> MetaGradient:
    """DARTS's first order: epsilon = 0 in J, so that theta* is theta, and only the direct path is left."""

    def loss(label_params: Params):
        output, _ = apply_network(state.network.params, state.network.batch_stats, batch, method)
        labels = soft_labels(label_params, output.pooled, batch, method)
        return meta_loss_at(state.network.params, labels, state, batch, method), MetaAux(labels, output.grade_logits)

    return jax.value_and_grad(loss, has_aux=True)(state.label.params)


Slope = Callable[[Callable[[Params], Array], Params, Params], Array]
"""(function, point, direction) -> the function's derivative at the point along the direction."""


def _along(state: MethodState, batch: Batch, method: Method, slope: Slope) -> MetaGradient:
    """The indirect path as the slope of grad_labels L along d = (d theta* / d grad L)^T grad_theta* J, since derivatives
    commute: dJ/dlabels = d/dt [grad_labels L(theta + t d)] at t = 0. The direct path is added.
    """
    network = state.network
    output, _ = apply_network(network.params, network.batch_stats, batch, method)
    labels, pull_labels = jax.vjp(lambda p: soft_labels(p, output.pooled, batch, method), state.label.params)
    inner = inner_gradient(network, labels, batch, method=method)
    updates, pull_update = jax.vjp(lambda grads: virtual_update(network, grads, method=method), inner.grads)
    theta_star = optax.apply_updates(network.params, updates)
    loss, (v, direct) = jax.value_and_grad(meta_loss_at, argnums=(0, 1))(theta_star, labels, state, batch, method)
    v = device_mean(v, method.axis_name)

    def grad_labels(params: Params) -> Float[Array, "b c"]:
        at_params, _ = apply_network(params, network.batch_stats, batch, method)
        return jax.grad(lambda y: losses.total_loss(at_params, y, batch, method.loss, method.axis_name).total)(labels)

    indirect = slope(grad_labels, network.params, pull_update(v)[0])
    return (loss, MetaAux(labels, output.grade_logits, inner)), pull_labels(direct + indirect)[0]


def forward(state: MethodState, batch: Batch, method: Method) -> MetaGradient:
    """As exact as `exact`, by one forward-mode pass; on the CPU XLA makes a program of the same cost of it."""
    return _along(state, batch, method, lambda function, params, d: jax.jvp(function, (params,), (d,))[1])


def finite_difference(state: MethodState, batch: Batch, method: Method) -> MetaGradient:
    """DARTS's second order: the same slope as a central difference."""

    def central(function: Callable[[Params], Array], params: Params, d: Params) -> Array:
        step = STEP_NORM / jnp.maximum(optax.tree.norm(d), jnp.finfo(jnp.float32).tiny)
        ahead, behind = (function(optax.tree.add_scale(params, h, d)) for h in (step, -step))
        return (ahead - behind) / (2.0 * step)

    return _along(state, batch, method, central)


def none(state: MethodState, batch: Batch, method: Method) -> MetaGradient:
    """The label network stays as it starts; J is computed and logged."""
    value, aux = meta_loss(state.label.params, state, batch, method=method)
    return (value, aux), jax.tree.map(jnp.zeros_like, state.label.params)


META_GRADIENTS: dict[str, Callable[[MethodState, Batch, Method], MetaGradient]] = {
    "exact": exact,
    "forward": forward,
    "first_order": first_order,
    "finite_difference": finite_difference,
    "none": none,
}

META_LOSSES_WITHOUT_DIRECT_PATH = ("indirect", "anchored", "trusted")
"""Meta losses that theta_1 reaches through theta* alone: `first_order` leaves them no gradient."""

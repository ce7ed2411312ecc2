"""The virtual step theta* = theta - epsilon grad L (line 20 of Algorithm 1) and the meta losses J at theta* (line 21).

theta* is a function of the soft labels, and so of theta_1. `jax.grad` of `meta_loss` with respect to theta_1 goes through
the inner optax update, second derivatives included. Only theta_1 is differentiated, so XLA drops what does not reach it,
such as the weight gradients of the decoder. No hand-written derivative was cheaper.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from pldmlt_jax.config import LossConfig, MetaConfig
from pldmlt_jax.method import losses
from pldmlt_jax.method.devices import device_mean, device_sum
from pldmlt_jax.method.optimizers import virtual_optimizer
from pldmlt_jax.method.state import Method, MethodState, Params, TrainState
from pldmlt_jax.models.label_update import HIERARCHIES, SOFTMAXES
from pldmlt_jax.models.layers import sync_batch_norm
from pldmlt_jax.models.multitask import NetworkOutput
from pldmlt_jax.types import NUM_GRADES, Batch


def apply_network(params: Params, batch_stats: Params, batch: Batch, method: Method) -> tuple[NetworkOutput, Params]:
    """Applies the multi-task network in training mode, where batch normalisation uses the statistics of the batch.

    With `method.microbatches` > 1 the parts of the batch are computed one after the other and again in the backward pass, so
    that only one part's activations are in memory. Losses see the outputs of the whole batch and do not change, but batch
    normalisation uses the statistics of each part. Part i of m holds every m-th image from i on, so that each part has
    images of every device.

    Args:
        params: theta.
        batch_stats: The running statistics.
        batch: A batch whose size is a multiple of `method.microbatches`.
        method: The network.

    Returns:
        The output for the whole batch, and the updated running statistics.
    """
    variables = {"params": params, "batch_stats": batch_stats}

    def apply(image: Array) -> tuple[NetworkOutput, Params]:
        with sync_batch_norm(method.axis_name):
            output, updated = method.network.apply(variables, image, True, mutable=["batch_stats"])
        return output, updated.get("batch_stats", {})

    if method.microbatches == 1:
        return apply(batch.image)
    parts = batch.image.reshape(-1, method.microbatches, *batch.image.shape[1:]).swapaxes(0, 1)
    # In a loop, XLA's CPU backend takes 70 times as long for a convolution's weight gradient: there it is unrolled, which
    # saves no memory.
    on_cpu = jax.default_backend() == "cpu"
    _, (outputs, updated) = jax.lax.scan(
        lambda carry, part: (carry, jax.checkpoint(apply)(part)), None, parts, unroll=on_cpu
    )
    whole = jax.tree.map(lambda part: part.swapaxes(0, 1).reshape(-1, *part.shape[2:]), outputs)
    return whole, jax.tree.map(lambda part: part.mean(axis=0), updated)


def soft_labels(label_params: Params, pooled: Array, batch: Batch, method: Method) -> Float[Array, "b c"]:
    """Computes the updated labels u(E(x), pseudo-label, psi) of Eq. 4.

    Args:
        label_params: theta_1.
        pooled: Pooled encoder features [b, f]. No gradient flows into them.
        batch: The pseudo-labels and admissible grades.
        method: The label network and its config.

    Returns:
        Distributions over the grades; one-hot pseudo-labels if `meta.enabled` is off.
    """
    if not method.meta.enabled:
        return jax.nn.one_hot(batch.grade, NUM_GRADES, dtype=pooled.dtype)
    logits = cast(Array, method.label_network.apply({"params": label_params}, jax.lax.stop_gradient(pooled), batch.grade))
    mask = HIERARCHIES[method.meta.hierarchy](batch.grade, batch.admissible)
    return SOFTMAXES[method.meta.softmax](logits, mask)


def inner_gradient(network: TrainState, labels: Float[Array, "b c"], batch: Batch, *, method: Method) -> Params:
    """Computes grad_theta [L_S + beta L_C(f_theta(x), labels)] (Eq. 3) on the whole batch."""

    def inner_loss(params: Params) -> Array:
        output, _ = apply_network(params, network.batch_stats, batch, method)
        return losses.total_loss(output, labels, batch, method.loss, method.axis_name).total

    return device_mean(jax.grad(inner_loss)(network.params), method.axis_name)


def virtual_update(network: TrainState, grads: Params, *, method: Method) -> Params:
    """Computes theta* - theta, an optax update. An Adam look-ahead starts from theta's own optimiser state."""
    inner_tx = virtual_optimizer(method.meta, method.optim)
    opt_state = inner_tx.init(network.params) if method.meta.inner_optimizer == "sgd" else network.opt_state
    return inner_tx.update(grads, opt_state, network.params)[0]


def virtual_params(network: TrainState, labels: Float[Array, "b c"], batch: Batch, *, method: Method) -> Params:
    """Computes theta* = theta - epsilon grad_theta [L_S + beta L_C(f_theta(x), labels)] (line 20 of Algorithm 1).

    The result can be differentiated with respect to `labels`.

    Args:
        network: theta, its running statistics and its optimiser state.
        labels: Soft labels of the batch; rows sum to 1.
        batch: Pixel-labelled images.
        method: The network, the loss, and epsilon in `meta.inner_learning_rate`.

    Returns:
        theta*, with the structure of `network.params`.

    Example:
        With `method`, `state` and `batch` as in the example of `make_method`:

        >>> labels = jax.nn.one_hot(batch.grade, 5)
        >>> theta_star = jax.jit(virtual_params, static_argnames="method")(state.network, labels, batch, method=method)
        >>> jax.tree.structure(theta_star) == jax.tree.structure(state.network.params)
        True
    """
    grads = inner_gradient(network, labels, batch, method=method)
    return optax.apply_updates(network.params, virtual_update(network, grads, method=method))


class MetaInputs(NamedTuple):
    """The inputs of a meta loss."""

    output: NetworkOutput  # of f_theta*, on the images of `batch`
    labels: Float[Array, "b c"]  # the soft labels, in their second role as the outer target
    label_mean: Float[Array, "c"]  # running mean of the soft labels before this batch
    batch: Batch  # the images that J is computed on, see `meta_batch`
    method: Method


def _grading_at(inputs: MetaInputs, target: Array) -> Array:
    method = inputs.method
    return losses.grading_loss(inputs.output.grade_logits, target, inputs.batch, method.loss, method.axis_name)


def _paper(inputs: MetaInputs) -> Array:
    """L_C(f_theta*(x), soft labels) as printed: theta_1 occurs in it twice."""
    return _grading_at(inputs, inputs.labels)


def _indirect(inputs: MetaInputs) -> Array:
    """The same with the outer labels held constant: theta_1 acts through theta* only."""
    return _grading_at(inputs, jax.lax.stop_gradient(inputs.labels))


def _anchored(inputs: MetaInputs) -> Array:
    """L_C(f_theta*(x), given grade): a target that the label network cannot change.

    The given grade is the pseudo-label; for `trusted` it is the true grade of truly graded images, as in meta label
    correction.
    """
    return _grading_at(inputs, jax.nn.one_hot(inputs.batch.grade, NUM_GRADES, dtype=inputs.labels.dtype))


def _maxl(inputs: MetaInputs) -> Array:
    """L_S at theta* plus lambda times the negative entropy of the mean soft label (MAXL, Liu et al. 2019).

    Batches are small, so the value of the entropy is that of the running mean, with the gradient of the batch mean at full
    weight.
    """
    method, logits = inputs.method, inputs.output.segmentation_logits
    segmentation = losses.segmentation_loss(logits, inputs.batch, method.loss, method.axis_name)
    batch_mean = mean_label(inputs.labels, inputs.batch, method.axis_name)
    running = update_label_mean(inputs.label_mean, batch_mean, method)
    mean = batch_mean + jax.lax.stop_gradient(running - batch_mean)
    return segmentation + method.meta.entropy_weight * jnp.sum(jax.scipy.special.xlogy(mean, mean))


META_LOSSES: dict[str, Callable[[MetaInputs], Array]] = {
    "paper": _paper,
    "indirect": _indirect,
    "anchored": _anchored,
    "maxl": _maxl,
    "trusted": _anchored,
}
"""The meta loss J by name.

With psi = full and one alpha, `paper`, `indirect` and `maxl` do not change if the outputs of the label network and of the
head are permuted together: only the initial values tie a class to its grade.
"""

META_LOSSES_ON_GRADED_IMAGES = ("trusted",)
"""Meta losses on the truly graded images of a batch. The others are on its pixel-labelled images."""

META_LOSSES_WITHOUT_DIRECT_PATH = ("indirect", "anchored", "trusted")
"""Meta losses that depend on theta_1 through theta* only."""


def uses_graded_images(meta: MetaConfig, loss: LossConfig) -> bool:
    """Returns whether training needs truly graded images (`Batch.graded`)."""
    return (meta.enabled and meta.loss in META_LOSSES_ON_GRADED_IMAGES) or max(loss.graded_weight, loss.self_training) > 0


def meta_batch(batch: Batch, method: Method) -> Batch:
    """Returns the images that J is computed on.

    Raises:
        ValueError: The meta loss needs truly graded images and the batch has none.
    """
    if method.meta.loss not in META_LOSSES_ON_GRADED_IMAGES:
        return batch
    if batch.graded is None:
        raise ValueError(f"the meta loss {method.meta.loss!r} needs truly graded images in Batch.graded, which is None")
    return batch.graded


def mean_label(labels: Float[Array, "b c"], batch: Batch, axis_name: str | None = None) -> Float[Array, "c"]:
    """Averages the soft labels of the images with `sample_mask` 1, over all devices."""
    weight = batch.sample_mask[:, None].astype(labels.dtype)
    total, count = device_sum((jnp.sum(labels * weight, axis=0), jnp.sum(weight)), axis_name)
    return total / jnp.maximum(count, 1.0)


def update_label_mean(label_mean: Array, batch_mean: Array, method: Method) -> Float[Array, "c"]:
    """Updates the running mean of the soft labels by the mean of a batch."""
    decay = method.meta.mean_decay
    return decay * label_mean + (1.0 - decay) * batch_mean


class MetaAux(NamedTuple):
    """By-products of the meta loss, for the log."""

    labels: Float[Array, "b c"]  # the soft labels
    grade_logits: Float[Array, "b c"]  # of f_theta, before the virtual step


def meta_loss(
    label_params: Params,
    state: MethodState,
    batch: Batch,
    *,
    method: Method,
    detach: str = "",
) -> tuple[Float[Array, ""], MetaAux]:
    """Computes J(theta*(theta_1), theta_1), the loss of the label network (line 21 of Algorithm 1).

    Args:
        label_params: theta_1.
        state: theta, its running statistics and optimiser state. `state.label` is not read.
        batch: Pixel-labelled images with their pseudo-labels, and truly graded ones if J needs them.
        method: The networks and the configs.
        detach: For diagnosis: "direct" holds the outer labels constant and leaves the path through theta*; "indirect" holds
            theta* constant and leaves the direct path.

    Returns:
        J and its by-products.

    Raises:
        ValueError: J needs truly graded images and the batch has none.

    Example:
        With `method`, `state` and `batch` as in the example of `make_method`:

        >>> meta_gradient = jax.jit(jax.grad(meta_loss, has_aux=True), static_argnames="method")
        >>> gradient, aux = meta_gradient(state.label.params, state, batch, method=method)
        >>> aux.labels.shape
        (2, 5)
    """
    output, _ = apply_network(state.network.params, state.network.batch_stats, batch, method)
    labels = soft_labels(label_params, output.pooled, batch, method)
    theta_star = virtual_params(state.network, labels, batch, method=method)
    outer_labels = labels
    if detach == "direct":
        outer_labels = jax.lax.stop_gradient(labels)
    if detach == "indirect":
        theta_star = jax.lax.stop_gradient(theta_star)
    return meta_loss_at(theta_star, outer_labels, state, batch, method), MetaAux(labels, output.grade_logits)


def meta_loss_at(
    theta_star: Params, labels: Float[Array, "b c"], state: MethodState, batch: Batch, method: Method
) -> Float[Array, ""]:
    """Computes J(theta*, labels) from a theta* that is given."""
    outer = meta_batch(batch, method)
    output, _ = apply_network(theta_star, state.network.batch_stats, outer, method)
    return META_LOSSES[method.meta.loss](MetaInputs(output, labels, state.label_mean, outer, method))


MetaGradient = tuple[tuple[Float[Array, ""], MetaAux], Params]
"""((J, by-products), gradient with respect to theta_1). Under pmap the gradient is still to be averaged over the devices."""


def _exact(state: MethodState, batch: Batch, method: Method) -> MetaGradient:
    """Differentiates through the inner optax update, second derivatives included."""
    return jax.value_and_grad(meta_loss, has_aux=True)(state.label.params, state, batch, method=method)


def _none(state: MethodState, batch: Batch, method: Method) -> MetaGradient:
    """Leaves the label network at its initial values. J is computed for the log."""
    value, aux = meta_loss(state.label.params, state, batch, method=method)
    return (value, aux), jax.tree.map(jnp.zeros_like, state.label.params)


META_GRADIENTS: dict[str, Callable[[MethodState, Batch, Method], MetaGradient]] = {"exact": _exact, "none": _none}
"""The gradient of J with respect to theta_1 by name. benchmarks/meta_gradients.py has approximations to compare with."""

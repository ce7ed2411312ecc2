"""The virtual step theta* = theta - epsilon grad L (line 20 of Algorithm 1) and the meta losses J at theta* (line 21).

theta* is a function of the soft labels and so of theta_1: `jax.grad` of `meta_loss` with respect to theta_1 goes through
the inner optax update, second derivatives included. Only theta_1 is differentiated, so XLA drops whatever does not reach
it (the decoder's weight gradients among it); no hand-written derivative was cheaper.
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
    """f_theta(x) as trained: batch statistics in the norms; returns the output and the updated running statistics.

    In microbatches, one after the other, only one's activations are in memory, for the backward pass computes them again.
    Losses see the whole batch's outputs, and so no loss changes; batch normalisation has each microbatch's statistics.
    Microbatch i of m holds every m-th image from i on: where the batch is spread over devices, some of each one's.
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
    """The updated labels u(E(x), pseudo-label, psi) of Eq. 4; rows sum to 1.

    Without the label update (`meta.enabled` off) they are the one-hot pseudo-labels. No gradient flows into `pooled`.
    """
    if not method.meta.enabled:
        return jax.nn.one_hot(batch.grade, NUM_GRADES, dtype=pooled.dtype)
    logits = cast(Array, method.label_network.apply({"params": label_params}, jax.lax.stop_gradient(pooled), batch.grade))
    mask = HIERARCHIES[method.meta.hierarchy](batch.grade, batch.admissible)
    return SOFTMAXES[method.meta.softmax](logits, mask)


class InnerGradient(NamedTuple):
    """At theta, with the labels held constant: what (A) takes its step by, and (B) its virtual one; of the whole batch."""

    grads: Params  # of L with respect to theta
    parts: losses.LossParts
    batch_stats: Params  # the updated running statistics


def inner_gradient(network: TrainState, labels: Float[Array, "b c"], batch: Batch, *, method: Method) -> InnerGradient:
    """grad_theta [L_S + beta L_C(f_theta(x), labels)]."""

    def inner_loss(params: Params):
        output, batch_stats = apply_network(params, network.batch_stats, batch, method)
        parts = losses.total_loss(output, labels, batch, method.loss, method.axis_name)
        return parts.total, (parts, batch_stats)

    grads, (parts, batch_stats) = jax.grad(inner_loss, has_aux=True)(network.params)
    return InnerGradient(device_mean(grads, method.axis_name), parts, batch_stats)


def virtual_update(network: TrainState, grads: Params, *, method: Method) -> Params:
    """theta* - theta, an optax update. An Adam look-ahead starts from theta's own optimiser state."""
    inner_tx = virtual_optimizer(method.meta, method.optim)
    opt_state = inner_tx.init(network.params) if method.meta.inner_optimizer == "sgd" else network.opt_state
    return inner_tx.update(grads, opt_state, network.params)[0]


def virtual_params(network: TrainState, labels: Float[Array, "b c"], batch: Batch, *, method: Method) -> Params:
    """theta* = theta - epsilon grad_theta [L_S + beta L_C(f_theta(x), labels)]; differentiable with respect to `labels`."""
    grads = inner_gradient(network, labels, batch, method=method).grads
    return optax.apply_updates(network.params, virtual_update(network, grads, method=method))


class MetaInputs(NamedTuple):
    """What a meta loss may look at."""

    output: NetworkOutput  # of f_theta*, on the images of `meta_batch`
    labels: Float[Array, "b c"]  # the soft labels, in their second role as the outer target
    label_mean: Float[Array, "c"]  # running mean of the soft labels before this batch
    batch: Batch  # see `meta_batch`
    method: Method


def _grading_at(inputs: MetaInputs, target: Array) -> Array:
    method = inputs.method
    return losses.grading_loss(inputs.output.grade_logits, target, inputs.batch, method.loss, method.axis_name)


def _paper(inputs: MetaInputs) -> Array:
    """L_C(f_theta*(x), soft labels) literally: theta_1 stands in it twice."""
    return _grading_at(inputs, inputs.labels)


def _indirect(inputs: MetaInputs) -> Array:
    """The same with the outer labels held constant: theta_1 acts through theta* only."""
    return _grading_at(inputs, jax.lax.stop_gradient(inputs.labels))


def _anchored(inputs: MetaInputs) -> Array:
    """L_C(f_theta*(x), given grade): a target that the label network cannot rewrite.

    The given grade is the pseudo-label; or the true one, which guides the labels, at truly graded images (`trusted`, meta
    label correction: not the paper's).
    """
    return _grading_at(inputs, jax.nn.one_hot(inputs.batch.grade, NUM_GRADES, dtype=inputs.labels.dtype))


def _maxl(inputs: MetaInputs) -> Array:
    """L_S at theta* plus lambda times the negative entropy of the mean soft label (Liu et al. 2019, MAXL).

    At small batches the mean is a running one: its value enters, with the batch mean's gradient at full weight.
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
"""J. With psi = full and one alpha, `paper`, `indirect` and `maxl` do not change when the outputs of the label network
and of the head are permuted together: only the start ties a class to its grade."""


META_LOSSES_ON_GRADED_IMAGES = ("trusted",)
"""Meta losses that look at the truly graded images of a batch; the others look at its pixel-labelled ones."""


def uses_graded_images(meta: MetaConfig, loss: LossConfig) -> bool:
    """Whether a step needs `Batch.graded`."""
    return (meta.enabled and meta.loss in META_LOSSES_ON_GRADED_IMAGES) or max(loss.graded_weight, loss.self_training) > 0


def meta_batch(batch: Batch, method: Method) -> Batch:
    """The images at which J looks.

    Raises:
        ValueError: The meta loss needs truly graded images and the batch has none.
    """
    if method.meta.loss not in META_LOSSES_ON_GRADED_IMAGES:
        return batch
    if batch.graded is None:
        raise ValueError(f"the meta loss {method.meta.loss!r} needs truly graded images: Batch.graded")
    return batch.graded


def mean_label(labels: Float[Array, "b c"], batch: Batch, axis_name: str | None = None) -> Float[Array, "c"]:
    """Mean soft label over the images of the batch that count, on all devices."""
    weight = batch.sample_mask[:, None].astype(labels.dtype)
    total, count = device_sum((jnp.sum(labels * weight, axis=0), jnp.sum(weight)), axis_name)
    return total / jnp.maximum(count, 1.0)


def update_label_mean(label_mean: Array, batch_mean: Array, method: Method) -> Float[Array, "c"]:
    decay = method.meta.mean_decay
    return decay * label_mean + (1.0 - decay) * batch_mean


class MetaAux(NamedTuple):
    labels: Float[Array, "b c"]
    grade_logits: Float[Array, "b c"]  # of f_theta, before the virtual step
    inner: InnerGradient | None = None  # None where the virtual step was left out


def meta_loss(
    label_params: Params,
    state: MethodState,
    batch: Batch,
    *,
    method: Method,
    detach: str = "",
) -> tuple[Float[Array, ""], MetaAux]:
    """J(theta*(theta_1), theta_1), the loss of the label network.

    Args:
        label_params: theta_1.
        state: Gives theta, its running statistics and optimiser state; `state.label` is not read.
        batch: Pixel-labelled images with their pseudo-labels, and truly graded ones where J looks at them.
        method: Static.
        detach: For diagnosis: "direct" holds the outer labels constant and leaves the path through theta*, "indirect"
            holds theta* constant and leaves the direct path.
    """
    output, _ = apply_network(state.network.params, state.network.batch_stats, batch, method)
    labels = soft_labels(label_params, output.pooled, batch, method)
    inner = inner_gradient(state.network, labels, batch, method=method)
    theta_star = optax.apply_updates(state.network.params, virtual_update(state.network, inner.grads, method=method))
    outer_labels = labels
    if detach == "direct":
        outer_labels = jax.lax.stop_gradient(labels)
    if detach == "indirect":
        theta_star = jax.lax.stop_gradient(theta_star)
    return meta_loss_at(theta_star, outer_labels, state, batch, method), MetaAux(labels, output.grade_logits, inner)


def meta_loss_at(theta_star: Params, labels: Float[Array, "b c"], state: MethodState, batch: Batch, method: Method) -> Array:
    """J(theta*, labels)."""
    outer = meta_batch(batch, method)
    output, _ = apply_network(theta_star, state.network.batch_stats, outer, method)
    return META_LOSSES[method.meta.loss](MetaInputs(output, labels, state.label_mean, outer, method))

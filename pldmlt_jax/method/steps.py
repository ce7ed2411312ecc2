"""The jitted steps: pure functions of a state and a batch, with everything static in `method`.

Randomness, where a step needs any, comes from `jax.random.fold_in(jax.random.key(method.seed), state.step)`; none of the
present networks draws while training.
"""

import dataclasses
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from pldmlt_jax.method import losses
from pldmlt_jax.method.devices import device_mean
from pldmlt_jax.method.meta_gradient import META_GRADIENTS
from pldmlt_jax.method.state import Method, MethodState, Params, TrainState
from pldmlt_jax.method.virtual_step import MetaAux, apply_network, mean_label, soft_labels, update_label_mean
from pldmlt_jax.models.multitask import NetworkOutput
from pldmlt_jax.types import NUM_GRADES, Batch

StepMetrics = dict[str, Array]


def apply_gradients(
    state: TrainState, grads: Params, tx: optax.GradientTransformation, *, ema_decay: float = 0.0, step: Array | int = 0
) -> TrainState:
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        # A short average at first, so that the random start does not linger in it.
        decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
        # In this form the average of what does not move, as frozen stages, is itself to the last bit.
        ema = jax.tree.map(lambda average, new: average + (1.0 - decay) * (new - average), ema, params)
    return dataclasses.replace(state, params=params, opt_state=opt_state, ema=ema)


@partial(jax.jit, static_argnames="method")
def train_step(state: MethodState, batch: Batch, *, method: Method) -> tuple[MethodState, StepMetrics]:
    """(A) of Algorithm 1, lines 11 to 13: theta <- Adam(theta, grad [L_S + beta L_C(soft labels)]), labels constant.

    Differs from the paper: with `loss.graded_weight` L_C on truly graded images is added (joint training), with
    `loss.self_training` L_S on them against the network's own masks (the baseline MTUnet).
    """

    def loss_fn(params: Params):
        output, batch_stats = apply_network(params, state.network.batch_stats, batch, method)
        labels = jax.lax.stop_gradient(soft_labels(state.label.params, output.pooled, batch, method))
        parts = losses.total_loss(output, labels, batch, method.loss, method.axis_name)
        graded = graded_image_losses(params, state, batch, method)
        beside = method.loss.graded_weight * graded.grading + method.loss.self_training * graded.self_training
        return parts.total + beside, (parts, graded, batch_stats)

    (_, (parts, graded, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.network.params)
    grads = device_mean(grads, method.axis_name)
    network, metrics = updated_network(state, grads, parts, batch_stats, method)
    if method.loss.graded_weight:
        metrics["graded_loss"] = graded.grading
    if method.loss.self_training:
        metrics["self_training_loss"] = graded.self_training
    return finish_step(state, dataclasses.replace(state, network=network), metrics)


MUST_BE_FINITE = ("loss", "grad_norm", "meta_loss", "meta_grad_norm")
"""The figures of a step that must be finite."""


def keep_if_finite(old: Params, new: Params, metrics: StepMetrics) -> tuple[Params, StepMetrics]:
    """The new tree where the figures in MUST_BE_FINITE are finite, else the old one, and `finite` with the other figures.

    Decided on the device, where nobody has to wait for it.
    """
    finite = jnp.all(jnp.isfinite(jnp.stack([metrics[name] for name in MUST_BE_FINITE if name in metrics])))
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old), metrics | {"finite": finite}


def finish_step(old: MethodState, new: MethodState, metrics: StepMetrics) -> tuple[MethodState, StepMetrics]:
    """A step's end: it counts in any case, and changes nothing else where it was not finite."""
    kept, metrics = keep_if_finite(old, new, metrics)
    return dataclasses.replace(kept, step=old.step + 1), metrics


def updated_network(
    state: MethodState, grads: Params, parts: losses.LossParts, batch_stats: Params, method: Method
) -> tuple[TrainState, StepMetrics]:
    """theta after its optimiser's step, and what is logged of it."""
    network = apply_gradients(
        dataclasses.replace(state.network, batch_stats=batch_stats),
        grads,
        method.optimizer,
        ema_decay=method.optim.ema_decay,
        step=state.step,
    )
    metrics = {
        "loss": parts.total,
        "seg_loss": parts.segmentation,
        "grade_loss": parts.grading,
        "grad_norm": optax.tree.norm(grads),
    }
    return network, metrics


class GradedImageLosses(NamedTuple):
    """On truly graded images, each 0 where its weight is."""

    grading: Float[Array, ""]  # L_C against their grades
    self_training: Float[Array, ""]  # L_S against masks that the network itself gives them


def graded_image_losses(params: Params, state: MethodState, batch: Batch, method: Method) -> GradedImageLosses:
    """What truly graded images add to L, before it is weighted.

    The running statistics are those of the pixel-labelled images alone, on which the decoder works.
    """
    config, none = method.loss, jnp.zeros(())
    if not config.graded_weight and not config.self_training:
        return GradedImageLosses(none, none)
    if batch.graded is None:
        raise ValueError("loss.graded_weight and loss.self_training need truly graded images: Batch.graded")
    output, _ = apply_network(params, state.network.batch_stats, batch.graded, method)
    true = jax.nn.one_hot(batch.graded.grade, NUM_GRADES, dtype=output.grade_logits.dtype)
    grading = losses.grading_loss(output.grade_logits, true, batch.graded, config, method.axis_name)
    if not config.self_training:
        return GradedImageLosses(grading, none)
    masks = losses.hard_masks(eval_forward(state, batch.graded, method).segmentation_logits, config.target)
    loss = losses.segmentation_loss(output.segmentation_logits, batch.graded, config, method.axis_name, masks)
    return GradedImageLosses(grading, loss)


def eval_forward(state: MethodState, batch: Batch, method: Method) -> NetworkOutput:
    """The network as deployed: running statistics, averaged parameters where they are kept."""
    variables = {"params": state.network.evaluated_params(), "batch_stats": state.network.batch_stats}
    return cast(NetworkOutput, method.network.apply(variables, batch.image, False))


@partial(jax.jit, static_argnames="method")
def meta_step(state: MethodState, batch: Batch, *, method: Method) -> tuple[MethodState, StepMetrics]:
    """(B) of Algorithm 1, lines 17 to 21: theta_1 <- theta_1 - vartheta grad J(theta*(theta_1), theta_1); theta stays."""
    (loss, aux), grads = META_GRADIENTS[method.meta.gradient](state, batch, method)
    label, label_mean, metrics = updated_label(state, loss, aux, grads, batch, method)
    return finish_step(state, dataclasses.replace(state, label=label, label_mean=label_mean), metrics)


def updated_label(
    state: MethodState, loss: Array, aux: MetaAux, grads: Params, batch: Batch, method: Method
) -> tuple[TrainState, Array, StepMetrics]:
    """theta_1 after its optimiser's step, the running mean of the soft labels, and what is logged of both."""
    batch_mean = mean_label(aux.labels, batch, method.axis_name)
    grads = device_mean(grads, method.axis_name)
    label = apply_gradients(state.label, grads, method.label_optimizer)
    label_mean = update_label_mean(state.label_mean, batch_mean, method)
    metrics = {"meta_loss": loss, "meta_grad_norm": optax.tree.norm(grads)}
    return label, label_mean, metrics | label_agreement_metrics(aux, batch, method.axis_name)


@partial(jax.jit, static_argnames="method")
def round_step(state: MethodState, batch: Batch, *, method: Method) -> tuple[MethodState, StepMetrics]:
    """(A) and (B) on the same batch and from the same theta, which share grad L: cheaper, and not Algorithm 1.

    There (B) begins at the theta that (A) leaves, on batches of its own.
    """
    (loss, aux), label_grads = META_GRADIENTS[method.meta.gradient](state, batch, method)
    if aux.inner is None:
        raise ValueError(f"meta.gradient {method.meta.gradient!r} makes no virtual step to share")
    network, trained = updated_network(state, aux.inner.grads, aux.inner.parts, aux.inner.batch_stats, method)
    label, label_mean, metrics = updated_label(state, loss, aux, label_grads, batch, method)
    new_state = MethodState(step=state.step, network=network, label=label, label_mean=label_mean)
    return finish_step(state, new_state, trained | metrics)


def label_agreement_metrics(aux: MetaAux, batch: Batch, axis_name: str | None) -> StepMetrics:
    """Whom the soft labels agree with, and how sure they are."""
    chosen, of_head = jnp.argmax(aux.labels, axis=-1), jnp.argmax(aux.grade_logits, axis=-1)
    entropy = -jnp.sum(jax.scipy.special.xlogy(aux.labels, aux.labels), axis=-1)
    return {
        "agreement/pseudo_label": losses.masked_mean(1.0 * (chosen == batch.grade), batch.sample_mask, axis_name),
        "agreement/head": losses.masked_mean(1.0 * (chosen == of_head), batch.sample_mask, axis_name),
        "label_entropy": losses.masked_mean(entropy, batch.sample_mask, axis_name),
        "label_histogram": mean_label(jax.nn.one_hot(chosen, NUM_GRADES), batch, axis_name),
    }


@partial(jax.jit, static_argnames="method")
def read_labels(state: MethodState, batch: Batch, *, method: Method) -> Float[Array, "b c"]:
    """The soft labels of a batch as training uses them, with its own statistics in the norms; a pass of the encoder."""
    output, _ = apply_network(state.network.params, state.network.batch_stats, batch, method)
    return soft_labels(state.label.params, output.pooled, batch, method)


class EvalOutput(NamedTuple):
    probabilities: Float[Array, "b h w k"]
    grade_probabilities: Float[Array, "b c"]
    labels: Float[Array, "b c"]  # the updated soft labels
    losses: losses.LossParts  # L_S, L_C and L with the fixed pseudo-labels
    loss_updated: Float[Array, ""]  # L with the updated labels: can fall to zero by label collapse


@partial(jax.jit, static_argnames="method")
def eval_step(state: MethodState, batch: Batch, *, method: Method) -> EvalOutput:
    """What the network as deployed answers, and the losses of it."""
    output = eval_forward(state, batch, method)
    labels = soft_labels(state.label.params, output.pooled, batch, method)
    fixed = jax.nn.one_hot(batch.grade, NUM_GRADES)
    return EvalOutput(
        losses.segmentation_probabilities(output.segmentation_logits, method.loss.target),
        jax.nn.softmax(output.grade_logits, axis=-1),
        labels,
        losses.total_loss(output, fixed, batch, method.loss, method.axis_name),
        losses.total_loss(output, labels, batch, method.loss, method.axis_name).total,
    )

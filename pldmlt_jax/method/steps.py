"""The jitted steps: pure functions of a state and a batch. Everything static is in `method`.

A step that needs randomness takes it from `jax.random.fold_in(jax.random.key(method.seed), state.step)`. None of the present
networks is random during training.
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
from pldmlt_jax.method.state import Method, MethodState, Params, TrainState
from pldmlt_jax.method.virtual_step import (
    META_GRADIENTS,
    MetaAux,
    apply_network,
    mean_label,
    soft_labels,
    update_label_mean,
)
from pldmlt_jax.models.multitask import NetworkOutput
from pldmlt_jax.types import NUM_GRADES, Batch

StepMetrics = dict[str, Array]
"""The metrics of a step by name, on the device."""


def apply_gradients(
    state: TrainState, grads: Params, tx: optax.GradientTransformation, *, ema_decay: float = 0.0, step: Array | int = 0
) -> TrainState:
    """Applies one step of an optimiser.

    Args:
        state: Parameters, optimiser state and, if it is kept, moving average.
        grads: Gradients of the parameters.
        tx: The optimiser.
        ema_decay: Decay of the moving average. It is smaller in the first steps, so that the random start does not linger.
        step: Number of steps before this one.
    """
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
        # In this form the average of parameters that do not move, as in frozen stages, is exact to the last bit.
        ema = jax.tree.map(lambda average, new: average + (1.0 - decay) * (new - average), ema, params)
    return dataclasses.replace(state, params=params, opt_state=opt_state, ema=ema)


@partial(jax.jit, static_argnames="method")
def train_step(state: MethodState, batch: Batch, *, method: Method) -> tuple[MethodState, StepMetrics]:
    """Takes step (A) of Algorithm 1, lines 11 to 13: theta <- Adam(theta, grad [L_S + beta L_C(soft labels)]).

    The soft labels are held constant. Two options differ from the paper: `loss.graded_weight` adds L_C on truly graded
    images (joint training), `loss.self_training` adds L_S on them against the network's own masks (the baseline MTUnet).

    Args:
        state: The state before the step.
        batch: Pixel-labelled images with their pseudo-labels, and truly graded ones if the loss needs them.
        method: The networks, losses and optimisers.

    Returns:
        The state after the step, and `loss`, `seg_loss`, `grade_loss`, `grad_norm`, `finite` and the losses on truly graded
        images that are in use. If the loss or the gradient is not finite, only the count of steps changes.

    Raises:
        ValueError: The loss needs truly graded images and the batch has none.

    Example:
        With `method`, `state` and `batch` as in the example of `make_method`:

        >>> new_state, metrics = train_step(state, batch, method=method)
        >>> int(new_state.step), sorted(metrics)
        (1, ['finite', 'grad_norm', 'grade_loss', 'loss', 'seg_loss'])
    """

    def loss_fn(params: Params):
        output, batch_stats = apply_network(params, state.network.batch_stats, batch, method)
        labels = jax.lax.stop_gradient(soft_labels(state.label.params, output.pooled, batch, method))
        parts = losses.total_loss(output, labels, batch, method.loss, method.axis_name)
        graded = graded_image_losses(params, state, batch, method)
        extra = method.loss.graded_weight * graded.grading + method.loss.self_training * graded.self_training
        return parts.total + extra, (parts, graded, batch_stats)

    (_, (parts, graded, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.network.params)
    grads = device_mean(grads, method.axis_name)
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
    if method.loss.graded_weight:
        metrics["graded_loss"] = graded.grading
    if method.loss.self_training:
        metrics["self_training_loss"] = graded.self_training
    return finish_step(state, dataclasses.replace(state, network=network), metrics)


MUST_BE_FINITE = ("loss", "grad_norm", "meta_loss", "meta_grad_norm")
"""Metrics that must be finite for a step to count."""


def keep_if_finite(old: Params, new: Params, metrics: StepMetrics) -> tuple[Params, StepMetrics]:
    """Returns the new tree if the metrics in `MUST_BE_FINITE` are finite, else the old one, and adds the metric `finite`.

    The decision is made on the device, so that the host need not wait for it.
    """
    finite = jnp.all(jnp.isfinite(jnp.stack([metrics[name] for name in MUST_BE_FINITE if name in metrics])))
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old), metrics | {"finite": finite}


def finish_step(old: MethodState, new: MethodState, metrics: StepMetrics) -> tuple[MethodState, StepMetrics]:
    """Counts the step. If it was not finite, everything else stays as it was."""
    kept, metrics = keep_if_finite(old, new, metrics)
    return dataclasses.replace(kept, step=old.step + 1), metrics


class GradedImageLosses(NamedTuple):
    """Losses on truly graded images, 0 if their weight is 0."""

    grading: Float[Array, ""]  # L_C against their grades
    self_training: Float[Array, ""]  # L_S against the network's own masks


def graded_image_losses(params: Params, state: MethodState, batch: Batch, method: Method) -> GradedImageLosses:
    """Computes the losses that truly graded images add to L, without their weights.

    The updated running statistics are dropped: they remain those of the pixel-labelled images, which the decoder works on.

    Raises:
        ValueError: A loss is in use and the batch has no truly graded images.
    """
    config, none = method.loss, jnp.zeros(())
    if not config.graded_weight and not config.self_training:
        return GradedImageLosses(none, none)
    if batch.graded is None:
        raise ValueError("loss.graded_weight and loss.self_training need truly graded images in Batch.graded, which is None")
    output, _ = apply_network(params, state.network.batch_stats, batch.graded, method)
    true = jax.nn.one_hot(batch.graded.grade, NUM_GRADES, dtype=output.grade_logits.dtype)
    grading = losses.grading_loss(output.grade_logits, true, batch.graded, config, method.axis_name)
    if not config.self_training:
        return GradedImageLosses(grading, none)
    masks = losses.hard_masks(eval_forward(state, batch.graded, method).segmentation_logits, config.target)
    loss = losses.segmentation_loss(output.segmentation_logits, batch.graded, config, method.axis_name, masks)
    return GradedImageLosses(grading, loss)


def eval_forward(state: MethodState, batch: Batch, method: Method) -> NetworkOutput:
    """Applies the network as deployed: with running statistics, and averaged parameters if they are kept."""
    variables = {"params": state.network.evaluated_params(), "batch_stats": state.network.batch_stats}
    return cast(NetworkOutput, method.network.apply(variables, batch.image, False))


@partial(jax.jit, static_argnames="method")
def meta_step(state: MethodState, batch: Batch, *, method: Method) -> tuple[MethodState, StepMetrics]:
    """Takes step (B) of Algorithm 1, lines 17 to 21: theta_1 <- theta_1 - vartheta grad J(theta*(theta_1), theta_1).

    theta does not change.

    Args:
        state: The state before the step.
        batch: Pixel-labelled images with their pseudo-labels, and truly graded ones if J needs them.
        method: The networks, losses and optimisers.

    Returns:
        The state after the step, and `meta_loss`, `meta_grad_norm`, `finite` and the metrics of `label_agreement_metrics`.
        If J or its gradient is not finite, only the count of steps changes.

    Raises:
        ValueError: J needs truly graded images and the batch has none.

    Example:
        With `method`, `state` and `batch` as in the example of `make_method`:

        >>> new_state, metrics = meta_step(state, batch, method=method)
        >>> int(new_state.step), metrics["label_histogram"].shape, bool(metrics["finite"])
        (1, (5,), True)
    """
    (loss, aux), grads = META_GRADIENTS[method.meta.gradient](state, batch, method)
    grads = device_mean(grads, method.axis_name)
    label = apply_gradients(state.label, grads, method.label_optimizer)
    label_mean = update_label_mean(state.label_mean, mean_label(aux.labels, batch, method.axis_name), method)
    metrics = {"meta_loss": loss, "meta_grad_norm": optax.tree.norm(grads)}
    metrics |= label_agreement_metrics(aux, batch, method.axis_name)
    return finish_step(state, dataclasses.replace(state, label=label, label_mean=label_mean), metrics)


def label_agreement_metrics(aux: MetaAux, batch: Batch, axis_name: str | None) -> StepMetrics:
    """Computes how the soft labels relate to the pseudo-labels and to the head, over the batch on all devices.

    Returns:
        `agreement/pseudo_label` and `agreement/head`, the share of images whose most probable grade is the same;
        `label_entropy`, the mean entropy in nats; `label_histogram`, the share of images [5] by most probable grade.
    """
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
    """Computes the soft labels of a batch as training does, with batch statistics. Nothing is trained."""
    output, _ = apply_network(state.network.params, state.network.batch_stats, batch, method)
    return soft_labels(state.label.params, output.pooled, batch, method)


class EvalOutput(NamedTuple):
    """What `eval_step` returns."""

    probabilities: Float[Array, "b h w k"]  # of the segmentation's channels
    grade_probabilities: Float[Array, "b c"]
    labels: Float[Array, "b c"]  # the updated soft labels
    losses: losses.LossParts  # L_S, L_C and L with the fixed pseudo-labels
    loss_updated: Float[Array, ""]  # L with the updated labels, which can fall to zero by label collapse


@partial(jax.jit, static_argnames="method")
def eval_step(state: MethodState, batch: Batch, *, method: Method) -> EvalOutput:
    """Computes the predictions and losses of the network as deployed. The state does not change."""
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

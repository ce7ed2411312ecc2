"""Diagnostics of the method for the log: the two paths of the meta-gradient, and the gradient balance on the encoder."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from pldmlt_jax.method import losses
from pldmlt_jax.method.devices import device_mean
from pldmlt_jax.method.state import Method, MethodState, Params
from pldmlt_jax.method.steps import StepMetrics
from pldmlt_jax.method.virtual_step import apply_network, meta_loss, soft_labels
from pldmlt_jax.types import NUM_GRADES, Batch


@partial(jax.jit, static_argnames="method")
def meta_gradient_paths(state: MethodState, batch: Batch, *, method: Method) -> StepMetrics:
    """Computes the norms of the two parts of the meta-gradient.

    Returns:
        `direct_norm`, with theta* held constant, and `indirect_norm`, through theta* only.
    """

    def norm(detach: str):
        grads, _ = jax.grad(meta_loss, has_aux=True)(state.label.params, state, batch, method=method, detach=detach)
        return optax.tree.norm(device_mean(grads, method.axis_name))

    return {"direct_norm": norm("indirect"), "indirect_norm": norm("direct")}


@partial(jax.jit, static_argnames="method")
def gradient_balance(state: MethodState, batch: Batch, *, method: Method) -> StepMetrics:
    """Computes the norms of the gradients of L_S and beta L_C on the shared encoder, and their cosine.

    The central claim of the paper is that the label network balances the two. With the label update, the same is therefore
    also computed with the pseudo-labels left as they are, at the same theta and on the same batch.

    Returns:
        `grad_norm/seg_encoder`, `grad_norm/grade_encoder` and `grad_cosine_encoder`; with the label update also the last two
        with the suffix `_fixed`.
    """

    def task_losses(params: Params) -> list[Array]:
        output, _ = apply_network(params, state.network.batch_stats, batch, method)
        updated = jax.lax.stop_gradient(soft_labels(state.label.params, output.pooled, batch, method))
        fixed = jax.nn.one_hot(batch.grade, NUM_GRADES, dtype=updated.dtype)
        parts = losses.total_loss(output, updated, batch, method.loss, method.axis_name)
        grading = losses.grading_loss(output.grade_logits, fixed, batch, method.loss, method.axis_name)
        return [parts.segmentation, method.loss.beta * parts.grading, method.loss.beta * grading]

    theta, num_tasks = state.network.params, 3 if method.meta.enabled else 2
    grads = [jax.grad(lambda params, i=i: task_losses(params)[i])(theta)["encoder"] for i in range(num_tasks)]
    seg, *grades = device_mean(grads, method.axis_name)
    metrics = {"grad_norm/seg_encoder": optax.tree.norm(seg)}
    for grade, suffix in zip(grades, ("", "_fixed"), strict=False):
        norm = optax.tree.norm(grade)
        cosine = optax.tree.vdot(seg, grade) / jnp.maximum(metrics["grad_norm/seg_encoder"] * norm, 1e-30)
        metrics |= {f"grad_norm/grade_encoder{suffix}": norm, f"grad_cosine_encoder{suffix}": jnp.asarray(cosine)}
    return metrics

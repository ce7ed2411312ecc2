"""What is logged to judge the method: the meta-gradient's two paths and the gradient balance on the shared encoder."""

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
    """Norms over theta_1 of the direct gradient (theta* held constant) and of the one through theta* alone."""

    def norm(detach: str):
        grads, _ = jax.grad(meta_loss, has_aux=True)(state.label.params, state, batch, method=method, detach=detach)
        return optax.tree.norm(device_mean(grads, method.axis_name))

    return {"direct_norm": norm("indirect"), "indirect_norm": norm("direct")}


@partial(jax.jit, static_argnames="method")
def gradient_balance(state: MethodState, batch: Batch, *, method: Method) -> StepMetrics:
    """Norms of the gradients of L_S and beta L_C on the shared encoder, and their cosine.

    The paper's central claim is that the label network balances the two. So with it the same is also measured, at the same
    theta and on the same batch, with the pseudo-labels left as they are (`..._fixed`).
    """

    def task_losses(params: Params) -> list[Array]:
        output, _ = apply_network(params, state.network.batch_stats, batch, method)
        updated = jax.lax.stop_gradient(soft_labels(state.label.params, output.pooled, batch, method))
        fixed = jax.nn.one_hot(batch.grade, NUM_GRADES, dtype=updated.dtype)
        parts = losses.total_loss(output, updated, batch, method.loss, method.axis_name)
        grading = losses.grading_loss(output.grade_logits, fixed, batch, method.loss, method.axis_name)
        return [parts.segmentation, method.loss.beta * parts.grading, method.loss.beta * grading]

    theta, num_tasks = state.network.params, 3 if method.meta.enabled else 2
    slopes = [jax.grad(lambda params, i=i: task_losses(params)[i])(theta)["encoder"] for i in range(num_tasks)]
    seg, *grades = device_mean(slopes, method.axis_name)
    figures = {"grad_norm/seg_encoder": optax.tree.norm(seg)}
    for grade, suffix in zip(grades, ("", "_fixed"), strict=False):
        norm = optax.tree.norm(grade)
        cosine = optax.tree.vdot(seg, grade) / jnp.maximum(figures["grad_norm/seg_encoder"] * norm, 1e-30)
        figures |= {f"grad_norm/grade_encoder{suffix}": norm, f"grad_cosine_encoder{suffix}": jnp.asarray(cosine)}
    return figures


def round_diagnostics(state: MethodState, batch: Batch, *, method: Method) -> StepMetrics:
    """Both, for a step that is both."""
    return gradient_balance(state, batch, method=method) | meta_gradient_paths(state, batch, method=method)

"""What is logged to judge the method: the meta-gradient's two paths and the gradient balance on the shared encoder."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from pldmlt_jax.method import losses
from pldmlt_jax.method.devices import device_mean
from pldmlt_jax.method.state import Method, MethodState, Params
from pldmlt_jax.method.steps import StepMetrics
from pldmlt_jax.method.virtual_step import apply_network, meta_loss, soft_labels
from pldmlt_jax.types import Batch


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

    The paper's central claim is that the label network balances the two.
    """

    def task_loss(params: Params, segmentation: bool):
        output, _ = apply_network(params, state.network.batch_stats, batch, method)
        labels = jax.lax.stop_gradient(soft_labels(state.label.params, output.pooled, batch, method))
        parts = losses.total_loss(output, labels, batch, method.loss, method.axis_name)
        return parts.segmentation if segmentation else method.loss.beta * parts.grading

    grads = (jax.grad(task_loss)(state.network.params, task)["encoder"] for task in (True, False))
    seg, grade = device_mean(tuple(grads), method.axis_name)
    seg_norm, grade_norm = optax.tree.norm(seg), optax.tree.norm(grade)
    cosine = optax.tree.vdot(seg, grade) / jnp.maximum(seg_norm * grade_norm, 1e-30)
    return {
        "grad_norm/seg_encoder": seg_norm,
        "grad_norm/grade_encoder": grade_norm,
        "grad_cosine_encoder": jnp.asarray(cosine),
    }


def round_diagnostics(state: MethodState, batch: Batch, *, method: Method) -> StepMetrics:
    """Both, for a step that is both."""
    return gradient_balance(state, batch, method=method) | meta_gradient_paths(state, batch, method=method)

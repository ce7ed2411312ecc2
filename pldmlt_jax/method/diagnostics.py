"""Diagnostics of the steps: the two paths of the meta-gradient, the gradient balance on the encoder, FLOPs and memory."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from pldmlt_jax.method import losses
from pldmlt_jax.method.devices import device_mean
from pldmlt_jax.method.state import Method, MethodState, Params, init_method_state
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


class StepCost(NamedTuple):
    """The cost of one step on one device, as counted by the compiler. Nothing is run."""

    flops: float
    """Floating-point operations of the optimised program, as counted by XLA."""
    temp_bytes: int
    """Memory besides inputs and outputs, nearly proportional to the size and number of the images."""


def step_cost(step: Any, method: Method, size_px: int, batch_size: int) -> StepCost:
    """Compiles a step, which takes some seconds, and returns its cost.

    Args:
        step: A jitted step such as `train_step`.
        method: Its static argument.
        size_px: Side of the images.
        batch_size: Number of images.
    """
    state = jax.eval_shape(lambda: init_method_state(method))
    return program_cost(step.lower(state, abstract_batch(size_px, batch_size), method=method).compile())


def program_cost(compiled: Any) -> StepCost:
    """Returns the cost of a compiled program (`jax.stages.Compiled`)."""
    return StepCost(float(compiled.cost_analysis().get("flops", 0.0)), int(compiled.memory_analysis().temp_size_in_bytes))


def abstract_batch(size_px: int, batch_size: int) -> Batch:
    """Returns the shapes and dtypes of a batch of square images, without arrays."""

    def array(*shape: int, dtype: type = np.uint8) -> Any:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    return Batch(
        image=array(size_px, size_px, 3),
        mask_bits=array(size_px, size_px),
        grade=array(dtype=np.int32),
        admissible=array(NUM_GRADES, dtype=np.bool_),
        sample_mask=array(dtype=np.float32),
        index=array(dtype=np.int32),
    )


def state_bytes(method: Method) -> int:
    """Returns the size in bytes of the parameters, running statistics and optimiser states of both networks."""
    leaves = jax.tree.leaves(jax.eval_shape(lambda: init_method_state(method)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

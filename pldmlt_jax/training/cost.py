"""FLOPs and memory of a step, as counted by the compiler. Nothing is run."""

from typing import Any, NamedTuple

import jax
import numpy as np

from pldmlt_jax.method.state import Method, init_method_state
from pldmlt_jax.types import NUM_GRADES, Batch


class StepCost(NamedTuple):
    """The cost of one step on one device."""

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

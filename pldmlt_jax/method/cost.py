"""What a step costs, by the compiler's own analysis: nothing is run."""

from typing import Any, NamedTuple

import jax
import numpy as np

from pldmlt_jax.method.state import Method, init_method_state
from pldmlt_jax.types import NUM_GRADES, Batch


class StepCost(NamedTuple):
    """Of one step on one device."""

    flops: float  # as XLA counts them in the program that it has optimised
    temp_bytes: int  # beside inputs and outputs; nearly proportional to the images' size and number


def step_cost(step: Any, method: Method, size_px: int, batch_size: int) -> StepCost:
    """Compiles a jitted step for a batch that is never made, which takes some seconds, and asks XLA."""
    state = jax.eval_shape(lambda: init_method_state(method))
    return program_cost(step.lower(state, abstract_batch(size_px, batch_size), method=method).compile())


def program_cost(compiled: Any) -> StepCost:
    """What XLA says of a compiled program."""
    return StepCost(float(compiled.cost_analysis().get("flops", 0.0)), int(compiled.memory_analysis().temp_size_in_bytes))


def abstract_batch(size_px: int, batch_size: int) -> Batch:
    """Shapes and dtypes of a batch, without the arrays."""

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
    """Parameters, running statistics and optimiser states of both networks."""
    leaves = jax.tree.leaves(jax.eval_shape(lambda: init_method_state(method)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

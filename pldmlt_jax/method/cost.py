"""What a step costs, by the compiler's own analysis: nothing is run."""

from typing import Any, NamedTuple

import jax
import numpy as np

from pldmlt_jax.method.state import Method, init_method_state
from pldmlt_jax.method.steps import meta_step, train_step
from pldmlt_jax.types import NUM_GRADES, Batch


class StepMemory(NamedTuple):
    """Bytes on the device."""

    state: int  # parameters and optimiser states of both networks
    train: int  # temporaries of (A) at the given size and batch, nearly proportional to both
    meta: int  # temporaries of (B); 0 where there is no label update


def step_memory(method: Method, size_px: int, batch_size: int, *, label_update: bool) -> StepMemory:
    """Compiles both steps for a batch that is never made, which takes some seconds, and asks XLA."""

    def array(*shape: int, dtype: type = np.uint8) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    batch = Batch(
        image=array(size_px, size_px, 3),
        mask_bits=array(size_px, size_px),
        grade=array(dtype=np.int32),
        admissible=array(NUM_GRADES, dtype=np.bool_),
        weight=array(dtype=np.float32),
        index=array(dtype=np.int32),
    )
    state = jax.eval_shape(lambda: init_method_state(method))
    steps = (train_step, meta_step) if label_update else (train_step,)
    analyses: list[Any] = [step.lower(state, batch, method=method).compile().memory_analysis() for step in steps]
    temporaries = [int(analysis.temp_size_in_bytes) for analysis in analyses]
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return StepMemory(int(parameters), temporaries[0], temporaries[1] if label_update else 0)

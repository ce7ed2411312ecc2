"""The supervised graders of stage 1: the focal loss on true grades, a training step and an evaluation step."""

import dataclasses
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from pldmlt_jax.config import GraderConfig
from pldmlt_jax.method import losses
from pldmlt_jax.method.devices import device_mean
from pldmlt_jax.method.state import INIT_SIZE_PX, Params, TrainState, init_train_state
from pldmlt_jax.method.steps import StepMetrics, apply_gradients, keep_if_finite
from pldmlt_jax.models.classifier import Classifier, ClassifierOutput
from pldmlt_jax.models.layers import sync_batch_norm
from pldmlt_jax.types import NUM_GRADES, Batch


@dataclasses.dataclass(frozen=True)
class Grader:
    """What is static while a grader trains, hashable by value like `Method`."""

    network: Classifier
    config: GraderConfig
    total_steps: int
    grade_weights: tuple[float, ...] = (1.0,) * NUM_GRADES  # of each grade in the loss
    axis_name: str | None = None  # axis of the devices under `pmap`, else None

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """AdamW with a cosine schedule, without weight decay if stages are frozen: they would decay without gradient."""
        schedule = optax.cosine_decay_schedule(self.config.learning_rate, max(self.total_steps, 1))
        decay = 0.0 if self.config.frozen_stages else self.config.weight_decay
        return optax.adamw(schedule, weight_decay=decay)


def init_grader(grader: Grader, key: Array) -> dict:
    """Makes random variables of the classifier: `params` and, if it has batch normalisation, `batch_stats`."""
    image = jnp.zeros((1, INIT_SIZE_PX, INIT_SIZE_PX, 3), jnp.uint8)
    return jax.jit(lambda k: grader.network.init(k, image, False))(key)


def init_grader_state(grader: Grader, variables: dict) -> TrainState:
    """Makes the state before step 0 from the variables of the classifier."""
    return init_train_state(variables, grader.optimizer)


def _loss(logits: Array, batch: Batch, grader: Grader) -> Array:
    config = grader.config
    target = jax.nn.one_hot(batch.grade, NUM_GRADES) * jnp.asarray(grader.grade_weights)
    focal = losses.categorical_focal(logits, target, config.focal_alpha, config.focal_gamma)
    return losses.masked_mean(focal, batch.sample_mask, grader.axis_name)


@partial(jax.jit, static_argnames="grader")
def grader_step(state: TrainState, batch: Batch, *, grader: Grader) -> tuple[TrainState, StepMetrics]:
    """Takes one supervised step on truly graded images.

    Returns:
        The new state, and the metrics `loss`, `grad_norm` and `finite`. If the step is not finite, the state does not
        change.
    """

    def loss_fn(params: Params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        with sync_batch_norm(grader.axis_name):
            output, updated = grader.network.apply(variables, batch.image, True, mutable=["batch_stats"])
        return _loss(output.logits, batch, grader), updated.get("batch_stats", {})

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads = device_mean(grads, grader.axis_name)
    new_state = apply_gradients(dataclasses.replace(state, batch_stats=batch_stats), grads, grader.optimizer)
    return keep_if_finite(state, new_state, {"loss": loss, "grad_norm": optax.tree.norm(grads)})


@partial(jax.jit, static_argnames="grader")
def grader_eval(state: TrainState, batch: Batch, *, grader: Grader) -> tuple[Float[Array, "b c"], Float[Array, ""]]:
    """Computes the logits of a batch with running statistics, and the mean loss."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = cast(ClassifierOutput, grader.network.apply(variables, batch.image, False)).logits
    return logits, _loss(logits, batch, grader)

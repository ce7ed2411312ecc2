"""What changes during training (`MethodState`) and what does not (`Method`)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from pldmlt_jax.config import Config, LossConfig, MetaConfig, OptimConfig
from pldmlt_jax.method import optimizers
from pldmlt_jax.models.build import build_label_network, build_network
from pldmlt_jax.types import NUM_GRADES

Params = Any
"""A pytree of arrays, as Flax makes it."""

INIT_SIZE_PX = 64
"""Side of the image that initialises the parameters. Their shapes do not depend on it, and a small one is fast."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The arrays of one network: the multi-task network, the label network or a grader."""

    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    ema: Params | None = None
    """Exponential moving average of `params`, if it is kept."""

    def evaluated_params(self) -> Params:
        """Returns the parameters for evaluation: the moving average if there is one."""
        return self.params if self.ema is None else self.ema


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MethodState:
    """Everything that Algorithm 1 changes."""

    step: Int[Array, ""]
    """Number of steps taken, of both kinds."""
    network: TrainState
    """The multi-task network, theta."""
    label: TrainState
    """The label-update network, theta_1."""
    label_mean: Float[Array, "c"]
    """Running mean of the soft labels, for the meta loss `maxl`."""


@dataclasses.dataclass(frozen=True)
class Method:
    """What is static during training. It is hashable by value, so a step compiles once for all equal Methods.

    Optax transformations never compare equal, so they are made from the config on demand.
    """

    network: nn.Module
    label_network: nn.Module
    loss: LossConfig
    meta: MetaConfig
    optim: OptimConfig
    total_steps: int
    """Number of steps of theta, over which its schedule runs."""
    seed: int
    microbatches: int = 1
    """Number of parts that a batch is computed in, one after the other."""
    axis_name: str | None = None
    """Axis of the devices under `pmap`, else None."""

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser of theta."""
        return optimizers.network_optimizer(self.optim, self.total_steps)

    @property
    def label_optimizer(self) -> optax.GradientTransformation:
        """The optimiser of theta_1."""
        return optimizers.label_optimizer(self.meta)


def make_method(config: Config, total_steps: int, axis_name: str | None = None) -> Method:
    """Builds the static part of stage 2 from a config.

    Args:
        config: A valid config (`config_checks`).
        total_steps: Number of steps of theta, over which its schedule runs.
        axis_name: Axis of the devices under `pmap`, else None.

    Example:
        >>> import numpy as np
        >>> from pldmlt_jax.config import Config, ModelConfig
        >>> from pldmlt_jax.types import Batch
        >>> model = ModelConfig(encoder_filters=(4,), encoder_convs=(1,), decoder_filters=(4,), centre_filters=0)
        >>> method = make_method(Config(model=model), total_steps=10)
        >>> state = init_method_state(method)
        >>> batch = Batch(
        ...     image=np.zeros((2, 16, 16, 3), np.uint8),
        ...     mask_bits=np.ones((2, 16, 16), np.uint8),  # all pixels inside the field of view, no lesions
        ...     grade=np.array([2, 3], np.int32),  # pseudo-labels
        ...     admissible=np.ones((2, 5), bool),
        ...     sample_mask=np.ones(2, np.float32),
        ...     index=np.arange(2, dtype=np.int32),
        ... )
        >>> method.network.decoder.filters, int(state.step), batch.image.shape
        ((4,), 0, (2, 16, 16, 3))
    """
    return Method(
        network=build_network(config.model, config.loss.target),
        label_network=build_label_network(config.meta),
        loss=config.loss,
        meta=config.meta,
        optim=config.optim,
        total_steps=total_steps,
        seed=config.seed,
        microbatches=config.train.microbatches,
        axis_name=axis_name,
    )


def init_train_state(
    variables: Mapping[str, Any], optimizer: optax.GradientTransformation, *, with_ema: bool = False
) -> TrainState:
    """Makes the initial state of a network from its variables, `params` and, if any, `batch_stats`."""
    params = variables["params"]
    return TrainState(
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params),
        ema=params if with_ema else None,
    )


def init_method_state(method: Method, pretrained: Callable[[dict], dict] | None = None) -> MethodState:
    """Makes the state before step 0, with parameters drawn from `method.seed`.

    Args:
        method: The networks and their optimisers.
        pretrained: Function that replaces random variables (`params`, `batch_stats`) of the multi-task network by others.
    """
    network_key, label_key = jax.random.split(jax.random.key(method.seed))
    image = jnp.zeros((1, INIT_SIZE_PX, INIT_SIZE_PX, 3), jnp.uint8)
    output, variables = jax.jit(lambda key: method.network.init_with_output(key, image, False))(network_key)
    if pretrained is not None:
        variables = pretrained(variables)
    label_variables = method.label_network.init(label_key, output.pooled, jnp.zeros((1,), jnp.int32))
    return MethodState(
        step=jnp.zeros((), jnp.int32),
        network=init_train_state(variables, method.optimizer, with_ema=method.optim.ema_decay > 0),
        label=init_train_state(label_variables, method.label_optimizer),
        label_mean=jnp.full((NUM_GRADES,), 1.0 / NUM_GRADES),
    )

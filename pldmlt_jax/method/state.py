"""What changes while training (`MethodState`) and what does not (`Method`)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from pldmlt_jax.config import LossConfig, MetaConfig, OptimConfig
from pldmlt_jax.method import optimizers as optim
from pldmlt_jax.types import NUM_GRADES

Params = Any
"""A pytree of arrays, as Flax makes it."""


INIT_SIZE_PX = 64
"""Side of the image that parameters are initialised with: their shapes do not depend on it, and a small one is quick."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """One network's arrays; graders and label network use it too."""

    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    ema: Params | None = None  # exponential moving average of params, where it is kept

    def evaluated_params(self) -> Params:
        """What evaluation uses: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MethodState:
    """Everything that Algorithm 1 changes."""

    step: Int[Array, ""]
    network: TrainState  # theta
    label: TrainState  # theta_1
    label_mean: Float[Array, "c"]  # running mean of the soft labels, for the meta loss `maxl`


@dataclasses.dataclass(frozen=True)
class Method:
    """Static and hashable: two equal Methods compile once. Optax chains are built from it, for they never compare equal."""

    network: nn.Module
    label_network: nn.Module
    loss: LossConfig
    meta: MetaConfig
    optim: OptimConfig
    total_steps: int
    seed: int
    microbatches: int = 1  # that a batch is computed in
    axis_name: str | None = None  # under pmap only: that of its devices

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optim.network_optimizer(self.optim, self.total_steps)

    @property
    def label_optimizer(self) -> optax.GradientTransformation:
        return optim.label_optimizer(self.meta)


def init_train_state(
    variables: Mapping[str, Any], optimizer: optax.GradientTransformation, *, with_ema: bool = False
) -> TrainState:
    """A fresh state around a module's variables."""
    params = variables["params"]
    return TrainState(
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params),
        ema=params if with_ema else None,
    )


def init_method_state(method: Method, pretrained: Callable[[dict], dict] | None = None) -> MethodState:
    """The state before step 0.

    Args:
        method: The networks and their optimisers.
        pretrained: Puts weights from elsewhere into the network's variables, `params` and `batch_stats`, given random ones.
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

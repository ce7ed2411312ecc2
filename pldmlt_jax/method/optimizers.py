"""Optax chains from the config: theta's optimiser, its virtual counterpart, and the label network's."""

from collections.abc import Callable

import jax
import optax

from pldmlt_jax.config import MetaConfig, OptimConfig

INNER_ADAM_EPS_ROOT = 1e-16
"""Far below squared gradients, yet not zero: the look-ahead's square root would have an infinite slope at 0."""


def _in_decoder(params: optax.Params) -> optax.Params:
    """True for everything but the encoder."""
    return jax.tree.map_with_path(lambda path, _: path[0].key != "encoder", params)


def _schedule(config: OptimConfig, total_steps: int) -> optax.Schedule:
    decay: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(config.learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(config.learning_rate, max(total_steps - config.warmup_steps, 1)),
    }
    schedule = decay[config.schedule]()
    if not config.warmup_steps:
        return schedule
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, schedule], [config.warmup_steps])


UPDATE_RULES: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "adam": lambda eps_root: optax.scale_by_adam(eps_root=eps_root),
    "sgd": lambda eps_root: optax.identity(),
}


def _chain(
    config: OptimConfig, optimizer: str, schedule: optax.Schedule, eps_root: float = 0.0
) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        UPDATE_RULES[optimizer](eps_root),
        optax.masked(optax.scale(config.decoder_factor), _in_decoder),
        optax.scale_by_learning_rate(schedule),
    )


def network_optimizer(config: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    """theta's optimiser (line 13; section 3.4): Adam at 5e-5 in literal configs."""
    return _chain(config, config.optimizer, _schedule(config, total_steps))


def virtual_optimizer(meta: MetaConfig, optim: OptimConfig) -> optax.GradientTransformation:
    """The optimiser of the virtual step (line 20).

    `sgd` is theta - epsilon grad L. `adam` has the structure of theta's own chain, and so goes on from its state: a
    fresh Adam step is sign-like and has nearly no gradient with respect to the labels.
    """
    if meta.inner_optimizer == "sgd":
        return optax.sgd(meta.inner_learning_rate)
    return _chain(optim, "adam", optax.constant_schedule(meta.inner_learning_rate), INNER_ADAM_EPS_ROOT)


def label_optimizer(config: MetaConfig) -> optax.GradientTransformation:
    """theta_1's optimiser (line 21): plain gradient descent literally, Adam recommended."""
    optimizers = {"sgd": optax.sgd, "adam": optax.adam}
    return optimizers[config.optimizer](config.learning_rate)

"""The optimisers of theta, of the virtual step and of the label network, as optax chains."""

from collections.abc import Callable

import jax
import optax

from pldmlt_jax.config import MetaConfig, OptimConfig

INNER_ADAM_EPS_ROOT = 1e-16
"""Added under the look-ahead's square root, which has an infinite slope at 0. It is far below squared gradients."""


def _in_decoder(params: optax.Params) -> optax.Params:
    """Returns a tree that is True for every parameter outside the encoder."""
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
"""The scaling of gradients by name, as a function of Adam's `eps_root`."""


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
    """Makes the optimiser of theta (line 13 of Algorithm 1; section 3.4): Adam at 5e-5 in the paper.

    Gradients are clipped, scaled by the optimiser, multiplied by `decoder_factor` outside the encoder, and multiplied by the
    negative learning rate of the schedule.

    Args:
        config: The optimiser, its schedule and its options.
        total_steps: Number of steps of theta. A cosine schedule reaches 0 there.
    """
    return _chain(config, config.optimizer, _schedule(config, total_steps))


def virtual_optimizer(meta: MetaConfig, optim: OptimConfig) -> optax.GradientTransformation:
    """Makes the optimiser of the virtual step (line 20 of Algorithm 1).

    `sgd` is theta - epsilon grad L. `adam` has the structure of theta's own chain and starts from its state: a fresh Adam
    step is close to the sign of the gradient and has almost no gradient with respect to the labels.

    Args:
        meta: The inner optimiser and its learning rate, epsilon.
        optim: The optimiser of theta.
    """
    if meta.inner_optimizer == "sgd":
        return optax.sgd(meta.inner_learning_rate)
    return _chain(optim, "adam", optax.constant_schedule(meta.inner_learning_rate), INNER_ADAM_EPS_ROOT)


def label_optimizer(config: MetaConfig) -> optax.GradientTransformation:
    """Makes the optimiser of theta_1 (line 21 of Algorithm 1): gradient descent in the paper; Adam is recommended."""
    optimizers = {"sgd": optax.sgd, "adam": optax.adam}
    return optimizers[config.optimizer](config.learning_rate)

"""From a config to the method's static part."""

from pldmlt_jax.config import Config
from pldmlt_jax.method.state import Method
from pldmlt_jax.models.build import build_label_network, build_network


def make_method(config: Config, total_steps: int, axis_name: str | None = None) -> Method:
    """The static part of stage 2; `total_steps` of theta are what its schedule runs over, `axis_name` is a pmap's."""
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

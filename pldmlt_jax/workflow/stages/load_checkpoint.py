"""The trained networks that the command line names."""

import dataclasses
from pathlib import Path

from pldmlt_jax.evaluation.inference import TrainedNetwork, checkpoint_directory, load_network, saved_config
from pldmlt_jax.evaluation.predictor import Predictor, make_predictor, split_checkpoints
from pldmlt_jax.method.setup import make_method
from pldmlt_jax.workflow.context import Context


def load_networks(context: Context) -> list[TrainedNetwork]:
    """The best checkpoints that the command line names, else the workdir's.

    The first is built as the run's config says, the others each as the config beside it does.

    Raises:
        CheckpointError: See `inference.load_network`.
    """
    networks = []
    for path in split_checkpoints(context.options.checkpoint or str(context.workdir)):
        directory = checkpoint_directory(Path(path))
        config = saved_config(directory) if networks else context.config
        config = dataclasses.replace(config, parallel=context.config.parallel)  # of this machine, not of the training's
        fallback = context.config.checkpoint.fallback
        networks.append(load_network(directory, config, make_method(config, total_steps=1), fallback=fallback))
    return networks


def load_predictor(context: Context) -> Predictor:
    """These networks with their operating points, by the engine that the command line names."""
    return make_predictor(load_networks(context), context.config, context.options.engine or "xla")

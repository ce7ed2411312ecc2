"""Loads trained networks for prediction: those that a path, the command line or the run itself names."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pldmlt_jax.config import Config, InferenceConfig, ParallelConfig, fields
from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.evaluation.inference import (
    BUNDLED_MODEL,
    TrainedNetwork,
    checkpoint_directory,
    load_network,
    saved_config,
    split_checkpoints,
)
from pldmlt_jax.evaluation.operating_points import average_points, lesion_names, read_points
from pldmlt_jax.evaluation.predictor import Predictor
from pldmlt_jax.export.engines import make_forward
from pldmlt_jax.workflow.context import Context

MUST_AGREE = ("data.size_px", "data.fov_crop", "data.resize", "data.enhance", "loss.target", "loss.grading")
"""Fields that must be equal for the probabilities of several networks to be averaged."""


def load(
    path: str | Path | Sequence[str | Path] = BUNDLED_MODEL, *, engine: str = "xla", inference: InferenceConfig | None = None
) -> Predictor:
    """Loads a trained network, ready to predict.

    Args:
        path: A workdir, its `checkpoints/`, or a folder that `export` has written; several for the mean of their
            probabilities. By default the bundled model, see `pretrained/model_card.md`.
        engine: "xla", or "onnx" or "openvino" where they are installed (`requirements-export.txt`).
        inference: Views and windows, if they are to differ from the network's own config.

    Returns:
        A predictor: `load(path).predict(image)`.

    Raises:
        CheckpointError: There is no trained network, it is of another version, or several do not fit each other.
        ConfigError: The engine is unknown or not installed.
    """
    networks = []
    for one in [path] if isinstance(path, str | Path) else path:
        directory = checkpoint_directory(Path(one))
        config = saved_config(directory)
        config.parallel = ParallelConfig()  # of this machine, not of the one that trained it
        networks.append(load_network(directory, config))
    config = networks[0].config
    if inference is not None:
        config = dataclasses.replace(config, inference=inference)
    return make_predictor(networks, config, engine)


def load_networks(context: Context) -> list[TrainedNetwork]:
    """Loads the best checkpoints that the command line names, else the workdir's: from memory if this run trained it.

    The first is built from the run's config, each other one from the config beside its checkpoint.

    Raises:
        CheckpointError: See `inference.load_network`.
    """
    named = context.options.checkpoint
    if not named and context.trained is not None:
        return [context.trained]
    networks = []
    for path in split_checkpoints(named or str(context.workdir)):
        directory = checkpoint_directory(path)
        config = saved_config(directory) if networks else context.config
        config = dataclasses.replace(config, parallel=context.config.parallel)  # of this machine, not of the training's
        networks.append(load_network(directory, config, fallback=context.config.checkpoint.fallback))
    return networks


def load_predictor(context: Context) -> Predictor:
    """Loads these networks with their operating points, for the engine that the command line names."""
    return make_predictor(load_networks(context), context.config, context.options.engine or "xla")


def make_predictor(networks: Sequence[TrainedNetwork], config: Config, engine: str = "xla") -> Predictor:
    """Makes a predictor of networks and of the operating points beside them.

    Args:
        networks: One, or several with the same view of a photograph and the same outputs.
        config: The first one's, with the `inference` to use.
        engine: A key of `ENGINES`.

    Raises:
        CheckpointError: The networks do not fit each other.
        ConfigError: See `engines.make_forward`.
    """
    wanted = dict(fields(config))
    for network in networks:
        given = dict(fields(network.config))
        differing = [f"{name} = {given[name]!r}, not {wanted[name]!r}" for name in MUST_AGREE if given[name] != wanted[name]]
        if differing:
            expected = "networks with the same view of a photograph and the same outputs, to average them"
            raise CheckpointError(network.directory, "; ".join(differing), expected, "leave it out of --checkpoint")
    found = [read_points(network.directory, network.step) for network in networks]
    points = average_points(found)
    if config.inference.threshold > 0:
        points = points.with_threshold(config.inference.threshold, lesion_names(config.loss.target))
    forwards = tuple(make_forward(engine, network, config.inference) for network in networks)
    return Predictor(tuple(networks), forwards, tuple(one.temperature or 1.0 for one in found), points, config)

"""Loads trained networks that a path, the command line or the run names, with the config that they need."""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from pldmlt_jax.config import Config, InferenceConfig, ParallelConfig, fields
from pldmlt_jax.config_checks import config_errors
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
from pldmlt_jax.models.weights.load import preprocessing_scheme
from pldmlt_jax.training.checkpoint import CONFIG
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.options import RunOptions

MUST_AGREE = ("data.size_px", "data.fov_crop", "data.resize", "data.enhance", "loss.target", "loss.grading")
"""Fields that must be equal for the probabilities of several networks to be averaged."""

NETWORK_VERBS = ("evaluate", "predict", "export", "figures")
"""Verbs that use trained networks."""

HELD_OUT_VERBS = ("evaluate", "figures")
"""Verbs that need held-out images, on which the networks have not been trained."""

TRAINING_IMAGES = (
    "data.split", "data.grading_split", "data.num_folds", "data.fold", "data.val_share", "data.split_seed",
    "data.folds_file", "data.leakage",
)  # fmt: skip
"""Fields that decide which images a network is trained on; with other values it would be scored on training images."""

NETWORK_INPUT = ("data.size_px", "data.fov_crop", "data.resize", "data.enhance", "model.", "loss.target")
"""Prefixes of the fields that a network is trained for; with other values its results change, often without an error."""


def load(
    path: str | Path | Sequence[str | Path] = BUNDLED_MODEL, *, engine: str = "xla", inference: InferenceConfig | None = None
) -> Predictor:
    """Loads a trained network, ready to predict.

    Args:
        path: A workdir, its `checkpoints/`, or a folder that `export` has written; several for the mean of their
            probabilities. By default the bundled model, see `pretrained/model_card.md`.
        engine: "xla", or "onnx" or "openvino" where they are installed (`requirements-export.txt`).
        inference: Views and windows to use instead of those in the network's config.

    Returns:
        A predictor: `load(path).predict(image)`.

    Raises:
        CheckpointError: There is no trained network, it was written by another version, or several cannot be averaged.
        ConfigError: The engine is unknown or not installed.

    Example:
        >>> predictor = load(inference=InferenceConfig(tta="flips"))
        >>> predictor.lesion_names, predictor.config.data.size_px
        (('MA', 'HE', 'EX', 'SE'), 640)
    """
    networks = []
    for one in [path] if isinstance(path, str | Path) else path:
        directory = checkpoint_directory(Path(one))
        config = saved_config(directory)
        config.parallel = ParallelConfig()  # for this machine, not the one that trained it
        networks.append(load_network(directory, config))
    config = networks[0].config
    if inference is not None:
        config = dataclasses.replace(config, inference=inference)
    return make_predictor(networks, config, engine)


def load_networks(context: Context) -> list[TrainedNetwork]:
    """Loads the best checkpoints that the command line names, else that of the workdir; from memory if this run trained it.

    The first is built with the run's config, the others with the config saved with their checkpoint.

    Raises:
        CheckpointError: See `inference.load_network`.
    """
    named = context.options.checkpoint
    if not named and context.trained_network is not None:
        return [context.trained_network]
    networks = []
    for path in split_checkpoints(named or str(context.workdir)):
        directory = checkpoint_directory(path)
        config = saved_config(directory) if networks else context.config
        config = dataclasses.replace(
            config, parallel=context.config.parallel
        )  # for this machine, not the one that trained it
        networks.append(load_network(directory, config, fallback=context.config.checkpoint.fallback))
    return networks


def load_predictor(context: Context) -> Predictor:
    """Loads the networks of `load_networks` with their operating points, for the engine that the command line names."""
    return make_predictor(load_networks(context), context.config, context.options.engine or "xla")


def make_predictor(networks: Sequence[TrainedNetwork], config: Config, engine: str = "xla") -> Predictor:
    """Makes a predictor of networks and the operating points saved with them.

    Args:
        networks: One network, or several with the same view of a photograph and the same outputs.
        config: The config of the first network, with the `inference` to use.
        engine: A key of `ENGINES`.

    Raises:
        CheckpointError: The networks cannot be averaged.
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


def with_saved_config(options: RunOptions) -> RunOptions:
    """Gives the verbs that use trained networks the config that these were trained with, if the user gave none.

    With several networks, the config of the first is used. The command line's overrides are applied to it, and results are
    written next to the checkpoint unless a workdir is given. `predict` without a config, a checkpoint and a workdir uses the
    bundled model. A config that the user gave must agree with the saved one in NETWORK_INPUT, except in overridden fields;
    for HELD_OUT_VERBS on the same data set, also in TRAINING_IMAGES.

    Args:
        options: The options as given.

    Returns:
        The options with the config, workdir and checkpoint to use; the same options for all other verbs.

    Raises:
        CheckpointError: There is no checkpoint, its config is damaged, or it was trained for or on something else.
    """
    if options.verb not in NETWORK_VERBS:
        return options
    if options.verb == "predict" and not (options.checkpoint or options.config_given or options.workdir_given):
        print(f"  no --checkpoint given: using the bundled model, see {BUNDLED_MODEL / 'model_card.md'}")
        options = dataclasses.replace(options, checkpoint=str(BUNDLED_MODEL))
    paths = split_checkpoints(options.checkpoint or str(options.workdir))
    directories = [checkpoint_directory(path) for path in paths]
    saved = [_read_config(directory) for directory in directories]
    if not options.config_given:
        options = _replace_config(options, directories[0], copy.deepcopy(saved[0]))
    _require_agreement(options, saved[0], directories[0], NETWORK_INPUT)
    if options.verb in HELD_OUT_VERBS:
        for config, directory in zip(saved[1:], directories[1:], strict=True):
            _require_agreement(options, config, directory, TRAINING_IMAGES)
    return options


def _read_config(directory: Path) -> Config:
    """Reads the config that a network was trained with.

    Raises:
        CheckpointError: The config is not valid.
    """
    config = saved_config(directory)
    if wrong := config_errors(config):
        found = "; ".join(f"{error.where}: {error.found}" for error in wrong)
        raise CheckpointError(directory / CONFIG, found, "the config that the network was trained with", "restore it")
    return config


def _replace_config(options: RunOptions, directory: Path, config: Config) -> RunOptions:
    """Returns the options with a saved config, to which the overrides are applied, and the workdir of its checkpoint."""
    config.parallel = options.config.parallel  # for this machine, not the one that trained it
    for path in options.overrides:
        *parts, name = path.split(".")
        source, target = (functools.reduce(getattr, parts, part) for part in (options.config, config))
        setattr(target, name, getattr(source, name))
    beside = Path("runs") / BUNDLED_MODEL.name if directory.resolve() == BUNDLED_MODEL else directory.parent
    return dataclasses.replace(options, config=config, workdir=options.workdir if options.workdir_given else beside)


def _require_agreement(options: RunOptions, saved: Config, directory: Path, prefixes: tuple[str, ...]) -> None:
    """Compares the config to use with the one that a network was trained with.

    Args:
        options: The options with the config to use.
        saved: The config that the network was trained with.
        directory: The folder of the network's checkpoints.
        prefixes: Prefixes of the fields that must agree unless they are overridden.

    Raises:
        CheckpointError: The two configs do not agree.
    """
    given, trained = dict(fields(options.config)), dict(fields(saved))
    compared = {name for name in given if name.startswith(prefixes)} - {"model.weights", *options.overrides}
    if options.verb in HELD_OUT_VERBS and given["data.segmentation"] == trained["data.segmentation"]:
        compared |= set(TRAINING_IMAGES)
    differing = [
        f"{name} = {trained[name]!r}, not {given[name]!r}" for name in sorted(compared) if given[name] != trained[name]
    ]
    theirs, ours = (preprocessing_scheme(config.model.encoder, config.model.weights) for config in (saved, options.config))
    if theirs != ours:
        differing.append(f"images prepared as {theirs!r} by model.weights = {saved.model.weights!r}, not {ours!r}")
    if differing:
        raise CheckpointError(
            directory,
            f"trained with {'; '.join(differing)}",
            "a network trained with these values, and not on the images that it is scored on",
            "remove these fields and --config: the checkpoint has its own config",
        )

"""A trained network, loaded from a folder of checkpoints or of exported weights, and its forward pass."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from pldmlt_jax.config import Config, ParallelConfig, from_dict
from pldmlt_jax.errors import CheckpointError, ConfigError, DataError
from pldmlt_jax.evaluation.tta import ForwardOutput
from pldmlt_jax.io.files import read_json
from pldmlt_jax.method import losses
from pldmlt_jax.method.gradcam import grade_contributions, head_jacobian
from pldmlt_jax.method.state import INIT_SIZE_PX, MethodState, TrainState
from pldmlt_jax.models.build import build_label_network, build_network
from pldmlt_jax.models.multitask import MultiTask, NetworkOutput
from pldmlt_jax.models.weights.checkpoint_io import WEIGHTS, read_weights
from pldmlt_jax.training.checkpoint import CONFIG, Checkpoints, describe_shape_differences
from pldmlt_jax.training.parallel import Devices, select_local_devices
from pldmlt_jax.types import NUM_GRADES

BUNDLED_MODEL = Path(__file__).resolve().parents[1] / "pretrained"
"""Folder of the trained network that comes with the package."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its best state.

    Attributes:
        config: How the network is built and images are prepared for it.
        state: Arrays of the network and of its label network, without optimisers.
        step: The training step that the state is from.
        directory: The folder of checkpoints, or of exported weights.
        devices: The devices that hold the state, of this process.
    """

    config: Config
    state: MethodState
    step: int
    directory: Path
    devices: Devices = field(default_factory=lambda: select_local_devices(ParallelConfig()))

    @property
    def module(self) -> MultiTask:
        """The Flax module."""
        return build_network(self.config.model, self.config.loss.target)

    @property
    def variables(self) -> dict[str, Any]:
        """What prediction uses: running statistics, and averaged parameters where they are kept."""
        return {"params": self.state.network.evaluated_params(), "batch_stats": self.state.network.batch_stats}

    @property
    def arrays(self) -> dict[str, Any]:
        """What `write_weights` writes: the variables, and the label network's parameters."""
        return {"network": self.variables, "label": {"params": self.state.label.params}}

    def __call__(self, images: UInt8[np.ndarray, "b h w 3"], batch_size: int) -> ForwardOutput:
        """Runs the network on `b <= batch_size` prepared images, see `ForwardOutput`.

        Smaller batches, and batches that the devices do not divide, are padded with black images: with one shape the
        network is compiled once.
        """
        padded = pad_batch(images, self.devices.batch_size_per_process(batch_size))
        forward = self.devices.make_evaluation(inference_forward, network=self.module, target=self.config.loss.target)
        output = forward(self.variables, self.devices.put_batch(padded))
        return ForwardOutput(*(rows[: len(images)] for rows in output))


def pad_batch(images: UInt8[np.ndarray, "b h w 3"], batch_size: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Appends black images until there are `batch_size`."""
    return np.concatenate([images, np.zeros((batch_size - len(images), *images.shape[1:]), np.uint8)])


def inference_forward(variables: dict[str, Any], images: Array, *, network: MultiTask, target: str) -> ForwardOutput:
    """Runs the network as a pure function, which `export` writes to files as well.

    Args:
        variables: `params` and `batch_stats`.
        images: RGB [b, h, w, 3] in 0..255, uint8 or float.
        network: The module.
        target: A key of `losses.TARGETS`.
    """
    output, kept = cast(
        tuple[NetworkOutput, Any],
        network.apply(
            variables,
            images,
            False,
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: module.name == "encoder",
        ),
    )
    features = kept["intermediates"]["encoder"]["__call__"][0][-1].astype(output.pooled.dtype)
    maps = grade_contributions(features, head_jacobian(variables["params"]["head"], network.grade_head, output.pooled))
    probabilities = losses.segmentation_probabilities(output.segmentation_logits, target)
    return ForwardOutput(probabilities, output.grade_logits, maps)


def split_checkpoints(text: str) -> list[Path]:
    """Splits `--checkpoint` at its commas into folders; a folder whose own name has a comma is not split."""
    return [Path(text)] if Path(text).exists() else [Path(part.strip()) for part in text.split(",") if part.strip()]


def checkpoint_directory(path: Path) -> Path:
    """Returns the folder of checkpoints, or of exported weights, in a workdir; such a folder itself is returned as it is.

    Raises:
        CheckpointError: There is none.
    """
    for candidate in (path / "checkpoints", path):
        if (candidate / WEIGHTS).is_file():
            return candidate
        if candidate.is_dir() and any(child.name.isdigit() for child in candidate.iterdir()):
            return candidate
    expected = f"a workdir with a trained network, or a folder with {WEIGHTS} and {CONFIG}"
    raise CheckpointError(path, "no checkpoint in it", expected, "train first, or check the path")


def saved_config(directory: Path) -> Config:
    """Reads the config that a network was trained with, from its folder of checkpoints or exported weights.

    Raises:
        CheckpointError: It is missing, was written by another version, or sets a retired field.
    """
    path = directory / CONFIG
    try:
        return from_dict(read_json(path))
    except ConfigError as error:  # a retired field
        raise CheckpointError(path, f"{error.where}: {error.found}", error.expected, error.action) from error
    except (DataError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(path, str(error), "the config that the network was trained with", "train again") from error


def load_network(directory: Path, config: Config, *, fallback: bool = False) -> TrainedNetwork:
    """Loads the best checkpoint of a folder, or its exported weights, to this process's devices (`config.parallel`).

    Args:
        directory: See `checkpoint_directory`.
        config: The network's config.
        fallback: Use an earlier checkpoint where one is damaged.

    Raises:
        CheckpointError: There is none, its arrays do not match the config, or some are damaged without `fallback`.
    """
    devices = select_local_devices(config.parallel)
    if (directory / WEIGHTS).is_file():
        arrays, step = read_weights(directory / WEIGHTS)
        require_architecture(arrays, config, directory / WEIGHTS)
        return TrainedNetwork(config, devices.put_state(_as_state(arrays, step)), step, directory, devices)
    with Checkpoints(directory, fallback=fallback, alone=True) as checkpoints:
        step = checkpoints.require_best_step()
        arrays = checkpoints.restore_raw(step, devices.abstract_state)
    require_architecture(arrays, config, directory / str(step))
    return TrainedNetwork(config, _as_state(arrays, step), step, directory, devices)


def drop_optimizers(state: MethodState) -> MethodState:
    """Returns the state without what Adam keeps, which is two thirds of its memory and of no use after training."""
    network, label = (dataclasses.replace(part, opt_state=()) for part in (state.network, state.label))
    return dataclasses.replace(state, network=network, label=label)


def require_architecture(arrays: dict[str, Any], config: Config, path: Path) -> None:
    """Checks that arrays are those of the networks that a config describes.

    Args:
        arrays: Nested dictionaries of a checkpoint or of `read_weights`.
        config: The config.
        path: Where they are from, for the message.

    Raises:
        CheckpointError: Names or shapes differ; lists the first ones.
    """
    parts = {"network": ("params", "batch_stats"), "label": ("params",)}
    saved = {name: {key: arrays.get(name, {}).get(key) or {} for key in keys} for name, keys in parts.items()}
    if differences := describe_shape_differences(saved, _init_shapes(config)):
        raise CheckpointError(
            path,
            f"weights of another architecture ({differences})",
            f"the arrays of the networks in {CONFIG}",
            f"use the {CONFIG} that the network was trained with",
        )


def _init_shapes(config: Config) -> dict[str, Any]:
    """Computes the shapes of the variables of network and label network, without computing any."""
    network, label = build_network(config.model, config.loss.target), build_label_network(config.meta)
    image = jnp.zeros((1, INIT_SIZE_PX, INIT_SIZE_PX, 3), jnp.uint8)

    def init(key: Array) -> dict[str, Any]:
        output, variables = network.init_with_output(key, image, False)
        return {"network": variables, "label": label.init(key, output.pooled, jnp.zeros((1,), jnp.int32))}

    return jax.eval_shape(init, jax.random.key(0))


def _as_state(arrays: dict[str, Any], step: int) -> MethodState:
    network, label = arrays["network"], arrays["label"]
    return MethodState(
        step=jnp.asarray(step, jnp.int32),
        network=TrainState(network["params"], network.get("batch_stats") or {}, (), network.get("ema")),
        label=TrainState(label["params"], {}, ()),
        label_mean=jnp.full((NUM_GRADES,), 1.0 / NUM_GRADES),
    )

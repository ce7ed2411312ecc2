"""A trained network on images of any size: prepared like the training images, answered at the image's own size."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from pldmlt_jax.config import Config, from_dict
from pldmlt_jax.data.fundus import to_original
from pldmlt_jax.data.prepare import prepare_image
from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.method import losses
from pldmlt_jax.method.state import Method, MethodState, init_method_state
from pldmlt_jax.models.multitask import NetworkOutput
from pldmlt_jax.training.checkpoint import CONFIG, Checkpoints
from pldmlt_jax.training.parallel import Devices
from pldmlt_jax.types import Geometry


class Prediction(NamedTuple):
    """One image's answer."""

    probabilities: Float[np.ndarray, "h w k"]  # at the original size; zero outside the field of view's crop
    grade_probabilities: Float[np.ndarray, "c"]


@dataclass(frozen=True)
class TrainedNetwork:
    """A method with its best state; the config says how images are prepared for it."""

    config: Config
    method: Method
    state: MethodState
    step: int
    devices: Devices

    def __call__(self, images: UInt8[np.ndarray, "b s s 3"], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Segmentation and grade probabilities of `b <= batch_size` images at the network's size.

        Fewer images, and a batch that the devices do not divide, are filled up with black ones: of one shape, the network
        is compiled once.
        """
        variables = {
            "params": self.state.network.evaluated_params(),
            "batch_stats": self.state.network.batch_stats,
        }
        missing = self.devices.own_batch_size(batch_size) - len(images)
        black = np.zeros((missing, *images.shape[1:]), np.uint8)
        answer = self.devices.evaluation(_probabilities, method=self.method)
        segmentation, grades = answer(variables, self.devices.put_batch(np.concatenate([images, black])))
        return segmentation[: len(images)], grades[: len(images)]


@partial(jax.jit, static_argnames="method")
def _probabilities(variables: dict, images: Array, *, method: Method) -> tuple[Array, Array]:
    output = cast(NetworkOutput, method.network.apply(variables, images, False))
    segmentation = losses.segmentation_probabilities(output.segmentation_logits, method.loss.target)
    return segmentation, jax.nn.softmax(output.grade_logits, axis=-1)


def checkpoint_directory(path: Path) -> Path:
    """The folder of checkpoints that a workdir, or that folder itself, stands for.

    Raises:
        CheckpointError: Where there is none.
    """
    for candidate in (path / "checkpoints", path):
        if candidate.is_dir() and any(child.name.isdigit() for child in candidate.iterdir()):
            return candidate
    raise CheckpointError(path, "no checkpoint in it", "a workdir that `train` has filled", "train first, or check the path")


def saved_config(directory: Path) -> Config:
    """The config that training has left in its folder of checkpoints.

    Raises:
        CheckpointError: It is missing or not one of this version.
    """
    path = directory / CONFIG
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(path, str(error), "the config that the network was trained with", "train again") from error


def load_network(directory: Path, config: Config, method: Method, devices: Devices) -> TrainedNetwork:
    """The best checkpoint of a folder, on devices of this process.

    Raises:
        CheckpointError: Where there is none, or it is of another architecture.
    """
    like = devices.like(jax.eval_shape(lambda: init_method_state(method)))
    with Checkpoints(directory, alone=True) as checkpoints:
        step = checkpoints.require_best_step()
        state, _ = checkpoints.restore(step, like)
    return TrainedNetwork(config, method, state, step, devices)


def predict_images(
    network: TrainedNetwork, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], batch_size: int
) -> Iterator[Prediction]:
    """Predicts RGB images of any size, in order, in batches of one compiled shape."""
    for start in range(0, len(images), batch_size):
        chunk = images[start : start + batch_size]
        prepared = [prepare_image(image, network.config.data, network.config.data.size_px) for image in chunk]
        segmentation, grades = network(np.stack([view.image for view in prepared]), batch_size)
        for row, view in enumerate(prepared):
            yield Prediction(at_original_size(segmentation[row], view.valid, view.geometry), grades[row])


def at_original_size(
    probabilities: Float[np.ndarray, "s s k"], valid: np.ndarray, geometry: Geometry
) -> Float[np.ndarray, "h w k"]:
    """Probabilities on the original's pixels, zero outside the field of view."""
    return to_original(probabilities * valid[..., None], geometry)

"""A trained network: from a folder of checkpoints or of exported weights, asked at its own size."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from pldmlt_jax.config import Config, ParallelConfig, from_dict
from pldmlt_jax.data.preprocessing.geometry import to_original
from pldmlt_jax.errors import CheckpointError, DataError
from pldmlt_jax.evaluation.tta import RawOutput
from pldmlt_jax.export.quantisation import dequantise_kernels, quantise_kernels
from pldmlt_jax.io.files import read_json, writing
from pldmlt_jax.method import losses
from pldmlt_jax.method.gradcam import grade_maps, head_jacobian
from pldmlt_jax.method.state import Method, MethodState, TrainState, init_method_state
from pldmlt_jax.models.multitask import MultiTask, NetworkOutput
from pldmlt_jax.training.checkpoint import CONFIG, Checkpoints
from pldmlt_jax.training.parallel import Devices, own_devices
from pldmlt_jax.types import NUM_GRADES, Geometry

WEIGHTS = "model.safetensors"
"""In a folder of exported weights, beside `config.json`."""

BUNDLED_MODEL = Path(__file__).resolve().parents[1] / "pretrained"
"""The trained network that comes with the package."""

STEP = "step"
"""Key of the file's metadata: the step of training that the weights are from."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A method with its best state; the config says how images are prepared for it."""

    config: Config
    method: Method
    state: MethodState
    step: int
    directory: Path  # of the checkpoints, or of the exported weights
    devices: Devices = field(default_factory=lambda: own_devices(ParallelConfig()))  # of this process

    @property
    def variables(self) -> dict[str, Any]:
        """What evaluation uses: running statistics, averaged parameters where they are kept."""
        return {"params": self.state.network.evaluated_params(), "batch_stats": self.state.network.batch_stats}

    def __call__(self, images: UInt8[np.ndarray, "b h w 3"], batch_size: int) -> RawOutput:
        """Answers of `b <= batch_size` images at the network's size.

        Fewer images, and a batch that the devices do not divide, are filled up with black ones: of one shape, the network
        is compiled once.
        """
        whole = pad_batch(images, self.devices.own_batch_size(batch_size))
        ask = self.devices.evaluation(answer, network=self.method.network, target=self.method.loss.target)
        return RawOutput(*(array[: len(images)] for array in ask(self.variables, self.devices.put_batch(whole))))


def pad_batch(images: UInt8[np.ndarray, "b h w 3"], batch_size: int) -> UInt8[np.ndarray, "n h w 3"]:
    """The images and as many black ones as a batch lacks."""
    return np.concatenate([images, np.zeros((batch_size - len(images), *images.shape[1:]), np.uint8)])


def answer(
    variables: dict[str, Any], images: Array, *, network: MultiTask, target: str
) -> tuple[Float[Array, "b h w k"], Float[Array, "b c"], Float[Array, "b h2 w2 c"]]:
    """The fields of `RawOutput`: a pure function, which is also what `export` writes.

    Args:
        variables: `params` and `batch_stats`.
        images: RGB [b, h, w, 3] in 0..255, uint8 or float.
        network: Its module.
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
    maps = grade_maps(features, head_jacobian(variables["params"]["head"], network.grade_head, output.pooled))
    return losses.segmentation_probabilities(output.segmentation_logits, target), output.grade_logits, maps


def checkpoint_directory(path: Path) -> Path:
    """The folder of checkpoints, or of exported weights, that a workdir or that folder itself stands for.

    Raises:
        CheckpointError: Where there is none.
    """
    for candidate in (path / "checkpoints", path):
        if (candidate / WEIGHTS).is_file():
            return candidate
        if candidate.is_dir() and any(child.name.isdigit() for child in candidate.iterdir()):
            return candidate
    expected = f"a workdir that `train` has filled, or a folder of {WEIGHTS} and {CONFIG}"
    raise CheckpointError(path, "no checkpoint in it", expected, "train first, or check the path")


def saved_config(directory: Path) -> Config:
    """The config that training has left in its folder of checkpoints.

    Raises:
        CheckpointError: It is missing or not one of this version.
    """
    path = directory / CONFIG
    try:
        return from_dict(read_json(path))
    except (DataError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(path, str(error), "the config that the network was trained with", "train again") from error


def load_network(directory: Path, config: Config, method: Method, *, fallback: bool = False) -> TrainedNetwork:
    """The best checkpoint of a folder, or its exported weights, on this process's devices (`config.parallel`).

    Raises:
        CheckpointError: Where there is none, or it is of another architecture, or some are damaged without `fallback`.
    """
    devices = own_devices(config.parallel)
    shapes = jax.eval_shape(lambda: init_method_state(method))
    if (directory / WEIGHTS).is_file():
        state, step = read_weights(directory / WEIGHTS, method)
        return TrainedNetwork(config, method, devices.put_state(state), step, directory, devices)
    with Checkpoints(directory, fallback=fallback, alone=True) as checkpoints:
        step = checkpoints.require_best_step()
        state, _ = checkpoints.restore(step, devices.like(shapes))
    return TrainedNetwork(config, method, drop_optimizers(state), step, directory, devices)


def drop_optimizers(state: MethodState) -> MethodState:
    """Two thirds of a state's memory are Adam's, of no use once training is over."""
    network, label = (dataclasses.replace(part, opt_state=()) for part in (state.network, state.label))
    return dataclasses.replace(state, network=network, label=label)


def write_weights(path: Path, network: TrainedNetwork, *, bits: int = 32) -> None:
    """Writes the arrays that evaluation uses, and the label network's, by their path in the tree.

    Args:
        path: A safetensors file.
        network: Whose they are.
        bits: Of a kernel's weights: 32, or 8 as in `quantisation`.
    """
    tree = {"network": network.variables, "label": {"params": network.state.label.params}}
    # safetensors writes the memory as it lies: that of a transposed view would be another array.
    arrays = {"/".join(key): np.asarray(value, order="C") for key, value in traverse_util.flatten_dict(tree).items()}
    if bits == 8:
        arrays = quantise_kernels(arrays)
    with writing(path, "wb") as file:
        file.write(save(arrays, metadata={STEP: str(network.step)}))


def read_weights(path: Path, method: Method) -> tuple[MethodState, int]:
    """The state that `write_weights` has written, without optimisers, and its step.

    Raises:
        CheckpointError: The file is damaged or of another architecture; lists what differs.
    """
    like = jax.eval_shape(lambda: init_method_state(method))
    stats, params = like.network.batch_stats, like.network.params
    tree = {"network": {"params": params, "batch_stats": stats}, "label": {"params": like.label.params}}
    leaves: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(tree)
    expected = {"/".join(key): leaf.shape for key, leaf in leaves.items()}
    arrays, step = _read_arrays(path)
    differing = [
        f"{name}: {arrays[name].shape if name in arrays else 'absent'}, not {expected.get(name, 'there')}"
        for name in sorted(arrays.keys() | expected.keys())
        if name not in arrays or expected.get(name) != arrays[name].shape
    ]
    if differing:
        found = f"weights of another architecture ({'; '.join(differing[:5])}; {len(differing)} in all)"
        raise CheckpointError(path, found, "the arrays of the config.json beside it", "take both from one export")
    nested = _nested(arrays)
    network, label = nested["network"], nested["label"]
    return MethodState(
        step=jnp.asarray(step, jnp.int32),
        network=TrainState(network["params"], network.get("batch_stats", {}), ()),
        label=TrainState(label["params"], {}, ()),
        label_mean=jnp.full((NUM_GRADES,), 1.0 / NUM_GRADES),
    ), step


def read_variables(path: Path) -> dict[str, Any]:
    """`params` and `batch_stats` that `write_weights` has written, of whatever architecture.

    Raises:
        CheckpointError: The file is damaged.
    """
    network = _nested(_read_arrays(path)[0]).get("network", {})
    if "params" not in network:
        raise CheckpointError(path, "no network in it", "a file that `export` has written", "export again")
    return {"params": network["params"], "batch_stats": network.get("batch_stats", {})}


def _read_arrays(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Arrays by their path in the tree, and the step of training that they are from."""
    from safetensors import safe_open

    try:
        arrays = dequantise_kernels(load_file(path))
        with safe_open(path, "numpy") as file:
            return arrays, int((file.metadata() or {}).get(STEP, 0))
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(path, str(error), "a file that `export` has written", "export again") from error


def _nested(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return traverse_util.unflatten_dict({tuple(name.split("/")): jnp.asarray(value) for name, value in arrays.items()})


def at_original_size(
    probabilities: Float[np.ndarray, "s s k"], valid: np.ndarray, geometry: Geometry
) -> Float[np.ndarray, "h w k"]:
    """Probabilities on the original's pixels, zero outside the field of view."""
    return to_original(probabilities * valid[..., None], geometry)

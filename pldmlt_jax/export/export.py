"""Export of a trained network: weights and config, StableHLO and ONNX."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from pldmlt_jax.config import to_dict
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.evaluation.inference import TrainedNetwork, inference_forward
from pldmlt_jax.evaluation.operating_points import OperatingPoints, lesion_names, write_points
from pldmlt_jax.export.engines import onnx_session
from pldmlt_jax.export.onnx import TOLERANCE, largest_difference, write_onnx
from pldmlt_jax.io.files import atomic_write, write_json
from pldmlt_jax.models.build import TARGET_CHANNELS
from pldmlt_jax.models.weights.checkpoint_io import WEIGHTS, write_weights
from pldmlt_jax.training.checkpoint import CONFIG
from pldmlt_jax.types import LESIONS

ONNX, STABLEHLO = "model.onnx", "model.stablehlo"
PLATFORMS = ("cpu", "cuda")


@dataclasses.dataclass(frozen=True)
class Export:
    """A network to export, and where to."""

    network: TrainedNetwork
    points: OperatingPoints
    output: Path
    images: UInt8[np.ndarray, "b s s 3"]  # prepared images to compare the exported network with Flax on

    @property
    def tile_px(self) -> int:
        """Side of the network's input in px: the whole prepared image, or a tile if the network is run on tiles."""
        config = self.network.config
        whole, tiles = config.data.size_px, config.inference.mode == "tiles"
        return min(config.inference.tile_px, whole) if tiles else whole


def _write_folder(export: Export, bits: int = 32) -> str:
    write_weights(export.output / WEIGHTS, export.network.arrays, export.network.step, bits=bits)
    write_json(export.output / CONFIG, to_dict(export.network.config))
    write_points(export.output, export.points)
    use = f"for pldmlt_jax.load({str(export.output)!r}) and --checkpoint={export.output}"
    return f"{WEIGHTS} ({bits} bits per weight), {CONFIG}: {use}"


def _write_stablehlo_checked(export: Export) -> str:
    network, path = export.network, export.output / STABLEHLO
    write_stablehlo(network, path)
    loaded = jax.export.deserialize(bytearray(path.read_bytes()))
    difference = max(
        float(np.abs(np.asarray(theirs) - ours).max())
        for theirs, ours in zip(
            loaded.call(jnp.asarray(export.images))[:2], network(export.images, len(export.images)), strict=False
        )
    )
    return f"{STABLEHLO}: any batch and size; differs from Flax by at most {difference:.1e}"


def write_stablehlo(network: TrainedNetwork, path: Path) -> None:
    """Writes a network with its weights as serialised StableHLO, for CPU and CUDA.

    The input is uint8 [b, h, w, 3], RGB, for any batch and any height and width that the encoder can halve at every stage.
    The outputs are probabilities, grade logits and grade maps; see `tta.ForwardOutput`. The file can be used without this
    package: `jax.export.deserialize(bytearray(path.read_bytes())).call(images)`.
    """
    variables, module, target = network.variables, network.module, network.config.loss.target
    multiple = 2 ** len(network.config.model.encoder_filters)
    shape = jax.export.symbolic_shape(f"b, {multiple}*h, {multiple}*w, 3")
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    # A plain tuple: `jax.export` cannot serialise a named one.
    function = jax.jit(lambda images: tuple(inference_forward(variables, images, network=module, target=target)))
    with atomic_write(path, "wb") as file:
        file.write(jax.export.export(function, platforms=PLATFORMS)(images).serialize())


def _write_onnx_checked(export: Export) -> str:
    path, size_px = export.output / ONNX, export.tile_px
    write_onnx(export.network, size_px, path, onnx_metadata(export))
    try:
        session = onnx_session(str(path))
    except ConfigError:
        return f"{ONNX}: any batch, {size_px} x {size_px} px; not compared with Flax: ONNX Runtime is not installed"
    difference = largest_difference(export.network, session, export.images[:, :size_px, :size_px])
    if not difference <= allowed_difference(export.network):
        path.unlink()
        raise ValueError(f"{path} differs from Flax by {difference:.1e}, more than {allowed_difference(export.network):g}")
    return f"{ONNX}: any batch, {size_px} x {size_px} px; differs from Flax by at most {difference:.1e} in ONNX Runtime"


def allowed_difference(network: TrainedNetwork) -> float:
    """Returns the allowed rounding difference; it is larger if Flax computes in bfloat16, since ONNX is always float32."""
    return TOLERANCE if network.config.model.dtype != "bfloat16" else 0.1


def onnx_metadata(export: Export) -> Mapping[str, Any]:
    """Returns the metadata of the ONNX file: everything needed to get from a photograph to a mask."""
    config, points = export.network.config, export.points
    return {
        "image": "RGB in 0..255, cropped to the field of view, resized, padded with zeros to a square",
        "size_px": export.network.config.data.size_px,
        "preparation": {name: getattr(config.data, name) for name in ("fov_crop", "resize", "enhance")},
        "target": config.loss.target,
        "channels": channel_names(config.loss.target),
        "operating_points": {
            name: {"threshold": points.point_for(name).threshold, "min_area_px": points.point_for(name).min_area_px}
            for name in lesion_names(config.loss.target)
        },
        "temperature": points.temperature or 1.0,
        "calibrated": points.temperature is not None,
        "warning": "a research result, not a medical device",
    }


def channel_names(target: str) -> list[str]:
    """Returns the name of each channel of `probabilities`."""
    names = {"fused": ["background", "lesion"], "lesions": [*LESIONS], "exclusive": ["background", *LESIONS]}[target]
    assert len(names) == TARGET_CHANNELS[target]
    return names


FORMATS: dict[str, Callable[[Export], str]] = {
    "folder": _write_folder,
    "int8": partial(_write_folder, bits=8),
    "stablehlo": _write_stablehlo_checked,
    "onnx": _write_onnx_checked,
}
"""Format -> function that writes it, compares it with Flax where needed, and returns a one-line description."""

OPT_IN_FORMATS = ("int8",)
"""Formats that are written only on request; `int8` replaces `folder` at a quarter of its size."""

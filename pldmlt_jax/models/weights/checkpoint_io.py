"""The weights of a trained network as one safetensors file: written by `export`, read to predict or to start a training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.io.files import atomic_write
from pldmlt_jax.models.weights.quantisation import dequantise_kernels, quantise_kernels

WEIGHTS = "model.safetensors"
"""Name of the file in a folder of exported weights, which also holds `config.json`."""

STEP = "step"
"""Key of the file's metadata: the training step that the weights are from."""


def write_weights(path: Path, arrays: Mapping[str, Any], step: int, *, bits: int = 32) -> None:
    """Writes nested arrays to a safetensors file, each named by its path in the tree (`network/params/...`).

    Args:
        path: The file.
        arrays: Nested dictionaries of arrays: `network` with `params` and `batch_stats`, and `label` with `params`.
        step: The training step that they are from.
        bits: 32, or 8 to write kernels as int8 (see `quantisation`).
    """
    # safetensors writes memory in its own order, which for a transposed view would be another array.
    flat = {"/".join(key): np.asarray(value, order="C") for key, value in traverse_util.flatten_dict(arrays).items()}
    with atomic_write(path, "wb") as file:
        file.write(save(quantise_kernels(flat) if bits == 8 else flat, metadata={STEP: str(step)}))


def read_weights(path: Path) -> tuple[dict[str, Any], int]:
    """Reads the arrays that `write_weights` has written, as float32, and the training step that they are from.

    Raises:
        CheckpointError: The file is damaged.
    """
    try:
        flat = dequantise_kernels(load_file(path))
        with safe_open(path, "numpy") as file:
            step = int((file.metadata() or {}).get(STEP, 0))
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(path, str(error), "a file that `export` has written", "export again") from error
    return traverse_util.unflatten_dict({tuple(name.split("/")): array for name, array in flat.items()}), step


def read_variables(path: Path) -> dict[str, Any]:
    """Reads `params` and `batch_stats` of the network in a weight file, of any architecture.

    Raises:
        CheckpointError: The file is damaged or holds no network.
    """
    network = read_weights(path)[0].get("network", {})
    if "params" not in network:
        raise CheckpointError(path, "no network in it", "a file that `export` has written", "export again")
    return {"params": network["params"], "batch_stats": network.get("batch_stats", {})}

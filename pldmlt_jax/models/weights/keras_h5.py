"""Reads the arrays of a Keras weight file (`.h5`) without Keras; its model config is neither read nor run."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pldmlt_jax.errors import CheckpointError

MAX_COMPRESSION = 20
"""How many times larger than the file its arrays may be; weights can hardly be compressed."""

_EXPECTED = "a Keras file as its applications are published: a group for each layer, named in the attribute layer_names"
_ACTION = "fetch it again, or save it with model.save('FILE.h5')"


def _names(group: Any, attribute: str) -> list[str]:
    """Returns the names in an attribute; Keras writes a long list in numbered parts."""
    parts = [attribute] if attribute in group.attrs else []
    while parts != [attribute] and f"{attribute}{len(parts)}" in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    if not parts:
        raise ValueError(f"{group.name} has no attribute {attribute}")
    values = [value for part in parts for value in group.attrs[part]]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _arrays(root: Any, max_bytes: int) -> dict[str, np.ndarray]:
    arrays, num_bytes = {}, 0
    for layer in _names(root, "layer_names"):
        group = root[layer]
        for position, name in enumerate(_names(group, "weight_names") if "weight_names" in group.attrs else []):
            dataset = group[name]
            elsewhere = dataset.file.filename != root.file.filename or dataset.external or dataset.is_virtual
            if elsewhere or dataset.dtype.kind != "f":
                raise ValueError(f"{layer}/{name} is not an array of floats in this file")
            num_bytes += dataset.nbytes
            if num_bytes > max_bytes:
                raise ValueError("its arrays claim to be far larger than the file")
            arrays[f"{layer}/{position}"] = np.asarray(dataset)
    return arrays


def read_keras_file(path: Path) -> dict[str, np.ndarray]:
    """Reads the weights of every layer.

    Args:
        path: A `.h5` file of weights, or of a whole model.

    Returns:
        "layer/position" -> array: a layer's arrays in the order in which Keras loads them, in Keras' layout.

    Raises:
        CheckpointError: The file is damaged, or has another layout.
    """
    try:
        with h5py.File(path, "r") as file:
            return _arrays(file.get("model_weights", file), MAX_COMPRESSION * path.stat().st_size)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise CheckpointError(path, f"not readable as Keras' weights: {error}", _EXPECTED, _ACTION) from error

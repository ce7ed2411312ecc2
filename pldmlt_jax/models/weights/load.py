"""Loads weights of torchvision, timm and Keras into Flax variables."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.models.weights.names import (
    KERAS_LAYOUTS,
    TORCH_LAYOUTS,
    Layout,
    TreePath,
    current_keras_name,
    current_torch_name,
    from_keras_layout,
    from_torch_layout,
    modules_of,
)
from pldmlt_jax.models.weights.torch_pickle import read_torch_file

Convert = Callable[[TreePath, np.ndarray], np.ndarray]
"""(path of a leaf, array of the file) -> array in Flax's layout."""
NameMap = Callable[[TreePath], str | None]
"""Path of a leaf -> name of its tensor in the file; None for a leaf that keeps its value."""

_MAX_LISTED = 8


class LoadedWeights(NamedTuple):
    """Variables that `load_weights` has filled, and what it took from the file."""

    variables: dict[str, Any]
    sha256: str
    """SHA-256 of the file."""
    num_tensors: int
    """Number of tensors taken from the file."""
    skipped: tuple[str, ...]
    """Tensors of the file that the network does not use, such as the head of another task."""


KERAS_SUFFIX = ".h5"


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    from pldmlt_jax.models.weights.keras_h5 import read_keras_file  # with h5py, which few runs need

    return read_keras_file(path)


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".safetensors": load_file,
    ".pth": read_torch_file,
    ".pt": read_torch_file,
    KERAS_SUFFIX: _read_keras,
}


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], str]:
    """Reads a weight file without running any code in it.

    Args:
        path: A `.safetensors`, `.pth`, `.pt` or Keras `.h5` file.

    Returns:
        Name -> array in the file's own layout; the file's SHA-256.

    Raises:
        CheckpointError: The file is missing, damaged, or of another kind.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise CheckpointError(path, f"a file named *{path.suffix}", " or ".join(READERS), "give one of these")
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return READERS[path.suffix](path), digest
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error), "a weight file", "check the path") from error
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:  # the others: of unknown dtypes
        raise CheckpointError(path, str(error), "a .safetensors file", "fetch or write it again") from error


def _listed(title: str, entries: list[str]) -> str:
    more = f" and {len(entries) - _MAX_LISTED} more" if len(entries) > _MAX_LISTED else ""
    return f"{len(entries)} {title}: {', '.join(sorted(entries)[:_MAX_LISTED])}{more}"


def assign_tensors(
    tree: dict[str, Any],
    tensors: Mapping[str, np.ndarray],
    name_map: NameMap,
    source: Path,
    convert: Convert = from_torch_layout,
) -> dict[str, Any]:
    """Replaces the leaves of a tree by the tensors of a file.

    Args:
        tree: Nested dictionaries of the network's arrays (or of their shapes).
        tensors: Arrays by name, in the file's layout.
        name_map: Returns the name of a leaf's tensor.
        source: The file, for messages.
        convert: Converts an array from the file's layout to Flax's.

    Returns:
        A tree of the same structure, shapes and dtypes.

    Raises:
        CheckpointError: Tensors are missing, unexpected or of another shape; the error lists them.
    """
    leaves: dict[TreePath, Any] = traverse_util.flatten_dict(tree)
    names = {path: name for path in leaves if (name := name_map(path)) is not None}
    missing = [name for name in names.values() if name not in tensors]
    unexpected = sorted(set(tensors) - set(names.values()))
    arrays = {path: convert(path, tensors[name]) for path, name in names.items() if name in tensors}
    other_shape = [
        f"{names[path]} {array.shape} for {leaves[path].shape}"
        for path, array in arrays.items()
        if array.shape != leaves[path].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": other_shape}
    if any(problems.values()):
        raise CheckpointError(
            source,
            "; ".join(_listed(title, entries) for title, entries in problems.items() if entries),
            f"the {len(names)} tensors of this network",
            "give the weights of the same architecture and width, or none",
        )
    converted = {path: jnp.asarray(array, leaves[path].dtype) for path, array in arrays.items()}
    return traverse_util.unflatten_dict({**leaves, **converted})


def load_weights(path: str | Path, architecture: str, variables: dict[str, Any]) -> LoadedWeights:
    """Loads a file of torchvision, timm or Keras into an encoder or a whole grader, with the running statistics.

    A grader's last layer is loaded if it has as many outputs as the file's; otherwise it keeps its initial values.

    Args:
        path: A file as in `read_tensors`.
        architecture: A key of `build.ENCODERS` or `build.GRADERS`.
        variables: `params` and, if there are norms, `batch_stats` of an encoder, or of a `Classifier` with one.

    Returns:
        The new variables, and what was taken from the file.

    Raises:
        CheckpointError: See `read_tensors` and `assign_tensors`; or the library's network of this name is a different one.
    """
    path = Path(path)
    layout, current_name, convert = _layout(path, architecture)
    tensors, sha256 = read_tensors(path)
    tensors = {current_name(name): tensor for name, tensor in tensors.items()}
    used = {name: tensor for name, tensor in tensors.items() if not name.endswith(".num_batches_tracked")}
    skipped = {name for name in used if name.startswith(layout.foreign)}
    head = variables["params"].get("head")
    in_file = {name: tensor for name, tensor in used.items() if name.startswith(layout.head)}
    if head is None or not any(tensor.shape == head["bias"].shape for tensor in in_file.values()):
        skipped |= in_file.keys()
    used = {name: tensor for name, tensor in used.items() if name not in skipped}

    def name_map(leaf: TreePath) -> str | None:
        if modules_of(leaf) == ("head",) and not any(name.startswith(layout.head) for name in used):
            return None
        return layout.name_of(leaf)

    loaded = assign_tensors(variables, used, name_map, path, convert)
    return LoadedWeights(loaded, sha256, len(used), tuple(sorted(skipped)))


def load_encoder_weights(variables: dict[str, Any], path: str | Path, encoder: str) -> tuple[dict[str, Any], LoadedWeights]:
    """Loads a file into the encoder of a whole network; see `load_weights`.

    Returns:
        The network's `params` and `batch_stats`, and what was taken from the file.
    """
    of_encoder = {collection: tree["encoder"] for collection, tree in variables.items() if "encoder" in tree}
    loaded = load_weights(path, encoder, of_encoder)
    return {c: tree | ({"encoder": loaded.variables[c]} if c in of_encoder else {}) for c, tree in variables.items()}, loaded


def _layout(path: Path, architecture: str) -> tuple[Layout, Callable[[str], str], Convert]:
    keras = path.suffix == KERAS_SUFFIX
    layouts = KERAS_LAYOUTS if keras else TORCH_LAYOUTS
    if architecture not in layouts:
        raise CheckpointError(
            path,
            f"{'Keras' if keras else 'PyTorch'} weights for {architecture}",
            f"{'a .pth or .safetensors file of torchvision or timm' if keras else 'a .h5 file of Keras'}: the other "
            "library has no network that is the same",
            "give such a file, or none",
        )
    if keras:
        return layouts[architecture], current_keras_name, from_keras_layout
    return layouts[architecture], current_torch_name, from_torch_layout


def preprocessing_scheme(architecture: str, weights: str) -> str:
    """Returns the preprocessing that published weights expect, as a scheme of `normalise`.

    Args:
        architecture: A key of `build.ENCODERS` or `build.GRADERS`.
        weights: Name of the weight file; "" for a random start.
    """
    if architecture == "nasnet_mobile":
        return "tf"
    return "caffe" if architecture == "vgg16" and weights.endswith(KERAS_SUFFIX) else "torch"

"""Weights of torchvision and timm -> Flax variables."""

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
from pldmlt_jax.models.torch_file import read_torch_file

TreePath = tuple[str, ...]
NameMap = Callable[[TreePath], str | None]
"""From the path of a leaf to the tensor's name in the file, or None for a leaf that keeps its value."""

_MAX_LISTED = 8


class LoadedWeights(NamedTuple):
    variables: dict[str, Any]
    sha256: str
    """Of the file."""
    num_tensors: int
    """Tensors taken from it."""
    skipped: tuple[str, ...]
    """Tensors of the file that the network has no use for: another task's head."""


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".safetensors": load_file,
    ".pth": read_torch_file,
    ".pt": read_torch_file,
}


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], str]:
    """Reads a weight file without running anything in it.

    Args:
        path: A `.safetensors`, `.pth` or `.pt` file.

    Returns:
        Name -> array in the file's own layout; the file's SHA-256.

    Raises:
        CheckpointError: The file is absent, damaged, or of another kind.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise CheckpointError(path, f"a file named *{path.suffix}", " or ".join(READERS), "give one of these")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return READERS[path.suffix](path), digest
    except OSError as error:
        raise CheckpointError(path, str(error.strerror), "a file of weights", "check the path") from error
    except SafetensorError as error:
        raise CheckpointError(path, str(error), "a .safetensors file", "fetch or write it again") from error


def _from_torch_layout(tensor: np.ndarray) -> np.ndarray:
    """OIHW -> HWIO for convolutions (grouped ones too), transposed for fully connected layers."""
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.T


def _listed(title: str, entries: list[str]) -> str:
    more = f" and {len(entries) - _MAX_LISTED} more" if len(entries) > _MAX_LISTED else ""
    return f"{len(entries)} {title}: {', '.join(sorted(entries)[:_MAX_LISTED])}{more}"


def assign(tree: dict[str, Any], tensors: Mapping[str, np.ndarray], name_map: NameMap, source: Path) -> dict[str, Any]:
    """Replaces the leaves of a tree by the tensors of a file.

    Args:
        tree: Nested dictionaries of arrays (or of shapes), the network's own.
        tensors: Name -> array in torch's layout.
        name_map: Where each leaf stands in the file.
        source: The file, for the message.

    Returns:
        A tree of the same structure, shapes and dtypes.

    Raises:
        CheckpointError: Lists every tensor that is missing, unexpected or of another shape.
    """
    leaves: dict[TreePath, Any] = traverse_util.flatten_dict(tree)
    names = {path: name for path in leaves if (name := name_map(path)) is not None}
    missing = [name for name in names.values() if name not in tensors]
    unexpected = sorted(set(tensors) - set(names.values()))
    arrays = {path: _from_torch_layout(tensors[name]) for path, name in names.items() if name in tensors}
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


_VGG16_FEATURES = {
    "conv1_1": 0,
    "conv1_2": 2,
    "conv2_1": 5,
    "conv2_2": 7,
    "conv3_1": 10,
    "conv3_2": 12,
    "conv3_3": 14,
    "conv4_1": 17,
    "conv4_2": 19,
    "conv4_3": 21,
    "conv5_1": 24,
    "conv5_2": 26,
    "conv5_3": 28,
}
"""Our convolutions -> torchvision's position in `features`, where ReLUs and poolings are counted as well."""

_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def vgg16_name(path: TreePath) -> str:
    """torchvision's name of a leaf of `VGG`'s parameters: ("conv1_2", "kernel") -> "features.2.weight"."""
    conv, leaf = path
    place = _VGG16_FEATURES.get(conv, f"({conv}, which VGG16 has not)")
    return f"features.{place}.{_LEAF_NAMES.get(leaf, leaf)}"


def resnet_name(path: TreePath) -> str:
    """torchvision's name of a leaf of the variables of a `ResNet`, or of a `Classifier` with one as encoder.

    ("params", "encoder", "layer1_0", "conv2", "kernel") -> "layer1.0.conv2.weight".
    """
    modules, leaf = [part for part in path[1:-1] if part != "encoder"], _LEAF_NAMES[path[-1]]
    if modules == ["head"]:
        return f"fc.{leaf}"
    *block, unit, layer = modules
    if unit == "downsample":
        name = {"conv": "downsample.0", "norm": "downsample.1"}[layer]
    else:
        name = {"conv": "conv", "norm": "bn"}[layer] + ("1" if unit == "stem" else unit.removeprefix("conv"))
    return ".".join([*(part.replace("_", ".") for part in block), name, leaf])


def load_vgg16(path: str | Path, encoder_params: dict[str, Any]) -> LoadedWeights:
    """Loads torchvision's or timm's VGG16 into the parameters of `VGG`; its classifier is left out.

    Args:
        path: See `read_tensors`.
        encoder_params: The encoder's own, of any values.

    Raises:
        CheckpointError: See `read_tensors` and `assign`.
    """
    tensors, sha256 = read_tensors(path)
    used = {name: tensor for name, tensor in tensors.items() if name.startswith("features.")}
    variables = assign(encoder_params, used, vgg16_name, Path(path))
    return LoadedWeights(variables, sha256, len(used), tuple(sorted(set(tensors) - set(used))))


def load_resnet(path: str | Path, variables: dict[str, Any]) -> LoadedWeights:
    """Loads torchvision's or timm's ResNet or ResNeXt, running statistics included.

    The fully connected layer is loaded where it has as many outputs as the network's head, else left out.

    Args:
        path: See `read_tensors`.
        variables: `params` and `batch_stats` of a `ResNet`, or of a `Classifier` with one as encoder.

    Raises:
        CheckpointError: See `read_tensors` and `assign`.
    """
    tensors, sha256 = read_tensors(path)
    used = {name: tensor for name, tensor in tensors.items() if not name.endswith(".num_batches_tracked")}
    skipped: tuple[str, ...] = ()
    head = variables["params"].get("head")
    if head is None or "fc.bias" not in used or used["fc.bias"].shape != head["bias"].shape:
        skipped = tuple(sorted(name for name in used if name.startswith("fc.")))
        used = {name: tensor for name, tensor in used.items() if name not in skipped}

    def name_map(leaf: TreePath) -> str | None:
        name = resnet_name(leaf)
        return None if name.startswith("fc.") and name not in used else name

    return LoadedWeights(assign(variables, used, name_map, Path(path)), sha256, len(used), skipped)


def load_grader(path: str | Path, architecture: str, variables: dict[str, Any]) -> LoadedWeights:
    """Loads a weight file into a whole `Classifier` of the named architecture.

    Args:
        path: See `read_tensors`.
        architecture: A key of `build.GRADERS`; VGG16's head keeps its start.
        variables: `params` and, where the encoder has norms, `batch_stats`.
    """
    if architecture != "vgg16":
        return load_resnet(path, variables)
    loaded = load_vgg16(path, variables["params"]["encoder"])
    params = variables["params"] | {"encoder": loaded.variables}
    return loaded._replace(variables=variables | {"params": params})

"""Names and layouts that segmentation_models.pytorch gives the leaves of our networks."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from pldmlt_jax.models.weights.names import TORCH_LAYOUTS, TreePath, from_torch_layout

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_IN_SEQUENCE = {"conv": "0", "norm": "1"}


def _unet(layer: str, part: str) -> str:
    place, i = layer.split("_")
    if place == "centre":
        return f"center.{int(i) - 1}.{_IN_SEQUENCE[part]}"
    return f"blocks.{int(place.removeprefix('stage')) - 1}.conv{i}.{_IN_SEQUENCE[part]}"


def _linknet(layer: str, part: str) -> str:
    block, step = layer.split("_")
    place = ("squeeze", "enlarge", "expand").index(step)
    return f"blocks.{int(block.removeprefix('block')) - 1}.block.{place}.{_IN_SEQUENCE[part]}"


def _fpn(layer: str, part: str) -> str:
    if layer.startswith("lateral"):
        level = layer.removeprefix("lateral")
        return "p5" if level == "5" else f"p{level}.skip_conv"
    level, i = layer.removeprefix("level").split("_")
    return f"seg_blocks.{5 - int(level)}.block.{int(i) - 1}.block.{_IN_SEQUENCE[part]}"


def _deeplabv3plus(layer: str, part: str) -> str:
    separable = {"depthwise": "0.0", "conv": "0.1", "norm": "1"}
    if layer.startswith("aspp_rate"):
        return f"aspp.0.convs.{layer.removeprefix('aspp_rate')}.{separable[part]}"
    if layer == "aspp":
        return {"depthwise": "aspp.1.0", "conv": "aspp.1.1", "norm": "aspp.2"}[part]
    if layer == "join":
        return f"block2.{separable[part]}"
    if layer == "aspp_pooled":  # after the pooling
        return f"aspp.0.convs.4.{int(_IN_SEQUENCE[part]) + 1}"
    place = {"aspp_1x1": "aspp.0.convs.0", "aspp_project": "aspp.0.project", "fine": "block1"}[layer]
    return f"{place}.{_IN_SEQUENCE[part]}"


DECODER_NAMES = {"unet": _unet, "linknet": _linknet, "fpn": _fpn, "deeplabv3plus": _deeplabv3plus}


def smp_name(path: TreePath, encoder: str, decoder: str) -> str:
    """Returns the original's name of a leaf of a `MultiTask`'s variables. The original has no grading head."""
    if path[1] == "encoder":
        return "encoder." + TORCH_LAYOUTS[encoder].name_of(path)
    if path[1] == "output":
        return f"segmentation_head.0.{_LEAVES[path[-1]]}"
    part = path[-2] if path[-2] in ("conv", "norm", "depthwise") else ""
    return f"decoder.{DECODER_NAMES[decoder](path[2], part)}.{_LEAVES[path[-1]]}"


def from_smp(path: TreePath, array: np.ndarray) -> np.ndarray:
    """Converts the original's array to our layout. A transposed convolution is a convolution with the mirrored kernel."""
    if path[-1] == "kernel" and path[2].endswith("_enlarge"):
        return array.transpose(2, 3, 0, 1)[::-1, ::-1]
    return from_torch_layout(path, array)


def with_smp_weights(variables: dict[str, Any], tensors: Mapping[str, np.ndarray], encoder: str, decoder: str) -> dict:
    """Returns our variables with the original's values. Every tensor must have a place."""
    leaves: dict[TreePath, Any] = traverse_util.flatten_dict(variables)
    names = {path: smp_name(path, encoder, decoder) for path in leaves if path[1] != "head"}
    used = {name for name in tensors if not name.endswith("num_batches_tracked")}
    assert used == set(names.values())
    arrays = {path: from_smp(path, np.asarray(tensors[name])) for path, name in names.items()}
    for path, array in arrays.items():
        assert array.shape == leaves[path].shape, path
    return traverse_util.unflatten_dict({**leaves, **arrays})


def running_by_name(batch_stats: dict[str, Any], encoder: str, decoder: str) -> dict[str, np.ndarray]:
    """Returns the running statistics under the original's names."""
    leaves = traverse_util.flatten_dict({"batch_stats": batch_stats})
    return {smp_name(path, encoder, decoder): np.asarray(leaf) for path, leaf in jax.device_get(leaves).items()}

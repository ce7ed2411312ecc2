"""Names of the arrays of encoders and graders in the files of torchvision, timm and Keras, by architecture.

A leaf's path is ("params" or "batch_stats", ["encoder",] modules, leaf), or ("params", "head", leaf) for a grader's head.
Keras' arrays are named "layer/position", as `keras_h5` reads them.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from pldmlt_jax.models.encoders.densenet import DENSENETS
from pldmlt_jax.models.encoders.resnet import RESNETS

TreePath = tuple[str, ...]

_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_KERAS_POSITIONS = {"kernel": 0, "scale": 0, "bias": 1, "mean": 2, "var": 3}

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
"""Our convolutions -> torchvision's position in `features`, which counts ReLUs and poolings as well."""


def modules_of(path: TreePath) -> tuple[str, ...]:
    """Returns the modules on the path to a leaf, without the encoder itself."""
    return tuple(part for part in path[1:-1] if part != "encoder")


def vgg16_name(path: TreePath) -> str:
    """("params", "conv1_2", "kernel") -> "features.2.weight"."""
    (conv,) = modules_of(path)
    place = _VGG16_FEATURES.get(conv, f"({conv}, which VGG16 lacks)")
    return f"features.{place}.{_LEAF_NAMES[path[-1]]}"


def resnet_name(path: TreePath) -> str:
    """("params", "encoder", "layer1_0", "conv2", "conv", "kernel") -> "layer1.0.conv2.weight"."""
    modules, leaf = modules_of(path), _LEAF_NAMES[path[-1]]
    if modules == ("head",):
        return f"fc.{leaf}"
    *block, unit, layer = modules
    if unit == "downsample":
        name = {"conv": "downsample.0", "norm": "downsample.1"}[layer]
    else:
        name = {"conv": "conv", "norm": "bn"}[layer] + ("1" if unit == "stem" else unit.removeprefix("conv"))
    return ".".join([*(part.replace("_", ".") for part in block), name, leaf])


def densenet_name(path: TreePath) -> str:
    """("params", "block2_3_1", "conv", "kernel") -> "features.denseblock2.denselayer3.conv1.weight"."""
    modules, leaf = modules_of(path), _LEAF_NAMES[path[-1]]
    if modules == ("head",):
        return f"classifier.{leaf}"
    if modules[0] == "stem":
        name = f"{modules[1]}0"
    elif modules[0].startswith("transition"):
        name = modules[0].replace("_", ".")
    elif modules[0].startswith("block"):
        block, layer, unit = modules[0].removeprefix("block").split("_")
        name = f"denseblock{block}.denselayer{layer}.{modules[1]}{unit}"
    else:
        name = modules[0]
    return f"features.{name}.{leaf}"


def vgg16_keras_name(path: TreePath) -> str:
    """("params", "conv1_2", "kernel") -> "block1_conv2/0"."""
    block, conv = modules_of(path)[0].removeprefix("conv").split("_")
    return f"block{block}_conv{conv}/{_KERAS_POSITIONS[path[-1]]}"


def densenet_keras_name(path: TreePath) -> str:
    """("params", "block2_3_1", "conv", "kernel") -> "conv3_block3_1_conv/0"."""
    modules, position = modules_of(path), _KERAS_POSITIONS[path[-1]]
    kind = {"conv": "conv", "norm": "bn"}
    if modules == ("head",):
        return f"predictions/{position}"
    if modules[0] == "stem":
        name = f"conv1_{kind[modules[1]]}"
    elif modules[0].startswith("transition"):
        block, layer = modules[0].removeprefix("transition").split("_")
        name = f"pool{int(block) + 1}_{kind[layer]}"
    elif modules[0].startswith("block"):
        block, layer, unit = modules[0].removeprefix("block").split("_")
        place = int(unit) - (modules[1] == "norm")  # Keras counts the norm with the convolution before it
        name = f"conv{int(block) + 1}_block{layer}_{place}_{kind[modules[1]]}"
    else:
        name = "bn"
    return f"{name}/{position}"


def nasnet_keras_name(path: TreePath) -> str:
    """("params", "stem_bn1", "scale") -> "stem_bn1/0"; our modules have the names of Keras' layers."""
    layer, *part = modules_of(path)
    if layer == "head":
        layer = "predictions"
    return f"{layer}/{1 if part == ['pointwise'] else _KERAS_POSITIONS[path[-1]]}"


def from_torch_layout(path: TreePath, array: np.ndarray) -> np.ndarray:
    """Converts OIHW to HWIO for convolutions, grouped ones too, and transposes fully connected layers."""
    del path
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def from_keras_layout(path: TreePath, array: np.ndarray) -> np.ndarray:
    """Converts depthwise kernels from HWC1 to HW1C; all other arrays of Keras have Flax's layout."""
    return array.swapaxes(2, 3) if "depthwise" in path else array


_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
_OLD_KERAS = {"fc1000": "predictions"}


def current_torch_name(name: str) -> str:
    """Replaces DenseNet's older spelling `denselayer1.norm.1` by the newer one, `denselayer1.norm1`."""
    return _OLD_DENSENET.sub(r"\1", name)


def current_keras_name(name: str) -> str:
    """Replaces DenseNet's older layer names `conv1/conv` and `fc1000` by the newer `conv1_conv` and `predictions`."""
    layer, position = name.rsplit("/", 1)
    return f"{_OLD_KERAS.get(layer, layer.replace('/', '_'))}/{position}"


class Layout(NamedTuple):
    """Names of one architecture's tensors in the files of one library."""

    name_of: Callable[[TreePath], str]
    head: str = "no head"
    """Prefix of the names of the last layer."""
    foreign: tuple[str, ...] = ()
    """Prefixes of tensors of the library's classifier, which our encoder does not have."""


_RESNET = Layout(resnet_name, head="fc.")
_DENSENET = Layout(densenet_name, head="classifier.")

TORCH_LAYOUTS: Mapping[str, Layout] = {
    "vgg16": Layout(vgg16_name, foreign=("classifier.", "pre_logits.", "head.")),
    **dict.fromkeys(RESNETS, _RESNET),
    **dict.fromkeys(DENSENETS, _DENSENET),
}
"""Architecture -> torchvision's names, which timm's ResNet, ResNeXt, DenseNet and VGG features share."""

KERAS_LAYOUTS: Mapping[str, Layout] = {
    "vgg16": Layout(vgg16_keras_name, foreign=("fc1/", "fc2/", "predictions/")),
    **dict.fromkeys(DENSENETS, Layout(densenet_keras_name, head="predictions/")),
    "nasnet_mobile": Layout(nasnet_keras_name, head="predictions/"),
}
"""Architecture -> Keras' names. Its ResNets differ (position of the stride, biases), and it has no ResNeXt."""

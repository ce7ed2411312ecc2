"""The PyTorch networks that ours are compared with. Needs requirements-oracle.txt."""

import collections

import numpy as np
import torch


def _define_missing_operators() -> None:
    """Lets torchvision be imported where its compiled operators do not fit torch; no classifier uses them."""
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


try:
    import torchvision
except RuntimeError:
    _define_missing_operators()
    import torchvision

import timm  # noqa: E402  (after torchvision)
from timm.models.resnet import Bottleneck  # noqa: E402
from timm.models.resnet import ResNet as TimmResNet  # noqa: E402
from torchvision.models.vgg import make_layers  # noqa: E402

NETWORKS = {"timm": timm.create_model, "torchvision": torchvision.models.get_model}
"""Library -> maker of a network by name."""


def narrow_resnext(blocks: tuple[int, ...], cardinality: int, width_per_group: int, base_filters: int) -> TimmResNet:
    """timm's ResNeXt of any width, its stem included, with five outputs."""
    channels = tuple(base_filters * 2**stage for stage in range(4))
    network = TimmResNet(
        Bottleneck,
        blocks,
        num_classes=5,
        cardinality=cardinality,
        base_width=width_per_group,
        channels=channels,
        zero_init_last=False,
    )
    first = network.layer1[0]
    network.conv1 = torch.nn.Conv2d(3, base_filters, 7, 2, 3, bias=False)
    network.bn1 = torch.nn.BatchNorm2d(base_filters)
    first.conv1 = torch.nn.Conv2d(base_filters, first.conv1.out_channels, 1, bias=False)
    first.downsample[0] = torch.nn.Conv2d(base_filters, first.downsample[0].out_channels, 1, bias=False)
    return network


def narrow_vgg16(filters: tuple[int, ...]) -> torch.nn.Sequential:
    """torchvision's VGG16 of any width without its classifier; keys as in the full network."""
    layout: list[str | int] = []
    for width, convs in zip(filters, (2, 2, 3, 3, 3), strict=True):
        layout += [width] * convs + ["M"]
    return torch.nn.Sequential(collections.OrderedDict(features=make_layers(layout)))


def randomise_norms(network: torch.nn.Module) -> None:
    """Gives each batch normalisation scales, biases and statistics of its own, so that none can be confused."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)


def normalised(image: np.ndarray) -> torch.Tensor:
    """Uint8 [b, h, w, 3] -> float64 [b, 3, h, w] by ImageNet's mean and standard deviation."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
    return ((torch.from_numpy(image).double() / 255 - mean) / std).permute(0, 3, 1, 2)

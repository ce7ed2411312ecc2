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

import segmentation_models_pytorch as smp  # noqa: E402  (after torchvision)
import segmentation_models_pytorch.losses as losses  # noqa: E402, F401
import timm  # noqa: E402
from segmentation_models_pytorch.base import SegmentationHead  # noqa: E402
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder  # noqa: E402
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder  # noqa: E402
from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder  # noqa: E402
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder  # noqa: E402
from segmentation_models_pytorch.encoders._utils import replace_strides_with_dilation  # noqa: E402, F401
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits  # noqa: E402, F401
from timm.models.resnet import BasicBlock, Bottleneck  # noqa: E402
from timm.models.resnet import ResNet as TimmResNet  # noqa: E402
from torchvision.models.densenet import DenseNet  # noqa: E402
from torchvision.models.vgg import make_layers  # noqa: E402

SEGMENTERS = {"unet": smp.Unet, "linknet": smp.Linknet, "fpn": smp.FPN, "deeplabv3plus": smp.DeepLabV3Plus}
"""Decoder -> maker of segmentation_models.pytorch's network with an encoder by name."""

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


def narrow_resnet18(base_filters: int) -> TimmResNet:
    """timm's ResNet-18 of any width with one block a stage and five outputs."""
    channels = tuple(base_filters * 2**stage for stage in range(4))
    network = TimmResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, channels=channels, zero_init_last=False)
    network.conv1 = torch.nn.Conv2d(3, base_filters, 7, 2, 3, bias=False)
    network.bn1 = torch.nn.BatchNorm2d(base_filters)
    network.layer1[0].conv1 = torch.nn.Conv2d(base_filters, base_filters, 3, 1, 1, bias=False)
    network.layer1[0].downsample = None
    return network


def narrow_densenet(base_filters: int) -> DenseNet:
    """torchvision's DenseNet of any width with few layers and five outputs."""
    return DenseNet(base_filters // 2, (2, 1, 1, 2), base_filters, num_classes=5)


def narrow_vgg16(filters: tuple[int, ...]) -> torch.nn.Sequential:
    """torchvision's VGG16 of any width without its classifier; keys as in the full network."""
    layout: list[str | int] = []
    for width, convs in zip(filters, (2, 2, 3, 3, 3), strict=True):
        layout += [width] * convs + ["M"]
    return torch.nn.Sequential(collections.OrderedDict(features=make_layers(layout)))


CHANNELS = (3, 4, 8, 12, 16, 20)
"""Of the features that the decoders are recorded on, finest first, the image included."""


def narrow_decoders() -> dict[str, tuple[torch.nn.Module, torch.nn.Module]]:
    """segmentation_models.pytorch's decoders, narrow, each with its head; nothing is dropped."""
    deeplab = DeepLabV3PlusDecoder(CHANNELS, 5, 16, (1, 2, 3), 16, True, 0.0)
    deeplab.block1[0], deeplab.block1[1] = torch.nn.Conv2d(CHANNELS[2], 3, 1, bias=False), torch.nn.BatchNorm2d(3)
    deeplab.block2[0][0] = torch.nn.Conv2d(19, 19, 3, padding=1, groups=19, bias=False)
    deeplab.block2[0][1] = torch.nn.Conv2d(19, 16, 1, bias=False)
    return {
        "unet": (UnetDecoder(CHANNELS, (12, 8, 6, 4, 4), add_center_block=True), SegmentationHead(4, 2)),
        "linknet": (LinknetDecoder(CHANNELS, prefinal_channels=4), SegmentationHead(4, 2, 1)),
        "fpn": (FPNDecoder(CHANNELS, 5, 64, 32, dropout=0.0), SegmentationHead(32, 2, 1, upsampling=4)),
        "deeplabv3plus": (deeplab, SegmentationHead(16, 2, 1, upsampling=4)),
    }


def randomise_norms(network: torch.nn.Module) -> None:
    """Gives each normalisation scales, biases and statistics of its own, so that none can be confused."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.GroupNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)


def normalised(image: np.ndarray) -> torch.Tensor:
    """Uint8 [b, h, w, 3] -> float64 [b, 3, h, w] by ImageNet's mean and standard deviation."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return ((torch.from_numpy(image).double() / 255 - mean) / std).permute(0, 3, 1, 2)

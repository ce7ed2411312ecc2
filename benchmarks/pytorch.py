"""The network to compare with: segmentation_models.pytorch's U-Net of the same encoder, decoder and head.

Needs requirements-bench.txt. Weights are random, since speed does not depend on them.
"""

import contextlib
import copy
import importlib.util
from typing import Any, NamedTuple

import jax

from pldmlt_jax.models.input_normalisation import IMAGENET_MEAN, IMAGENET_STD
from pldmlt_jax.types import NUM_GRADES

DECODER_FILTERS = (256, 128, 64, 32, 16)


def import_smp() -> tuple[Any, Any]:
    """Imports torch and segmentation_models.pytorch."""
    import torch  # pyright: ignore[reportMissingImports]

    with contextlib.suppress(RuntimeError):  # if torchvision's compiled operators do not fit torch: none is needed here
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import segmentation_models_pytorch as smp  # pyright: ignore[reportMissingImports]

    return torch, smp


class Variant(NamedTuple):
    """A form of the model that a user would try."""

    model: Any
    layout: Any  # torch's memory format


class Pytorch(NamedTuple):
    torch: Any
    device: Any
    name: str  # of the device
    library: str  # versions
    variants: dict[str, Variant]


def load() -> Pytorch | None:
    """Returns the U-Net in eager, channels-last and compiled form, or None if torch is not installed.

    It is on the GPU if torch has one, unless JAX runs on the CPU.
    """
    if not importlib.util.find_spec("segmentation_models_pytorch"):
        print("  segmentation_models.pytorch is not installed: see requirements-bench.txt")
        return None
    torch, smp = import_smp()
    cuda = torch.cuda.is_available() and jax.default_backend() != "cpu"
    device = torch.device("cuda" if cuda else "cpu")
    model = smp.Unet(
        "vgg16", encoder_weights=None, decoder_channels=DECODER_FILTERS, classes=2, decoder_use_norm="batchnorm",
        aux_params={"pooling": "avg", "classes": NUM_GRADES},
    ).to(device)  # fmt: skip
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    variants = {
        "eager": Variant(model, torch.contiguous_format),
        "channels_last": Variant(channels_last, torch.channels_last),
        "compile": Variant(torch.compile(copy.deepcopy(channels_last)), torch.channels_last),
    }
    library = f"torch {torch.__version__}, smp {smp.__version__}"
    return Pytorch(torch, device, torch.cuda.get_device_name() if cuda else "cpu", library, variants)


def normalised(torch: Any, images: Any, layout: Any, device: Any) -> Any:
    """Converts a uint8 NumPy array `[b, h, w, 3]` to the network's input on its device."""
    mean, std = (torch.tensor(each, device=device).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    return (x.float() / 255 - mean) / std

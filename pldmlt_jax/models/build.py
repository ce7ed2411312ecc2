"""Builds the networks of a config, from the tables of encoders, decoders and graders."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pldmlt_jax.config import GraderConfig, MetaConfig, ModelConfig
from pldmlt_jax.models.classifier import Classifier
from pldmlt_jax.models.decoders.deeplabv3plus import DeepLabV3Plus
from pldmlt_jax.models.decoders.fpn import FPN
from pldmlt_jax.models.decoders.layers import Decoder
from pldmlt_jax.models.decoders.linknet import LinkNet
from pldmlt_jax.models.decoders.unet import UNet
from pldmlt_jax.models.encoders.densenet import DENSENETS, make_densenet
from pldmlt_jax.models.encoders.nasnet import NASNet
from pldmlt_jax.models.encoders.resnet import RESNETS, make_resnet
from pldmlt_jax.models.encoders.vgg import VGG
from pldmlt_jax.models.label_update import LabelUpdate
from pldmlt_jax.models.multitask import MultiTask
from pldmlt_jax.models.weights.load import preprocessing_scheme

TARGET_CHANNELS = {"fused": 2, "lesions": 4, "exclusive": 5}
"""Channels of the segmentation output, by target."""


def _vgg16(config: ModelConfig) -> nn.Module:
    return VGG(
        config.encoder_filters,
        config.encoder_convs,
        frozen_stages=config.frozen_stages,
        norm=config.encoder_norm,
        weight_gradients=config.weight_gradients,
        rematerialisation=config.rematerialisation,
        dtype=jnp.dtype(config.dtype),
    )


def _resnet(name: str) -> Callable[[ModelConfig], nn.Module]:
    return lambda config: make_resnet(
        name,
        config.encoder_base_filters,
        config.encoder_max_blocks,
        field="model.encoder_base_filters",
        frozen_stages=config.frozen_stages,
        dilate_last=config.decoder in STRIDE_16_DECODERS,
        rematerialisation=config.rematerialisation,
        dtype=jnp.dtype(config.dtype),
    )


def _densenet(name: str) -> Callable[[ModelConfig], nn.Module]:
    return lambda config: make_densenet(
        name,
        config.encoder_base_filters,
        config.encoder_max_blocks,
        frozen_stages=config.frozen_stages,
        rematerialisation=config.rematerialisation,
        dtype=jnp.dtype(config.dtype),
    )


def _decoder_fields(config: ModelConfig) -> dict[str, Any]:
    """Returns the attributes that all decoders have."""
    return {
        "norm_epsilon": config.norm_epsilon,
        "rematerialisation": config.rematerialisation,
        "dtype": jnp.dtype(config.dtype),
    }


def _normed_decoder_fields(config: ModelConfig) -> dict[str, Any]:
    """Returns the attributes of the decoders whose normalisation can be chosen."""
    return _decoder_fields(config) | {"norm": config.decoder_norm, "norm_momentum": config.norm_momentum}


def _unet(config: ModelConfig) -> Decoder:
    centre_filters = config.centre_filters if config.encoder == "vgg16" else 0
    return UNet(
        config.decoder_filters,
        centre_filters,
        config.full_res_skip,
        weight_gradients=config.weight_gradients,
        **_normed_decoder_fields(config),
    )


ENCODERS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "vgg16": _vgg16,
    **{name: _resnet(name) for name in RESNETS},
    **{name: _densenet(name) for name in DENSENETS},
}
DECODERS: dict[str, Callable[[ModelConfig], Decoder]] = {
    "unet": _unet,
    "linknet": lambda config: LinkNet(
        encoder_depth(config), config.decoder_base_filters // 8, **_normed_decoder_fields(config)
    ),
    "fpn": lambda config: FPN(config.decoder_base_filters, **_decoder_fields(config)),
    "deeplabv3plus": lambda config: DeepLabV3Plus(
        config.decoder_base_filters, config.atrous_rates, **_normed_decoder_fields(config)
    ),
}

STRIDE_16_DECODERS = ("deeplabv3plus",)
"""Decoders that need the encoder's last feature at stride 16."""

DILATABLE_ENCODERS = tuple(RESNETS)
"""Encoders whose last stage can be dilated to stride 16, because they downsample by strided convolutions.

VGG and DenseNet downsample by pooling. segmentation_models.pytorch refuses them too.
"""

FIVE_STAGE_DECODERS = ("fpn", "deeplabv3plus")
"""Decoders that need an encoder of depth 5."""


def encoder_depth(config: ModelConfig) -> int:
    """Returns how many times the encoder halves the image. A last stage that is dilated instead counts as well."""
    return len(config.encoder_filters) if config.encoder == "vgg16" else 5


def build_network(config: ModelConfig, target: str) -> MultiTask:
    """Builds the multi-task network of stage 2.

    Args:
        config: Its encoder, decoder and head. Images are normalised as `config.weights` expects them.
        target: A key of `TARGET_CHANNELS`, which sets the channels of the segmentation output.

    Returns:
        A Flax module `(image, train) -> NetworkOutput`.

    Raises:
        KeyError: A name is in no table. `config_checks` reports it with the names that exist.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pldmlt_jax.config import ModelConfig
        >>> config = ModelConfig(encoder_filters=(4, 8), encoder_convs=(1, 1), decoder_filters=(8, 4), centre_filters=0)
        >>> network = build_network(config, "fused")
        >>> image = jnp.zeros((1, 32, 32, 3), jnp.uint8)
        >>> output, _ = jax.eval_shape(lambda key: network.init_with_output(key, image, False), jax.random.key(0))
        >>> output.segmentation_logits.shape, output.grade_logits.shape
        ((1, 32, 32, 2), (1, 5))
    """
    return MultiTask(
        encoder=ENCODERS[config.encoder](config),
        decoder=DECODERS[config.decoder](config),
        num_channels=TARGET_CHANNELS[target],
        preprocess=preprocessing_scheme(config.encoder, config.weights),
        dtype=jnp.dtype(config.dtype),
        grade_head=config.grade_head,
    )


def build_label_network(config: MetaConfig) -> LabelUpdate:
    """Builds the label-update network. It computes in the precision of its parameters, because its gradients are small."""
    return LabelUpdate(hidden=config.hidden, kappa=config.kappa if config.label_init == "pseudo_label" else 0.0)


def _vgg16_grader(config: GraderConfig) -> nn.Module:
    filters = tuple(config.base_filters * factor for factor in (1, 2, 4, 8, 8))
    return VGG(filters, pool_last=False, frozen_stages=config.frozen_stages)


def _resnet_grader(name: str) -> Callable[[GraderConfig], nn.Module]:
    return lambda config: make_resnet(
        name,
        base_filters=config.base_filters,
        max_blocks=config.max_blocks,
        frozen_stages=config.frozen_stages,
    )


def _densenet_grader(name: str) -> Callable[[GraderConfig], nn.Module]:
    return lambda config: make_densenet(
        name,
        config.base_filters,
        config.max_blocks,
        frozen_stages=config.frozen_stages,
        final_relu=True,
    )


def _nasnet_grader(config: GraderConfig) -> nn.Module:
    filters = 4 * (11 * config.base_filters // 64)  # divisible by 4: the first stem cell has a quarter of them
    return NASNet(filters, config.base_filters // 2, config.max_blocks or 4, config.frozen_stages, config.nasnet_momentum)


GRADERS: dict[str, Callable[[GraderConfig], nn.Module]] = {
    "vgg16": _vgg16_grader,
    **{name: _resnet_grader(name) for name in RESNETS},
    **{name: _densenet_grader(name) for name in DENSENETS},
    "nasnet_mobile": _nasnet_grader,
}


def build_grader(name: str, config: GraderConfig, weights: str = "") -> Classifier:
    """Builds a grader of stage 1: an encoder, global average pooling and a fully connected layer with five outputs.

    Args:
        name: A key of `GRADERS`.
        config: Width, depth and frozen stages.
        weights: File or name of the encoder's weights. Images are normalised as these expect them.
    """
    return Classifier(encoder=GRADERS[name](config), preprocess=preprocessing_scheme(name, weights))

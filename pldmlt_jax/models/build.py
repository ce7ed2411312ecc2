"""From a config to modules: the tables of encoders, decoders and classifiers."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from pldmlt_jax.config import GraderConfig, MetaConfig, ModelConfig
from pldmlt_jax.models.classifier import Classifier
from pldmlt_jax.models.label_update import LabelUpdate
from pldmlt_jax.models.multitask import MultiTask
from pldmlt_jax.models.resnet import RESNETS, make_resnet
from pldmlt_jax.models.unet import UNet
from pldmlt_jax.models.vgg import VGG

TARGET_CHANNELS = {"fused": 2, "lesions": 4, "exclusive": 5}
"""Channels of the segmentation output for each target."""


def _vgg16(config: ModelConfig) -> nn.Module:
    return VGG(
        config.encoder_filters,
        config.encoder_convs,
        norm=config.encoder_norm,
        rematerialisation=config.rematerialisation,
        dtype=jnp.dtype(config.dtype),
    )


def _unet(config: ModelConfig) -> nn.Module:
    return UNet(
        config.decoder_filters,
        config.centre_filters,
        config.full_res_skip,
        config.decoder_norm,
        config.norm_momentum,
        config.norm_epsilon,
        config.rematerialisation,
        jnp.dtype(config.dtype),
    )


ENCODERS: dict[str, Callable[[ModelConfig], nn.Module]] = {"vgg16": _vgg16}
DECODERS: dict[str, Callable[[ModelConfig], nn.Module]] = {"unet": _unet}


def build_network(config: ModelConfig, target: str) -> MultiTask:
    """The multi-task network for one kind of segmentation target."""
    return MultiTask(
        encoder=ENCODERS[config.encoder](config),
        decoder=DECODERS[config.decoder](config),
        num_channels=TARGET_CHANNELS[target],
        dtype=jnp.dtype(config.dtype),
    )


def build_label_network(config: MetaConfig) -> LabelUpdate:
    """The label-update network; it computes in its parameters' precision, for its gradients are small."""
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


GRADERS: dict[str, Callable[[GraderConfig], nn.Module]] = {
    "vgg16": _vgg16_grader,
    **{name: _resnet_grader(name) for name in RESNETS},
}


def build_grader(name: str, config: GraderConfig) -> Classifier:
    """A stage 1 grader: the named encoder, global average pooling, a fully connected layer with five outputs."""
    return Classifier(encoder=GRADERS[name](config))

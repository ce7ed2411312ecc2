"""Finds parts of a network that do not fit together, before anything is built."""

from collections.abc import Iterator

from pldmlt_jax.config import ModelConfig
from pldmlt_jax.errors import ConfigError, UserError, collect_errors
from pldmlt_jax.models.build import (
    DECODERS,
    DILATABLE_ENCODERS,
    ENCODERS,
    FIVE_STAGE_DECODERS,
    STRIDE_16_DECODERS,
    encoder_depth,
)
from pldmlt_jax.models.weights.download import RANDOM_START

NUM_RATES = 3
"""Number of dilations in DeepLabv3+'s pyramid."""


def network_errors(model: ModelConfig) -> Iterator[UserError]:
    """Yields an error for each combination of fields that gives no network. Unknown names are left to `config_checks`."""
    if model.encoder not in ENCODERS or model.decoder not in DECODERS:
        return
    if model.frozen_stages > encoder_depth(model):
        found, expected = f"{model.frozen_stages}", f"{encoder_depth(model)} at most, the number of stages of the encoder"
        yield ConfigError("model.frozen_stages", found, expected, "freeze fewer stages")
    yield from _vgg_errors(model)
    yield from _decoder_errors(model)
    errors: list[UserError] = []
    with collect_errors(errors):
        ENCODERS[model.encoder](model)
    yield from errors


def _vgg_errors(model: ModelConfig) -> Iterator[UserError]:
    if model.encoder != "vgg16":
        for name in ("encoder_norm", "full_res_skip"):
            if getattr(model, name):
                found = f"True with model.encoder = {model.encoder!r}"
                yield ConfigError(f"model.{name}", found, "False: only VGG has it", "switch it off")
        return
    if len(model.encoder_filters) != len(model.encoder_convs):
        yield ConfigError(
            "model.encoder_convs",
            f"{len(model.encoder_convs)} blocks",
            f"{len(model.encoder_filters)} blocks, as in model.encoder_filters",
            "give one number per block in both fields",
        )
    if model.encoder_norm and model.weights not in RANDOM_START:
        yield ConfigError(
            "model.encoder_norm",
            "True with model.weights",
            "False: the network of these weights has no normalisation",
            "switch encoder_norm off, or train without weights",
        )


def _decoder_errors(model: ModelConfig) -> Iterator[UserError]:
    if model.decoder == "unet" and len(model.decoder_filters) != encoder_depth(model):
        yield ConfigError(
            "model.decoder_filters",
            f"{len(model.decoder_filters)} stages",
            f"{encoder_depth(model)} stages: one for each time that the encoder halves the image",
            "give one number per stage; for VGG, as many as in model.encoder_filters",
        )
    if model.decoder != "unet" and model.full_res_skip and model.encoder == "vgg16":
        found = f"True with model.decoder = {model.decoder!r}"
        yield ConfigError("model.full_res_skip", found, "False: only U-Net has it", "switch it off")
    if model.decoder in STRIDE_16_DECODERS and model.encoder not in DILATABLE_ENCODERS:
        yield ConfigError(
            "model.decoder",
            f"{model.decoder!r} with model.encoder = {model.encoder!r}, whose pooling cannot be dilated to output stride 16",
            f"one of the encoders {', '.join(DILATABLE_ENCODERS)}",
            "choose one of these encoders, or another decoder",
        )
    elif model.decoder in FIVE_STAGE_DECODERS and encoder_depth(model) != 5:
        found = f"{model.decoder!r} with {encoder_depth(model)} blocks in the encoder"
        yield ConfigError("model.decoder", found, "five blocks", "give model.encoder_filters five numbers")
    if model.decoder == "deeplabv3plus" and len(model.atrous_rates) != NUM_RATES:
        yield ConfigError(
            "model.atrous_rates", f"{len(model.atrous_rates)} rates", f"{NUM_RATES} rates", "give one dilation per branch"
        )

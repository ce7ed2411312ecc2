"""Which parts make no network together: refused before anything is built."""

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
from pldmlt_jax.models.weights.download import NO_WEIGHTS

NUM_RATES = 3
"""Of DeepLabv3+'s pyramid."""


def network_errors(model: ModelConfig) -> Iterator[UserError]:
    """Every pair of fields of the network that makes no sense; names are known already."""
    if model.encoder not in ENCODERS or model.decoder not in DECODERS:
        return
    if model.frozen_stages > encoder_depth(model):
        found, expected = f"{model.frozen_stages}", f"{encoder_depth(model)} at most, as many as the encoder has"
        yield ConfigError("model.frozen_stages", found, expected, "freeze fewer")
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
                yield ConfigError(f"model.{name}", found, "VGG, to which it belongs", "switch it off")
        return
    if len(model.encoder_filters) != len(model.encoder_convs):
        yield ConfigError(
            "model.encoder_convs",
            f"{len(model.encoder_convs)} blocks",
            f"as many as model.encoder_filters has: {len(model.encoder_filters)}",
            "give one number a block in both",
        )
    if model.encoder_norm and model.weights not in NO_WEIGHTS:
        yield ConfigError(
            "model.encoder_norm",
            "True with model.weights",
            "the network that the weights belong to, which has no normalisation",
            "switch one of the two off",
        )


def _decoder_errors(model: ModelConfig) -> Iterator[UserError]:
    if model.decoder == "unet" and len(model.decoder_filters) != encoder_depth(model):
        yield ConfigError(
            "model.decoder_filters",
            f"{len(model.decoder_filters)} stages",
            f"one for each time that the encoder halves the image: {encoder_depth(model)}",
            "give as many, as model.encoder_filters has for VGG",
        )
    if model.decoder != "unet" and model.full_res_skip and model.encoder == "vgg16":
        found = f"True with model.decoder = {model.decoder!r}"
        yield ConfigError("model.full_res_skip", found, "U-Net, to which it belongs", "switch it off")
    if model.decoder in STRIDE_16_DECODERS and model.encoder not in DILATABLE_ENCODERS:
        yield ConfigError(
            "model.decoder",
            f"{model.decoder!r} with model.encoder = {model.encoder!r}, whose pooling cannot be dilated to output stride 16",
            f"one of the encoders {', '.join(DILATABLE_ENCODERS)}",
            "choose one of them, or another decoder",
        )
    elif model.decoder in FIVE_STAGE_DECODERS and encoder_depth(model) != 5:
        found = f"{model.decoder!r} with {encoder_depth(model)} blocks in the encoder"
        yield ConfigError("model.decoder", found, "five", "give model.encoder_filters five numbers")
    if model.decoder == "deeplabv3plus" and len(model.atrous_rates) != NUM_RATES:
        yield ConfigError("model.atrous_rates", f"{len(model.atrous_rates)} rates", f"{NUM_RATES}", "give as many")

"""The LinkNet decoder (Chaurasia and Culurciello 2017) of segmentation_models.pytorch.

It enlarges by transposed convolutions, as LinkNet's paper does; the Keras library repeats pixels by default.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.decoders.layers import ConvNormReLU, Decoder
from pldmlt_jax.models.layers import rematerialise

SQUEEZE = 4
"""Channels that enter a block over those that are enlarged in it."""


class LinkNet(Decoder):
    """Blocks of 1x1, transposed and 1x1 convolution, each followed by the addition of the encoder's skip.

    Attributes:
        blocks: As many as the encoder halves the image.
        filters: Channels of the result; those of the other blocks are their skips'.
        norm: A key of DECODER_NORMS.
        rematerialisation: Of each block, a key of `REMATERIALISATIONS`.
    """

    blocks: int = 5
    filters: int = 32
    norm: str = "batch"
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    rematerialisation: str = "none"
    dtype: DTypeLike = jnp.float32

    output_kernel = 1

    @nn.compact
    def __call__(self, features: Sequence[Float[Array, "b ..."]], train: bool) -> Float[Array, "b h w f"]:
        """Decodes features to full resolution; see `UNet`. A stride-1 feature is not used."""

        def block_of(mdl: nn.Module, x: Array, *skip: Array, name: str, filters: int) -> Array:
            layer = partial(ConvNormReLU, norm=self.norm, norm_momentum=self.norm_momentum, norm_epsilon=self.norm_epsilon)
            layer = partial(layer, dtype=self.dtype)
            squeezed = x.shape[-1] // SQUEEZE
            x = layer(squeezed, kernel_size=1, name=f"{name}_squeeze")(x, train)
            x = layer(squeezed, form="transposed", name=f"{name}_enlarge")(x, train)
            x = layer(filters, kernel_size=1, name=f"{name}_expand")(x, train)
            return sum(skip, start=x)

        skips = list(reversed(features[:-1]))[: self.blocks - 1]
        x = features[-1]
        for i in range(1, self.blocks + 1):
            skip = skips[i - 1 : i]
            filters = skip[0].shape[-1] if skip else self.filters
            block = partial(block_of, name=f"block{i}", filters=filters)
            x = rematerialise(block, self.rematerialisation)(self, x, *skip)
        return x

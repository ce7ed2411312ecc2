"""The LinkNet decoder (Chaurasia and Culurciello 2017) of segmentation_models.pytorch.

It upsamples by transposed convolutions, as in the paper. The Keras library repeats pixels by default.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.decoders.layers import ConvNormReLU, Decoder
from pldmlt_jax.models.layers import rematerialise

SQUEEZE = 4
"""Ratio of a block's input channels to those that it upsamples."""


class LinkNet(Decoder):
    """Blocks of 1x1, transposed and 1x1 convolution, each followed by the addition of the encoder's skip connection.

    Attributes:
        blocks: Number of blocks: the number of times that the encoder halves the image.
        filters: Channels of the last block. The other blocks have those of their skip connections.
        norm: A key of `DECODER_NORMS`.
        norm_momentum: Decay of the running statistics.
        norm_epsilon: Added to the variance.
        rematerialisation: A key of `REMATERIALISATIONS`, applied to each block.
        dtype: Data type of the activations. Parameters are float32.
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
        """Decodes features to full resolution.

        Args:
            features: The encoder's, finest first, each half the size of the one before. A feature at stride 1 is not used.
            train: Whether batch normalisation uses the statistics of the batch and updates the running ones.
        """

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

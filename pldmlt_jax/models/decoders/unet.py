"""The U-Net decoder of segmentation_models (Keras and PyTorch), the library of the paper's baselines."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.decoders.layers import ConvNormReLU, Decoder, upsample_nearest_2x
from pldmlt_jax.models.layers import rematerialise


class UNet(Decoder):
    """A centre block, then stages of nearest upsampling, concatenation with a skip connection and two convolutions.

    Attributes:
        filters: Channels of the stages, deepest first. Each stage doubles the resolution.
        centre_filters: Channels of the two convolutions on the deepest feature; 0 for no centre block.
        full_res_skip: Whether to use the encoder's feature at stride 1, which the reference U-Net does not.
        norm: A key of `DECODER_NORMS`.
        norm_momentum: Decay of the running statistics.
        norm_epsilon: Added to the variance.
        rematerialisation: A key of `REMATERIALISATIONS`, applied to each stage.
        weight_gradients: One of `WEIGHT_GRADIENTS`.
        dtype: Data type of the activations. Parameters are float32.
    """

    filters: tuple[int, ...] = (256, 128, 64, 32, 16)
    centre_filters: int = 512
    full_res_skip: bool = False
    norm: str = "batch"
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    rematerialisation: str = "none"
    weight_gradients: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence[Float[Array, "b ..."]], train: bool) -> Float[Array, "b h w f"]:
        """Decodes features to full resolution.

        Args:
            features: The encoder's, finest first, each half the size of the one before.
            train: Whether batch normalisation uses the statistics of the batch and updates the running ones.
        """

        def two_convolutions(mdl: nn.Module, x: Array, name: str, filters: int) -> Array:
            for i in (1, 2):
                layer = ConvNormReLU(
                    filters, self.norm, self.norm_momentum, self.norm_epsilon, self.dtype,
                    weight_gradients=self.weight_gradients, name=f"{name}_{i}",
                )  # fmt: skip
                x = layer(x, train)
            return x

        def stage_of(mdl: nn.Module, x: Array, *skip: Array, name: str, filters: int) -> Array:
            return two_convolutions(mdl, jnp.concatenate([upsample_nearest_2x(x), *skip], axis=-1), name, filters)

        x = features[-1]
        if self.centre_filters:
            centre = partial(two_convolutions, name="centre", filters=self.centre_filters)
            x = rematerialise(centre, self.rematerialisation)(self, x)
        skips = list(reversed(features[:-1]))
        if len(skips) >= len(self.filters) and not self.full_res_skip:
            skips = skips[: len(self.filters) - 1]
        for i, filters in enumerate(self.filters):
            stage = partial(stage_of, name=f"stage{i + 1}", filters=filters)
            x = rematerialise(stage, self.rematerialisation)(self, x, *skips[i : i + 1])
        return x

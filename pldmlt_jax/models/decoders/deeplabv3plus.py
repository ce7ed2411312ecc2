"""The DeepLabv3+ decoder (Chen et al. 2018) of segmentation_models.pytorch: output stride 16, separable convolutions.

The library applies dropout to the pyramid during training. There is none here, because the virtual step needs the same
function twice.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.decoders.layers import ConvNormReLU, Decoder, upsample_bilinear
from pldmlt_jax.models.layers import rematerialise


class DeepLabV3Plus(Decoder):
    """Convolutions of several dilations on the last feature, upsampled and joined with the feature at stride 4.

    Attributes:
        filters: Channels throughout. The feature at stride 4 is reduced to 3/16 of them.
        rates: Dilations, in pixels of the last feature.
        norm: A key of `DECODER_NORMS`.
        norm_momentum: Decay of the running statistics.
        norm_epsilon: Added to the variance.
        rematerialisation: A key of `REMATERIALISATIONS`, applied to the pyramid and to the layers after it.
        dtype: Data type of the activations. Parameters are float32.
    """

    filters: int = 256
    rates: tuple[int, ...] = (12, 24, 36)
    norm: str = "batch"
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    rematerialisation: str = "none"
    dtype: DTypeLike = jnp.float32

    output_kernel = 1
    output_stride = 4

    @nn.compact
    def __call__(self, features: Sequence[Float[Array, "b ..."]], train: bool) -> Float[Array, "b h w f"]:
        """Decodes features to stride 4.

        Args:
            features: The encoder's, finest first. The last, at stride 16, and the fourth from the end, at stride 4, are
                used.
            train: Whether batch normalisation uses the statistics of the batch and updates the running ones.
        """

        def layer(name: str, x: Array, filters: int = self.filters, **form: Any) -> Array:
            norm = (self.norm, self.norm_momentum, self.norm_epsilon, self.dtype)
            return ConvNormReLU(filters, *norm, **form, name=name)(x, train)

        def pyramid(mdl: nn.Module, x: Array) -> Array:
            branches = [layer("aspp_1x1", x, kernel_size=1)]
            branches += [
                layer(f"aspp_rate{i}", x, form="separable", dilation=rate) for i, rate in enumerate(self.rates, start=1)
            ]
            pooled = layer("aspp_pooled", x.mean(axis=(1, 2), keepdims=True), kernel_size=1)
            branches.append(jnp.broadcast_to(pooled, branches[0].shape))
            x = layer("aspp_project", jnp.concatenate(branches, axis=-1), kernel_size=1)
            return layer("aspp", x, form="separable")

        def join(mdl: nn.Module, x: Array, fine: Array) -> Array:
            fine = layer("fine", fine, filters=3 * self.filters // 16, kernel_size=1)
            return layer("join", jnp.concatenate([upsample_bilinear(x, 4), fine], axis=-1), form="separable")

        x = rematerialise(pyramid, self.rematerialisation)(self, features[-1])
        return rematerialise(join, self.rematerialisation)(self, x, features[-4])

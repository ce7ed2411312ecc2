"""The semantic FPN decoder (Kirillov et al. 2019) of segmentation_models.pytorch.

It uses group normalisation and sums the levels of the pyramid, as in the paper. The Keras library uses batch normalisation
and concatenates them. The PyTorch library applies dropout during training. There is none here, because the virtual step
needs the same function twice.
"""

from collections.abc import Sequence
from functools import partial, reduce

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.decoders.layers import ConvNormReLU, Decoder, upsample_bilinear, upsample_nearest_2x
from pldmlt_jax.models.layers import rematerialise

GROUPS = 32
"""Groups of group normalisation."""


class FPN(Decoder):
    """A pyramid of 1x1 convolutions and nearest upsampling, whose levels are convolved, upsampled to stride 4 and summed.

    Attributes:
        filters: Channels of the pyramid. The layers after it have half as many.
        norm_epsilon: Added to the variance.
        rematerialisation: A key of `REMATERIALISATIONS`, applied to each level.
        dtype: Data type of the activations. Parameters are float32.
    """

    filters: int = 256
    norm_epsilon: float = 1e-5
    rematerialisation: str = "none"
    dtype: DTypeLike = jnp.float32

    output_kernel = 1
    output_stride = 4

    @nn.compact
    def __call__(self, features: Sequence[Float[Array, "b ..."]], train: bool) -> Float[Array, "b h w f"]:
        """Decodes features to stride 4.

        Args:
            features: The encoder's, finest first. The last four, at strides 4 to 32, are used.
            train: Has no effect: group normalisation has no running statistics.
        """
        pyramid: list[Array] = []
        for level, feature in zip((5, 4, 3, 2), reversed(features[-4:]), strict=True):
            lateral = nn.Conv(self.filters, (1, 1), dtype=self.dtype, name=f"lateral{level}")(feature)
            pyramid.append(lateral + upsample_nearest_2x(pyramid[-1]) if pyramid else lateral)

        def level_of(mdl: nn.Module, x: Array, level: int) -> Array:
            doublings = level - 2
            for i in range(1, max(doublings, 1) + 1):
                layer = ConvNormReLU(
                    self.filters // 2, "group", 0.0, self.norm_epsilon, self.dtype, groups=GROUPS, name=f"level{level}_{i}"
                )
                x = layer(x, train)
                x = upsample_bilinear(x, 2) if doublings else x
            return x

        levels = zip((5, 4, 3, 2), pyramid, strict=True)
        enlarged = [rematerialise(partial(level_of, level=n), self.rematerialisation)(self, x) for n, x in levels]
        return reduce(jnp.add, enlarged)

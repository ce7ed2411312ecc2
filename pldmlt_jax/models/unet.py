"""The U-Net decoder of the library that the paper's baselines come from (segmentation_models, Keras)."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


def upsample_nearest_2x(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Repeats each pixel twice in height and width; broadcast and reshape, the form that ONNX export takes."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


class ConvNormReLU(nn.Module):
    """3x3 convolution without bias, batch normalisation, ReLU; He-normal start (the paper's)."""

    filters: int
    norm_momentum: float
    norm_epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w f"]:
        x = nn.Conv(
            self.filters,
            (3, 3),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.he_normal(),
            name="conv",
        )(x)
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            dtype=self.dtype,
            name="norm",
        )(x)
        return nn.relu(x)


class UNet(nn.Module):
    """Centre block, then stages of nearest upsampling, concatenation with the encoder's skip and two convolutions.

    Attributes:
        filters: Channels of the stages, deepest first; each doubles the resolution.
        centre_filters: Channels of the two convolutions on the deepest feature; 0 leaves the centre block out.
        full_res_skip: Whether a stride-1 feature of the encoder is used; the reference U-Net leaves it out.
    """

    filters: tuple[int, ...] = (256, 128, 64, 32, 16)
    centre_filters: int = 512
    full_res_skip: bool = False
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence[Float[Array, "b ..."]], train: bool) -> Float[Array, "b h w f"]:
        """Decodes features to full resolution.

        Args:
            features: The encoder's, finest first, each half the size of the one before; the last is decoded.
            train: Whether batch normalisation uses the batch's statistics and updates the running ones.
        """

        def block(name: str, filters: int, x: Array) -> Array:
            return ConvNormReLU(filters, self.norm_momentum, self.norm_epsilon, self.dtype, name=name)(x, train)

        x = features[-1]
        if self.centre_filters:
            x = block("centre_1", self.centre_filters, x)
            x = block("centre_2", self.centre_filters, x)
        skips = list(reversed(features[:-1]))
        if len(skips) >= len(self.filters) and not self.full_res_skip:
            skips = skips[: len(self.filters) - 1]
        for stage, filters in enumerate(self.filters):
            x = upsample_nearest_2x(x)
            if stage < len(skips):
                x = jnp.concatenate([x, skips[stage]], axis=-1)
            x = block(f"stage{stage + 1}_1", filters, x)
            x = block(f"stage{stage + 1}_2", filters, x)
        return x

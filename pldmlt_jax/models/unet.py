"""The U-Net decoder of the library that the paper's baselines come from (segmentation_models, Keras)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.layers import rematerialised, statistics_axis


def upsample_nearest_2x(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Repeats each pixel twice in height and width; broadcast and reshape, the form that ONNX export takes."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


NORM_GROUPS = 8
"""Of group normalisation; fewer where these do not divide the channels."""


def _batch_norm(layer: "ConvNormReLU", train: bool) -> nn.Module:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=layer.norm_momentum,
        epsilon=layer.norm_epsilon,
        dtype=layer.dtype,
        axis_name=statistics_axis(),
        name="norm",
    )


def _group_norm(layer: "ConvNormReLU", train: bool) -> nn.Module:
    del train
    groups = math.gcd(layer.filters, NORM_GROUPS)
    return nn.GroupNorm(num_groups=groups, epsilon=layer.norm_epsilon, dtype=layer.dtype, name="norm")


DECODER_NORMS: dict[str, Callable[["ConvNormReLU", bool], nn.Module]] = {"batch": _batch_norm, "group": _group_norm}
"""The paper's, and one that does not depend on the other images of a batch."""


class ConvNormReLU(nn.Module):
    """3x3 convolution without bias, normalisation (a key of DECODER_NORMS), ReLU; He-normal start (the paper's)."""

    filters: int
    norm: str
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
        return nn.relu(cast(Array, DECODER_NORMS[self.norm](self, train)(x)))


class UNet(nn.Module):
    """Centre block, then stages of nearest upsampling, concatenation with the encoder's skip and two convolutions.

    Attributes:
        filters: Channels of the stages, deepest first; each doubles the resolution.
        centre_filters: Channels of the two convolutions on the deepest feature; 0 leaves the centre block out.
        full_res_skip: Whether a stride-1 feature of the encoder is used; the reference U-Net leaves it out.
        norm: A key of DECODER_NORMS.
        rematerialisation: Of each stage, a key of `REMATERIALISATIONS`.
    """

    filters: tuple[int, ...] = (256, 128, 64, 32, 16)
    centre_filters: int = 512
    full_res_skip: bool = False
    norm: str = "batch"
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    rematerialisation: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence[Float[Array, "b ..."]], train: bool) -> Float[Array, "b h w f"]:
        """Decodes features to full resolution.

        Args:
            features: The encoder's, finest first, each half the size of the one before; the last is decoded.
            train: Whether batch normalisation uses the batch's statistics and updates the running ones.
        """

        def two_convolutions(mdl: nn.Module, x: Array, name: str, filters: int) -> Array:
            for i in (1, 2):
                layer = ConvNormReLU(
                    filters, self.norm, self.norm_momentum, self.norm_epsilon, self.dtype, name=f"{name}_{i}"
                )
                x = layer(x, train)
            return x

        def stage_of(mdl: nn.Module, x: Array, *skip: Array, name: str, filters: int) -> Array:
            return two_convolutions(mdl, jnp.concatenate([upsample_nearest_2x(x), *skip], axis=-1), name, filters)

        x = features[-1]
        if self.centre_filters:
            centre = partial(two_convolutions, name="centre", filters=self.centre_filters)
            x = rematerialised(centre, self.rematerialisation)(self, x)
        skips = list(reversed(features[:-1]))
        if len(skips) >= len(self.filters) and not self.full_res_skip:
            skips = skips[: len(self.filters) - 1]
        for i, filters in enumerate(self.filters):
            stage = partial(stage_of, name=f"stage{i + 1}", filters=filters)
            x = rematerialised(stage, self.rematerialisation)(self, x, *skips[i : i + 1])
        return x

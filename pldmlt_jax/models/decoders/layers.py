"""Layers that the decoders share: convolution with normalisation and ReLU, and upsampling."""

import math
from collections.abc import Callable
from typing import ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.layers import BatchNorm, DepthwiseConv
from pldmlt_jax.models.weight_gradients import select_convolution


class Decoder(nn.Module):
    """What the network has to know of a decoder: how its result becomes logits of the image's size."""

    output_kernel: ClassVar[int] = 3
    """Side of the last convolution's kernel."""
    output_stride: ClassVar[int] = 1
    """Of the decoder's result; the logits are enlarged by as much."""


def upsample_nearest_2x(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Repeats each pixel twice in height and width; broadcast and reshape, the form that ONNX export takes."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def _interpolation(size: int, factor: int) -> np.ndarray:
    """Weights [factor * size, size] of linear interpolation between pixels, the outer ones on the outer ones."""
    position = np.linspace(0.0, size - 1.0, factor * size)
    return np.maximum(1.0 - np.abs(position[:, None] - np.arange(size)), 0.0)


def upsample_bilinear(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 c"]:
    """Bilinear upsampling with aligned corners (PyTorch's `align_corners=True`), as two matrix products."""
    rows, columns = (jnp.asarray(_interpolation(size, factor), x.dtype) for size in x.shape[1:3])
    return jnp.einsum("ph,bhwc,qw->bpqc", rows, x, columns)


class GroupNorm(nn.Module):
    """What `flax.linen.GroupNorm` computes, from the same parameters, with means taken axis by axis (Wu and He 2018).

    Over a large image ONNX Runtime adds up all pixels of a group one after the other: that loses four of float32's seven
    digits, and probabilities of the shipped network were 1e-3 away from Flax'. Sums of one row at a time do not.
    """

    num_groups: int
    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        shape = (self.num_groups, x.shape[-1] // self.num_groups)
        groups = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(*x.shape[:-1], *shape)
        mean = _mean_of_groups(groups)
        variance = jnp.maximum(_mean_of_groups(jnp.square(groups)) - jnp.square(mean), 0.0)
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale.reshape(shape)
        return ((groups - mean) * factor + bias.reshape(shape)).reshape(x.shape).astype(self.dtype)


def _mean_of_groups(x: Float[Array, "b h w g n"]) -> Float[Array, "b 1 1 g 1"]:
    for axis in (2, 1, 4):
        x = jnp.mean(x, axis=axis, keepdims=True)
    return x


NORM_GROUPS = 8
"""Of group normalisation; fewer where these do not divide the channels."""


def _batch_norm(layer: "ConvNormReLU", train: bool) -> Callable[[Array], Array]:
    norm = BatchNorm(layer.norm_momentum, layer.norm_epsilon, layer.dtype, name="norm")
    return lambda x: norm(x, train)


def _group_norm(layer: "ConvNormReLU", train: bool) -> Callable[[Array], Array]:
    del train
    groups = math.gcd(layer.filters, layer.groups)
    return GroupNorm(groups, layer.norm_epsilon, layer.dtype, name="norm")


DECODER_NORMS: dict[str, Callable[["ConvNormReLU", bool], Callable[[Array], Array]]] = {
    "batch": _batch_norm,
    "group": _group_norm,
}
"""The paper's, and one that does not depend on the other images of a batch."""


class ConvNormReLU(nn.Module):
    """Convolution, normalisation (a key of DECODER_NORMS), ReLU; He-normal start (the paper's).

    Attributes:
        kernel_size: Side of the kernel, odd.
        form: "plain"; "separable": a depthwise convolution before one of 1x1; "transposed": 4x4, doubles the size.
        dilation: Of the depthwise kernel.
        groups: Of group normalisation, at most.
        weight_gradients: Of a plain convolution, one of `WEIGHT_GRADIENTS`.

    Plain and separable convolutions have no bias; the transposed one has, as in segmentation_models.pytorch.
    """

    filters: int
    norm: str
    norm_momentum: float
    norm_epsilon: float
    dtype: DTypeLike = jnp.float32
    kernel_size: int = 3
    form: str = "plain"
    dilation: int = 1
    groups: int = NORM_GROUPS
    weight_gradients: str = "xla"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 f"]:
        start = nn.initializers.he_normal()
        kernel_size = self.kernel_size
        if self.form == "separable":
            x = DepthwiseConv(kernel_size, dilation=self.dilation, dtype=self.dtype, name="depthwise")(x)
            kernel_size = 1
        if self.form == "transposed":
            x = nn.ConvTranspose(
                self.filters, (4, 4), strides=(2, 2), dtype=self.dtype, kernel_init=start, name="conv"
            )(x)  # fmt: skip
        else:
            x = nn.Conv(
                self.filters, (kernel_size, kernel_size), use_bias=False, dtype=self.dtype, kernel_init=start,
                conv_general_dilated=select_convolution(self.weight_gradients, train), name="conv",
            )(x)  # fmt: skip
        return nn.relu(cast(Array, DECODER_NORMS[self.norm](self, train)(x)))

"""Layers that the decoders share: convolution with normalisation and ReLU, and upsampling."""

import math
from collections.abc import Callable
from typing import ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.grouped_convolutions import DepthwiseConv
from pldmlt_jax.models.layers import BatchNorm
from pldmlt_jax.models.weight_gradients import select_convolution


class Decoder(nn.Module):
    """Base class of the decoders: how the network turns a decoder's result into logits at the size of the image."""

    output_kernel: ClassVar[int] = 3
    """Side of the kernel of the network's last convolution, in pixels."""
    output_stride: ClassVar[int] = 1
    """Stride of the decoder's result. The logits are upsampled by this factor."""


def upsample_nearest_2x(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Repeats each pixel twice in height and width, by a broadcast and a reshape, which ONNX export supports."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def _interpolation(size: int, factor: int) -> np.ndarray:
    """Returns the weights [factor * size, size] of linear interpolation with aligned corners."""
    position = np.linspace(0.0, size - 1.0, factor * size)
    return np.maximum(1.0 - np.abs(position[:, None] - np.arange(size)), 0.0)


def upsample_bilinear(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 c"]:
    """Upsamples bilinearly with aligned corners (PyTorch's `align_corners=True`), as two matrix products."""
    rows, columns = (jnp.asarray(_interpolation(size, factor), x.dtype) for size in x.shape[1:3])
    return jnp.einsum("ph,bhwc,qw->bpqc", rows, x, columns)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) as in `flax.linen.GroupNorm`, but averaged one axis at a time.

    On a large image ONNX Runtime sums all pixels of a group one after the other, which loses four of the seven digits of
    float32: probabilities of the bundled model were 1e-3 away from Flax's. Sums of one row at a time keep them.

    Attributes:
        num_groups: Number of groups, a divisor of the channels.
        epsilon: Added to the variance.
        dtype: Data type of the result. Statistics are computed in float32 or wider.
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
"""Largest number of groups in group normalisation. The greatest common divisor with the channels is used."""


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
"""Normalisation by name. `batch` is the paper's. `group` does not depend on the other images of a batch."""


class ConvNormReLU(nn.Module):
    """Convolution, normalisation and ReLU. Weights start He-normal, as in the paper.

    Plain and separable convolutions have no bias. The transposed one has, as in segmentation_models.pytorch.

    Attributes:
        filters: Output channels.
        norm: A key of `DECODER_NORMS`.
        norm_momentum: Decay of the running statistics.
        norm_epsilon: Added to the variance.
        dtype: Data type of the activations. Parameters are float32.
        kernel_size: Side of the kernel in pixels, odd.
        form: "plain", "separable" (depthwise, then 1x1) or "transposed" (4x4, doubles the size).
        dilation: Dilation of the depthwise kernel.
        groups: Largest number of groups in group normalisation.
        weight_gradients: How weight gradients of a plain convolution are computed, one of `WEIGHT_GRADIENTS`.
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

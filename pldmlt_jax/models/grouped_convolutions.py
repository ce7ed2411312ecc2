"""Grouped and depthwise convolutions, in the form that is fastest on the backend."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


def _grouped_conv_lax(x: Array, kernel: Array, groups: int, stride: int, dilation: int = 1) -> Array:
    half_h, half_w = (dilation * (size // 2) for size in kernel.shape[:2])
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((half_h, half_h), (half_w, half_w)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _grouped_conv_einsum(x: Array, kernel: Array, groups: int, stride: int, dilation: int = 1) -> Array:
    kernel_h, kernel_w, group_in, out = kernel.shape
    batch, height, width, _ = x.shape
    pad_h, pad_w = dilation * (kernel_h // 2), dilation * (kernel_w // 2)
    out_h, out_w = (height - 1) // stride + 1, (width - 1) // stride + 1  # the kernel is odd, and padded by half of it
    # Groups go first, so that here and in the backward pass the einsum is a batched matrix product.
    x = x.reshape(batch, height, width, groups, group_in).transpose(3, 0, 1, 2, 4)
    x = jnp.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w), (0, 0)))
    shifted = [
        x[:, :, dy : dy + stride * (out_h - 1) + 1 : stride, dx : dx + stride * (out_w - 1) + 1 : stride]
        for dy in range(0, dilation * kernel_h, dilation)
        for dx in range(0, dilation * kernel_w, dilation)
    ]
    kernel = kernel.reshape(kernel_h * kernel_w * group_in, groups, out // groups)
    y = jnp.einsum("gbhwi,igo->gbhwo", jnp.concatenate(shifted, axis=-1), kernel)
    return y.transpose(1, 2, 3, 0, 4).reshape(batch, out_h, out_w, out)


def _grouped_conv_dense(x: Array, kernel: Array, groups: int, stride: int, dilation: int = 1) -> Array:
    kernel_h, kernel_w, group_in, out = kernel.shape
    blocks = jnp.einsum(
        "yxigo,ng->yxnigo",
        kernel.reshape(kernel_h, kernel_w, group_in, groups, out // groups),
        jnp.eye(groups, dtype=kernel.dtype),
    )
    return _grouped_conv_lax(x, blocks.reshape(kernel_h, kernel_w, groups * group_in, out), 1, stride, dilation)


GROUPED_CONVS: dict[str, Callable[..., Array]] = {
    "lax": _grouped_conv_lax,
    "einsum": _grouped_conv_einsum,
    "dense": _grouped_conv_dense,
}
"""Grouped convolution `(x, kernel, groups, stride, dilation) -> y` in three forms that give the same result.

`lax` is XLA's own. `einsum` is one matrix product per group over the shifted input. `dense` is an ordinary convolution with
a block-diagonal kernel. On CPU the backward pass of `lax` is many times slower than the others'.
"""

MAX_DENSE_FEATURES = 64
"""Largest number of channels at which `dense` is used on CPU: its zeros cost less there than `einsum`'s transposes."""


def _fastest_grouped_conv(features: int, groups: int) -> str:
    if groups == 1 or jax.default_backend() != "cpu":
        return "lax"
    return "dense" if features <= MAX_DENSE_FEATURES else "einsum"


class GroupedConv(nn.Module):
    """Convolution in groups of channels without bias, as ResNeXt's 3x3 (Xie et al. 2017).

    The input is padded by half the dilated kernel on each side. Padding is explicit because XLA's SAME is asymmetric at
    stride 2. The only parameter is `kernel`, HWIO with I = input channels / groups, whatever the implementation.

    Attributes:
        features: Output channels, divisible by `groups`.
        groups: Number of groups. Output channel o sees the input channels of group o // (features / groups).
        kernel_size: Side of the kernel in pixels, odd.
        stride: Stride in height and width.
        implementation: A key of `GROUPED_CONVS`, or "auto" for the fastest on this backend. Export uses "lax".
        dtype: Data type of the activations.
        dilation: Dilation of the kernel.
    """

    features: int
    groups: int
    kernel_size: int = 3
    stride: int = 1
    implementation: str = "auto"
    dtype: DTypeLike = jnp.float32
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        implementation = self.implementation
        if implementation == "auto":
            implementation = _fastest_grouped_conv(self.features, self.groups)
        convolve = GROUPED_CONVS[implementation]
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.groups, self.stride, self.dilation)


def _depthwise_conv_lax(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding="VALID",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _depthwise_conv_taps(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    kernel_h, kernel_w, _, channels = kernel.shape
    out_h, out_w = ((x.shape[1 + i] - dilation * (kernel.shape[i] - 1) - 1) // stride + 1 for i in (0, 1))
    window = (x.shape[0], stride * (out_h - 1) + 1, stride * (out_w - 1) + 1, channels)

    @jax.checkpoint  # the backward pass slices again and keeps no copy of the input for each tap
    def add(sum_: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
        position, weight = tap
        start = (0, dilation * (position // kernel_w), dilation * (position % kernel_w), 0)
        return sum_ + jax.lax.dynamic_slice(x, start, window)[:, ::stride, ::stride] * weight, None

    taps = (jnp.arange(kernel_h * kernel_w), kernel.reshape(-1, channels))
    return jax.lax.scan(add, jnp.zeros((x.shape[0], out_h, out_w, channels), x.dtype), taps)[0]


DEPTHWISE_CONVS: dict[str, Callable[[Array, Array, int, int], Array]] = {
    "lax": _depthwise_conv_lax,
    "taps": _depthwise_conv_taps,
}
"""Depthwise convolution `(padded x, kernel, stride, dilation) -> y` in two forms that give the same result.

`lax` is XLA's own. `taps` is a loop over the positions of the kernel, 6 to 50 times faster on CPU. Unrolled, its backward
pass takes longer to compile and to run.
"""


class DepthwiseConv(nn.Module):
    """Convolution of each channel with a kernel of its own, without bias. The only parameter is `kernel`, HWIO with I = 1.

    Attributes:
        kernel_size: Side of the kernel in pixels.
        stride: Stride in height and width.
        dilation: Dilation of the kernel.
        padding: ((top, bottom), (left, right)) in pixels. None pads by half the dilated kernel.
        implementation: A key of `DEPTHWISE_CONVS`, or "auto" for the fastest on this backend. Export uses "lax".
        dtype: Data type of the activations.
    """

    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    padding: tuple[tuple[int, int], tuple[int, int]] | None = None
    implementation: str = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        half = self.dilation * (self.kernel_size // 2)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), *(self.padding or ((half, half),) * 2), (0, 0)))
        implementation = self.implementation
        if implementation == "auto":
            implementation = "taps" if jax.default_backend() == "cpu" else "lax"
        return DEPTHWISE_CONVS[implementation](x, kernel.astype(self.dtype), self.stride, self.dilation)

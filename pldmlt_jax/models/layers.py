"""Layers that the encoders share: normalised input, grouped and depthwise convolution, batch normalisation, pooling."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def _normalise_torch(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return (image / 255 - jnp.asarray(IMAGENET_MEAN, image.dtype)) / jnp.asarray(IMAGENET_STD, image.dtype)


def _normalise_caffe(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return image[..., ::-1] - jnp.asarray(CAFFE_MEAN_BGR, image.dtype)


def _normalise_tf(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return image / 127.5 - 1


def _normalise_none(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return image / 255


NORMALISATIONS: dict[str, Callable[[Array], Array]] = {
    "torch": _normalise_torch,
    "caffe": _normalise_caffe,
    "tf": _normalise_tf,
    "none": _normalise_none,
}
"""What each family of weights expects. `torch` (torchvision, timm): RGB in [0, 1], ImageNet's mean and standard
deviation. `caffe` (Keras' VGG): BGR in 0..255 minus the mean. `tf` (NASNet): RGB in [-1, 1]. `none`: RGB in [0, 1]."""


def normalise(image: Any, scheme: str, dtype: DTypeLike = jnp.float32) -> Float[Array, "b h w 3"]:
    """Turns an image into what an encoder's weights expect.

    Args:
        image: RGB [b, h, w, 3] in 0..255, uint8 or float.
        scheme: A key of `NORMALISATIONS`. The wrong one fails silently, so it is tied to the weights.
        dtype: Of the result; computed in float32 at least.
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    return NORMALISATIONS[scheme](jnp.asarray(image).astype(wide)).astype(dtype)


REMATERIALISATIONS: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "convs": jax.checkpoint_policies.dots_saveable,  # and convolutions, by JAX's definition
}
"""What the backward pass finds in memory of a block, and what it computes again: `none` again, all is kept; all of it but
the block's input; or all but the convolutions' results, which are the costly part."""


def rematerialise(block: Callable[..., Array], rematerialisation: str) -> Callable[..., Array]:
    """A block `(module, *arrays) -> array` that makes its layers in the module, under a key of `REMATERIALISATIONS`."""
    policy = REMATERIALISATIONS[rematerialisation]
    return nn.remat(block, policy=policy) if policy else block


def max_pool(x: Float[Array, "b h w c"], size: int, stride: int, padding: int) -> Float[Array, "b h2 w2 c"]:
    """Max-pooling after a ReLU, padded with zeros: equal there to the usual padding with minus infinity.

    The padding is an operation of its own because ONNX export drops a pooling's own padding silently.
    """
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return nn.max_pool(x, window_shape=(size, size), strides=(stride, stride))


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
"""(x, kernel, groups, stride, dilation): the same convolution in three forms: XLA's own; a matrix product for each group
over the shifted input; an ordinary convolution with a block-diagonal kernel. On CPU, XLA's own has a backward pass many
times slower than the others."""

MAX_DENSE_FEATURES = 64
"""Up to so many channels the zeros of the block-diagonal kernel cost less than the layout that `einsum` needs."""


def _fastest_grouped_conv(features: int, groups: int) -> str:
    if groups == 1 or jax.default_backend() != "cpu":
        return "lax"
    return "dense" if features <= MAX_DENSE_FEATURES else "einsum"


class GroupedConv(nn.Module):
    """Convolution in groups of channels, odd kernel, padded by half the kernel, without bias (ResNeXt's 3x3).

    Attributes:
        features: Output channels, divisible by `groups`.
        groups: Output channel o sees the input channels of group o // (features / groups).
        kernel_size: Side of the kernel, odd.
        stride: In height and width; padding is explicit, for XLA's SAME is asymmetric at stride 2.
        implementation: A key of `GROUPED_CONVS`, or "auto": the fastest on this backend. Export takes "lax".
        dtype: Of the activations.
        dilation: Of the kernel, which is padded by as many times half of it.

    The parameter is `kernel`, HWIO with I = input channels / groups, whatever the implementation.
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
    seen = (x.shape[0], stride * (out_h - 1) + 1, stride * (out_w - 1) + 1, channels)

    @jax.checkpoint  # the backward pass slices again and keeps no copy of the input for each tap
    def add(sum_: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = tap
        start = (0, dilation * (place // kernel_w), dilation * (place % kernel_w), 0)
        return sum_ + jax.lax.dynamic_slice(x, start, seen)[:, ::stride, ::stride] * weight, None

    taps = (jnp.arange(kernel_h * kernel_w), kernel.reshape(-1, channels))
    return jax.lax.scan(add, jnp.zeros((x.shape[0], out_h, out_w, channels), x.dtype), taps)[0]


DEPTHWISE_CONVS: dict[str, Callable[[Array, Array, int, int], Array]] = {
    "lax": _depthwise_conv_lax,
    "taps": _depthwise_conv_taps,
}
"""(padded x, kernel, stride, dilation): XLA's own, and a loop over the kernel's places. On CPU, the loop is 6 to 50 times
faster; written out, its backward pass takes longer to compile and to run."""


class DepthwiseConv(nn.Module):
    """Convolution of each channel by itself, without bias.

    Attributes:
        kernel_size: Side of the kernel.
        stride: In height and width.
        dilation: Of the kernel.
        padding: Before and after, in height and in width; None = half of the dilated kernel.
        implementation: A key of `DEPTHWISE_CONVS`, or "auto": the fastest on this backend. Export takes "lax".
        dtype: Of the activations.

    The parameter is `kernel`, HWIO with I = 1.
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


_batch_norm_axis: ContextVar[str | None] = ContextVar("batch_norm_axis", default=None)


@contextmanager
def sync_batch_norm(axis_name: str | None) -> Iterator[None]:
    """While a network is traced inside, its batch normalisation takes statistics over all devices of a pmap's axis.

    Where there is no axis a batch is whole already, under `jit` on however many devices. One place for every layer of
    every network: an attribute that a layer is not given would leave it the statistics of one device, in silence.
    """
    token = _batch_norm_axis.set(axis_name)
    try:
        yield
    finally:
        _batch_norm_axis.reset(token)


def batch_norm_axis() -> str | None:
    """The axis of `sync_batch_norm`, which every normalisation over the batch must take its statistics over."""
    return _batch_norm_axis.get()


class BatchNorm(nn.Module):
    """Batch normalisation with torch's running variance, which is the unbiased one; Flax's own layer stores the biased.

    Attributes:
        momentum: Share of the old running statistics that is kept (torch's momentum is 1 - this).
        epsilon: Added to the variance.
        dtype: Of the result; statistics are computed in float32 at least.
        unbiased: Whether the running variance is torch's; Keras 3 stores the biased one.

    Parameters `scale`, `bias`; collection `batch_stats` with `mean`, `var`.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    unbiased: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """`train`: normalise by the batch's statistics and update the running ones; else use the running ones."""
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            mean, var, count = self._batch_statistics(x)
            if not self.is_initializing():
                self._update(running_mean, mean)
                self._update(running_var, var * (count / max(count - 1, 1)) if self.unbiased else var)
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return ((x - mean) * factor + bias).astype(self.dtype)

    def _batch_statistics(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "c"], Float[Array, "c"], int]:
        """Mean, biased variance and number of values, of all devices."""
        over, count, axis = (0, 1, 2), x.size // x.shape[-1], batch_norm_axis()
        if axis is None:
            return x.mean(axis=over), x.var(axis=over), count
        mean = jax.lax.pmean(x.mean(axis=over), axis)
        return mean, jax.lax.pmean(jnp.square(x - mean).mean(axis=over), axis), count * jax.lax.axis_size(axis)

    def _update(self, running: nn.Variable, batch_value: Float[Array, "c"]) -> None:
        mixed = self.momentum * running.value + (1 - self.momentum) * batch_value
        running.value = mixed.astype(running.value.dtype)


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, and a ReLU where `relu`.

    Attributes:
        features: Output channels.
        kernel_size: Side of the kernel, odd; padded by half of it.
        frozen: Normalise by the running statistics in training as well.
        implementation: Of the convolution where `groups` > 1, see `GroupedConv`.
        dilation: See `GroupedConv`.
    """

    features: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    relu: bool = True
    frozen: bool = False
    implementation: str = "auto"
    dtype: DTypeLike = jnp.float32
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 f"]:
        x = GroupedConv(
            self.features, self.groups, self.kernel_size, self.stride, self.implementation, self.dtype, self.dilation,
            name="conv",
        )(x)  # fmt: skip
        x = BatchNorm(dtype=self.dtype, name="norm")(x, train and not self.frozen)
        return nn.relu(x) if self.relu else x

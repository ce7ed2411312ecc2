"""Layers that encoders and decoders share: batch normalisation, pooling, rematerialisation, frozen stages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.grouped_convolutions import GroupedConv

REMATERIALISATIONS: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "convs": jax.checkpoint_policies.dots_saveable,  # and convolutions, by JAX's definition
}
"""What the backward pass computes again instead of keeping it in memory.

`none` keeps everything. `blocks` keeps only the input of each block. `convs` keeps the input and the results of the
convolutions, which are the expensive part.
"""


def rematerialise(block: Callable[..., Array], rematerialisation: str) -> Callable[..., Array]:
    """Wraps a block in `flax.linen.remat`.

    Args:
        block: Function `(module, *arrays) -> array` that creates its layers in the module.
        rematerialisation: A key of `REMATERIALISATIONS`.

    Returns:
        A function with the same arguments and result; the block itself for "none".
    """
    policy = REMATERIALISATIONS[rematerialisation]
    return nn.remat(block, policy=policy) if policy else block


def max_pool(x: Float[Array, "b h w c"], size: int, stride: int, padding: int) -> Float[Array, "b h2 w2 c"]:
    """Max-pools non-negative features, padding them with zeros.

    After a ReLU this equals the usual padding with minus infinity. The padding is an operation of its own because ONNX
    export silently drops the padding of a pooling.

    Args:
        x: Features, at least 0.
        size: Side of the window in pixels.
        stride: Stride in height and width.
        padding: Pixels added on each side.
    """
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return nn.max_pool(x, window_shape=(size, size), strides=(stride, stride))


_batch_norm_axis: ContextVar[str | None] = ContextVar("batch_norm_axis", default=None)


def stop_gradient_if(frozen: bool, x: Array) -> Array:
    """Returns `x`, without gradient if its stage is frozen."""
    return jax.lax.stop_gradient(x) if frozen else x


@contextmanager
def sync_batch_norm(axis_name: str | None) -> Iterator[None]:
    """Makes networks that are traced inside this context compute batch statistics over all devices of a pmap axis.

    Under `jit` a batch is whole on any number of devices, and `axis_name` is None. A context is used because a layer that
    was not given an attribute would silently use the statistics of one device.
    """
    token = _batch_norm_axis.set(axis_name)
    try:
        yield
    finally:
        _batch_norm_axis.reset(token)


def batch_norm_axis() -> str | None:
    """Returns the axis set by `sync_batch_norm`. Every layer that normalises over the batch must average over it."""
    return _batch_norm_axis.get()


class BatchNorm(nn.Module):
    """Batch normalisation that stores the unbiased running variance, as torch does; Flax's own layer stores the biased one.

    Parameters are `scale` and `bias`. The collection `batch_stats` has `mean` and `var`.

    Attributes:
        momentum: Decay of the running statistics (1 - torch's momentum).
        epsilon: Added to the variance.
        dtype: Data type of the result. Statistics are computed in float32 or wider.
        unbiased: Whether the running variance is unbiased, as in torch. Keras 3 stores the biased one.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    unbiased: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """Normalises `x` by its own statistics and updates the running ones (`train`), or by the running ones."""
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
        """Returns the mean, the biased variance and the number of values of each channel, over all devices."""
        over, count, axis = (0, 1, 2), x.size // x.shape[-1], batch_norm_axis()
        if axis is None:
            return x.mean(axis=over), x.var(axis=over), count
        mean = jax.lax.pmean(x.mean(axis=over), axis)
        return mean, jax.lax.pmean(jnp.square(x - mean).mean(axis=over), axis), count * jax.lax.axis_size(axis)

    def _update(self, running: nn.Variable, batch_value: Float[Array, "c"]) -> None:
        mixed = self.momentum * running.value + (1 - self.momentum) * batch_value
        running.value = mixed.astype(running.value.dtype)


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation and, optionally, a ReLU. Submodules are `conv` and `norm`.

    Attributes:
        features: Output channels.
        kernel_size: Side of the kernel in pixels, odd. The input is padded by half of it.
        stride: Stride in height and width.
        groups: See `GroupedConv`.
        relu: Whether a ReLU follows.
        frozen: Whether to normalise by the running statistics during training too.
        implementation: See `GroupedConv`.
        dtype: Data type of the activations.
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

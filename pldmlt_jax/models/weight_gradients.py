"""3x3 convolutions whose weight gradient is nine matrix products in bfloat16.

XLA's own weight gradient is the slowest part of training on a CPU, several times slower than the convolution itself. As
matrix products it is faster where the processor multiplies bfloat16 (AMX). Operands are rounded to 8 bits, sums are
float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

WEIGHT_GRADIENTS = ("xla", "bfloat16")
"""Values of `model.weight_gradients`."""

MIN_CHANNELS = 16
"""With fewer the matrices are too thin to gain anything."""

KERNEL = (3, 3)


def _convolved(x: Array, kernel: Array) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


@jax.custom_vjp
def convolve_3x3(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    """The convolution with stride 1 and zero padding; forward and with respect to `x` it is XLA's own.

    Reverse mode only, of any order: forward mode does not go through a custom gradient.
    """
    return _convolved(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolved(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = saved
    (x_slope,) = jax.vjp(lambda x: _convolved(x, kernel), x)[1](slope)
    return x_slope, _weight_gradient(x, slope).astype(kernel.dtype)


def _weight_gradient(x: Float[Array, "b h w i"], slope: Float[Array, "b h w o"]) -> Float[Array, "3 3 i o"]:
    _, height, width, inputs = x.shape
    padded = jnp.pad(x.astype(jnp.bfloat16), ((0, 0), (1, 1), (1, 1), (0, 0)))
    slope = slope.astype(jnp.bfloat16).reshape(-1, slope.shape[-1])
    over_pixels = (((0,), (0,)), ((), ()))

    def at(row: int, column: int) -> Array:
        seen = padded[:, row : row + height, column : column + width].reshape(-1, inputs)
        return jax.lax.dot_general(seen, slope, over_pixels, preferred_element_type=jnp.float32)

    return jnp.stack([jnp.stack([at(row, column) for column in range(3)]) for row in range(3)])


convolve_3x3.defvjp(_forward, _backward)


def convolve_with_fast_gradients(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """For `flax.linen.Conv.conv_general_dilated`: `convolve_3x3` where it fits, else XLA's own throughout."""
    plain = all(step == 1 for step in (*strides, *options.get("lhs_dilation", ()), *options.get("rhs_dilation", ())))
    padded = padding == "SAME" or tuple(map(tuple, padding)) == ((1, 1), (1, 1))
    fits = kernel.shape[:2] == KERNEL and kernel.shape[2] == x.shape[-1] and min(kernel.shape[2:]) >= MIN_CHANNELS
    if plain and padded and fits:
        return convolve_3x3(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def select_convolution(weight_gradients: str, train: bool) -> Callable[..., Array] | None:
    """What `flax.linen.Conv` is to convolve by, None for its own; in inference and export it is always that."""
    return convolve_with_fast_gradients if train and weight_gradients == "bfloat16" else None

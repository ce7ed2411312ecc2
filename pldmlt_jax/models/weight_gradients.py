"""3x3 convolutions whose weight gradient is nine matrix products in bfloat16.

XLA's own weight gradient is the slowest part of training on a CPU, several times slower than the convolution. As matrix
products it is faster if the processor multiplies bfloat16 (AMX). Operands are rounded to 8 bits; sums are in float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

WEIGHT_GRADIENTS = ("xla", "bfloat16")
"""Values of `model.weight_gradients`."""

MIN_CHANNELS = 16
"""Fewest channels with which the matrix products are faster."""

KERNEL = (3, 3)


def _convolve(x: Array, kernel: Array) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


@jax.custom_vjp
def convolve_3x3(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    """Convolves with stride 1 and zero padding. Only the gradient with respect to the kernel differs from XLA's own.

    It can be differentiated in reverse mode to any order, but not in forward mode, which a custom gradient does not support.
    """
    return _convolve(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    (x_gradient,) = jax.vjp(lambda x: _convolve(x, kernel), x)[1](cotangent)
    return x_gradient, _weight_gradient(x, cotangent).astype(kernel.dtype)


def _weight_gradient(x: Float[Array, "b h w i"], cotangent: Float[Array, "b h w o"]) -> Float[Array, "3 3 i o"]:
    _, height, width, inputs = x.shape
    padded = jnp.pad(x.astype(jnp.bfloat16), ((0, 0), (1, 1), (1, 1), (0, 0)))
    cotangent = cotangent.astype(jnp.bfloat16).reshape(-1, cotangent.shape[-1])
    over_pixels = (((0,), (0,)), ((), ()))

    def at(row: int, column: int) -> Array:
        window = padded[:, row : row + height, column : column + width].reshape(-1, inputs)
        return jax.lax.dot_general(window, cotangent, over_pixels, preferred_element_type=jnp.float32)

    return jnp.stack([jnp.stack([at(row, column) for column in range(3)]) for row in range(3)])


convolve_3x3.defvjp(_forward, _backward)


def convolve_with_fast_gradients(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """Convolves by `convolve_3x3` if it supports these arguments, else by `jax.lax.conv_general_dilated`.

    It is a value for `flax.linen.Conv.conv_general_dilated`, and has the arguments of `jax.lax.conv_general_dilated`.
    """
    plain = all(step == 1 for step in (*strides, *options.get("lhs_dilation", ()), *options.get("rhs_dilation", ())))
    padded = padding == "SAME" or tuple(map(tuple, padding)) == ((1, 1), (1, 1))
    fits = kernel.shape[:2] == KERNEL and kernel.shape[2] == x.shape[-1] and min(kernel.shape[2:]) >= MIN_CHANNELS
    if plain and padded and fits:
        return convolve_3x3(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def select_convolution(weight_gradients: str, train: bool) -> Callable[..., Array] | None:
    """Returns the value for `flax.linen.Conv.conv_general_dilated`; None, its default, in inference and export."""
    return convolve_with_fast_gradients if train and weight_gradients == "bfloat16" else None

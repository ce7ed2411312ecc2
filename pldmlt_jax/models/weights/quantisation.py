"""8-bit weights: kernels as int8 with one float32 scale per output channel; other arrays are left unchanged."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int8

SCALE = "_scale"
"""Suffix of the array with the scales of a kernel."""

KERNEL = "kernel"
"""Last part of the names of quantised arrays; biases and norms are too small to matter."""

MAX_INT8 = 127


def quantise_kernel(kernel: Float[np.ndarray, "*in o"]) -> tuple[Int8[np.ndarray, "*in o"], Float[np.ndarray, "o"]]:
    """Rounds a kernel to 255 equally spaced levels, symmetric about 0.

    Args:
        kernel: Weights; the last axis is the output channel.

    Returns:
        Level of each weight, -127 to 127, and the step between two levels for each output channel (1 where all its weights
        are 0). The largest weight of a channel gets the outermost level, and every weight is kept to half a step.
    """
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = np.where(largest > 0, largest / MAX_INT8, 1.0).astype(np.float32)
    return np.clip(np.rint(kernel / scale), -MAX_INT8, MAX_INT8).astype(np.int8), scale


def quantise_kernels(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Quantises every kernel among arrays by name, and adds its scales."""
    quantised: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name.rsplit("/", 1)[-1] == KERNEL:
            quantised[name], quantised[name + SCALE] = quantise_kernel(array)
        else:
            quantised[name] = array
    return quantised


def dequantise_kernels(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undoes `quantise_kernels`: multiplies 8-bit kernels by their scales and returns other arrays unchanged.

    Raises:
        KeyError: The scales of an 8-bit kernel are missing.
    """
    scales = {name for name in arrays if name.endswith(KERNEL + SCALE)}
    return {
        name: array * arrays[name + SCALE] if array.dtype == np.int8 else array
        for name, array in arrays.items()
        if name not in scales
    }

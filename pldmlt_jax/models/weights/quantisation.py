"""Weights of 8 bits: kernels as int8 with one float32 scale for each output channel; all else stays as it is."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int8

SCALE = "_scale"
"""Behind a kernel's name: its scales."""

KERNEL = "kernel"
"""Last part of the names of the arrays that are quantised; biases and norms are few."""

MAX_INT8 = 127


def quantise_kernel(kernel: Float[np.ndarray, "*in o"]) -> tuple[Int8[np.ndarray, "*in o"], Float[np.ndarray, "o"]]:
    """Rounds to 255 equally spaced levels, symmetric about 0; the largest weight of each output channel is the outermost.

    Returns:
        Levels, and the step between two of them by output channel (1 where all weights are 0): each weight is kept to
        half a step.
    """
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = np.where(largest > 0, largest / MAX_INT8, 1.0).astype(np.float32)
    return np.clip(np.rint(kernel / scale), -MAX_INT8, MAX_INT8).astype(np.int8), scale


def quantise_kernels(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by name, every kernel quantised and followed by its scales."""
    smaller: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name.rsplit("/", 1)[-1] == KERNEL:
            smaller[name], smaller[name + SCALE] = quantise_kernel(array)
        else:
            smaller[name] = array
    return smaller


def dequantise_kernels(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that a network takes: those of 8 bits times their scales, the others as they are.

    Raises:
        KeyError: A kernel of 8 bits lacks its scales.
    """
    scales = {name for name in arrays if name.endswith(KERNEL + SCALE)}
    return {
        name: array * arrays[name + SCALE] if array.dtype == np.int8 else array
        for name, array in arrays.items()
        if name not in scales
    }

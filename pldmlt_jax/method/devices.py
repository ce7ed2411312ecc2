"""Sums and means over the devices of a `pmap`; without an axis, as under `jit`, a batch is whole and they do nothing.

Losses and metrics add up numerators and denominators over the devices, and so are those of the whole batch on each of
them. The transpose of a sum over devices is one again, so that a device's gradient of such a loss is what its own images
contribute, times the number of devices: the mean over the devices is the gradient.
"""

from typing import Any

import jax


def device_sum(tree: Any, axis_name: str | None) -> Any:
    """Sum over the devices of a pmap; the tree itself outside of one."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def device_mean(tree: Any, axis_name: str | None) -> Any:
    """Mean over the devices of a pmap, for gradients; the tree itself outside of one."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

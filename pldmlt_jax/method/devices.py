"""Sums and means over the devices of a `pmap`. Without an axis, as under `jit`, a batch is whole and they do nothing.

Losses and metrics sum numerators and denominators over the devices, so each device has those of the whole batch. The
transpose of a sum over devices is again a sum, so a device's gradient of such a loss is the contribution of its own images
times the number of devices. The mean over the devices is therefore the gradient.
"""

from typing import Any

import jax


def device_sum(tree: Any, axis_name: str | None) -> Any:
    """Sums a tree of arrays over the devices of a pmap; returns it unchanged if `axis_name` is None."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def device_mean(tree: Any, axis_name: str | None) -> Any:
    """Averages a tree of gradients over the devices of a pmap; returns it unchanged if `axis_name` is None."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

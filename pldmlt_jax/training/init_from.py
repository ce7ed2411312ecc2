"""Fine-tuning: a network starts from the arrays of another one that have the same name and shape."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import traverse_util

from pldmlt_jax.training.checkpoint import Checkpoints

MAX_LISTED = 6


class TransferredWeights(NamedTuple):
    """A network's variables after `transfer_weights`."""

    variables: dict[str, Any]
    num_taken: int
    """Number of arrays taken from the other network."""
    kept: tuple[str, ...]
    """Modules that keep their initial values, since the other network lacks them or has them in another shape."""

    def summary(self) -> str:
        """Describes the transfer in one line."""
        shown = ", ".join(self.kept[:MAX_LISTED]) + (
            f" and {len(self.kept) - MAX_LISTED} more" if len(self.kept) > MAX_LISTED else ""
        )
        return f"{self.num_taken} arrays; " + (
            f"kept at their initial values, since they differ: {shown}" if self.kept else "none differs"
        )


def read_best_network(directory: Path) -> dict[str, Any]:
    """Reads `params` and `batch_stats` of the best checkpoint in a folder; averaged parameters if there are any.

    Raises:
        CheckpointError: There is no checkpoint with a score.
    """
    with Checkpoints(directory) as checkpoints:
        network = checkpoints.restore_raw(checkpoints.require_best_step())["network"]
    return {"params": network.get("ema") or network["params"], "batch_stats": network.get("batch_stats") or {}}


def transfer_weights(variables: dict[str, Any], other: dict[str, Any], parts: str) -> TransferredWeights:
    """Replaces each module of a network by the other network's module of the same name, if all its arrays fit.

    Args:
        variables: `params` and `batch_stats` of the network.
        other: `params` and `batch_stats` of the other network.
        parts: "encoder" or "all".

    Returns:
        The new variables, and what was kept.
    """
    own: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables)
    others: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(other)
    wanted = [path for path in own if parts == "all" or path[1] == "encoder"]
    fits = {path for path in wanted if path in others and others[path].shape == own[path].shape}
    # A module is taken whole or not at all: a kernel without its bias would be neither network's.
    partly = {path[1:-1] for path in wanted if path not in fits}
    taken = {path: jnp.asarray(others[path], own[path].dtype) for path in fits if path[1:-1] not in partly}
    kept = tuple(sorted({"/".join(module) for module in partly}))
    return TransferredWeights(traverse_util.unflatten_dict({**own, **taken}), len(taken), kept)

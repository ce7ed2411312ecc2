"""Checkpoints that also keep the best state in memory, for what follows a training to use without reading it back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pldmlt_jax.training.checkpoint import Checkpoints


class CheckpointsWithBest(Checkpoints):
    """Checkpoints of a training, with one copy of the best state on the host.

    Args:
        directory: The folder.
        config: See `Checkpoints`.
        keep: Gives the part of a state that is kept, without the optimisers for instance.
        fallback: See `Checkpoints`.
    """

    def __init__(self, directory: Path, config: dict[str, Any], keep: Callable[[Any], Any], *, fallback: bool = False):
        super().__init__(directory, config, fallback=fallback)
        self._keep = keep
        self._best: tuple[int, float, Any] | None = None  # step, score and state

    def __enter__(self) -> "CheckpointsWithBest":
        return self

    def save(self, step: int, state: Any, progress: dict, score: float | None) -> None:
        """Saves a state as `Checkpoints.save` does, and keeps it where no earlier one of this session was better."""
        super().save(step, state, progress, score)
        # A state of several processes is not whole in any of them.
        if score is not None and jax.process_count() == 1 and (self._best is None or score >= self._best[1]):
            self._best = step, score, jax.tree.map(np.array, self._keep(state))

    def best_in_memory(self) -> Any | None:
        """What was kept of the best state, NumPy arrays; None where an earlier session, or several processes, saved it."""
        self.wait()
        return self._best[2] if self._best is not None and self._best[0] == self.best_step else None

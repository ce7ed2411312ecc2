"""Watches for NaN and infinity in loss and gradient: stops with all that is needed to look into it, or counts."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pldmlt_jax.io.files import atomic_write, write_json
from pldmlt_jax.io.processes import is_first_process
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.log import to_json_values
from pldmlt_jax.training.parallel import local_rows

NONFINITE_FOLDER = "nonfinite"
"""Beside the checkpoints: a folder for each step, with the state before it, its batch and its figures."""

MAX_SKIPPED_IN_A_ROW = 20
"""Steps that are skipped one after the other: by then nothing is learnt any more."""


@dataclass(frozen=True)
class _Step:
    number: int
    phase: str
    batch: Any
    metrics: dict[str, Any]


class NonfiniteWatch:
    """Reads whether a step was finite when the next batch is there: just before that one's step needs the state.

    Steps leave a state as it was where they are not finite; so what `check_pending` is given is then the state from before.

    Args:
        directory: Where FOLDER goes.
        names: Names of a batch's images.
        skip: Such steps are only counted.
        skipped: Steps that were skipped before.
        in_a_row: How many of these were the last ones.
    """

    def __init__(
        self, directory: Path, names: Callable[[Any], list[str]], *, skip: bool, skipped: int = 0, in_a_row: int = 0
    ):
        self._directory, self._skip, self._names = directory, skip, names
        self.skipped, self.in_a_row = skipped, in_a_row
        self._pending: _Step | None = None

    def record(self, number: int, phase: str, batch: Any, metrics: dict[str, Any]) -> None:
        """Takes note of a step that is under way.

        Args:
            number: Of the step, from 1.
            phase: Of the round.
            batch: What it was given.
            metrics: What it returned, `finite` among them.
        """
        self._pending = _Step(number, phase, batch, metrics)

    def check_pending(self, state: Any) -> None:
        """Looks at the last step.

        Args:
            state: That it has returned.

        Raises:
            FloatingPointError: It was not finite, and is not to be skipped; names its images and what was saved of it.
        """
        step, self._pending = self._pending, None
        if step is None:
            return
        if bool(step.metrics.get("finite", True)):
            self.in_a_row = 0
            return
        if self._skip:
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            if self.in_a_row < MAX_SKIPPED_IN_A_ROW:
                return
        self._stop(step, state)

    def _stop(self, step: _Step, state: Any) -> None:
        figures = to_json_values({name: value for name, value in step.metrics.items() if name != "finite"})
        wrong = [name for name, value in figures.items() if value is None]
        images = self._names(step.batch)
        folder = self._directory / NONFINITE_FOLDER / str(step.number)
        facts = {"step": step.number, "phase": step.phase, "images": images, "figures": figures}
        if is_first_process():
            shutil.rmtree(folder, ignore_errors=True)
            with atomic_write(folder / "batch.npz", "wb") as file:
                np.savez(file, allow_pickle=False, **_arrays(step.batch))
            write_json(folder / "step.json", facts)
        with Checkpoints(folder / "checkpoints") as saved:
            saved.save(step.number - 1, state, json.loads(json.dumps(facts)), None)
        skipped = f", as in the {MAX_SKIPPED_IN_A_ROW - 1} steps before," if self._skip else ""
        raise FloatingPointError(
            f"step {step.number} ({step.phase}): {', '.join(wrong) or 'a gradient'} not finite{skipped} on the images "
            f"{', '.join(images)}. The state before it, its batch and its figures are in {folder}; the checkpoints from "
            "before it are kept. A smaller learning rate or optim.clip_norm may help; train.on_nonfinite=skip leaves such "
            "steps out."
        )


def _arrays(batch: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves_with_path(batch)
    return {jax.tree_util.keystr(path).strip("."): local_rows(leaf) for path, leaf in leaves}

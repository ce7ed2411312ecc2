"""Detects NaN and infinity in losses and gradients; training then skips the step, or stops and saves it for debugging."""

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
"""Folder beside the checkpoints with the state before a nonfinite step, its batch and its metrics."""

MAX_SKIPPED_IN_A_ROW = 20
"""Number of skipped steps in a row at which training stops, because it no longer makes progress."""


@dataclass(frozen=True)
class _Step:
    number: int
    phase: str
    batch: Any
    metrics: dict[str, Any]


class NonfiniteWatch:
    """Checks whether each step was finite, only once the next batch is ready, so that the device never waits.

    A step that is not finite returns the state unchanged, so `check_pending` then receives the state before that step.

    Args:
        directory: Parent of the folder `nonfinite`.
        image_names: Returns the names of a batch's images.
        skip: Whether training continues after a nonfinite step, which is only counted.
        skipped: Number of steps that earlier sessions skipped.
        in_a_row: How many of these were the last steps before now.
    """

    def __init__(
        self, directory: Path, image_names: Callable[[Any], list[str]], *, skip: bool, skipped: int = 0, in_a_row: int = 0
    ):
        self._directory, self._skip, self._image_names = directory, skip, image_names
        self.skipped, self.in_a_row = skipped, in_a_row
        self._pending: _Step | None = None

    def record(self, number: int, phase: str, batch: Any, metrics: dict[str, Any]) -> None:
        """Remembers a step, which the device may still be computing, for `check_pending`.

        Args:
            number: Number of the step, from 1.
            phase: Phase of the round.
            batch: Input of the step.
            metrics: Metrics that the step returned, including `finite`.
        """
        self._pending = _Step(number, phase, batch, metrics)

    def check_pending(self, state: Any) -> None:
        """Checks the step that was recorded last, if it has not been checked yet.

        Args:
            state: The state that the step returned.

        Raises:
            FloatingPointError: The step was not finite and is not skipped; the message names its images and the saved files.
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
        metrics = to_json_values({name: value for name, value in step.metrics.items() if name != "finite"})
        wrong = [name for name, value in metrics.items() if value is None]
        images = self._image_names(step.batch)
        folder = self._directory / NONFINITE_FOLDER / str(step.number)
        # "figures" is the key in the files of earlier versions as well.
        facts = {"step": step.number, "phase": step.phase, "images": images, "figures": metrics}
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
            f"{', '.join(images)}. The state before it, its batch and its metrics are in {folder}; the checkpoints from "
            "before it are kept. A smaller learning rate or optim.clip_norm may help; train.on_nonfinite=skip leaves such "
            "steps out."
        )


def _arrays(batch: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves_with_path(batch)
    return {jax.tree_util.keystr(path).strip("."): local_rows(leaf) for path, leaf in leaves}

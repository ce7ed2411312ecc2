"""What every stage of a run shares: the config, the workdir, the prepared sets and their splits."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

from pldmlt_jax.config import Config, has_stage_1, to_dict
from pldmlt_jax.data.splits.selection import (
    Selection,
    known_grades,
    require_lesion_kinds,
    select_graded,
    select_segmented,
    with_true_grade,
)
from pldmlt_jax.io.files import write_json
from pldmlt_jax.io.processes import is_first
from pldmlt_jax.io.progress import progress
from pldmlt_jax.method.virtual_step import uses_graded_images
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.workflow.options import RunOptions


@dataclasses.dataclass
class Context:
    """One run. Sets are opened when first asked for, and prepared then if they are not."""

    options: RunOptions
    others: tuple[Path, ...] = ()  # workdirs of other runs, whose stage 1 is taken where it is the same

    @property
    def config(self) -> Config:
        return self.options.config

    @property
    def workdir(self) -> Path:
        return self.options.workdir

    @cached_property
    def segmented(self) -> dict[str, Selection]:
        """Splits of the pixel-labelled set at the network's size."""
        with progress(f"prepare {self.config.data.segmentation}") as task:
            selections = select_segmented(self.config.data, task)
        if self.config.loss.target != "fused":
            require_lesion_kinds(selections)
        return selections

    @cached_property
    def graded_for_graders(self) -> dict[str, Selection]:
        """Splits of the graded set at the graders' size, without photographs that stage 2 sees; none without graders."""
        if not has_stage_1(self.config):
            return {}
        with progress(f"prepare {self.config.data.grading} for the graders") as task:
            return select_graded(self.config.data, self.config.grader.size_px, self.segmented, task)

    @cached_property
    def segmented_for_graders(self) -> dict[str, Selection]:
        """The pixel-labelled set at the graders' size, to be given pseudo-labels.

        No lesion may vanish from these masks, whatever the network is trained on: they are evidence for a grade.
        """
        data = dataclasses.replace(self.config.data, mask_reduction="max")
        with progress(f"prepare {data.segmentation} for the graders") as task:
            return select_segmented(data, task, size_px=self.config.grader.size_px)

    @cached_property
    def known_grades(self) -> dict[Path, int]:
        """True grades of pixel-labelled photographs, where they are known: to evaluate, never to train on."""
        return known_grades(self.segmented, self.graded_for_graders)

    @cached_property
    def graded_for_network(self) -> dict[str, Selection]:
        """Truly graded images at the network's size, to evaluate its grades; none where it has learnt none.

        Without graders these are the pixel-labelled images whose grade is given: held-out ones among them.
        """
        if not self.config.loss.grading:
            return {}
        if self.config.pseudo.source == "given":
            return {name: with_true_grade(selection) for name, selection in self.segmented.items()}
        return self.truly_graded

    @cached_property
    def truly_graded(self) -> dict[str, Selection]:
        """The graded set at the network's size, whose training images may stand beside the pixel-labelled ones."""
        with progress(f"prepare {self.config.data.grading} for the network") as task:
            return select_graded(self.config.data, self.config.data.size_px, self.segmented, task)

    @property
    def graded_for_training(self) -> dict[str, Selection]:
        """Truly graded images that anything is trained on: graders, or the network itself; none where nothing is."""
        if has_stage_1(self.config) or not uses_graded_images(self.config.meta, self.config.loss):
            return self.graded_for_graders
        return self.truly_graded

    def checkpoints(self, directory: Path, config: dict[str, Any] | None = None, *, alone: bool = False) -> Checkpoints:
        """The checkpoints of a folder; whether damaged ones are passed over is the config's choice."""
        return Checkpoints(directory, config, fallback=self.config.checkpoint.fallback, alone=alone)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file of the workdir, whole or not at all; of several processes the first does."""
        if is_first():
            write_json(self.workdir / name, value)


def describe_run(context: Context) -> None:
    """Writes the resolved config and the environment."""
    from pldmlt_jax.workflow.run_metadata import describe_environment

    context.write_json("config.json", to_dict(context.config))
    context.write_json("environment.json", describe_environment())

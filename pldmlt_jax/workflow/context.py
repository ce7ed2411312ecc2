"""What the stages of a run share: the config, the workdir, the prepared sets and their splits."""

import dataclasses
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any

from pldmlt_jax.config import Config, has_stage_1, to_dict
from pldmlt_jax.data.datasets.registry import RawListings
from pldmlt_jax.data.splits.selection import (
    Selection,
    keep_truly_graded,
    known_grades,
    require_lesion_types,
    select_graded,
    select_segmented,
)
from pldmlt_jax.data.store import prepare_set
from pldmlt_jax.errors import UserError, collect_errors, raise_all
from pldmlt_jax.evaluation.inference import (
    TrainedNetwork,
)
from pldmlt_jax.io.files import write_json
from pldmlt_jax.io.processes import is_first_process
from pldmlt_jax.method.virtual_step import uses_graded_images
from pldmlt_jax.training.checkpoint import CheckpointsWithBest
from pldmlt_jax.workflow.options import RunOptions


@dataclasses.dataclass
class Context:
    """One run. Each set is opened at the first access, and prepared then if `prepare_sets` has not done so."""

    options: RunOptions
    others: tuple[Path, ...] = ()  # workdirs of other runs, whose stage 1 is taken where it is the same
    trained: TrainedNetwork | None = None  # that this run has trained, for the stages that follow

    @property
    def config(self) -> Config:
        return self.options.config

    @property
    def workdir(self) -> Path:
        return self.options.workdir

    @cached_property
    def listings(self) -> RawListings:
        """The raw files of each set, listed once for the whole run."""
        return RawListings(self.config.data)

    def prepare_sets(self) -> None:
        """Prepares the images that the run trains on: the pixel-labelled set, and the graded one if it is used.

        Raises:
            UserError: All bad files of both sets at once.
        """
        data = self.config.data
        sets = [(data.segmentation, data.size_px)]
        if has_stage_1(self.config):
            sets.append((data.grading, self.config.grader.size_px))
        elif uses_graded_images(self.config.meta, self.config.loss):
            sets.append((data.grading, data.size_px))
        errors: list[UserError] = []
        for name, size_px in sets:
            with collect_errors(errors):
                prepare_set(name, data, size_px, self.listings)
        raise_all(errors)

    def open_sets(self, names: Collection[str]) -> None:
        """Opens some of the sets below, by the names of their properties; what is not prepared yet is prepared."""
        for name in names:
            getattr(self, name)

    @cached_property
    def segmented(self) -> dict[str, Selection]:
        """Splits of the pixel-labelled set at the network's size."""
        selections = select_segmented(self.config.data, listings=self.listings)
        if self.config.loss.target != "fused":
            require_lesion_types(selections)
        return selections

    @cached_property
    def graded_for_graders(self) -> dict[str, Selection]:
        """Splits of the graded set at the graders' size, without images that stage 2 sees; empty without graders."""
        if not has_stage_1(self.config):
            return {}
        return select_graded(self.config.data, self.config.grader.size_px, self.segmented, self.listings)

    @cached_property
    def segmented_for_graders(self) -> dict[str, Selection]:
        """Splits of the pixel-labelled set at the graders' size, for pseudo-labels.

        No lesion may vanish from these masks, whatever the network is trained on, because they are evidence for a grade.
        """
        data = dataclasses.replace(self.config.data, mask_reduction="max")
        return select_segmented(data, size_px=self.config.grader.size_px, listings=self.listings)

    @cached_property
    def known_grades(self) -> dict[Path, int]:
        """True grades of pixel-labelled images by file, if known: to evaluate, never to train on."""
        return known_grades(self.segmented, self.graded_for_graders)

    @cached_property
    def graded_for_network(self) -> dict[str, Selection]:
        """Truly graded images at the network's size, to evaluate its grades; empty if it is not trained to grade.

        Without graders these are the pixel-labelled images whose grade is given, including held-out ones.
        """
        if not self.config.loss.grading:
            return {}
        if self.config.pseudo.source == "given":
            return {name: keep_truly_graded(selection) for name, selection in self.segmented.items()}
        return self.truly_graded

    @cached_property
    def truly_graded(self) -> dict[str, Selection]:
        """Splits of the graded set at the network's size, whose training images may join the pixel-labelled ones."""
        return select_graded(self.config.data, self.config.data.size_px, self.segmented, self.listings)

    @property
    def graded_for_training(self) -> dict[str, Selection]:
        """Splits of the graded set that graders or the network are trained on; empty if neither is."""
        if has_stage_1(self.config) or not uses_graded_images(self.config.meta, self.config.loss):
            return self.graded_for_graders
        return self.truly_graded

    def training_checkpoints(self, directory: Path, keep: Callable[[Any], Any]) -> CheckpointsWithBest:
        """Opens the checkpoints of a training; `keep` gives the part of its best state that stays in memory."""
        return CheckpointsWithBest(directory, to_dict(self.config), keep, fallback=self.config.checkpoint.fallback)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file of the workdir, whole or not at all; of several processes the first does."""
        if is_first_process():
            write_json(self.workdir / name, value)


def describe_run(context: Context) -> None:
    """Writes the resolved config and the environment."""
    from pldmlt_jax.workflow.run_metadata import describe_environment

    context.write_json("config.json", to_dict(context.config))
    context.write_json("environment.json", describe_environment())

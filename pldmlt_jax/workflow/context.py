"""The state that the stages of a run share: config, workdir, prepared data sets and their splits."""

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
from pldmlt_jax.evaluation.inference import TrainedNetwork
from pldmlt_jax.io.files import write_json
from pldmlt_jax.io.processes import is_first_process
from pldmlt_jax.method.virtual_step import uses_graded_images
from pldmlt_jax.training.checkpoint import CheckpointsWithBest
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.run_metadata import collect_environment


@dataclasses.dataclass
class Context:
    """One run of the method. A data set is opened at its first access, and prepared first if that has not been done.

    Attributes:
        options: The options of the run.
        reusable_workdirs: Workdirs of other runs; results of stage 1 are reused from one with the same inputs.
        trained_network: The network that this run has trained, for the stages after `train`; None before.
    """

    options: RunOptions
    reusable_workdirs: tuple[Path, ...] = ()
    trained_network: TrainedNetwork | None = None

    @property
    def config(self) -> Config:
        """The config of the run."""
        return self.options.config

    @property
    def workdir(self) -> Path:
        """The folder for the files of the run."""
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
        """Opens data sets by the names of the properties below, and prepares those that are not prepared yet."""
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
        """Splits of the graded set at the graders' size, without images that stage 2 uses; empty without graders."""
        if not has_stage_1(self.config):
            return {}
        return select_graded(self.config.data, self.config.grader.size_px, self.segmented, self.listings)

    @cached_property
    def segmented_for_graders(self) -> dict[str, Selection]:
        """Splits of the pixel-labelled set at the graders' size, for pseudo-labels.

        These masks are evidence for a grade, so no lesion may vanish from them, whatever `data.mask_reduction` is.
        """
        data = dataclasses.replace(self.config.data, mask_reduction="max")
        return select_segmented(data, size_px=self.config.grader.size_px, listings=self.listings)

    @cached_property
    def known_grades(self) -> dict[Path, int]:
        """Image file -> true grade of the pixel-labelled images that have one; for evaluation only, never for training."""
        return known_grades(self.segmented, self.graded_for_graders)

    @cached_property
    def graded_for_network(self) -> dict[str, Selection]:
        """Splits of truly graded images at the network's size, to evaluate its grades; empty if it is not trained to grade.

        With `pseudo.source` = "given" these are the graded ones among the pixel-labelled images, held-out ones included.
        """
        if not self.config.loss.grading:
            return {}
        if self.config.pseudo.source == "given":
            return {name: keep_truly_graded(selection) for name, selection in self.segmented.items()}
        return self.truly_graded

    @cached_property
    def truly_graded(self) -> dict[str, Selection]:
        """Splits of the graded set at the network's size; their training images may be added to the pixel-labelled ones."""
        return select_graded(self.config.data, self.config.data.size_px, self.segmented, self.listings)

    @property
    def graded_for_training(self) -> dict[str, Selection]:
        """Splits of the graded set that graders or the network are trained on; empty if neither is."""
        if has_stage_1(self.config) or not uses_graded_images(self.config.meta, self.config.loss):
            return self.graded_for_graders
        return self.truly_graded

    def training_checkpoints(self, directory: Path, keep: Callable[[Any], Any]) -> CheckpointsWithBest:
        """Opens the checkpoints of a training; `keep` selects the part of the best state to hold in memory."""
        return CheckpointsWithBest(directory, to_dict(self.config), keep, fallback=self.config.checkpoint.fallback)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file to the workdir, atomically and only in the first process."""
        if is_first_process():
            write_json(self.workdir / name, value)


def write_run_metadata(context: Context) -> None:
    """Writes the resolved config to `config.json` and the versions and machine to `environment.json`."""
    context.write_json("config.json", to_dict(context.config))
    context.write_json("environment.json", collect_environment())

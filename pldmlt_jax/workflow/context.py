"""What the stages of a run share: the config, the workdir, the prepared sets and their splits."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any

from pldmlt_jax.config import Config, fields, has_stage_1, to_dict
from pldmlt_jax.data.datasets.registry import RawListings
from pldmlt_jax.data.preprocessing.store import prepare_set
from pldmlt_jax.data.splits.selection import (
    Selection,
    keep_truly_graded,
    known_grades,
    require_lesion_types,
    select_graded,
    select_segmented,
)
from pldmlt_jax.errors import CheckpointError, UserError, collect_errors, raise_all
from pldmlt_jax.evaluation.inference import (
    BUNDLED_MODEL,
    TrainedNetwork,
    checkpoint_directory,
    saved_config,
    split_checkpoints,
)
from pldmlt_jax.io.files import write_json
from pldmlt_jax.io.processes import is_first_process
from pldmlt_jax.method.virtual_step import uses_graded_images
from pldmlt_jax.training.checkpoint import CONFIG, CheckpointsWithBest
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


SPLITS = (
    "data.split",
    "data.grading_split",
    "data.num_folds",
    "data.fold",
    "data.val_share",
    "data.split_seed",
    "data.folds_file",
    "data.leakage",
)
"""Fields that say which images a network is trained on: under others it would be scored on images that it has seen."""

SHOWS_HELD_OUT = ("evaluate", "figures")
"""Verbs that show networks on images that these must not have seen."""

SEEN_BY_NETWORK = ("data.size_px", "data.fov_crop", "data.resize", "data.enhance", "model.", "loss.target")
"""Beginnings of the fields that a network is trained for; under others it answers something else, often in silence."""


def with_saved_config(options: RunOptions) -> RunOptions:
    """Without `--config`, `evaluate`, `predict`, `export` and `figures` take the config that the network was trained with,
    the first one's where several are named; `predict`, where nothing at all is named, the network that ships.

    What the command line sets of it comes on top, and results go beside the checkpoint unless it says where. With
    `--config` the two must agree on what the network was trained for, but for what the command line sets; and on the
    same set always on what it was trained on.

    Raises:
        CheckpointError: There is no checkpoint, or it was trained for or on something else than is asked for.
    """
    from pldmlt_jax.config_checks import config_errors

    if options.verb not in ("evaluate", "predict", "export", "figures"):
        return options
    named = options.checkpoint or options.config_given or options.workdir_given
    if options.verb == "predict" and not named:
        print(f"  --checkpoint names no network: the one that ships is used, see {BUNDLED_MODEL / 'model_card.md'}")
        options = dataclasses.replace(options, checkpoint=str(BUNDLED_MODEL))
    paths = split_checkpoints(options.checkpoint or str(options.workdir))
    directory, *others = [checkpoint_directory(path) for path in paths]
    for trained in (directory, *others):
        if wrong := config_errors(saved_config(trained)):
            found = "; ".join(f"{error.where}: {error.found}" for error in wrong)
            raise CheckpointError(trained / CONFIG, found, "the config that the network was trained with", "restore it")
    if not options.config_given:
        config = saved_config(directory)
        config.parallel = options.config.parallel  # of this machine, not of the one that trained it
        for path in options.overrides:
            *parts, name = path.split(".")
            given, target = (functools.reduce(getattr, parts, c) for c in (options.config, config))
            setattr(target, name, getattr(given, name))
        beside = Path("runs") / BUNDLED_MODEL.name if directory.resolve() == BUNDLED_MODEL else directory.parent
        workdir = options.workdir if options.workdir_given else beside
        options = dataclasses.replace(options, config=config, workdir=workdir)
    _require_agreement(options, saved_config(directory), directory)
    for other in others if options.verb in SHOWS_HELD_OUT else ():
        _require_agreement(options, saved_config(other), other, SPLITS)
    return options


def _require_agreement(options: RunOptions, saved: Config, directory: Path, seen: tuple[str, ...] = SEEN_BY_NETWORK) -> None:
    from pldmlt_jax.models.weights.load import preprocessing_scheme

    given, trained = dict(fields(options.config)), dict(fields(saved))
    same_set = given["data.segmentation"] == trained["data.segmentation"]
    compared = {name for name in given if name.startswith(seen)} - {"model.weights", *options.overrides}
    compared |= set(SPLITS) if same_set and options.verb in SHOWS_HELD_OUT else set()
    differing = [
        f"{name} = {trained[name]!r}, not {given[name]!r}" for name in sorted(compared) if given[name] != trained[name]
    ]
    prepared = [preprocessing_scheme(config.model.encoder, config.model.weights) for config in (saved, options.config)]
    if prepared[0] != prepared[1]:
        differing.append(
            f"images prepared as {prepared[0]!r} by model.weights = {saved.model.weights!r}, not {prepared[1]!r}"
        )
    if differing:
        raise CheckpointError(
            directory,
            f"trained with {'; '.join(differing)}",
            "a network trained for what is asked, and not on what it is scored on",
            "leave these fields and --config away: the checkpoint has its own config",
        )

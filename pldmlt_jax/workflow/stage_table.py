"""The stages of the method in their order, each with all that its result depends on."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pldmlt_jax.config import Config, has_stage_1
from pldmlt_jax.method.virtual_step import uses_graded_images
from pldmlt_jax.models.weights.download import resolve_weights_path
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.stages.evaluate import evaluate
from pldmlt_jax.workflow.stages.predict import EXAMPLES, predict_examples
from pldmlt_jax.workflow.stages.prepare import prepare
from pldmlt_jax.workflow.stages.pseudo_label import pseudo_label
from pldmlt_jax.workflow.stages.report import report
from pldmlt_jax.workflow.stages.train import list_initial_files, train
from pldmlt_jax.workflow.stages.train_graders import train_graders, weight_files


@dataclass(frozen=True)
class Stage:
    """One verb of the pipeline, and all that its result depends on.

    Attributes:
        name: The verb.
        run: Does it.
        leaves: Files of the workdir that it makes, without which it is not complete.
        sets: Gives the fields of the config that name the sets whose raw files it depends on.
        parts: Beginnings of the names of the fields that it depends on.
        without: Fields among them that it does not depend on.
        without_in: Those that it does not depend on in a config like this one.
        weights: The weight files that it reads, "" for none, as the config names them.
        reads: Patterns of the files of the workdir that it depends on, which earlier stages make.
        stale: Patterns of what must be neither gone on from, overwritten nor shown when what it depends on changes.
        goes_on: Whether it goes on from what it has begun.
        describes: Whether it only describes what is there, and so leaves the workdir's `config.json`.
        of_stage_1: Whether it is one of stage 1's, which a run without graders leaves out.
        shared: The sets of the context that every one of several processes opens for it, each to do its share; none: the
            first process does it alone.
    """

    name: str
    run: Callable[[Context], None]
    leaves: tuple[str, ...]
    sets: Callable[[Config], tuple[str, ...]] = lambda config: ("segmentation", "grading")
    parts: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    without_in: Callable[[Config], tuple[str, ...]] = lambda config: ()
    weights: Callable[[Config], list[str]] = lambda config: []
    reads: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    goes_on: bool = False
    describes: bool = False
    of_stage_1: bool = False
    shared: tuple[str, ...] = ()


def sets_of_training(config: Config) -> tuple[str, ...]:
    """The graded set acts on stage 2 by the pseudo-labels alone, unless its images are trained on as well."""
    graded = uses_graded_images(config.meta, config.loss)
    return ("segmentation", "grading") if graded else ("segmentation",)


def weights_of_training(config: Config) -> list[str]:
    """The encoder's file, and what the network starts from."""
    files = [resolve_weights_path(config.model.weights, config.data.cache_dir)]
    return files + [str(path) for path in list_initial_files(config)]


def fold_of_segmentation(config: Config) -> tuple[str, ...]:
    """Graders never see a pixel-labelled photograph, of whatever fold, and label them all: one serves all folds."""
    return ("data.fold",) if config.data.grading_split == "official" else ()


METHOD = ("data.", "model.", "loss.", "meta.", "optim.", "train.", "seed")
CHECKPOINTS = "checkpoints/*/_CHECKPOINT_METADATA"
"""Orbax' own file, with the time of saving: no two checkpoints share its content."""

OPERATING_POINTS = "checkpoints/operating_points.json"

STAGES = (
    Stage("prepare", prepare, leaves=("data.json",), parts=("data.",)),
    Stage(
        "train-grader", train_graders, leaves=("graders",), parts=("data.", "grader.", "seed"),
        without=("data.size_px", "data.mask_reduction", "data.fusion", "data.fusion_px"),
        without_in=fold_of_segmentation, weights=weight_files, stale=("graders",), goes_on=True, of_stage_1=True,
        shared=("graded_for_graders",),
    ),
    Stage(
        "pseudo-label", pseudo_label, leaves=("pseudo_labels.csv", "pseudo_labels.json"),
        parts=("data.", "grader.", "pseudo."), without=("data.size_px", "data.mask_reduction"),
        without_in=fold_of_segmentation,
        reads=("graders/*/metrics.json", f"graders/*/{CHECKPOINTS}"),
        stale=("pseudo_labels.csv", "pseudo_labels.json", "cams"), of_stage_1=True,
    ),
    Stage(
        "train", train, leaves=("checkpoints", "log.jsonl"), sets=sets_of_training, parts=METHOD,
        weights=weights_of_training, reads=("pseudo_labels.csv",),
        stale=("checkpoints", "log.jsonl", "events.*", "weights.json", "parameters.txt", "metrics.json", "curves.json",
               "per_image.csv", "per_graded_image.csv", "examples", "predictions", "report.html"),
        goes_on=True, shared=("segmented", "graded_for_network"),
    ),
    Stage(
        "evaluate", evaluate, leaves=("metrics.json",), parts=(*METHOD, "evaluation.", "inference."),
        reads=(CHECKPOINTS, OPERATING_POINTS, "graders/*/metrics.json", "pseudo_labels.csv"), describes=True,
        shared=("segmented", "graded_for_network"),
    ),
    Stage(
        "predict", predict_examples, leaves=(f"{EXAMPLES}/predictions.csv",), parts=(*METHOD, "evaluation.", "inference."),
        reads=(CHECKPOINTS, OPERATING_POINTS), describes=True,
    ),
    Stage(
        "report", report, leaves=("report.html",),
        reads=("data.json", "metrics.json", "curves.json", "per_image.csv", "pseudo_labels.*", "log.jsonl", "weights.json",
               "contact_sheet.*", "graders/*/metrics.json", "graders/*/log.jsonl", "cams/*", "examples/*",
               "checkpoints/config.json", OPERATING_POINTS),
        describes=True,
    ),
)  # fmt: skip


def stages_of(config: Config, names: Collection[str]) -> list[Stage]:
    """The named stages in their order, without stage 1's where the config has none."""
    return [stage for stage in STAGES if stage.name in names and (has_stage_1(config) or not stage.of_stage_1)]

"""The stages of the method in order, each with everything that its result depends on."""

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
from pldmlt_jax.workflow.stages.train_graders import find_weight_files, train_graders


@dataclass(frozen=True)
class Stage:
    """One stage of the method, and everything that its result depends on.

    Attributes:
        name: The verb that runs it.
        run: The function that runs it.
        outputs: Files and folders of the workdir that exist once the stage is complete.
        dataset_fields: Returns the fields of `config.data` whose data sets the stage reads.
        config_prefixes: Prefixes of the config fields that the result depends on.
        ignored_fields: Fields with such a prefix that do not change the result.
        ignored_fields_for: Returns further ignored fields for a given config.
        weights: Returns the paths of the weight files that the stage reads; "" for a random start.
        reads: Patterns of the files in the workdir that the stage reads; earlier stages write them.
        invalidated_files: Patterns of the files that no longer hold once any of the above has changed.
        resumable: Whether the stage can resume from its own checkpoints.
        read_only: Whether the stage only evaluates or shows what the workdir holds; run on its own, it leaves `config.json`
            as it is.
        needs_graders: Whether the stage belongs to stage 1, which a config without graders skips.
        distributed_sets: Data sets of the context that each process opens to do its share of the work. Empty if the
            first process does all of it.
    """

    name: str
    run: Callable[[Context], None]
    outputs: tuple[str, ...]
    dataset_fields: Callable[[Config], tuple[str, ...]] = lambda config: ("segmentation", "grading")
    config_prefixes: tuple[str, ...] = ()
    ignored_fields: tuple[str, ...] = ()
    ignored_fields_for: Callable[[Config], tuple[str, ...]] = lambda config: ()
    weights: Callable[[Config], list[str]] = lambda config: []
    reads: tuple[str, ...] = ()
    invalidated_files: tuple[str, ...] = ()
    resumable: bool = False
    read_only: bool = False
    needs_graders: bool = False
    distributed_sets: tuple[str, ...] = ()


def list_training_datasets(config: Config) -> tuple[str, ...]:
    """Returns the data fields that `train` depends on: the graded set only counts if its images are trained on too.

    Otherwise it acts through the pseudo-labels, which `train` reads as a file.
    """
    graded = uses_graded_images(config.meta, config.loss)
    return ("segmentation", "grading") if graded else ("segmentation",)


def list_training_weights(config: Config) -> list[str]:
    """Returns the encoder's weight file and the files of the network that training starts from."""
    files = [resolve_weights_path(config.model.weights, config.data.cache_dir)]
    return files + [str(path) for path in list_initial_files(config)]


def list_fields_ignored_by_graders(config: Config) -> tuple[str, ...]:
    """Returns the fold if the graded set has its official split: the same graders then serve all folds.

    They are not trained on pixel-labelled photographs of any fold, and label all of them.
    """
    return ("data.fold",) if config.data.grading_split == "official" else ()


METHOD = ("data.", "model.", "loss.", "meta.", "optim.", "train.", "seed")
"""Prefixes of the config fields that the trained network depends on."""

CHECKPOINTS = "checkpoints/*/_CHECKPOINT_METADATA"
"""A file of Orbax that contains the time of saving, so it differs between any two checkpoints."""

OPERATING_POINTS = "checkpoints/operating_points.json"

STAGES = (
    Stage("prepare", prepare, outputs=("data.json",), config_prefixes=("data.",)),
    Stage(
        "train-grader",
        train_graders,
        outputs=("graders",),
        config_prefixes=("data.", "grader.", "seed"),
        ignored_fields=("data.size_px", "data.mask_reduction", "data.fusion", "data.fusion_px"),
        ignored_fields_for=list_fields_ignored_by_graders,
        weights=find_weight_files,
        invalidated_files=("graders",),
        resumable=True,
        needs_graders=True,
        distributed_sets=("graded_for_graders",),
    ),
    Stage(
        "pseudo-label",
        pseudo_label,
        outputs=("pseudo_labels.csv", "pseudo_labels.json"),
        config_prefixes=("data.", "grader.", "pseudo."),
        ignored_fields=("data.size_px", "data.mask_reduction"),
        ignored_fields_for=list_fields_ignored_by_graders,
        reads=("graders/*/metrics.json", f"graders/*/{CHECKPOINTS}"),
        invalidated_files=("pseudo_labels.csv", "pseudo_labels.json", "cams"),
        needs_graders=True,
    ),
    Stage(
        "train",
        train,
        outputs=("checkpoints", "log.jsonl"),
        dataset_fields=list_training_datasets,
        config_prefixes=METHOD,
        weights=list_training_weights,
        reads=("pseudo_labels.csv",),
        invalidated_files=(
            *("checkpoints", "log.jsonl", "events.*", "weights.json", "parameters.txt", "metrics.json", "curves.json"),
            *("per_image.csv", "per_graded_image.csv", "examples", "predictions", "report.html"),
        ),
        resumable=True,
        distributed_sets=("segmented", "graded_for_network"),
    ),
    Stage(
        "evaluate",
        evaluate,
        outputs=("metrics.json",),
        config_prefixes=(*METHOD, "evaluation.", "inference."),
        reads=(CHECKPOINTS, OPERATING_POINTS, "graders/*/metrics.json", "pseudo_labels.csv"),
        read_only=True,
        distributed_sets=("segmented", "graded_for_network"),
    ),
    Stage(
        "predict",
        predict_examples,
        outputs=(f"{EXAMPLES}/predictions.csv",),
        config_prefixes=(*METHOD, "evaluation.", "inference."),
        reads=(CHECKPOINTS, OPERATING_POINTS),
        read_only=True,
    ),
    Stage(
        "report",
        report,
        outputs=("report.html",),
        reads=(
            *("data.json", "metrics.json", "curves.json", "per_image.csv", "pseudo_labels.*", "log.jsonl", "weights.json"),
            *("contact_sheet.*", "graders/*/metrics.json", "graders/*/log.jsonl", "cams/*", "examples/*"),
            *("checkpoints/config.json", OPERATING_POINTS),
        ),
        read_only=True,
    ),
)


def select_stages(config: Config, names: Collection[str]) -> list[Stage]:
    """Returns the named stages in order; those that need graders only if the config has graders."""
    return [stage for stage in STAGES if stage.name in names and (has_stage_1(config) or not stage.needs_graders)]

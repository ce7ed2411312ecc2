"""`train`: Algorithm 1 on the pixel-labelled images with their pseudo-labels; resumes from its latest checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pldmlt_jax.config import Config, has_stage_1
from pldmlt_jax.config.listing import config_text
from pldmlt_jax.data.augment import make_training_window
from pldmlt_jax.data.loader import (
    GradeLabels,
    attach_graded,
    eval_batches,
    given_labels,
    oversample_grades,
    steps_per_epoch,
    train_batches,
    true_labels,
    unknown_labels,
)
from pldmlt_jax.data.preprocessing.prepared_split import PreparedSplit
from pldmlt_jax.data.splits.selection import Selection
from pldmlt_jax.errors import CheckpointError, DataError
from pldmlt_jax.evaluation.inference import TrainedNetwork, checkpoint_directory, drop_optimizers, saved_config
from pldmlt_jax.evaluation.metrics.segmentation import SegmentationCounts, segmentation_counts
from pldmlt_jax.io.processes import run_on_first, sum_over_processes
from pldmlt_jax.io.progress import show_progress
from pldmlt_jax.method.diagnostics import gradient_balance, meta_gradient_paths
from pldmlt_jax.method.pseudo_labels import admissible_grades
from pldmlt_jax.method.state import Method, MethodState, init_method_state, make_method
from pldmlt_jax.method.steps import eval_step, meta_step, train_step
from pldmlt_jax.method.virtual_step import uses_graded_images
from pldmlt_jax.models.weights.checkpoint_io import WEIGHTS, read_variables
from pldmlt_jax.models.weights.download import fetch_weights
from pldmlt_jax.models.weights.load import load_encoder_weights, preprocessing_scheme
from pldmlt_jax.reporting.overlays import VALIDATION_IMAGES, validation_panel
from pldmlt_jax.training.init_from import read_best_network, transfer_weights
from pldmlt_jax.training.log import open_log
from pldmlt_jax.training.loop import ValidationResult, fit
from pldmlt_jax.training.parallel import Devices, local_rows, select_local_devices, select_training_devices
from pldmlt_jax.training.parameters import write_parameter_table
from pldmlt_jax.training.rounds import LoopOptions, RoundPlan, plan_rounds
from pldmlt_jax.types import UNKNOWN_GRADE, Batch
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.stages.calibrate import calibrate
from pldmlt_jax.workflow.stages.pseudo_label import read_label_table

MONITOR_THRESHOLD = 0.5
"""Threshold of the Dice that early stopping monitors. A change of `evaluation.threshold` needs no new training this way."""

STEPS = {"theta": train_step, "label": meta_step}
DIAGNOSTICS = {"theta": gradient_balance, "label": meta_gradient_paths}
"""Phase of a round -> its step, and the diagnostics of a logged step."""


def train(context: Context) -> None:
    """Runs Algorithm 1; saves the best and the latest state to `checkpoints/`, and the operating points of the best one."""
    config, selections = context.config, context.segmented
    training, validation = selections["train"], selections["val"]
    table = context.workdir / "pseudo_labels.csv"
    labels, validation_labels = (read_training_labels(part.split, config, table) for part in (training, validation))
    if config.meta.enabled:
        require_grades(labels, training)
    indices = oversample_grades(training.indices, labels.grade[training.indices], config.train.oversample)
    rounds = make_rounds(config, len(indices))
    microbatch_size = config.train.batch_size // config.train.microbatches
    devices = select_training_devices(config.parallel, microbatch_size, "train.batch_size")
    method = make_method(config, rounds.theta_steps, devices.axis_name)
    window = make_training_window(config.train)

    def batches(step: int) -> Iterator[Batch]:
        own = devices.batch_size_per_process(config.train.batch_size)
        shared: Any = {"batch_size": own, "config": config.data, "start_step": step, "shard": devices.shard}
        stream = train_batches(training.split, indices, labels, seed=config.seed, window=window, **shared)
        if uses_graded_images(config.meta, config.loss):
            graded = context.truly_graded["train"]
            beside = train_batches(graded.split, graded.indices, true_labels(graded.split), seed=config.seed + 1, **shared)
            stream = attach_graded(stream, beside)
        return map(devices.put_batch, stream)

    with (
        show_progress("train", rounds.total_steps, config.train.batch_size) as task,
        context.training_checkpoints(context.workdir / "checkpoints", drop_optimizers) as checkpoints,
    ):
        fit(
            devices.put_state(make_start_state(context, method)),
            rounds=rounds,
            options=LoopOptions.from_train_config(config.train),
            steps={phase: devices.make_training_step(step, method=method) for phase, step in STEPS.items()},
            diagnostics={phase: devices.make_evaluation(diagnose, method=method) for phase, diagnose in DIAGNOSTICS.items()},
            batches=batches,
            evaluate=lambda state: evaluate_on_validation(state, method, devices, validation, validation_labels, config),
            image_names=lambda batch: batch_image_ids(batch, training, context),
            checkpoints=checkpoints,
            make_log=lambda step: open_log(context.workdir, step, config_text(config)),
            task=task,
        )
        best = checkpoints.best_in_memory()
    if best is not None:
        own = select_local_devices(config.parallel)
        context.trained_network = TrainedNetwork(config, own.put_state(best), int(best.step), checkpoints.directory, own)
    run_on_first(lambda: calibrate(context))


def read_training_labels(split: PreparedSplit, config: Config, table: Path) -> GradeLabels:
    """Returns the grades that pixel-labelled images are trained with, as `pseudo.source` says."""
    if has_stage_1(config):
        return read_pseudo_labels(table, split)
    if config.pseudo.source == "none":
        return unknown_labels(split)
    return GradeLabels(given_labels(split).grade, find_admissible_grades(split))


def require_grades(labels: GradeLabels, training: Selection) -> None:
    """Checks that every training image has a grade, because the label network would invent one for the others.

    Raises:
        DataError: Some training images have no grade.
    """
    if without := [i for i in training.indices if labels.grade[i] == UNKNOWN_GRADE]:
        found = f"{len(without)} photographs without a grade, the first {training.split.image_ids[without[0]]}"
        action = "grade them, or leave the given grades as they are: --config.meta.enabled=False"
        raise DataError("pseudo.source", found, "a grade for the label network to update", action)


def batch_image_ids(batch: Batch, training: Selection, context: Context) -> list[str]:
    """Returns the ids of a batch's images in this process, followed by those of its truly graded images."""
    names = [training.split.image_ids[i] for i in local_rows(batch.index).ravel()]
    if batch.graded is None:
        return names
    graded = context.truly_graded["train"].split.image_ids
    return names + [graded[i] for i in local_rows(batch.graded.index).ravel()]


def make_rounds(config: Config, num_images: int) -> RoundPlan:
    """Plans the order of the steps for a number of images per epoch."""
    per_epoch = steps_per_epoch(num_images, config.train.batch_size)
    return plan_rounds(config.train, per_epoch, label_update=config.meta.enabled)


def make_start_state(context: Context, method: Method) -> MethodState:
    """Makes the state before step 0 with the weights that the config names, and records these in `weights.json`."""
    config = context.config
    record: dict[str, Any] = {"encoder": "random start"}
    path = fetch_weights(config.model.weights, config.data.cache_dir)

    def pretrained(variables: dict[str, Any]) -> dict[str, Any]:
        if path:
            variables, loaded = load_encoder_weights(variables, path, config.model.encoder)
            record.update(encoder=path, encoder_sha256=loaded.sha256)
            print(f"  encoder weights: {path}, {loaded.num_tensors} tensors, sha256 {loaded.sha256[:16]}")
        if config.train.init_from:
            taken = transfer_weights(
                variables, read_initial_network(find_initial_directory(config)), config.train.init_parts
            )
            variables = taken.variables
            record.update(init_from=config.train.init_from, init_parts=config.train.init_parts, kept_at_start=taken.kept)
            print(f"  {config.train.init_parts} from {config.train.init_from}: {taken.summary()}")
        return variables

    if not path and not config.train.init_from:
        print("  encoder weights: none, a random start (the paper starts from ImageNet; see --config.model.weights)")
    state = init_method_state(method, pretrained)
    context.write_json("weights.json", record)
    write_parameter_table(context.workdir, "network", state.network.params)
    return state


def find_initial_directory(config: Config) -> Path:
    """Returns the folder with the checkpoints or exported weights that `train.init_from` names.

    Raises:
        CheckpointError: There is none, or its network expects images that are prepared in another way.
    """
    directory = checkpoint_directory(Path(config.train.init_from))
    saved = saved_config(directory).model
    theirs, ours = (preprocessing_scheme(model.encoder, model.weights) for model in (saved, config.model))
    if theirs != ours:
        raise CheckpointError(
            directory,
            f"a network for images prepared as {theirs!r} (model.weights = {saved.weights!r}); this config's are {ours!r}",
            "the same preparation",
            "name weights of the same library in --config.model.weights",
        )
    return directory


def read_initial_network(directory: Path) -> dict[str, Any]:
    """Reads `params` and `batch_stats` from a folder of checkpoints, or of exported weights."""
    return read_variables(directory / WEIGHTS) if (directory / WEIGHTS).is_file() else read_best_network(directory)


def list_initial_files(config: Config) -> list[Path]:
    """Lists files that differ between any two networks of `train.init_from`; none if it is empty."""
    if not config.train.init_from:
        return []
    directory = find_initial_directory(config)
    exported = directory / WEIGHTS
    return [exported] if exported.is_file() else sorted(directory.glob("*/_CHECKPOINT_METADATA"))


def read_pseudo_labels(path: Path, split: PreparedSplit) -> GradeLabels:
    """Reads the refined pseudo-labels of one split from stage 1's table, with the grades that the masks admit."""
    table = read_label_table(path)
    if missing := [image_id for image_id in split.image_ids if image_id not in table]:
        found = f"no row for {len(missing)} images, the first {missing[0]}"
        raise DataError(path, found, "pseudo-labels of the set that is trained on", "run `python main.py pseudo-label`")
    grades = [int(table[image_id]["after"]) for image_id in split.image_ids]
    return GradeLabels(np.array(grades, np.int32), find_admissible_grades(split))


def find_admissible_grades(split: PreparedSplit) -> np.ndarray:
    """Returns the grades that each image's masks admit, bool [n, 5]."""
    return np.stack([admissible_grades(row.evidence_px, row.least_grade) for row in split.metadata])


def evaluate_on_validation(
    state: MethodState, method: Method, devices: Devices, selection: Selection, labels: GradeLabels, config: Config
) -> ValidationResult:
    """Evaluates a state on the validation images at the network's size.

    The images of all processes count together. A batch that the devices do not divide is padded with rows of weight 0.

    Args:
        state: The state to evaluate.
        method: The method with its networks and losses.
        devices: The devices that hold the state.
        selection: The validation images.
        labels: Their grades.
        config: The config of the run.

    Returns:
        The score for early stopping, the metrics to log, and pictures of some images.
    """
    counts = SegmentationCounts.empty(method.loss.target)
    sums, images, pictures = np.zeros(4), 0.0, {}
    evaluate_batch = devices.make_evaluation(eval_step, method=method)
    own = devices.batch_size_per_process(config.evaluation.batch_size)
    for batch in eval_batches(selection.split, selection.indices, labels, batch_size=own, shard=devices.shard):
        output = evaluate_batch(state, devices.put_batch(batch))
        counts = counts.merge(
            segmentation_counts(
                output.probabilities,
                batch.mask_bits,
                batch.sample_mask,
                target=method.loss.target,
                threshold=MONITOR_THRESHOLD,
            )
        )
        for row in np.flatnonzero(batch.sample_mask)[: VALIDATION_IMAGES - len(pictures)]:
            name, p = selection.split.image_ids[batch.index[row]], output.probabilities[row]
            pictures[name] = validation_panel(
                batch.image[row], batch.mask_bits[row], p, method.loss.target, MONITOR_THRESHOLD
            )
        count = float(batch.sample_mask.sum())
        sums += count * np.array([*map(float, output.losses), float(output.loss_updated)])
        images += count
    counts, sums, images = sum_over_processes((counts, sums, images))
    names = ("val/loss", "val/seg_loss", "val/grade_loss", "val/loss_updated")
    values: dict[str, float] = dict(zip(names, sums / max(images, 1.0), strict=True))
    values["val/dice"] = counts.compute()["seg/foreground/dice"] or 0.0
    score = values["val/dice"] if config.train.monitor == "dice" else -values["val/loss"]
    return ValidationResult(score, values, pictures)

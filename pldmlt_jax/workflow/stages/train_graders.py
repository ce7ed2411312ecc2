"""`train-grader`: trains the graders of stage 1 and writes each to `graders/<name>/`."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from pldmlt_jax.config import Config, GraderConfig
from pldmlt_jax.config.listing import config_text
from pldmlt_jax.data.loader import eval_batches, given_labels, oversample_grades, steps_per_epoch, train_batches, true_labels
from pldmlt_jax.data.splits.selection import Selection, held_out_split
from pldmlt_jax.evaluation.metrics.grading import grade_rows, grading_metrics
from pldmlt_jax.evaluation.temperature import fit_temperature, softmax
from pldmlt_jax.io.csv_files import write_rows
from pldmlt_jax.io.files import write_json
from pldmlt_jax.io.processes import merge_rows, run_on_first, sum_over_processes
from pldmlt_jax.io.progress import show_progress
from pldmlt_jax.method.grader import Grader, grader_eval, grader_step, init_grader, init_grader_state
from pldmlt_jax.method.state import TrainState
from pldmlt_jax.models.build import build_grader
from pldmlt_jax.models.weights.download import fetch_weights, resolve_weights_path
from pldmlt_jax.models.weights.load import load_weights
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.log import open_log
from pldmlt_jax.training.loop import ValidationResult, fit
from pldmlt_jax.training.parallel import Devices, local_rows, select_local_devices, select_training_devices
from pldmlt_jax.training.parameters import write_parameter_table
from pldmlt_jax.training.rounds import LoopOptions, RoundPlan
from pldmlt_jax.types import NUM_GRADES, Batch
from pldmlt_jax.workflow.context import Context

GRADED_IMAGES = "per_graded_image.csv"
"""Table with a row for each held-out graded image; in a grader's folder for that grader, in the workdir for the network."""


def train_graders(context: Context) -> None:
    """Trains every grader of the config on the graded set's training images."""
    for name in context.config.grader.architectures:
        train_grader(context, name)


def train_grader(context: Context, name: str) -> None:
    """Trains one grader, saves the state with the best validation kappa, and writes its metrics on the test images."""
    config, selections = context.config, context.graded_for_graders
    directory = context.workdir / "graders" / name
    devices = select_training_devices(config.parallel, config.grader.batch_size, "grader.batch_size")
    grader = make_grader(config, name, selections["train"], devices.axis_name)
    state, weights = make_start_state(context, grader, name)
    write_parameter_table(directory, f"grader {name}", state.params)
    state = devices.put_state(state)
    training, validation = selections["train"], selections["val"]
    indices = list_epoch_indices(training, config.grader)
    rounds = RoundPlan((("grader", steps_per_epoch(len(indices), config.grader.batch_size)),), config.grader.epochs)

    def evaluate_on_validation(state: TrainState) -> ValidationResult:
        logits, loss = predict(state, grader, validation, devices)
        grades = given_labels(validation.split).grade[validation.indices]
        metrics = grading_metrics(softmax(logits), grades, find_majority_grade(training))
        values = {"val/loss": loss, "val/accuracy": metrics["grade/accuracy"], "val/kappa": metrics["grade/kappa"]}
        return ValidationResult(values["val/kappa"] or 0.0, values)

    def batches(step: int) -> Iterator[Batch]:
        own, labels = devices.batch_size_per_process(config.grader.batch_size), given_labels(training.split)
        shared: Any = {"config": config.data, "seed": config.seed, "start_step": step, "shard": devices.shard}
        return map(devices.put_batch, train_batches(training.split, indices, labels, batch_size=own, **shared))

    with (
        show_progress(f"grader {name}", rounds.total_steps, config.grader.batch_size) as task,
        context.training_checkpoints(directory / "checkpoints", drop_optimizer) as checkpoints,
    ):
        fit(
            state,
            rounds=rounds,
            options=LoopOptions.from_grader_config(config.grader, config.train),
            steps={"grader": devices.make_training_step(grader_step, grader=grader)},
            diagnostics={},
            batches=batches,
            evaluate=evaluate_on_validation,
            image_names=lambda batch: [training.split.image_ids[i] for i in local_rows(batch.index).ravel()],
            checkpoints=checkpoints,
            make_log=lambda step: open_log(directory, step, config_text(config)),
            task=task,
        )
        best = checkpoints.best_in_memory()

    def write() -> None:
        _write_metrics(context, grader, name, best or restore_best(context, grader, name), weights)

    run_on_first(write)


def _write_metrics(context: Context, grader: Grader, name: str, best: TrainState, weights: dict[str, Any]) -> None:
    """Writes the metrics of a grader's best state on held-out images, a row for each image, and its temperature."""
    selections, devices = context.graded_for_graders, select_local_devices(context.config.parallel)
    split = held_out_split(selections)
    training, validation, testing = selections["train"], selections["val"], selections[split]
    state = devices.put_state(best)
    logits, _ = predict(state, grader, testing, devices)
    probabilities, truth = softmax(logits), true_labels(testing.split).grade[testing.indices]
    val_logits, _ = predict(state, grader, validation, devices)
    metrics = grading_metrics(probabilities, truth, find_majority_grade(training)) | {
        "grade/split": split,
        "temperature": fit_temperature(val_logits, given_labels(validation.split).grade[validation.indices]),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "images/train": len(training),
        "images/held_out": len(testing),
    }
    directory = context.workdir / "graders" / name
    write_rows(directory / GRADED_IMAGES, grade_rows(testing.image_ids, probabilities, truth))
    write_json(directory / "metrics.json", metrics | weights)


def list_epoch_indices(train: Selection, config: GraderConfig) -> np.ndarray:
    """Returns the indices of one epoch; with `grader.oversample`, images of rarer grades are repeated."""
    return oversample_grades(train.indices, given_labels(train.split).grade[train.indices], config.oversample)


def make_grader(whole: Config, name: str, train: Selection, axis_name: str | None = None) -> Grader:
    """Makes the static part of a grader.

    With `grader.class_weights`, grades are weighted by their inverse frequency, with mean 1.
    """
    config, weights = whole.grader, np.ones(NUM_GRADES)
    network = build_grader(name, config, find_weight_files(whole)[config.architectures.index(name)])
    if config.class_weights:
        counts = np.bincount(given_labels(train.split).grade[train.indices], minlength=NUM_GRADES)
        weights = np.where(counts > 0, len(train) / np.maximum(counts, 1) / max((counts > 0).sum(), 1), 0.0)
    total_steps = config.epochs * steps_per_epoch(len(list_epoch_indices(train, config)), config.batch_size)
    return Grader(network, config, total_steps, tuple(float(w) for w in weights), axis_name)


def make_start_state(context: Context, grader: Grader, name: str) -> tuple[TrainState, dict[str, Any]]:
    """Makes the state before step 0 with the weights that the config names; also returns facts about these weights."""
    config = context.config
    position = config.grader.architectures.index(name)
    path = fetch_weights(grader_weight_names(config)[position], config.data.cache_dir)
    variables = init_grader(grader, jax.random.fold_in(jax.random.key(config.seed), position))
    if not path:
        return init_grader_state(grader, variables), {"weights": "random start"}
    loaded = load_weights(path, name, variables)
    print(f"  {name} weights: {path}, {loaded.num_tensors} tensors, sha256 {loaded.sha256[:16]}")
    return init_grader_state(grader, loaded.variables), {"weights": path, "weights_sha256": loaded.sha256}


def grader_weight_names(config: Config) -> list[str]:
    """Returns the weights that the config names for each grader; `encoder` means those of the multi-task network."""
    return [config.model.weights if name == "encoder" else name for name in config.grader.weights]


def find_weight_files(config: Config) -> list[str]:
    """Returns the weight file of each grader; "" for a random start."""
    return [resolve_weights_path(name, config.data.cache_dir) for name in grader_weight_names(config)]


def restore_best(context: Context, grader: Grader, name: str) -> TrainState:
    """Restores the best state of a trained grader from its checkpoints."""
    directory, fallback = context.workdir / "graders" / name / "checkpoints", context.config.checkpoint.fallback
    with Checkpoints(directory, fallback=fallback, alone=True) as checkpoints:
        like = jax.eval_shape(lambda: init_grader_state(grader, init_grader(grader, jax.random.key(0))))
        state, _ = checkpoints.restore(checkpoints.require_best_step(), like)
    return state


def drop_optimizer(state: TrainState) -> TrainState:
    """Returns a state without the state of its optimiser."""
    return dataclasses.replace(state, opt_state=())


def find_majority_grade(train: Selection) -> int:
    """Returns the most frequent grade of the training images, which the baseline always predicts."""
    return int(np.bincount(given_labels(train.split).grade[train.indices], minlength=NUM_GRADES).argmax())


def predict(state: TrainState, grader: Grader, selection: Selection, devices: Devices) -> tuple[np.ndarray, float]:
    """Predicts a selection with all processes; returns the logits [n, 5] in its order, and the mean focal loss."""
    logits: list[np.ndarray] = []
    loss, count, shard = 0.0, 0.0, devices.shard
    own, labels = devices.batch_size_per_process(grader.config.batch_size), given_labels(selection.split)
    evaluate_batch = devices.make_evaluation(grader_eval, grader=grader)
    for batch in eval_batches(selection.split, selection.indices, labels, batch_size=own, shard=shard):
        batch_logits, batch_loss = evaluate_batch(state, devices.put_batch(batch))
        counted = batch.sample_mask > 0
        logits += list(batch_logits[counted])
        loss, count = loss + float(batch_loss) * counted.sum(), count + counted.sum()
    if devices.num_processes > 1:
        positions = range(shard.process, len(selection), shard.num_processes)
        logits = merge_rows(dict(zip(positions, logits, strict=True)))
        loss, count = sum_over_processes((loss, count))
    return np.stack(logits), loss / max(count, 1.0)

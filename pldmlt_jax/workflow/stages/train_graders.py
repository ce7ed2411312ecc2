"""`train-grader`: trains the stage 1 graders, each into `graders/<name>/`."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from pldmlt_jax.config import Config, GraderConfig, to_dict
from pldmlt_jax.config_text import config_text
from pldmlt_jax.data.loader import eval_batches, given_labels, oversample_grades, steps_per_epoch, train_batches
from pldmlt_jax.data.splits.selection import Selection, held_out_split
from pldmlt_jax.evaluation.metrics.grading import grade_rows, grading_metrics
from pldmlt_jax.io.files import write_json, write_rows
from pldmlt_jax.io.processes import merged, on_first, summed
from pldmlt_jax.io.progress import progress
from pldmlt_jax.method.grader import Grader, grader_eval, grader_step, init_grader, init_grader_state
from pldmlt_jax.method.state import TrainState
from pldmlt_jax.models.build import build_grader
from pldmlt_jax.models.weights.download import fetch_weights, weights_path
from pldmlt_jax.models.weights.load import load_weights
from pldmlt_jax.training.log import open_log
from pldmlt_jax.training.loop import Rounds, Stopping, Validated, fit
from pldmlt_jax.training.parallel import Devices, own_devices, own_rows, training_devices
from pldmlt_jax.types import NUM_GRADES, UNKNOWN_GRADE, Batch
from pldmlt_jax.workflow.context import Context

GRADED_IMAGES = "per_graded_image.csv"
"""A line for each held-out graded image, in a grader's folder and, of the network, in the workdir."""


def train_graders(context: Context) -> None:
    """Trains every grader of the config on the graded set's training images."""
    for name in context.config.grader.architectures:
        train_grader(context, name)


def train_grader(context: Context, name: str) -> None:
    """Trains one grader, keeps its best state by validation kappa and writes its figures on the test images."""
    config, selections = context.config, context.graded_for_graders
    directory = context.workdir / "graders" / name
    devices = training_devices(config.parallel, config.grader.batch_size, "grader.batch_size")
    grader = make_grader(config, name, selections["train"], devices.axis_name)
    state, weights = make_start_state(context, grader, name)
    state = devices.put_state(state)
    training = selections["train"]
    indices = epoch_indices(training, config.grader)
    rounds = Rounds((("grader", steps_per_epoch(len(indices), config.grader.batch_size)),), config.grader.epochs)

    def validate(state: TrainState) -> Validated:
        logits, loss = predict(state, grader, selections["val"], devices)
        figures = grading_metrics(softmax(logits), given_grades(selections["val"]), majority_grade(selections["train"]))
        values = {"val/loss": loss, "val/accuracy": figures["grade/accuracy"], "val/kappa": figures["grade/kappa"]}
        return Validated(values["val/kappa"] or 0.0, values)

    def batches(step: int) -> Iterator[Batch]:
        own, labels = devices.own_batch_size(config.grader.batch_size), given_labels(training.split)
        shared: Any = {"config": config.data, "seed": config.seed, "start_step": step, "shard": devices.shard}
        return map(devices.put_batch, train_batches(training.split, indices, labels, batch_size=own, **shared))

    with (
        progress(f"grader {name}", rounds.total_steps, config.grader.batch_size) as task,
        context.checkpoints(directory / "checkpoints", to_dict(context.config)) as checkpoints,
    ):
        fit(
            state,
            rounds=rounds,
            stopping=Stopping.of_grader(config.grader, config.train),
            steps={"grader": devices.training_step(grader_step, grader=grader)},
            diagnostics={},
            batches=batches,
            validate=validate,
            names=lambda batch: [training.split.image_ids[i] for i in own_rows(batch.index).ravel()],
            checkpoints=checkpoints,
            make_log=lambda step: open_log(directory, step, config_text(config)),
            task=task,
        )
    on_first(lambda: _write_figures(context, grader, name, weights))


def _write_figures(context: Context, grader: Grader, name: str, weights: dict) -> None:
    selections, devices = context.graded_for_graders, own_devices(context.config.parallel)
    state = devices.put_state(restore_best(context, grader, name))
    split = held_out_split(selections)
    logits, _ = predict(state, grader, selections[split], devices)
    answers, truth = softmax(logits), true_grades(selections[split])
    figures = grading_metrics(answers, truth, majority_grade(selections["train"]))
    figures["grade/split"] = split
    val_logits, _ = predict(state, grader, selections["val"], devices)
    figures["temperature"] = fit_temperature(val_logits, given_grades(selections["val"]))
    figures["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    figures["images/train"], figures["images/held_out"] = len(selections["train"]), len(selections[split])
    directory = context.workdir / "graders" / name
    write_rows(directory / GRADED_IMAGES, grade_rows(selections[split].image_ids, answers, truth))
    write_json(directory / "metrics.json", figures | weights)


def epoch_indices(train: Selection, config: GraderConfig) -> np.ndarray:
    """The positions of an epoch, those of rarer grades more than once where the config asks for it."""
    return oversample_grades(train.indices, given_grades(train), config.oversample)


def make_grader(whole: Config, name: str, train: Selection, axis_name: str | None = None) -> Grader:
    """The static part of a grader; grade weights are inverse frequencies of mean 1 where the config asks for them."""
    config, weights = whole.grader, np.ones(NUM_GRADES)
    network = build_grader(name, config, weight_files(whole)[config.architectures.index(name)])
    if config.class_weights:
        counts = np.bincount(given_grades(train), minlength=NUM_GRADES)
        weights = np.where(counts > 0, len(train) / np.maximum(counts, 1) / max((counts > 0).sum(), 1), 0.0)
    total_steps = config.epochs * steps_per_epoch(len(epoch_indices(train, config)), config.batch_size)
    return Grader(network, config, total_steps, tuple(float(w) for w in weights), axis_name)


def make_start_state(context: Context, grader: Grader, name: str) -> tuple[TrainState, dict[str, Any]]:
    """A fresh state, with the weight file that the config names for this grader, and what was loaded."""
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
    """The weights that the config names for each grader; `encoder` stands for the multi-task network's."""
    return [config.model.weights if name == "encoder" else name for name in config.grader.weights]


def weight_files(config: Config) -> list[str]:
    """The weight file of each grader, "" for a random start."""
    return [weights_path(name, config.data.cache_dir) for name in grader_weight_names(config)]


def restore_best(context: Context, grader: Grader, name: str) -> TrainState:
    """The best state of a trained grader."""
    with context.checkpoints(context.workdir / "graders" / name / "checkpoints", alone=True) as checkpoints:
        like = jax.eval_shape(lambda: init_grader_state(grader, init_grader(grader, jax.random.key(0))))
        state, _ = checkpoints.restore(checkpoints.require_best_step(), like)
    return state


def given_grades(selection: Selection) -> np.ndarray:
    """Grades of a selection as the set gives them, to be learnt, int [n]; those of pixel-labelled images are true ones."""
    rows = [selection.split.metadata[i] for i in selection.indices]
    return np.array([row.true_grade if row.grade == UNKNOWN_GRADE else row.grade for row in rows], np.int64)


def true_grades(selection: Selection) -> np.ndarray:
    """The same before any corruption, where the set keeps the true ones: only to score held-out images."""
    rows = [selection.split.metadata[i] for i in selection.indices]
    return np.array([row.grade if row.true_grade == UNKNOWN_GRADE else row.true_grade for row in rows])


def majority_grade(train: Selection) -> int:
    """The most frequent grade of the training images: the baseline that always answers it."""
    return int(np.bincount(given_grades(train), minlength=NUM_GRADES).argmax())


def predict(state: TrainState, grader: Grader, selection: Selection, devices: Devices) -> tuple[np.ndarray, float]:
    """Logits [n, 5] and mean focal loss over a selection, in order, by all processes of the devices."""
    logits: list[np.ndarray] = []
    loss, count, shard = 0.0, 0.0, devices.shard
    own, labels = devices.own_batch_size(grader.config.batch_size), given_labels(selection.split)
    evaluated = devices.evaluation(grader_eval, grader=grader)
    for batch in eval_batches(selection.split, selection.indices, labels, batch_size=own, shard=shard):
        batch_logits, batch_loss = evaluated(state, devices.put_batch(batch))
        counted = batch.sample_mask > 0
        logits += list(batch_logits[counted])
        loss, count = loss + float(batch_loss) * counted.sum(), count + counted.sum()
    if devices.num_processes > 1:
        places = range(shard.process, len(selection), shard.num_processes)
        logits = merged(dict(zip(places, logits, strict=True)))
        loss, count = summed((loss, count))
    return np.stack(logits), loss / max(count, 1.0)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities [n, 5] of logits divided by a temperature."""
    return np.asarray(jax.nn.softmax(logits / temperature, axis=-1))


def fit_temperature(logits: np.ndarray, grades: np.ndarray) -> float:
    """The temperature of least negative log-likelihood on validation images (Guo et al. 2017), by a grid of 200."""
    grid = np.geomspace(0.1, 10.0, 200)
    likelihood = [-np.log(softmax(logits, t)[np.arange(len(grades)), grades] + 1e-12).mean() for t in grid]
    return float(grid[int(np.argmin(likelihood))])

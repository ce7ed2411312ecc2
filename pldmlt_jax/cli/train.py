"""`train`: Algorithm 1 on the pixel-labelled images with their pseudo-labels; goes on from its latest checkpoint."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pldmlt_jax.cli.calibrate import calibrate
from pldmlt_jax.cli.context import Context
from pldmlt_jax.cli.pseudo_label import read_table
from pldmlt_jax.config import Config, has_stage_1, to_dict
from pldmlt_jax.data.augment import training_window
from pldmlt_jax.data.loader import (
    Labels,
    eval_batches,
    oversampled,
    steps_per_epoch,
    train_batches,
    true_labels,
    with_graded,
)
from pldmlt_jax.data.prepared import PreparedSplit
from pldmlt_jax.data.selection import Selection
from pldmlt_jax.errors import DataError
from pldmlt_jax.evaluation.segmentation_metrics import SegmentationCounts, segmentation_counts
from pldmlt_jax.method.diagnostics import gradient_balance, meta_gradient_paths, round_diagnostics
from pldmlt_jax.method.pseudo_labels import admissible_grades
from pldmlt_jax.method.setup import make_method
from pldmlt_jax.method.state import Method, MethodState, init_method_state
from pldmlt_jax.method.steps import eval_step, meta_step, round_step, train_step
from pldmlt_jax.method.virtual_step import uses_graded_images
from pldmlt_jax.models.pretrained import load_vgg16
from pldmlt_jax.progress import progress
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.log import RunLog
from pldmlt_jax.training.loop import Rounds, Stopping, algorithm_rounds, fit
from pldmlt_jax.types import Batch

MONITOR_THRESHOLD = 0.5
"""Of the Dice that early stopping looks at: `evaluation.threshold` can change without another training."""

STEPS = {"theta": train_step, "label": meta_step, "both": round_step}
DIAGNOSTICS = {"theta": gradient_balance, "label": meta_gradient_paths, "both": round_diagnostics}
"""By phase of a round."""


def train(context: Context) -> None:
    """Runs Algorithm 1; the best and the latest state go to `checkpoints/`, with the best one's operating points."""
    config, selections = context.config, context.segmented
    training, validation = selections["train"], selections["val"]
    table = context.workdir / "pseudo_labels.csv"
    labels, validation_labels = (
        pseudo_labels(table, part.split) if has_stage_1(config) else true_labels(part.split)
        for part in (training, validation)
    )
    indices = oversampled(training.indices, labels.grade[training.indices], config.train.oversample)
    rounds = make_rounds(config, len(indices))
    method = make_method(config, rounds.theta_steps)
    window = training_window(config.train)
    state = start_state(context, method)

    def batches(step: int) -> Iterator[Batch]:
        shared: Any = {"batch_size": config.train.batch_size, "config": config.data, "start_step": step}
        stream = train_batches(training.split, indices, labels, seed=config.seed, window=window, **shared)
        if not uses_graded_images(config.meta, config.loss):
            return stream
        graded = context.graded_for_network["train"]
        beside = train_batches(graded.split, graded.indices, true_labels(graded.split), seed=config.seed + 1, **shared)
        return with_graded(stream, beside)

    with (
        progress("train", rounds.total_steps) as task,
        Checkpoints(context.workdir / "checkpoints", to_dict(config)) as checkpoints,
    ):
        fit(
            state,
            rounds=rounds,
            stopping=Stopping.of_training(config.train),
            steps={phase: partial(step, method=method) for phase, step in STEPS.items()},
            diagnostics={phase: partial(diagnose, method=method) for phase, diagnose in DIAGNOSTICS.items()},
            batches=batches,
            validate=lambda state: validate(state, method, validation, validation_labels, config),
            checkpoints=checkpoints,
            make_log=lambda step: RunLog(context.workdir, step),
            task=task,
        )
    calibrate(context)


def make_rounds(config: Config, num_images: int) -> Rounds:
    per_epoch = steps_per_epoch(num_images, config.train.batch_size)
    return algorithm_rounds(config.train, per_epoch, label_update=config.meta.enabled)


def start_state(context: Context, method: Method) -> MethodState:
    """The state before step 0, with the encoder's weights where the config names a file; `weights.json` records them."""
    path, state = context.config.model.weights, init_method_state(method)
    if not path:
        context.write_json("weights.json", {"encoder": "random start"})
        print("  encoder weights: none, a random start (the paper starts from ImageNet; see --config.model.weights)")
        return state
    loaded = load_vgg16(path, state.network.params["encoder"])
    print(f"  encoder weights: {path}, {loaded.num_tensors} tensors, sha256 {loaded.sha256[:16]}")
    context.write_json("weights.json", {"encoder": path, "encoder_sha256": loaded.sha256})
    return init_method_state(method, loaded.variables)


def pseudo_labels(path: Path, split: PreparedSplit) -> Labels:
    """The refined pseudo-labels of stage 1's table and the admissible grades of one split, by position."""
    table = read_table(path)
    if missing := [image_id for image_id in split.image_ids if image_id not in table]:
        found = f"no row for {len(missing)} images, the first {missing[0]}"
        raise DataError(path, found, "pseudo-labels of the set that is trained on", "run `python main.py pseudo-label`")
    grades = [int(table[image_id]["after"]) for image_id in split.image_ids]
    admissible = np.stack([admissible_grades(row.evidence_px, row.least_grade) for row in split.metadata])
    return Labels(np.array(grades, np.int32), admissible)


def validate(state: MethodState, method: Method, selection: Selection, labels: Labels, config: Config) -> tuple[float, dict]:
    """The score that early stopping maximises, and the figures of the validation images at the network's size."""
    counts = SegmentationCounts.empty(method.loss.target)
    sums, images = np.zeros(4), 0.0
    batches = eval_batches(selection.split, selection.indices, labels, batch_size=config.evaluation.batch_size)
    for batch in batches:
        output = eval_step(state, batch, method=method)
        counts = counts.merge(
            segmentation_counts(
                np.asarray(output.probabilities),
                batch.mask_bits,
                batch.weight,
                target=method.loss.target,
                threshold=MONITOR_THRESHOLD,
            )
        )
        count = float(batch.weight.sum())
        sums += count * np.array([*map(float, output.losses), float(output.loss_updated)])
        images += count
    names = ("val/loss", "val/seg_loss", "val/grade_loss", "val/loss_updated")
    values: dict[str, float] = dict(zip(names, sums / max(images, 1.0), strict=True))
    values["val/dice"] = counts.compute()["seg/foreground/dice"] or 0.0
    return (values["val/dice"] if config.train.monitor == "dice" else -values["val/loss"]), values

"""The training loop that the graders and Algorithm 1 share: iterate, log, validate, save and stop."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, UInt8

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.io.processes import all_gather, broadcast_from_first
from pldmlt_jax.io.progress import ProgressTask
from pldmlt_jax.io.signals import STOP, Interrupted
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.log import RunLog
from pldmlt_jax.training.nonfinite import NonfiniteWatch
from pldmlt_jax.training.rounds import LoopOptions, LoopProgress, RoundPlan
from pldmlt_jax.types import Batch

AGREE_EVERY_STEPS = 10
"""Number of steps after which several processes agree on a signal or a due save."""

SHOWN_LOSSES = ("loss", "meta_loss")
"""Metrics of a step in the progress line."""

StepFunction = Callable[[Any, Batch], tuple[Any, dict[str, Array]]]
"""(state, batch) -> (state, metrics)."""

Diagnostics = Callable[[Any, Batch], dict[str, Array]]
"""(state, batch) -> further metrics."""


class ValidationResult(NamedTuple):
    """The result of evaluating a state on the validation images.

    Attributes:
        score: Larger is better; it selects the best checkpoint and decides on early stopping.
        metrics: Scalars and vectors by name, for the log.
        images: RGB images by name, for TensorBoard.
    """

    score: float
    metrics: dict[str, Any]
    images: Mapping[str, UInt8[np.ndarray, "h w 3"]] = {}


@dataclass
class _Session:
    """The state of a training and everything else that changes from step to step."""

    state: Any
    progress: LoopProgress
    rounds: RoundPlan
    options: LoopOptions
    checkpoints: Checkpoints
    log: RunLog
    watch: NonfiniteWatch
    step: int  # completed steps in all rounds
    start_s: float  # clock time at which training began, had it never been interrupted
    saved_s: float  # clock time of the last save, or of the session's start
    losses: dict[str, Any] = field(default_factory=dict)  # as logged last

    def train_step(self, batch: Any, steps: Mapping[str, StepFunction], diagnostics: Mapping[str, Diagnostics]) -> None:
        """Runs the next step on a batch, and logs its metrics if that is due."""
        phase, i = self.rounds.phase_at(self.progress.step)
        is_logged = i % self.options.log_every_steps == 0
        self.watch.check_pending(self.state)
        more = diagnostics[phase](self.state, batch) if is_logged and phase in diagnostics else {}
        self.state, metrics = steps[phase](self.state, batch)
        self.step += 1
        self.watch.record(self.step, phase, batch, metrics)
        if is_logged:
            self.watch.check_pending(self.state)
            logged = {name: value for name, value in metrics.items() if name != "finite"}
            self.losses |= self.log.write(self.step, phase, logged | more, round=self.progress.round + 1)

    def complete_step(self, task: ProgressTask) -> None:
        """Counts the step that has just run, and updates the progress line."""
        note, spent_s = format_progress(self.progress, self.losses), time.monotonic() - self.start_s
        task.update(self.step, note, limit_s=self.options.seconds_left(spent_s))
        if self.progress.complete_step(self.rounds):
            self.update_seconds()

    def update_seconds(self) -> None:
        """Sets the training time in the progress to that of the first process."""
        self.progress.seconds = broadcast_from_first(time.monotonic() - self.start_s)

    def is_save_due(self) -> bool:
        """Tells whether `save_every_minutes` have passed since the last save."""
        return 0 < 60.0 * self.options.save_every_minutes <= time.monotonic() - self.saved_s

    def evaluate_on_validation(self, evaluate: Callable[[Any], ValidationResult]) -> None:
        """Evaluates the state on the validation images, logs the result, and saves a checkpoint with its score."""
        self.watch.check_pending(self.state)
        result = evaluate(self.state)
        self.update_seconds()
        _require_finite(result.score, self.step)
        self.progress.record_score(result.score, self.options.min_delta)
        skipped = {"skipped_steps": self.watch.skipped} if self.options.on_nonfinite == "skip" else {}
        metrics, seconds = result.metrics | skipped, self.progress.seconds
        self.log.write(self.step, "val", metrics, seconds=seconds, round=self.progress.round)
        self.log.write_images(self.step, "val", result.images)
        self.save(result.score)

    def save(self, score: float | None) -> None:
        """Writes the log to disk, then saves a checkpoint."""
        self.watch.check_pending(self.state)
        self.progress.skipped, self.progress.skipped_in_a_row = self.watch.skipped, self.watch.in_a_row
        self.log.sync()
        self.checkpoints.save(self.step, self.state, dataclasses.asdict(self.progress), score)
        self.saved_s = time.monotonic()


def fit(
    state: Any,
    *,
    rounds: RoundPlan,
    options: LoopOptions,
    steps: Mapping[str, StepFunction],
    diagnostics: Mapping[str, Diagnostics],
    batches: Callable[[int], Iterator[Batch]],
    evaluate: Callable[[Any], ValidationResult],
    image_names: Callable[[Batch], list[str]],
    checkpoints: Checkpoints,
    make_log: Callable[[int], RunLog],
    task: ProgressTask,
) -> LoopProgress:
    """Trains to the end, from the latest checkpoint if there is one, with the same result as without the interruption.

    Args:
        state: Initial state, used if there is no checkpoint.
        rounds: The order of the steps.
        options: When to validate, log, save and stop.
        steps: The step function of each phase; it may donate the buffers of its input state.
        diagnostics: Further metrics of each phase; computed only before a logged step, because they cost more than the step.
        batches: Returns the endless stream of training batches from a given step on.
        evaluate: Evaluates a state on the validation images.
        image_names: Returns the names of a batch's images, for errors.
        checkpoints: Where the latest and the best state are kept.
        make_log: Opens the log at a given step; later entries of an earlier session are dropped.
        task: The progress line.

    Returns:
        The final progress; the best state is in `checkpoints`.

    Raises:
        CheckpointError: The latest checkpoint is of another architecture, or of more rounds than `rounds` has.
        FloatingPointError: A loss, a gradient or the validation score is not finite; that state is not kept as a checkpoint.
        Interrupted: A signal has arrived; the state is saved.
    """
    state, progress = restore_latest(state, rounds, checkpoints)
    if progress.is_finished(rounds, options):
        return progress
    step, now = progress.count_steps(rounds), time.monotonic()
    stream = batches(step)
    watch = NonfiniteWatch(
        checkpoints.directory.parent,
        image_names,
        skip=options.on_nonfinite == "skip",
        skipped=progress.skipped,
        in_a_row=progress.skipped_in_a_row,
    )
    if step:
        print(f"  resumes from step {step} of {rounds.total_steps}", flush=True)
    with make_log(step) as log, STOP.deferred():
        start_s = now - progress.seconds
        run = _Session(state, progress, rounds, options, checkpoints, log, watch, step, start_s, saved_s=now)
        _run_steps(run, stream, steps, diagnostics, evaluate, task)
    return progress


def _run_steps(
    run: _Session,
    stream: Iterator[Any],
    steps: Mapping[str, StepFunction],
    diagnostics: Mapping[str, Diagnostics],
    evaluate: Callable[[Any], ValidationResult],
    task: ProgressTask,
) -> None:
    """Trains, validates and saves until training is finished or a signal arrives; see `fit`."""
    while not run.progress.is_finished(run.rounds, run.options):
        run.train_step(next(stream), steps, diagnostics)
        run.complete_step(task)
        signum, save_due = agree_on_interruption(run.step, run.is_save_due())
        if run.progress.should_validate(run.rounds, run.options):
            run.evaluate_on_validation(evaluate)
        elif signum or save_due:
            run.save(score=None)
        if signum:
            run.checkpoints.wait()
            raise Interrupted(signum, f"saved at step {run.step}")


def format_progress(progress: LoopProgress, losses: Mapping[str, Any]) -> str:
    """Returns the note of the progress line: losses, round and best score.

    Args:
        progress: The loop's progress.
        losses: The losses as logged last; newer ones would mean waiting for the device.
    """
    shown = [f"{name.replace('_', ' ')} {losses[name]:.4g}" for name in SHOWN_LOSSES if losses.get(name) is not None]
    best = [f"best score {progress.best_score:.4f}"] if progress.best_round else []
    return ", ".join([*shown, f"round {progress.round + 1}", *best])


def restore_latest(state: Any, rounds: RoundPlan, checkpoints: Checkpoints) -> tuple[Any, LoopProgress]:
    """Restores the latest checkpoint; returns the given state and no progress if there is none.

    Raises:
        CheckpointError: The checkpoint is of another architecture, or of more rounds than `rounds` has.
    """
    if checkpoints.latest_step is None:
        return state, LoopProgress()
    state, saved = checkpoints.restore(checkpoints.latest_step, state)
    progress = LoopProgress.from_saved(saved, checkpoints.directory)
    if progress.round + (progress.step > 0) > rounds.max_rounds:
        trained = f"{progress.round} rounds" + (f" and {progress.step} steps" if progress.step else "")
        found, expected = f"a network trained for {trained}", f"at most {rounds.max_rounds}, as the config says"
        raise CheckpointError(checkpoints.directory, found, expected, "raise that number, or use another --workdir")
    return state, progress


def agree_on_interruption(step: int, is_save_due: bool) -> tuple[int, bool]:
    """Returns the signal that has arrived (0 for none) and whether to save; the same in all processes.

    Args:
        step: Completed steps. Several processes communicate only every AGREE_EVERY_STEPS steps, because it takes time.
        is_save_due: Whether this process would save now.
    """
    if jax.process_count() == 1:
        return STOP.signum, is_save_due
    if step % AGREE_EVERY_STEPS:
        return 0, False
    answers = all_gather((STOP.signum, is_save_due))
    return max(signum for signum, _ in answers), answers[0][1]


def _require_finite(score: float, step: int) -> None:
    if not math.isfinite(score):
        raise FloatingPointError(
            f"the validation score at step {step} is {score}: training has diverged; the checkpoints from before it are "
            f"kept. A smaller learning rate or optim.clip_norm may help."
        )

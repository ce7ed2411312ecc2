"""The loop that graders and Algorithm 1 share: side effects only (iterate, log, save, stop); mathematics is in `method/`."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, UInt8

from pldmlt_jax.config import GraderConfig, TrainConfig
from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.io.processes import all_gather, broadcast_from_first
from pldmlt_jax.io.progress import ProgressTask
from pldmlt_jax.io.signals import STOP, Interrupted
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.log import RunLog
from pldmlt_jax.training.nonfinite import NonfiniteWatch
from pldmlt_jax.types import Batch

AGREE_EVERY_STEPS = 10

SHOWN = ("loss", "meta_loss")
"""Figures of a step that are shown while it trains."""

StepFunction = Callable[[Any, Batch], tuple[Any, dict[str, Array]]]
"""(state, batch) -> (state, metrics)."""


class ValidationResult(NamedTuple):
    """How a state does on the validation images."""

    score: float  # which is maximised
    figures: dict[str, Any]  # flat, to log
    pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]] = {}  # RGB, for TensorBoard


@dataclass(frozen=True)
class RoundPlan:
    """The order of the steps: each round runs its phases one after the other, for so many steps each."""

    phases: tuple[tuple[str, int], ...]
    max_rounds: int

    @property
    def steps_per_round(self) -> int:
        return sum(steps for _, steps in self.phases)

    @property
    def total_steps(self) -> int:
        return self.steps_per_round * self.max_rounds

    @property
    def theta_steps(self) -> int:
        """Steps of the first phase, which trains theta, in all rounds."""
        return self.phases[0][1] * self.max_rounds

    def steps(self) -> Iterator[tuple[str, int]]:
        """The phase of each step of one round, and the step's place in the phase."""
        for phase, steps in self.phases:
            for i in range(steps):
                yield phase, i


def plan_rounds(config: TrainConfig, steps_per_epoch: int, *, label_update: bool) -> RoundPlan:
    """Algorithm 1: `theta_units` of (A), then `label_units` of (B); without the label update there is no (B)."""
    steps = {"epoch": steps_per_epoch, "step": 1}[config.unit]
    phases = (("theta", config.theta_units * steps), ("label", config.label_units * steps))
    return RoundPlan(phases if label_update else phases[:1], config.max_rounds)


@dataclass(frozen=True)
class LoopOptions:
    """When to look, log, save and stop."""

    patience_rounds: int
    min_delta: float = 0.0
    max_minutes: float = 0.0  # 0 = no limit
    eval_every_rounds: int = 1
    log_every_steps: int = 10
    save_every_minutes: float = 0.0  # 0 = after a validation only
    on_nonfinite: str = "stop"  # or "skip"

    @classmethod
    def from_train_config(cls, config: TrainConfig) -> "LoopOptions":
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})

    def seconds_left(self, spent_s: float) -> float:
        """Until the time is over."""
        return 60.0 * self.max_minutes - spent_s if self.max_minutes else math.inf

    @classmethod
    def from_grader_config(cls, config: GraderConfig, train: TrainConfig) -> "LoopOptions":
        return cls(config.patience_epochs, save_every_minutes=train.save_every_minutes, on_nonfinite=train.on_nonfinite)


@dataclass
class LoopProgress:
    """All that the loop remembers besides the state; saved with every checkpoint."""

    round: int = 0  # rounds completed
    step: int = 0  # steps of the next round completed
    best_score: float = float("-inf")
    best_round: int = 0
    seconds: float = 0.0  # spent up to the last round's end, in this and earlier sessions
    skipped: int = 0  # steps left out because they were not finite
    skipped_in_a_row: int = 0

    @classmethod
    def restored(cls, saved: dict[str, Any], directory: Path) -> "LoopProgress":
        """As it was saved.

        Raises:
            CheckpointError: By another version of this program.
        """
        try:
            return cls(**saved)
        except TypeError as error:
            found, action = f"a checkpoint of another version: {error}", "train again in another --workdir"
            raise CheckpointError(directory, found, "the progress that this version saves", action) from error

    def observe(self, score: float, min_delta: float) -> None:
        if score > self.best_score + min_delta:
            self.best_score, self.best_round = score, self.round

    def finished(self, rounds: RoundPlan, stopping: LoopOptions) -> bool:
        if self.step:
            return False
        patience_over = self.round - self.best_round >= stopping.patience_rounds
        time_over = stopping.max_minutes > 0 and self.seconds >= 60.0 * stopping.max_minutes
        return self.round >= rounds.max_rounds or (self.round > 0 and (patience_over or time_over))

    def should_validate(self, rounds: RoundPlan, stopping: LoopOptions) -> bool:
        """Whether a round has just ended that is to be validated."""
        return not self.step and (not self.round % stopping.eval_every_rounds or self.finished(rounds, stopping))


def fit(
    state: Any,
    *,
    rounds: RoundPlan,
    stopping: LoopOptions,
    steps: Mapping[str, StepFunction],
    diagnostics: Mapping[str, Callable[[Any, Batch], dict[str, Array]]],
    batches: Callable[[int], Iterator[Batch]],
    validate: Callable[[Any], ValidationResult],
    names: Callable[[Batch], list[str]],
    checkpoints: Checkpoints,
    make_log: Callable[[int], RunLog],
    task: ProgressTask,
) -> LoopProgress:
    """Trains to the end, from the latest checkpoint where there is one, exactly as if it had not stopped there.

    Args:
        state: The state to start from where there is no checkpoint.
        rounds: The order of the steps.
        stopping: When to look, log, save and stop.
        steps: Phase -> its step, which may use up the state that it is given.
        diagnostics: Phase -> further figures, computed before a logged step only, for they cost more than it does.
        batches: Step -> the endless stream of training batches from that step on.
        validate: State -> how it does on the validation images.
        names: The names of a batch's images.
        checkpoints: Where the latest and the best state are kept.
        make_log: Step -> a log that keeps what was written up to that step.
        task: Shown progress.

    Returns:
        The final progress; the best state is in `checkpoints`.

    Raises:
        CheckpointError: The latest checkpoint is of another architecture, or of more rounds than asked for.
        FloatingPointError: A loss, a gradient or the validation score is not a finite number; that state is not saved.
        Interrupted: A signal has come; the state is saved.
    """
    state, progress = restore_latest(state, rounds, checkpoints)
    if progress.finished(rounds, stopping):
        return progress
    start_s, saved_s = time.monotonic() - progress.seconds, time.monotonic()
    step, plan = progress.round * rounds.steps_per_round + progress.step, list(rounds.steps())
    skip, directory = stopping.on_nonfinite == "skip", checkpoints.directory.parent
    watch = NonfiniteWatch(directory, names, skip=skip, skipped=progress.skipped, in_a_row=progress.skipped_in_a_row)
    stream = batches(step)
    losses: dict[str, Any] = {}
    if step:
        print(f"  goes on from step {step} of {rounds.total_steps}", flush=True)

    def save(score: float | None) -> float:
        watch.check_pending(state)
        progress.skipped, progress.skipped_in_a_row = watch.skipped, watch.in_a_row
        log.sync()
        checkpoints.save(step, state, dataclasses.asdict(progress), score)
        return time.monotonic()

    with make_log(step) as log, STOP.deferred():
        while not progress.finished(rounds, stopping):
            phase, i = plan[progress.step]
            batch, logged = next(stream), i % stopping.log_every_steps == 0
            watch.check_pending(state)
            more = diagnostics[phase](state, batch) if logged and phase in diagnostics else {}
            state, metrics = steps[phase](state, batch)
            step += 1
            watch.record(step, phase, batch, metrics)
            if logged:
                watch.check_pending(state)
                figures = {name: value for name, value in metrics.items() if name != "finite"}
                losses |= log.write(step, phase, figures | more, round=progress.round + 1)
            task.update(step, describe_progress(progress, losses), most_s=stopping.seconds_left(time.monotonic() - start_s))
            progress.step += 1
            if progress.step == rounds.steps_per_round:
                progress.round, progress.step = progress.round + 1, 0
                progress.seconds = broadcast_from_first(time.monotonic() - start_s)
            signum, due = agree_on_interruption(step, 0 < 60.0 * stopping.save_every_minutes <= time.monotonic() - saved_s)
            if progress.should_validate(rounds, stopping):
                watch.check_pending(state)
                seen = validate(state)
                progress.seconds = broadcast_from_first(time.monotonic() - start_s)
                _require_finite(seen.score, step)
                progress.observe(seen.score, stopping.min_delta)
                skipped = {"skipped_steps": watch.skipped} if skip else {}
                log.write(step, "val", seen.figures | skipped, seconds=progress.seconds, round=progress.round)
                log.write_images(step, "val", seen.pictures)
                saved_s = save(seen.score)
            elif signum or due:
                saved_s = save(None)
            if signum:
                checkpoints.wait()
                raise Interrupted(signum, f"saved at step {step}")
    return progress


def describe_progress(progress: LoopProgress, figures: Mapping[str, Any]) -> str:
    """What a person who watches wants to know; of losses the last that were logged, so that no step waits for them."""
    losses = [f"{name.replace('_', ' ')} {figures[name]:.4g}" for name in SHOWN if figures.get(name) is not None]
    best = [f"best score {progress.best_score:.4f}"] if progress.best_round else []
    return ", ".join([*losses, f"round {progress.round + 1}", *best])


def restore_latest(state: Any, rounds: RoundPlan, checkpoints: Checkpoints) -> tuple[Any, LoopProgress]:
    """The latest checkpoint, or the given state and no progress where there is none; see `fit`."""
    if checkpoints.latest_step is None:
        return state, LoopProgress()
    state, saved = checkpoints.restore(checkpoints.latest_step, state)
    progress = LoopProgress.restored(saved, checkpoints.directory)
    if progress.round + (progress.step > 0) > rounds.max_rounds:
        trained = f"{progress.round} rounds" + (f" and {progress.step} steps" if progress.step else "")
        found, expected = f"a network trained for {trained}", f"at most {rounds.max_rounds}, as the config says"
        raise CheckpointError(checkpoints.directory, found, expected, "raise that number, or use another --workdir")
    return state, progress


def agree_on_interruption(step: int, due: bool) -> tuple[int, bool]:
    """The signal that asks for the end, 0 for none, and whether it is time to save.

    Several processes must agree, and so ask each other, which takes its time: after each tenth step.
    """
    if jax.process_count() == 1:
        return STOP.signum, due
    if step % AGREE_EVERY_STEPS:
        return 0, False
    answers = all_gather((STOP.signum, due))
    return max(signum for signum, _ in answers), answers[0][1]


def _require_finite(score: float, step: int) -> None:
    if not math.isfinite(score):
        raise FloatingPointError(
            f"the validation score at step {step} is {score}: training has diverged; the checkpoints from before it are "
            f"kept. A smaller learning rate or optim.clip_norm may help."
        )

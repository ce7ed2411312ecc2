"""The loop that graders and Algorithm 1 share: side effects only (iterate, log, save, stop); mathematics is in `method/`."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array

from pldmlt_jax.config import GraderConfig, TrainConfig
from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.progress import Task
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.log import RunLog
from pldmlt_jax.training.processes import of_first
from pldmlt_jax.types import Batch

StepFunction = Callable[[Any, Batch], tuple[Any, dict[str, Array]]]
"""(state, batch) -> (state, metrics)."""


@dataclass(frozen=True)
class Rounds:
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


def algorithm_rounds(config: TrainConfig, steps_per_epoch: int, *, label_update: bool) -> Rounds:
    """Algorithm 1: `theta_units` of (A), then `label_units` of (B); without the label update there is no (B).

    With `same_batch`, `theta_units` of both in one.
    """
    steps = {"epoch": steps_per_epoch, "step": 1}[config.unit]
    if config.same_batch:
        return Rounds((("both", config.theta_units * steps),), config.max_rounds)
    phases = (("theta", config.theta_units * steps), ("label", config.label_units * steps))
    return Rounds(phases if label_update else phases[:1], config.max_rounds)


@dataclass(frozen=True)
class Stopping:
    """When to look, log, save and stop."""

    patience_rounds: int
    min_delta: float = 0.0
    max_minutes: float = 0.0  # 0 = no limit
    eval_every_rounds: int = 1
    log_every_steps: int = 10

    @classmethod
    def of_training(cls, config: TrainConfig) -> "Stopping":
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})

    @classmethod
    def of_grader(cls, config: GraderConfig) -> "Stopping":
        return cls(patience_rounds=config.patience_epochs)


@dataclass
class Progress:
    """What early stopping remembers; saved with every checkpoint."""

    round: int = 0  # rounds completed
    best_score: float = float("-inf")
    best_round: int = 0
    seconds: float = 0.0  # spent in this and earlier sessions

    def observe(self, score: float, min_delta: float) -> None:
        if score > self.best_score + min_delta:
            self.best_score, self.best_round = score, self.round

    def finished(self, rounds: Rounds, stopping: Stopping) -> bool:
        patience_over = self.round - self.best_round >= stopping.patience_rounds
        time_over = stopping.max_minutes > 0 and self.seconds >= 60.0 * stopping.max_minutes
        return self.round >= rounds.max_rounds or (self.round > 0 and (patience_over or time_over))


def fit(
    state: Any,
    *,
    rounds: Rounds,
    stopping: Stopping,
    steps: Mapping[str, StepFunction],
    diagnostics: Mapping[str, Callable[[Any, Batch], dict[str, Array]]],
    batches: Callable[[int], Iterator[Batch]],
    validate: Callable[[Any], tuple[float, dict]],
    checkpoints: Checkpoints,
    make_log: Callable[[int], RunLog],
    task: Task,
) -> Progress:
    """Trains to the end, from the latest checkpoint where there is one.

    Args:
        state: The state to start from where there is no checkpoint.
        rounds: The order of the steps.
        stopping: When to look, log, save and stop.
        steps: Phase -> its step, which may use up the state that it is given.
        diagnostics: Phase -> further figures, computed before a logged step only, for they cost more than it does.
        batches: Step -> the endless stream of training batches from that step on.
        validate: State -> the score that is maximised, and flat figures to log.
        checkpoints: Where the latest and the best state are kept.
        make_log: Step -> a log that keeps what was written up to that step.
        task: Shown progress.

    Returns:
        The final progress; the best state is in `checkpoints`.

    Raises:
        CheckpointError: The latest checkpoint is of another architecture, or of more rounds than asked for.
        FloatingPointError: The validation score is not a finite number; that state is not saved.
    """
    progress = Progress()
    if checkpoints.latest_step is not None:
        state, saved = checkpoints.restore(checkpoints.latest_step, state)
        progress = Progress(**saved)
        if progress.round > rounds.max_rounds:
            found, expected = (
                f"a network trained for {progress.round} rounds",
                f"at most {rounds.max_rounds}, as the config says",
            )
            raise CheckpointError(checkpoints.directory, found, expected, "raise that number, or use another --workdir")
    start_s = time.monotonic() - progress.seconds
    step = progress.round * rounds.steps_per_round
    if progress.finished(rounds, stopping):
        return progress
    stream = batches(step)
    with make_log(step) as log:
        while not progress.finished(rounds, stopping):
            for phase, i in rounds.steps():
                batch, logged = next(stream), i % stopping.log_every_steps == 0
                more = diagnostics[phase](state, batch) if logged and phase in diagnostics else {}
                state, metrics = steps[phase](state, batch)
                step += 1
                if logged:
                    log.write(step, phase, metrics | more, round=progress.round + 1)
                task.update(step, f"round {progress.round + 1}, best {progress.best_score:.4f}")
            progress.round += 1
            progress.seconds = of_first(time.monotonic() - start_s)
            if progress.round % stopping.eval_every_rounds and not progress.finished(rounds, stopping):
                continue
            score, values = validate(state)
            progress.seconds = of_first(time.monotonic() - start_s)
            if not math.isfinite(score):
                raise FloatingPointError(
                    f"the validation score at step {step} is {score}: training has diverged; the checkpoints from before "
                    f"it are kept. A smaller learning rate or optim.clip_norm may help."
                )
            progress.observe(score, stopping.min_delta)
            log.write(step, "val", values | {"seconds": progress.seconds}, round=progress.round)
            checkpoints.save(step, state, dataclasses.asdict(progress), score)
    return progress

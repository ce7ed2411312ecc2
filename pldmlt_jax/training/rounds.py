"""The order of the training steps, and when the loop validates, saves and stops."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pldmlt_jax.config import GraderConfig, TrainConfig
from pldmlt_jax.errors import CheckpointError


@dataclass(frozen=True)
class RoundPlan:
    """The order of the steps: each round runs its phases one after the other.

    Attributes:
        phases: Name of each phase and its number of steps in a round.
        max_rounds: Rounds after which training ends.
    """

    phases: tuple[tuple[str, int], ...]
    max_rounds: int

    @property
    def steps_per_round(self) -> int:
        """Steps of all phases in one round."""
        return sum(steps for _, steps in self.phases)

    @property
    def total_steps(self) -> int:
        """Steps of all phases in all rounds."""
        return self.steps_per_round * self.max_rounds

    @property
    def theta_steps(self) -> int:
        """Steps of the first phase, which trains theta, in all rounds."""
        return self.phases[0][1] * self.max_rounds

    def phase_at(self, step: int) -> tuple[str, int]:
        """Returns the phase of a step of a round, counted from 0, and the step's position in the phase."""
        for phase, steps in self.phases:
            if step < steps:
                return phase, step
            step -= steps
        raise ValueError(f"a round has {self.steps_per_round} steps")


def plan_rounds(config: TrainConfig, steps_per_epoch: int, *, label_update: bool) -> RoundPlan:
    """Plans the rounds of Algorithm 1: `theta_units` of phase (A), then `label_units` of phase (B).

    Args:
        config: Lengths of the phases, in epochs or steps.
        steps_per_epoch: Steps in which each training image is seen once.
        label_update: Whether the label network is trained; if not, there is no phase (B).
    """
    steps = {"epoch": steps_per_epoch, "step": 1}[config.unit]
    phases = (("theta", config.theta_units * steps), ("label", config.label_units * steps))
    return RoundPlan(phases if label_update else phases[:1], config.max_rounds)


@dataclass(frozen=True)
class LoopOptions:
    """When the loop validates, logs, saves and stops; the fields are those of `TrainConfig`."""

    patience_rounds: int
    min_delta: float = 0.0
    max_minutes: float = 0.0  # 0 = no limit
    eval_every_rounds: int = 1
    log_every_steps: int = 10
    save_every_minutes: float = 0.0  # 0 = only after a validation
    on_nonfinite: str = "stop"  # or "skip"

    @classmethod
    def from_train_config(cls, config: TrainConfig) -> "LoopOptions":
        """Returns the options for the multi-task network."""
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})

    @classmethod
    def from_grader_config(cls, config: GraderConfig, train: TrainConfig) -> "LoopOptions":
        """Returns the options for a grader: a round is an epoch, and it shares two fields with the network's training."""
        return cls(config.patience_epochs, save_every_minutes=train.save_every_minutes, on_nonfinite=train.on_nonfinite)

    def seconds_left(self, spent_s: float) -> float:
        """Returns the time until `max_minutes` are over; infinity without a limit."""
        return 60.0 * self.max_minutes - spent_s if self.max_minutes else math.inf


@dataclass
class LoopProgress:
    """The progress of the loop. It is saved with every checkpoint, so the names of its fields are a file format."""

    round: int = 0  # completed rounds
    step: int = 0  # completed steps of the round after them
    best_score: float = float("-inf")
    best_round: int = 0
    seconds: float = 0.0  # training time of all sessions up to the end of the last round
    skipped: int = 0  # steps skipped because they were not finite
    skipped_in_a_row: int = 0

    @classmethod
    def from_saved(cls, saved: dict[str, Any], directory: Path) -> "LoopProgress":
        """Returns the progress that was saved with a checkpoint.

        Raises:
            CheckpointError: Another version of this program saved it, with other fields.
        """
        try:
            return cls(**saved)
        except TypeError as error:
            found, action = f"a checkpoint of another version: {error}", "train again in another --workdir"
            raise CheckpointError(directory, found, "the progress that this version saves", action) from error

    def count_steps(self, rounds: RoundPlan) -> int:
        """Returns the number of completed steps in all rounds."""
        return self.round * rounds.steps_per_round + self.step

    def complete_step(self, rounds: RoundPlan) -> bool:
        """Counts one more step, and returns whether a round has ended with it."""
        self.step += 1
        if self.step < rounds.steps_per_round:
            return False
        self.round, self.step = self.round + 1, 0
        return True

    def record_score(self, score: float, min_delta: float) -> None:
        """Keeps the score of the last round if it exceeds the best one by more than `min_delta`."""
        if score > self.best_score + min_delta:
            self.best_score, self.best_round = score, self.round

    def is_finished(self, rounds: RoundPlan, options: LoopOptions) -> bool:
        """Tells whether training ends here: after a complete round, because of max_rounds, patience or time."""
        if self.step:
            return False
        patience_over = self.round - self.best_round >= options.patience_rounds
        time_over = options.max_minutes > 0 and self.seconds >= 60.0 * options.max_minutes
        return self.round >= rounds.max_rounds or (self.round > 0 and (patience_over or time_over))

    def should_validate(self, rounds: RoundPlan, options: LoopOptions) -> bool:
        """Tells whether a round has just ended and the state is to be validated."""
        return not self.step and (not self.round % options.eval_every_rounds or self.is_finished(rounds, options))

"""The loop: order of the rounds, early stopping, and resuming exactly where it stopped."""

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from training.event_file import written

from pldmlt_jax.config import TrainConfig
from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.io.progress import ProgressTask
from pldmlt_jax.io.signals import STOP, Interrupted
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.log import RunLog, read_log
from pldmlt_jax.training.loop import ValidationResult, fit
from pldmlt_jax.training.rounds import LoopOptions, RoundPlan, plan_rounds


def test_rounds_of_algorithm_1():
    config = TrainConfig(unit="epoch", theta_units=2, label_units=1, max_rounds=3)
    rounds = plan_rounds(config, 5, label_update=True)
    assert [rounds.phase_at(i)[0] for i in range(rounds.steps_per_round)] == ["theta"] * 10 + ["label"] * 5
    assert rounds.total_steps == 45
    assert plan_rounds(config, 5, label_update=False).steps_per_round == 10


def run(directory: Path, rounds: RoundPlan, scores: list[float], patience: int = 100, stop_after: int = 0, **when: Any):
    """A state that sums what the stream gives; the score of round r is scores[r - 1]; a signal comes after some steps."""
    seen: list[int] = []

    def batches(step: int) -> Iterator[int]:
        while True:
            seen.append(step)
            yield step
            step += 1

    def step(state, batch):
        if stop_after and len(seen) == stop_after:
            STOP.signum = signal.SIGTERM
        return {"sum": state["sum"] * 1.5 + batch, "count": state["count"] + 1}, {"value": state["sum"]}

    def evaluate(state):
        round_ = int(state["count"]) // rounds.steps_per_round
        return ValidationResult(
            scores[round_ - 1], {"val/score": scores[round_ - 1]}, {"eye": np.full((4, 6, 3), round_, np.uint8)}
        )

    start = {"sum": jnp.zeros(()), "count": jnp.zeros((), jnp.int32)}
    with Checkpoints(directory / "checkpoints") as checkpoints:
        progress = fit(
            start,
            rounds=rounds,
            options=LoopOptions(patience_rounds=patience, log_every_steps=1, **when),
            steps={"a": step, "b": step},
            diagnostics={},
            batches=batches,
            evaluate=evaluate,
            checkpoints=checkpoints,
            make_log=lambda at: RunLog(directory, at, text="    seed = 0"),
            image_names=lambda batch: [str(batch)],
            task=ProgressTask("test", None, rounds.total_steps),
        )
    with Checkpoints(directory / "checkpoints") as checkpoints:
        assert checkpoints.latest_step is not None
        state, _ = checkpoints.restore(checkpoints.latest_step, start)
        best = checkpoints.best_step
    return state, progress, best, seen


def test_stopped_and_resumed_equals_uninterrupted(tmp_path):
    phases = (("a", 3), ("b", 1))
    scores = [0.1, 0.5, 0.3, 0.2]
    whole = run(tmp_path / "whole", RoundPlan(phases, 4), scores)
    run(tmp_path / "parts", RoundPlan(phases, 2), scores)
    resumed = run(tmp_path / "parts", RoundPlan(phases, 4), scores)
    assert float(resumed[0]["sum"]) == float(whole[0]["sum"])
    assert resumed[3][0] == 8  # the stream goes on where it stopped
    assert resumed[2] == whole[2] == 8  # the best checkpoint is that of round 2
    assert resumed[1].best_round == whole[1].best_round == 2

    assert (tmp_path / "parts" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
    assert written(tmp_path / "parts") == written(tmp_path / "whole")


@pytest.fixture
def no_signal() -> Iterator[None]:
    """Signals come when a test says so."""
    yield
    STOP.signum = 0


EVERY_SECOND, ALL_THE_TIME = {"eval_every_rounds": 2}, {"save_every_minutes": 1e-9}


@pytest.mark.parametrize(
    ("stop_after", "when"),
    [(1, {}), (3, EVERY_SECOND), (4, {}), (4, EVERY_SECOND), (7, ALL_THE_TIME), (11, {})],
    ids=["first step", "end of a phase", "end of a round", "of one that is not looked at", "saving each step", "later"],
)
def test_stopped_at_any_step_equals_uninterrupted(tmp_path, no_signal, stop_after, when):
    """State, order of the data, log, early stopping and best checkpoint; stopped twice, so many steps apart."""
    rounds, scores = RoundPlan((("a", 3), ("b", 1)), 9), [0.1, 0.2, 0.5, 0.5, 0.3, 0.2, 0.1, 0.0, 0.0]
    whole = run(tmp_path / "whole", rounds, scores, patience=3, **when)
    for _ in range(2):
        STOP.signum = 0
        with pytest.raises(Interrupted, match="saved at step"):
            run(tmp_path / "parts", rounds, scores, patience=3, stop_after=stop_after, **when)
    STOP.signum = 0
    resumed = run(tmp_path / "parts", rounds, scores, patience=3, **when)
    assert resumed[0] == whole[0]
    assert whole[3][-1] - whole[3][0] > resumed[3][-1] - resumed[3][0] and resumed[3][-1] == whole[3][-1]
    assert resumed[2] == whole[2]
    assert dataclasses.replace(resumed[1], seconds=0.0) == dataclasses.replace(whole[1], seconds=0.0)
    assert (tmp_path / "parts" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
    assert written(tmp_path / "parts") == written(tmp_path / "whole")


def test_fewer_rounds_than_were_trained_are_refused(tmp_path):
    run(tmp_path, RoundPlan((("a", 1),), 3), [0.1, 0.2, 0.3])
    with pytest.raises(CheckpointError, match="trained for 3 rounds"):
        run(tmp_path, RoundPlan((("a", 1),), 2), [0.1, 0.2, 0.3])


class Unread:
    """A figure that is still being computed: whoever reads it waits for it."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise AssertionError("read")

    __float__ = __format__ = __array__


def test_shown_losses_are_the_logged_ones_and_no_other_is_waited_for(tmp_path):
    notes: list[str] = []

    class Watched(ProgressTask):
        def update(self, done: int, note: str = "", **_: Any) -> None:
            notes.append(note)

    def step(state, batch):
        losses = {"a": {"loss": 0.25 + batch}, "b": {"meta_loss": 0.5}}
        return state, losses[batch_phases[batch]] if batch % 4 in (0, 3) else {"loss": Unread()}

    batch_phases = ["a", "a", "a", "b"] * 2
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        fit(
            {"x": jnp.zeros(())},
            rounds=RoundPlan((("a", 3), ("b", 1)), 2),
            options=LoopOptions(patience_rounds=9, log_every_steps=3),
            steps={"a": step, "b": step},
            diagnostics={},
            batches=lambda step: iter(range(step, 8)),
            evaluate=lambda state: ValidationResult(0.5, {}),
            checkpoints=checkpoints,
            make_log=lambda at: RunLog(tmp_path, at),
            image_names=lambda batch: [str(batch)],
            task=Watched("test", None, 8),
        )
    first, second = "loss 0.25, round 1", "loss 4.25, meta loss 0.5, round 2, best score 0.5000"
    assert notes == [first, first, first, "loss 0.25, meta loss 0.5, round 1", second, second, second, second]


def test_patience_ends_training(tmp_path):
    _, progress, best, _ = run(tmp_path, RoundPlan((("a", 1),), 9), [0.1, 0.5, 0.3, 0.2, 0.1, 0, 0, 0, 0], patience=3)
    assert (progress.round, progress.best_round, best) == (5, 2, 2)


def test_half_written_last_log_line_is_dropped(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "phase": "theta"}\n{"step": 2, "pha', encoding="utf-8")
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "phase": "theta"}]


def test_checkpoint_of_another_architecture_lists_what_differs(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}, {"round": 1}, 0.5)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(3, {"kernel": np.zeros((3, 4)), "scale": np.zeros(2)})
    for part in ("kernel: (3, 2) saved, (3, 4) expected", "bias", "scale"):
        assert part in str(error.value)


def test_no_checkpoint_is_a_clear_error(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoints.require_best_step()


def test_score_that_is_no_number_ends_training_and_keeps_the_best_checkpoint(tmp_path):
    rounds = RoundPlan((("a", 2), ("b", 1)), max_rounds=4)
    with pytest.raises(FloatingPointError, match="step 9"):
        run(tmp_path, rounds, [0.1, 0.3, float("nan"), 0.2])
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert (checkpoints.best_step, checkpoints.latest_step) == (6, 6)

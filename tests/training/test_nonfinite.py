"""A step that is not finite stops the loop with all that is needed to look into it, or is counted."""

import itertools
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.io.progress import ProgressTask
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.log import RunLog, read_log
from pldmlt_jax.training.loop import ValidationResult, fit
from pldmlt_jax.training.nonfinite import MAX_SKIPPED_IN_A_ROW, NONFINITE_FOLDER
from pldmlt_jax.training.rounds import LoopOptions, RoundPlan


def run(directory: Path, bad: set[int], *, skip: bool = False, log_every: int = 1, rounds: int = 3) -> Any:
    """Five steps a round on batches that are called after their step; the bad ones have a loss that is no number."""

    def batches(step: int):
        return ({"number": np.array(number)} for number in itertools.count(step + 1))

    def step(state, batch):
        fine = int(batch["number"]) not in bad
        new = {"sum": state["sum"] + (int(batch["number"]) if fine else 0)}
        loss = jnp.float32(0.5 if fine else jnp.nan)
        return new, {"loss": loss, "grad_norm": jnp.float32(1.0), "finite": jnp.isfinite(loss)}

    plan = RoundPlan((("theta", 5),), rounds)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        return fit(
            {"sum": jnp.zeros(())},
            rounds=plan,
            options=LoopOptions(100, log_every_steps=log_every, on_nonfinite="skip" if skip else "stop"),
            steps={"theta": step},
            diagnostics={},
            batches=batches,
            evaluate=lambda state: ValidationResult(0.0, {}),
            image_names=lambda batch: [f"image {batch['number']}"],
            checkpoints=checkpoints,
            make_log=lambda at: RunLog(directory, at),
            task=ProgressTask("test", None, plan.total_steps),
        )


@pytest.mark.parametrize("log_every", [1, 5], ids=["seen at once", "seen a step later"])
@pytest.mark.parametrize("bad", [8, 10], ids=["within a round", "before a validation"])
def test_it_stops_with_step_images_and_the_state_from_before(tmp_path, bad, log_every):
    with pytest.raises(
        FloatingPointError, match=rf"step {bad} \(theta\): loss not finite on the images image {bad}\."
    ) as error:
        run(tmp_path, {bad}, log_every=log_every)
    folder = tmp_path / NONFINITE_FOLDER / str(bad)
    assert str(folder) in str(error.value)
    facts = json.loads((folder / "step.json").read_text())
    assert facts["step"] == bad and facts["images"] == [f"image {bad}"] and facts["figures"]["loss"] is None
    with np.load(folder / "batch.npz") as batch:
        assert [int(batch[name]) for name in batch.files] == [bad]
    with Checkpoints(folder / "checkpoints") as saved:
        state, _ = saved.restore(bad - 1, {"sum": jnp.zeros(())})
    assert float(state["sum"]) == sum(range(1, bad))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step == 5
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()


def test_skipped_steps_are_counted_and_leave_no_trace_in_the_state(tmp_path):
    progress = run(tmp_path, {2, 3, 9}, skip=True)
    assert (progress.skipped, progress.skipped_in_a_row) == (3, 0)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, saved = checkpoints.restore(15, {"sum": jnp.zeros(())})
    assert float(state["sum"]) == sum(range(1, 16)) - 2 - 3 - 9
    assert saved["skipped"] == 3
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["skipped_steps"] for line in lines if line["phase"] == "val"] == [2, 3, 3]
    assert [line["step"] for line in lines if line.get("loss", 0) is None] == [2, 3, 9]


def test_too_many_in_a_row_stop_it_even_so(tmp_path):
    with pytest.raises(
        FloatingPointError, match=f"step {3 + MAX_SKIPPED_IN_A_ROW} .*as in the {MAX_SKIPPED_IN_A_ROW - 1} steps before"
    ):
        run(tmp_path, set(range(4, 100)), skip=True, rounds=20)

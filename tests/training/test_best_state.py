"""The best state in memory is the best checkpoint's, and there is none of an earlier session."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from pldmlt_jax.training.best_state import CheckpointsWithBest


def keep(state: dict) -> dict:
    return {"params": state["params"]}


def test_best_state_in_memory_is_that_of_the_best_checkpoint(tmp_path: Path) -> None:
    with CheckpointsWithBest(tmp_path, {}, keep) as checkpoints:
        for step, score in ((1, 0.1), (2, 0.5), (3, None), (4, 0.3)):
            state = {"params": jnp.full(3, float(step)), "opt_state": jnp.zeros(3)}
            checkpoints.save(step, state, {}, score)
        best = checkpoints.best_in_memory()
        assert best is not None and best.keys() == {"params"}
        restored, _ = checkpoints.restore(checkpoints.require_best_step(), state)
        np.testing.assert_array_equal(best["params"], restored["params"])
        np.testing.assert_array_equal(best["params"], [2.0] * 3)


def test_a_best_state_of_an_earlier_session_is_not_in_memory(tmp_path: Path) -> None:
    with CheckpointsWithBest(tmp_path, {}, keep) as checkpoints:
        checkpoints.save(1, {"params": jnp.ones(3)}, {}, 0.9)
    with CheckpointsWithBest(tmp_path, {}, keep) as checkpoints:
        checkpoints.save(2, {"params": jnp.zeros(3)}, {}, 0.2)
        assert checkpoints.best_in_memory() is None

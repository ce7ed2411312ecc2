"""Several devices equal one, in both modes; checkpoints move between them; how a batch is shared out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.config import Config, ParallelConfig
from pldmlt_jax.config_checks import validate_config
from pldmlt_jax.errors import ConfigError, UserError
from pldmlt_jax.io.processes import all_gather, merge_rows, sum_over_processes, take_own_share
from pldmlt_jax.training.parallel import Devices, select_local_devices, select_training_devices

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

CASES = (
    "dice_ce maxl both_steps, mesh of 8",
    "dice_ce maxl both_steps, pmap of 8",
    "dice_ce maxl eval_step, mesh of 8",
    "dice_ce maxl eval_step, pmap of 8",
    "dice_ce maxl both_steps, mesh of 2, parameters in parts",
    "focal paper in microbatches train_step, mesh of 2",
    "focal paper in microbatches train_step, pmap of 2",
    "focal paper in microbatches meta_step, mesh of 2",
    "focal paper in microbatches meta_step, pmap of 2",
    "focal paper in microbatches both_diagnostics, pmap of 2",
    "grader_step, mesh of 2",
    "grader_step, pmap of 8",
    "grader_eval, pmap of 2",
    "input kept by the caller",
    "input used up",
    "went on with 2 devices",
    "restored on 1 device",
    "went on with 1 device",
    "went on with 8 devices",
    "compilations of another run",
    "compilations were not counted",
)


@pytest.fixture(scope="module")
def differences(tmp_path_factory) -> dict[str, float]:
    """Of everything that `parallel_program.py` compares, on eight devices that XLA makes of this processor."""
    file = tmp_path_factory.mktemp("parallel") / "differences.json"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, str(ROOT / "tests/training/parallel_program.py"), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_devices_together_equal_one(case, differences):
    """In float64 under SGD; the grader computes in float32."""
    assert differences[case] < (5e-5 if case.startswith("grader") else 1e-11)


def test_every_comparison_is_looked_at(differences):
    assert set(differences) == set(CASES)


def only_device(mode: str = "mesh") -> Devices:
    return select_local_devices(ParallelConfig(mode, 1))


@pytest.mark.parametrize("mode", ["mesh", "pmap"])
def test_step_uses_up_its_own_copy_of_the_state_only(mode):
    state, batch = {"sum": jnp.arange(6.0).reshape(2, 3), "same": jnp.ones(())}, np.ones((4, 3), np.float32)
    state["twice"] = state["sum"]  # as a fresh average of the parameters is them

    def step(state, batch):
        return {**state, "sum": state["sum"] + batch.sum()}, {"value": batch.mean()}

    devices = only_device(mode)
    program, placed = devices.make_training_step(step), devices.put_state(state)
    after, metrics = program(placed, devices.put_batch(batch))
    assert placed["sum"].is_deleted() and not state["sum"].is_deleted()
    np.testing.assert_array_equal(after["sum"], state["sum"] + 12.0)
    np.testing.assert_array_equal(after["twice"], state["twice"])
    assert float(metrics["value"]) == 1.0
    assert devices.make_training_step(step) is program


@pytest.mark.parametrize("mode", ["mesh", "pmap"])
def test_evaluation_gives_rows_in_order_and_scalars(mode):
    devices, rows = only_device(mode), np.arange(12.0, dtype=np.float32).reshape(4, 3)
    doubled, total = devices.make_evaluation(lambda state, batch: (2 * batch, batch.sum()))({}, devices.put_batch(rows))
    np.testing.assert_array_equal(doubled, 2 * rows)
    assert isinstance(doubled, np.ndarray) and float(total) == rows.sum()


def test_more_devices_than_there_are_is_told():
    with pytest.raises(ConfigError, match=r"parallel.num_devices: 64"):
        select_training_devices(ParallelConfig(num_devices=64), 64, "train.batch_size")
    with pytest.raises(ConfigError, match=r"parallel.num_devices: 64"):
        select_local_devices(ParallelConfig(num_devices=64))


def test_batch_is_filled_up_for_devices_that_do_not_divide_it():
    class Mesh:
        size, local_devices = 8, range(4)  # two processes of four devices

    devices = Devices(Mesh())  # type: ignore[arg-type]
    assert [devices.batch_size_per_process(n) for n in (1, 8, 9, 16)] == [4, 4, 8, 8]
    assert devices.num_processes == 2


def test_largest_axis_that_divides_is_split():
    class Mesh(jax.sharding.AbstractMesh):
        local_devices = range(4)

    def split(*shape: int) -> tuple:
        return tuple(Devices(mesh, shard_params=True).state_sharding(jax.ShapeDtypeStruct(shape, jnp.float32)).spec)

    mesh = Mesh((4,), ("devices",))
    assert split(3, 3, 64, 128) == (None, None, None, "devices")
    assert split(3, 3, 64, 30) == (None, None, "devices", None)
    assert split(3, 3, 6, 5) == (None, None, None, None)
    assert split(128) == (None,)


def test_one_process_has_all():
    counts = {"px": np.int64(2**40), "sums": np.ones(3)}
    assert all_gather(counts)[0] is counts and len(all_gather(counts)) == 1
    jax.tree.map(np.testing.assert_array_equal, sum_over_processes(counts), counts)
    assert merge_rows({3: "b", 1: "a"}) == ["a", "b"]
    assert list(take_own_share(range(5))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig("pmap", shard_params=True),
        ParallelConfig("pmap", coordinator="host:1", num_processes=2),
        ParallelConfig("shard_map"),
        ParallelConfig(num_processes=2),
        ParallelConfig(coordinator="host:1"),
        ParallelConfig(coordinator="host:1", num_processes=2, process_id=2),
    ],
)
def test_what_makes_no_sense_is_refused(parallel):
    with pytest.raises(UserError, match=r"parallel\.(mode|coordinator)"):
        validate_config(Config(parallel=parallel))

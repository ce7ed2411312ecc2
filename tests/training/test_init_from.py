"""Fine-tuning: what a network takes from another one, and what it leaves."""

from pathlib import Path

import jax
import numpy as np
import pytest
from evaluation.tiny_network import tiny_config, tiny_network, write_tiny

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.method.state import init_method_state, make_method
from pldmlt_jax.models.weights.checkpoint_io import WEIGHTS
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.init_from import read_best_network, transfer_weights
from pldmlt_jax.workflow.stages.train import list_initial_files, read_initial_network
from tests.method.methods import tiny_method


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A folder of checkpoints, and the variables in it."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    state = init_method_state(tiny_method(dtype="float32"))
    moved = jax.tree.map(lambda leaf: leaf + 1 if leaf.ndim else leaf, state)
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, moved, {}, 0.5)
    return directory, {"params": moved.network.params, "batch_stats": moved.network.batch_stats}


def fresh(**changes) -> dict:
    network = init_method_state(tiny_method(dtype="float32", **changes)).network
    return {"params": network.params, "batch_stats": network.batch_stats}


def equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


def test_all_of_the_same_architecture_is_taken(trained: tuple[Path, dict]) -> None:
    directory, variables = trained
    result = transfer_weights(fresh(), read_best_network(directory), "all")
    assert equal(result.variables, variables)
    assert result.kept == ()
    assert result.num_taken == len(jax.tree.leaves(variables))
    assert result.summary().endswith("none differs")


def test_an_exported_folder_is_a_start_like_a_folder_of_checkpoints(tmp_path: Path) -> None:
    """Its arrays are those that were exported; its one file is what a training that starts from it depends on."""
    config = tiny_config()
    write_tiny(tmp_path, config)
    network = tiny_network(config)
    variables = read_initial_network(tmp_path)
    assert equal(variables["params"], network.state.network.params)
    assert equal(variables["batch_stats"], network.state.network.batch_stats)
    config.train.init_from = str(tmp_path)
    assert list_initial_files(config) == [tmp_path / WEIGHTS]
    own = init_method_state(make_method(tiny_config(seed=1), total_steps=1)).network
    result = transfer_weights({"params": own.params, "batch_stats": own.batch_stats}, variables, "all")
    assert result.kept == () and equal(result.variables["params"], network.state.network.params)
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="export"):
        read_initial_network(tmp_path)


def test_the_encoder_alone(trained: tuple[Path, dict]) -> None:
    directory, variables = trained
    own = fresh()
    result = transfer_weights(own, read_best_network(directory), "encoder")
    assert equal(result.variables["params"]["encoder"], variables["params"]["encoder"])
    for part in ("decoder", "head", "output"):
        assert equal(result.variables["params"][part], own["params"][part])
    assert equal(result.variables["batch_stats"], own["batch_stats"])


def test_differing_heads_and_widths_are_left_whole_and_named(trained: tuple[Path, dict]) -> None:
    """A module of another width keeps its bias too, and its running statistics."""
    directory, variables = trained
    own = fresh(model={"grade_head": "ordinal", "decoder_filters": (8, 6, 4, 4, 3)})
    result = transfer_weights(own, read_best_network(directory), "all")
    kept = {"head", "output", *(f"decoder/stage5_{i}/{part}" for i in (1, 2) for part in ("conv", "norm"))}
    assert set(result.kept) == kept
    assert equal(result.variables["params"]["head"], own["params"]["head"])
    assert equal(result.variables["params"]["decoder"]["stage5_1"], own["params"]["decoder"]["stage5_1"])
    assert equal(result.variables["batch_stats"]["decoder"]["stage5_1"], own["batch_stats"]["decoder"]["stage5_1"])
    assert equal(result.variables["params"]["decoder"]["stage4_2"], variables["params"]["decoder"]["stage4_2"])
    assert all(name in result.summary() for name in sorted(kept)[:6])

"""Damaged checkpoints are found and named, and replaced by an earlier one only on request; nothing is overwritten."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.manifest import DAMAGED, MANIFEST, find_damage


def state(step: int) -> dict:
    kernel = np.random.default_rng(step).standard_normal((30, 20)).astype(np.float32)
    return {"kernel": kernel, "count": np.array(step)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints 1 (the best), 4 and 5."""
    with Checkpoints(tmp_path / "checkpoints", {"name": "tiny"}) as checkpoints:
        for step, score in ((1, 0.9), (3, 0.1), (4, 0.3), (5, 0.2)):
            checkpoints.save(step, state(step), {"round": step}, score)
    return tmp_path / "checkpoints"


def files(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_two_latest_and_the_best_are_kept_whole(folder):
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["1", "4", "5"]
    assert not any(find_damage(folder / step) for step in "145")
    written = json.loads((folder / "5" / MANIFEST).read_text())["files"]
    assert {name for name in files(folder / "5") if name.startswith(("state/", "metrics/", "progress/"))} - set(written) == {
        f"{part}/commit_success.txt" for part in ("state", "metrics", "progress")
    }


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])  # more than the newline of a JSON file


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


WRITTEN_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")
"""Files that Orbax writes after the manifest."""


@pytest.mark.parametrize("harm", [truncated, flipped, emptied, Path.unlink])
def test_harm_to_any_file_is_found_and_named(folder, harm):
    names = [name for name in files(folder / "5") if not name.endswith((MANIFEST, *WRITTEN_LATER))]
    assert len(names) > 8
    for name in names:
        path = folder / "5" / name
        before = path.read_bytes()
        harm(path)
        (found,) = find_damage(folder / "5")
        assert name in found
        path.write_bytes(before)
    assert not find_damage(folder / "5")


@pytest.mark.parametrize("harm", [truncated, emptied])
def test_harm_to_the_manifest_is_found(folder, harm):
    harm(folder / "5" / MANIFEST)
    assert find_damage(folder / "5")[0].startswith(f"{MANIFEST} is damaged")


@pytest.mark.parametrize("harm", [truncated, emptied, Path.unlink])
def test_what_the_manifest_leaves_out_does_not_matter(folder, harm):
    for path in [path for path in (folder / "5").rglob("*") if path.name in WRITTEN_LATER]:
        harm(path)
    with Checkpoints(folder) as checkpoints:
        restored, progress = checkpoints.restore(5, state(5))
    jax.tree.map(np.testing.assert_array_equal, restored, state(5))
    assert progress == {"round": 5} and checkpoints.best_step == 1


def test_orbax_alone_restores_other_numbers_from_a_changed_file(folder):
    """The reason for the manifest, which can go when this fails."""
    flipped(max((folder / "5" / "state").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0))
    (folder / "5" / MANIFEST).unlink()
    with Checkpoints(folder) as checkpoints:
        restored, _ = checkpoints.restore(5, state(5))
    assert not np.array_equal(restored["kernel"], state(5)["kernel"])


def test_damaged_checkpoint_stops_until_fallback_is_asked_for(folder, capsys):
    flipped(next((folder / "5" / "state" / "d").iterdir()))
    before = files(folder)
    with pytest.raises(CheckpointError, match=r"has changed(?s:.*)from step 4: --config.checkpoint.fallback=True") as error:
        Checkpoints(folder)
    assert error.value.where == str(folder / "5")
    assert files(folder) == before
    with Checkpoints(folder, fallback=True) as checkpoints:
        assert (checkpoints.latest_step, checkpoints.best_step) == (4, 1)
        restored, progress = checkpoints.restore(4, state(4))
        np.testing.assert_array_equal(restored["kernel"], state(4)["kernel"])
        assert progress == {"round": 4}
        checkpoints.save(5, state(5), {"round": 5}, 0.2)
    assert "has changed" in capsys.readouterr().out
    aside = {
        f"5/{name.removeprefix(f'{DAMAGED}/5/')}": content for name, content in files(folder).items() if DAMAGED in name
    }
    assert aside == {name: content for name, content in before.items() if name.startswith("5/")}
    assert not find_damage(folder / "5")


def test_second_damage_of_a_step_is_kept_beside_the_first(folder):
    for _ in range(2):
        truncated(folder / "5" / MANIFEST)
        with Checkpoints(folder, fallback=True) as checkpoints:
            checkpoints.save(5, state(5), {"round": 5}, 0.2)
    assert sorted(path.name for path in (folder / DAMAGED).iterdir()) == ["5", "5_2"]


def test_best_checkpoint_gives_way_to_the_next_best(folder):
    (folder / "1" / "metrics" / "metrics").unlink()
    with pytest.raises(CheckpointError, match="metrics/metrics is missing"):
        Checkpoints(folder)
    with Checkpoints(folder, fallback=True) as checkpoints:
        assert checkpoints.best_step == 4


def test_all_are_named_and_nothing_is_touched_where_none_is_left(folder):
    for step in "145":
        truncated(folder / step / "state" / "_METADATA")
    before = files(folder)
    with pytest.raises(Exception, match="train again") as error:
        Checkpoints(folder, fallback=True)
    assert all(str(folder / step) in str(error.value) for step in "145")
    assert files(folder) == before


def test_kill_in_the_middle_of_a_deletion_leaves_no_half_checkpoint(folder, monkeypatch):
    """Orbax moves a superseded checkpoint aside in one step; what is left of it there goes with the next save."""
    with monkeypatch.context() as patch, Checkpoints(folder) as checkpoints:
        patch.setattr(checkpoints, "_remove_deleted", lambda: None)
        checkpoints.save(6, state(6), {"round": 6}, 0.1)
        checkpoints.wait()
    next((folder / "deleted" / "4").rglob("manifest.ocdbt")).unlink()
    with Checkpoints(folder) as checkpoints:
        assert (checkpoints.latest_step, checkpoints.best_step) == (6, 1)
        checkpoints.save(7, state(7), {"round": 7}, 0.1)
    assert not (folder / "deleted").exists()


def test_reading_leaves_the_unfinished_save_of_a_running_training_alone(folder):
    unfinished = folder / "6.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step == 5
    assert unfinished.exists()
    with Checkpoints(folder, {"name": "tiny"}) as checkpoints:
        checkpoints.save(7, state(7), {"round": 7}, 0.1)
    assert not unfinished.exists()


def test_checkpoint_of_an_older_version_without_a_manifest_is_restored(folder):
    (folder / "5" / MANIFEST).unlink()
    with Checkpoints(folder) as checkpoints:
        restored, progress = checkpoints.restore(5, state(5))
    jax.tree.map(np.testing.assert_array_equal, restored, state(5))
    assert progress == {"round": 5}

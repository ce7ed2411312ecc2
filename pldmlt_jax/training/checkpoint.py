"""Orbax checkpoints: the latest ones and the best, each a state with the run's progress and a checksum of every file."""

import asyncio
import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint.options import MultiprocessingOptions

from pldmlt_jax.errors import CheckpointError, raise_all
from pldmlt_jax.io.files import find_disk_error, sync_folder, write_json
from pldmlt_jax.io.processes import is_first_process, run_on_first

SCORE = "score"
"""Key of the metric that ranks checkpoints; the larger the better."""


CONFIG = "config.json"
"""In the folder of the checkpoints: the config that they were trained with, which moves along with them."""

MANIFEST = "manifest.json"
"""In the folder of each checkpoint: the size and the SHA-256 of its files."""

MANIFEST_VERSION = 1

NUM_LATEST = 2
"""So that there is one before the latest to fall back to."""

DAMAGED = "damaged"
"""Below the folder of the checkpoints: where damaged ones go when an earlier one is used in their place."""

METADATA = "_CHECKPOINT_METADATA"

_WRITTEN_LAST = (METADATA, "commit_success.txt")
"""What Orbax writes between our manifest and its renaming: when and where, nothing of the state."""


class _TemporaryFolder(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """Where Orbax collects a checkpoint; it becomes one by being renamed, with its manifest and all of it on the disk."""

    async def finalize(self) -> None:
        final = Path(self.get_final())
        if final.name.isdigit():  # parts of a checkpoint have such folders as well
            await asyncio.to_thread(_write_manifest, Path(self.get()))
        await super().finalize()
        await asyncio.to_thread(sync_folder, final.parent)


def _write_manifest(folder: Path) -> None:
    write_json(folder / MANIFEST, {"version": MANIFEST_VERSION, "files": dict(_checksums(folder, sync=True))})
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)


def _checksums(folder: Path, *, sync: bool = False) -> Iterator[tuple[str, list]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST and path.name not in _WRITTEN_LAST:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                if sync:
                    os.fsync(file.fileno())
            yield path.relative_to(folder).as_posix(), [path.stat().st_size, digest]


def find_damage(folder: Path) -> list[str]:
    """What is wrong with the files of a checkpoint, each by its name; nothing where they are as they were written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        json.loads((folder / METADATA).read_bytes())
        written: Mapping[str, list] = manifest["files"]
        if manifest["version"] != MANIFEST_VERSION:
            return [f"of another version of this program: {MANIFEST_VERSION} expected, {manifest['version']} found"]
        found = dict(_checksums(folder))
        lost = [f"{name} is missing" for name in written if name not in found]
        sizes = [
            f"{name} has {found[name][0]} bytes, {size} were written" if found[name][0] != size else f"{name} has changed"
            for name, (size, digest) in written.items()
            if name in found and found[name] != [size, digest]
        ]
        return [*lost, *sizes, *(f"{name} is not of it" for name in found if name not in written)]
    except OSError as error:
        name = Path(error.filename or folder).name
        older = ", or it is of an older version of this program" if name == MANIFEST else ""
        return [f"{name}: {error.strerror}{older}"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return [f"{MANIFEST} or {METADATA} is damaged: {error}"]


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder."""
    return shutil.disk_usage(folder).free


class Checkpoints:
    """The checkpoints of one folder: the latest, to go on from, the one before it, and the best by `score`.

    Use as a context manager: saving is asynchronous and finished on exit. An unfinished save is ignored and cleaned up.

    Args:
        directory: The folder.
        config: What is trained with, written beside the checkpoints when one is saved.
        fallback: Use earlier checkpoints in place of damaged ones, which are moved to `damaged`.
        alone: This process alone opens them, to read; else, of several processes, all must, and call the same methods.

    Raises:
        CheckpointError: Some are damaged, and `fallback` is not set or none is left; nothing is changed then.
    """

    def __init__(
        self, directory: Path, config: dict[str, Any] | None = None, *, fallback: bool = False, alone: bool = False
    ):
        self.directory = directory.absolute()
        self._config = config
        if not alone:
            run_on_first(lambda: _set_damaged_aside(self.directory, fallback=fallback))
        elif is_first_process():
            _set_damaged_aside(self.directory, fallback=fallback)
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(NUM_LATEST),
                policies.BestN(n=1, get_metric_fn=lambda metrics: metrics[SCORE], keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics[SCORE],
            best_mode="max",
            preservation_policy=keep,
            temporary_path_class=_TemporaryFolder,
        )
        if alone and jax.process_count() > 1:
            me = jax.process_index()
            options.create = False  # Orbax demands it
            options.multiprocessing_options = MultiprocessingOptions(me, {me}, f"process {me} alone")
        handlers = {"state": ocp.StandardCheckpointHandler(), "progress": ocp.JsonCheckpointHandler()}
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # it logs the tracebacks of errors that are raised as well
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    @contextlib.contextmanager
    def _raising(self) -> Iterator[None]:
        """The system's error for a save that failed, where it was the system's."""
        try:
            yield
        except (ValueError, RuntimeError) as error:  # tensorstore's own, which say what the system said
            raise find_disk_error(error, self.directory) or error from error

    def wait(self) -> None:
        """Until what is being saved is on the disk.

        Raises:
            OSError: It could not be written.
        """
        with self._raising():
            self._manager.wait_until_finished()

    def save(self, step: int, state: Any, progress: dict, score: float | None) -> None:
        """Saves a state in the background.

        Args:
            step: Number of the checkpoint; saving the same one again does nothing.
            state: Pytree of arrays.
            progress: JSON-able, whatever the loop needs to go on.
            score: Ranks checkpoints, larger is better; None: it is there to go on from, not to be the best.

        Raises:
            OSError: It, or the one before, could not be written.
        """
        self.wait()
        if self._config is not None and is_first_process():
            write_json(self.directory / CONFIG, self._config)
        needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(state)), free_bytes(self.directory)
        if needed > free:  # told before anything is half written
            detail = f"{os.strerror(errno.ENOSPC)} (a checkpoint needs {needed >> 10} KiB, {free >> 10} are free)"
            raise OSError(errno.ENOSPC, detail, str(self.directory))
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress))
        with self._raising():
            self._manager.save(step, args=args, metrics=None if score is None else {SCORE: score})

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        return self._manager.best_step()

    def require_best_step(self) -> int:
        """The best checkpoint's step.

        Raises:
            CheckpointError: Where there is none.
        """
        if self.best_step is None:
            raise CheckpointError(self.directory, "no checkpoint", "a trained network", "run the stage that makes it")
        return self.best_step

    def restore(self, step: int, like: Any) -> tuple[Any, dict]:
        """Restores a state of the same structure as `like`, on the devices of its arrays, and the progress saved with it.

        It does not matter on how many devices the state was when it was saved.

        Raises:
            CheckpointError: If the checkpoint is of another architecture; lists what differs.
        """
        self._require_same_structure(step, like)
        abstract = jax.tree.map(_abstract, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        return restored["state"], restored["progress"]

    def restore_raw(self, step: int, place: Callable[[Any], Any] = lambda shapes: shapes) -> Any:
        """Restores the arrays of a state of any architecture as nested dictionaries.

        Args:
            step: Number of the checkpoint.
            place: Gives shapes the sharding to restore them with, as `Devices.like` does; by default one device.
        """
        saved = self._manager.item_metadata(step)["state"]
        abstract = place(jax.tree.map(_abstract, getattr(saved, "tree", saved)))
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]

    def _require_same_structure(self, step: int, like: Any) -> None:
        saved = _shapes(self._manager.item_metadata(step)["state"])
        expected = _shapes(like)
        differences = [
            f"{name}: {saved.get(name, 'absent')} saved, {expected.get(name, 'absent')} expected"
            for name in sorted(saved.keys() | expected.keys())
            if saved.get(name) != expected.get(name)
        ]
        if differences:
            shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
            raise CheckpointError(
                self.directory / str(step),
                f"a checkpoint of another architecture or optimiser ({shown})",
                "the arrays that this config makes",
                "use the config.json beside the checkpoint, or another --workdir",
            )


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array and where it is to lie; on one device where it does not say."""
    sharding = leaf.sharding if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else None
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding or one)


def _set_damaged_aside(directory: Path, *, fallback: bool) -> None:
    steps = sorted((path for path in directory.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
    damaged = {path: found for path in steps if (found := find_damage(path))}
    good = [path.name for path in steps if path not in damaged]
    if damaged and not (fallback and good):
        offered = f"; or go on without it, from step {good[-1]}: --config.checkpoint.fallback=True" if good else ""
        expected = "the files as they were written"
        action = f"restore it from a copy{offered or ', or train again in another --workdir'}"
        raise_all([CheckpointError(path, "; ".join(found), expected, action) for path, found in damaged.items()])
    for path, found in damaged.items():
        names = itertools.chain([path.name], (f"{path.name}_{n}" for n in itertools.count(2)))
        target = next(aside for name in names if not (aside := directory / DAMAGED / name).exists())
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        print(f"  damaged, and so moved to {target}: {'; '.join(found)}; the latest is now {good[-1]}", flush=True)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Path of each array -> its shape; dataclass fields, dictionary keys and list indices are spelled alike."""
    tree = getattr(tree, "tree", tree)  # newer Orbax wraps the tree in its metadata
    return {
        "/".join(_key_name(key) for key in path): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }


def _key_name(key: Any) -> str:
    return str(next(getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name)))

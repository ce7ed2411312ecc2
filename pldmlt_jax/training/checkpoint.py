"""Orbax checkpoints: the latest two and the best, each with a state and the progress of the training loop."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint.options import AsyncOptions, MultiprocessingOptions
from orbax.checkpoint.utils import TMP_DIR_SUFFIX

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.io.files import find_disk_error, sync_folder, write_json
from pldmlt_jax.io.processes import is_first_process, run_on_first
from pldmlt_jax.training.manifest import check_for_damage, write_manifest

SCORE = "score"
"""Key of the metric that ranks checkpoints; larger is better."""

CONFIG = "config.json"
"""File beside the checkpoints with the config that they were trained with."""

NUM_LATEST = 2
"""Latest checkpoints that are kept: if the last one is damaged, the one before it is left."""

DELETED = "deleted"
"""Folder beside the checkpoints that Orbax moves superseded ones to: a kill must not leave half of one in its place."""

MAX_LISTED = 5


class Checkpoints:
    """The checkpoints of one folder: the two latest, to resume from, and the best by `score`.

    Use it as a context manager: saving is asynchronous and ends with the block. Orbax writes a checkpoint into a temporary
    folder and renames it when it is complete, so a killed save leaves nothing that would be read.

    Args:
        directory: The folder; it is made if needed.
        config: The training config; each save writes it to `config.json` in the folder. None: the folder may be that of a
            run which is still training, so its unfinished saves are left alone.
        fallback: If some checkpoints are damaged, move them to `damaged/` and use an earlier one.
        alone: Only this process opens the folder, to read. Otherwise all processes must open it and call the same methods.

    Raises:
        CheckpointError: Checkpoints are damaged, and `fallback` is not set or none is left. Nothing is changed then.
    """

    def __init__(
        self, directory: Path, config: dict[str, Any] | None = None, *, fallback: bool = False, alone: bool = False
    ):
        self.directory = directory.absolute()
        self._config = config
        self._saving: int | None = None
        if not alone:
            run_on_first(lambda: check_for_damage(self.directory, fallback=fallback))
        elif is_first_process():
            check_for_damage(self.directory, fallback=fallback)
        best = policies.BestN(n=1, get_metric_fn=lambda metrics: metrics[SCORE], keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics[SCORE],
            best_mode="max",
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(NUM_LATEST), best]),
            cleanup_tmp_directories=config is not None and not alone,
            todelete_subdir=DELETED,
            async_options=AsyncOptions(post_finalization_callback=self._write_manifest),
        )
        if alone and jax.process_count() > 1:
            me = jax.process_index()
            options.create = False  # Orbax demands it
            options.multiprocessing_options = MultiprocessingOptions(me, {me}, f"process {me} alone")
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs the tracebacks of errors that it also raises
        self._manager = ocp.CheckpointManager(self.directory, options=options, handler_registry=_make_registry())

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    def _write_manifest(self) -> None:
        """Writes the manifest when all files are there; Orbax calls it in one process, before it renames the folder."""
        write_manifest(self.directory / f"{self._saving}{TMP_DIR_SUFFIX}")

    @contextlib.contextmanager
    def _disk_errors_raised(self) -> Iterator[None]:
        """Raises the operating system's error if that is why a save failed: tensorstore only quotes it in a text."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise find_disk_error(error, self.directory) or error from error

    def wait(self) -> None:
        """Waits until the checkpoint that is being saved is on the disk.

        Raises:
            OSError: It could not be written.
        """
        with self._disk_errors_raised():
            self._manager.wait_until_finished()
        if self._saving is not None:
            sync_folder(self.directory)
            self._remove_deleted()
            self._saving = None

    def _remove_deleted(self) -> None:
        if is_first_process():
            shutil.rmtree(self.directory / DELETED, ignore_errors=True)

    def save(self, step: int, state: Any, progress: dict, score: float | None) -> None:
        """Saves a state in the background.

        Args:
            step: Number of the checkpoint; saving the same one again does nothing.
            state: Pytree of arrays.
            progress: JSON-able values that the training loop needs to resume.
            score: Ranks checkpoints, larger is better. None: it can be resumed from, but is never the best.

        Raises:
            OSError: This checkpoint or the one before it could not be written, or the disk has too little room for it.
        """
        self.wait()
        self._remove_deleted()  # what a killed process left there would be in the way
        if self._config is not None and is_first_process():
            write_json(self.directory / CONFIG, self._config)
        needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(state)), free_bytes(self.directory)
        if needed > free:  # before anything is half written
            detail = f"{os.strerror(errno.ENOSPC)} (a checkpoint needs {needed >> 10} KiB, {free >> 10} are free)"
            raise OSError(errno.ENOSPC, detail, str(self.directory))
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress))
        self._saving = step
        with self._disk_errors_raised():
            self._manager.save(step, args=args, metrics=None if score is None else {SCORE: score})

    @property
    def latest_step(self) -> int | None:
        """Step of the latest checkpoint; None if there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the highest score; None if no checkpoint has one."""
        return self._manager.best_step()

    def require_best_step(self) -> int:
        """Returns the best checkpoint's step.

        Raises:
            CheckpointError: There is none.
        """
        if self.best_step is None:
            raise CheckpointError(self.directory, "no checkpoint", "a trained network", "run the stage that makes it")
        return self.best_step

    def restore(self, step: int, like: Any) -> tuple[Any, dict]:
        """Restores a state and the progress that was saved with it.

        Args:
            step: Number of the checkpoint. The number of devices that it was saved from does not matter.
            like: A pytree of arrays or of their shapes: the expected structure, and the devices to restore to.

        Raises:
            CheckpointError: The checkpoint has other arrays, which the error lists.
        """
        self._require_same_structure(step, like)
        abstract = jax.tree.map(_make_abstract, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        return restored["state"], restored["progress"]

    def restore_raw(self, step: int, place: Callable[[Any], Any] = lambda shapes: shapes) -> Any:
        """Restores a state of any architecture, as nested dictionaries of arrays.

        Args:
            step: Number of the checkpoint.
            place: Function that adds to shapes the sharding to restore them with, as `Devices.abstract_state` does; by
                default one device.
        """
        abstract = place(jax.tree.map(_make_abstract, self._saved_tree(step)))
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]

    def _saved_tree(self, step: int) -> Any:
        return self._manager.item_metadata(step)["state"].tree

    def _require_same_structure(self, step: int, like: Any) -> None:
        """Orbax checks it as well, but does not name an array of another shape."""
        if differences := describe_shape_differences(self._saved_tree(step), like):
            raise CheckpointError(
                self.directory / str(step),
                f"a checkpoint of another architecture or optimiser ({differences})",
                "the arrays of the network in this config",
                "use the config.json beside the checkpoint, or another --workdir",
            )


class CheckpointsWithBest(Checkpoints):
    """Checkpoints of a training, with one copy of the best state on the host.

    Args:
        directory: The folder.
        config: See `Checkpoints`.
        keep: Function that returns the part of a state to keep, for instance without the optimisers.
        fallback: See `Checkpoints`.
    """

    def __init__(self, directory: Path, config: dict[str, Any], keep: Callable[[Any], Any], *, fallback: bool = False):
        super().__init__(directory, config, fallback=fallback)
        self._keep = keep
        self._best: tuple[int, float, Any] | None = None  # step, score and state

    def __enter__(self) -> "CheckpointsWithBest":
        return self

    def save(self, step: int, state: Any, progress: dict, score: float | None) -> None:
        """Saves a state as `Checkpoints.save` does, and keeps it where no earlier one of this session was better."""
        super().save(step, state, progress, score)
        # A state of several processes is not whole in any of them.
        if score is not None and jax.process_count() == 1 and (self._best is None or score >= self._best[1]):
            self._best = step, score, jax.tree.map(np.array, self._keep(state))

    def best_in_memory(self) -> Any | None:
        """Returns the best state in NumPy arrays; None if an earlier session or several processes saved it."""
        self.wait()
        return self._best[2] if self._best is not None and self._best[0] == self.best_step else None


def free_bytes(folder: Path) -> int:
    """Returns the free space of the disk that a folder is on."""
    return shutil.disk_usage(folder).free


def _make_registry() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
    """Returns Orbax's registry of how the items of a checkpoint are saved and restored."""
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add("state", ocp.args.StandardSave)
    registry.add("state", ocp.args.StandardRestore)
    registry.add("progress", ocp.args.JsonSave)
    registry.add("progress", ocp.args.JsonRestore)
    return registry


def _make_abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns an array's shape, dtype and sharding; the first device if the array has no sharding."""
    sharding = leaf.sharding if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else None
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding or one)


def describe_shape_differences(saved: Any, expected: Any) -> str:
    """Lists the arrays of two pytrees that are not in both or differ in shape: the first ones, and how many more.

    Args:
        saved: Pytree of arrays, or of their shapes, that was read.
        expected: The same of the networks that a config describes.

    Returns:
        The list, for an error message; "" if there is no difference.
    """
    found, wanted = _shapes_by_name(saved), _shapes_by_name(expected)
    differences = [
        f"{name}: {found.get(name, 'absent')} saved, {wanted.get(name, 'absent')} expected"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    more = len(differences) - MAX_LISTED
    return "; ".join(differences[:MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns each array's shape by its path; dataclass fields, dictionary keys and list indices are spelled alike."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }

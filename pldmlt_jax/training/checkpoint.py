"""Orbax checkpoints: the latest and the best, each a state with the run's progress."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint.options import MultiprocessingOptions

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.files import write_json
from pldmlt_jax.training.processes import is_first

SCORE = "score"
"""Key of the metric that ranks checkpoints; the larger the better."""


CONFIG = "config.json"
"""In the folder of the checkpoints: the config that they were trained with, which moves along with them."""


class Checkpoints:
    """The checkpoints of one folder: the latest, to go on from, and the best by `score`.

    Use as a context manager: saving is asynchronous and finished on exit. An unfinished save is ignored and cleaned up.

    Args:
        directory: The folder.
        config: What is trained with, written beside the checkpoints when one is saved.
        alone: This process alone opens them, to read; else, of several processes, all must, and call the same methods.
    """

    def __init__(self, directory: Path, config: dict[str, Any] | None = None, *, alone: bool = False):
        self.directory = directory.absolute()
        self._config = config
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(1),
                policies.BestN(n=1, get_metric_fn=lambda metrics: metrics[SCORE], keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics[SCORE], best_mode="max", preservation_policy=keep
        )
        if alone and jax.process_count() > 1:
            me = jax.process_index()
            options.create = False  # Orbax demands it
            options.multiprocessing_options = MultiprocessingOptions(me, {me}, f"process {me} alone")
        handlers = {"state": ocp.StandardCheckpointHandler(), "progress": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, state: Any, progress: dict, score: float) -> None:
        """Saves a state in the background.

        Args:
            step: Number of the checkpoint; saving the same one again does nothing.
            state: Pytree of arrays.
            progress: JSON-able, whatever the loop needs to go on.
            score: Ranks checkpoints, larger is better.
        """
        if self._config is not None and is_first():
            write_json(self.directory / CONFIG, self._config)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress))
        self._manager.save(step, args=args, metrics={SCORE: score})

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

    def restore_raw(self, step: int) -> Any:
        """The arrays of a state as nested dictionaries, of whatever architecture, on one device."""
        saved = self._manager.item_metadata(step)["state"]
        abstract = jax.tree.map(_abstract, getattr(saved, "tree", saved))
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

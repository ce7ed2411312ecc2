"""Several devices and processes: placement of states and batches, and compilation of steps.

There are two modes. `mesh` is `jit` over a mesh of all devices of all processes: a step sees the whole batch, and the
compiler inserts the communication. In `pmap` each device runs the step on its part of the batch, and the step itself
communicates along `axis_name`. In both modes a state has no axis of devices, so checkpoints do not depend on their number.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pldmlt_jax.config import ParallelConfig
from pldmlt_jax.data.loader import Shard
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.types import Array, ArrayLike

AXIS = "devices"
"""Name of the axis of the mesh, and of a pmap."""


@dataclass(frozen=True)
class Devices:
    """The devices that a batch is distributed over, equally many of each process.

    Attributes:
        mesh: All devices of all processes, along `AXIS`.
        mode: "mesh" or "pmap".
        shard_params: Whether kernels and their optimiser state are distributed over the devices as well.
    """

    mesh: Mesh
    mode: str = "mesh"
    shard_params: bool = False

    @property
    def axis_name(self) -> str | None:
        """The value for `Method.axis_name`: None except in a pmap."""
        return AXIS if self.mode == "pmap" else None

    @property
    def shard(self) -> Shard:
        """The part of the images that this process reads."""
        return Shard(jax.process_index() if self.num_processes > 1 else 0, self.num_processes)

    @property
    def num_processes(self) -> int:
        """Number of processes that have devices in the mesh."""
        return self.mesh.size // len(self.mesh.local_devices)

    def batch_size_per_process(self, batch_size: int) -> int:
        """Returns this process's number of images in a batch, rounded up to the same number for each device."""
        return -(-batch_size // self.mesh.size) * len(self.mesh.local_devices)

    def abstract_state(self, shapes: Any) -> Any:
        """Adds shardings to the shapes of a state (from `jax.eval_shape`), for `Checkpoints.restore`."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.state_sharding(leaf)), shapes
        )

    def put_state(self, state: Any) -> Any:
        """Copies a state to the devices: whole to each, or in parts with `shard_params`."""

        def put(leaf: Any) -> Array:
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, self.state_sharding(leaf), lambda index: np.array(whole[index]))

        return jax.tree.map(put, state)

    def state_sharding(self, leaf: Any) -> NamedSharding:
        """Returns the sharding of one array of a state.

        With `shard_params` the array is split along its largest axis that the number of devices divides; vectors and
        scalars never are.
        """
        spec: list[str | None] = [None] * leaf.ndim
        divided = [axis for axis in range(leaf.ndim) if leaf.shape[axis] % self.mesh.size == 0]
        if self.shard_params and leaf.ndim > 1 and divided:
            spec[max(divided, key=lambda axis: leaf.shape[axis])] = AXIS
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def put_batch(self, batch: Any) -> Any:
        """Copies this process's images, a tree of arrays `[b, ...]`, to its devices; pmap: `[devices, b / devices, ...]`."""
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        if self.mode == "pmap":
            batch = jax.tree.map(lambda rows: rows.reshape(self.mesh.size, -1, *rows.shape[1:]), batch)
        return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)

    def make_training_step(self, step: Callable[..., Any], **static: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
        """Makes a function `(state, batch) -> (state, metrics)` for these devices; it donates the state's buffers.

        Args:
            step: `(state, batch, **static) -> (state, metrics)`; the metrics are those of the whole batch.
            static: Hashable arguments. A process compiles one program for equal ones.
        """
        return _training_program(self, step, tuple(sorted(static.items())))

    def make_evaluation(self, step: Callable[..., Any], **static: Any) -> Callable[[Any, Any], Any]:
        """Makes a function `(state, batch) -> output` that runs on these devices and returns NumPy arrays.

        Args:
            step: `(state, batch, **static) -> tree` of arrays with one row per image, and of scalars of the whole batch.
            static: Hashable arguments, as in `make_training_step`.

        Returns:
            The function; its output has the rows of this process's images only.
        """
        program = _evaluation_program(self, step, tuple(sorted(static.items())))

        def evaluate(state: Any, batch: Any) -> Any:
            output = program(state, batch)
            if self.mode == "pmap":
                output = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]) if x.ndim > 1 else x[0], output)
            return jax.tree.map(local_rows, output) if self.num_processes > 1 else jax.device_get(output)

        return evaluate


@functools.cache
def _training_program(devices: Devices, step: Callable[..., Any], static: tuple[tuple[str, Any], ...]) -> Any:
    given = partial(step, **dict(static))
    if devices.mode == "pmap":
        chosen = list(devices.mesh.devices.flat)
        return jax.pmap(given, AXIS, in_axes=(None, 0), out_axes=None, devices=chosen, donate_argnums=0)

    def program(state: Any, batch: Any) -> tuple[Any, Any]:
        new, metrics = given(state, batch)
        new = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, devices.state_sharding(leaf)), new)
        return new, jax.lax.with_sharding_constraint(metrics, NamedSharding(devices.mesh, PartitionSpec()))

    return jax.jit(program, donate_argnums=0)


@functools.cache
def _evaluation_program(devices: Devices, step: Callable[..., Any], static: tuple[tuple[str, Any], ...]) -> Any:
    given = partial(step, **dict(static))
    if devices.mode == "pmap":
        return jax.pmap(given, AXIS, in_axes=(None, 0), devices=list(devices.mesh.devices.flat))

    def program(state: Any, batch: Any) -> Any:
        def constrained(leaf: Array) -> Array:
            spec = PartitionSpec(AXIS) if leaf.ndim else PartitionSpec()
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(devices.mesh, spec))

        return jax.tree.map(constrained, given(state, batch))

    return jax.jit(program)


def local_rows(array: ArrayLike) -> np.ndarray:
    """Returns this process's rows of an array that is split along its first axis, or all of one that is not split."""
    if not isinstance(array, jax.Array) or array.is_fully_replicated:
        return np.asarray(array)
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def select_training_devices(config: ParallelConfig, batch_size: int, field: str) -> Devices:
    """Selects the devices of all processes to train on; with `num_devices` = 0 as many as divide the batch.

    Args:
        config: Mode and number of devices.
        batch_size: Images of one forward pass in all processes together: those of a microbatch, if there are several.
        field: Config field with the batch size, for messages.

    Raises:
        ConfigError: There are fewer devices, or their number does not divide the batch.
    """
    processes = jax.process_count()
    of_process = [[device for device in jax.devices() if device.process_index == i] for i in range(processes)]
    most = min(len(devices) for devices in of_process)
    count = config.num_devices or max((n for n in range(1, most + 1) if batch_size % (n * processes) == 0), default=1)
    _require_devices(count, most)
    if batch_size % (count * processes):
        found = f"{batch_size} images at a time for {processes} x {count} devices"
        raise ConfigError(field, found, "a multiple of the number of devices", "change it, or parallel.num_devices")
    if most * processes > 1:
        print(f"  devices: {count * processes} of {most * processes}, by {config.mode}; {batch_size} images at a time")
    return _devices([device for devices in of_process for device in devices[:count]], config)


def select_local_devices(config: ParallelConfig) -> Devices:
    """Selects devices of this process, all of them or `num_devices`, for evaluation and prediction."""
    local = jax.local_devices()
    _require_devices(config.num_devices, len(local))
    return _devices(local[: config.num_devices or None], config)


def _devices(chosen: Sequence[Any], config: ParallelConfig) -> Devices:
    return Devices(Mesh(np.array(chosen), (AXIS,)), config.mode, config.shard_params)


def _require_devices(requested: int, available: int) -> None:
    if requested > available:
        action = "lower it; on a CPU XLA_FLAGS=--xla_force_host_platform_device_count=N makes several"
        raise ConfigError("parallel.num_devices", f"{requested}", f"at most the {available} that a process has", action)

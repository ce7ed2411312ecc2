"""Several devices and several processes: where states and batches lie, and how a step becomes a program for them.

Two modes. `mesh`: `jit` over a mesh of all devices, one or many, of one process or many; a step sees the whole batch, and
the compiler puts in what must be exchanged. `pmap`: each device runs the step on its part of the batch, and what it
exchanges stands in the step (`axis_name`). Either way a state has no axis of devices, and a checkpoint does not depend on
their number.
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
"""Name of the one axis: of the mesh, and of a pmap."""


@dataclass(frozen=True)
class Devices:
    """The devices that a batch is spread over, equally many of each process.

    Attributes:
        mesh: All of them, of all processes, along `AXIS`.
        mode: "mesh" or "pmap".
        shard_params: Whether kernels and what the optimiser keeps of them are spread over the devices as well.
    """

    mesh: Mesh
    mode: str = "mesh"
    shard_params: bool = False

    @property
    def axis_name(self) -> str | None:
        """What `Method.axis_name` must be."""
        return AXIS if self.mode == "pmap" else None

    @property
    def shard(self) -> Shard:
        """The images that this process takes."""
        return Shard(jax.process_index() if self.num_processes > 1 else 0, self.num_processes)

    @property
    def num_processes(self) -> int:
        return self.mesh.size // len(self.mesh.local_devices)

    def batch_size_per_process(self, batch_size: int) -> int:
        """This process's images of a batch, rounded up to as many for each device."""
        return -(-batch_size // self.mesh.size) * len(self.mesh.local_devices)

    def abstract_state(self, shapes: Any) -> Any:
        """Of a state's shapes (`jax.eval_shape`) and the place of its arrays: what a checkpoint is to be restored as."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.state_sharding(leaf)), shapes
        )

    def put_state(self, state: Any) -> Any:
        """A copy of a state on the devices: whole on each, or in parts where `shard_params`."""

        def put(leaf: Any) -> Array:
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, self.state_sharding(leaf), lambda index: np.array(whole[index]))

        return jax.tree.map(put, state)

    def state_sharding(self, leaf: Any) -> NamedSharding:
        """Of one array of a state: split along the largest axis that the devices divide, vectors and scalars never."""
        spec: list[str | None] = [None] * leaf.ndim
        divided = [axis for axis in range(leaf.ndim) if leaf.shape[axis] % self.mesh.size == 0]
        if self.shard_params and leaf.ndim > 1 and divided:
            spec[max(divided, key=lambda axis: leaf.shape[axis])] = AXIS
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def put_batch(self, batch: Any) -> Any:
        """This process's images (a tree of arrays `[b, ...]`) on its devices; for pmap `[devices, b / devices, ...]`."""
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        if self.mode == "pmap":
            batch = jax.tree.map(lambda rows: rows.reshape(self.mesh.size, -1, *rows.shape[1:]), batch)
        return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)

    def make_training_step(self, step: Callable[..., Any], **static: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
        """(state, batch) -> (state, metrics) from a step of `method/`; the state that goes in is used up (donated).

        Args:
            step: `(state, batch, **static) -> (state, metrics)`; metrics are of the whole batch.
            static: Hashable; of equal ones, one program is compiled in a process.
        """
        return _training_program(self, step, tuple(sorted(static.items())))

    def make_evaluation(self, step: Callable[..., Any], **static: Any) -> Callable[[Any, Any], Any]:
        """(state, batch) -> its output on the host, both being on the devices.

        Args:
            step: `(state, batch, **static) -> tree`: rows, an image's each, of this process alone, and scalars, which are
                of the whole batch.
            static: As in `make_training_step`.
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
    """What this process has of an array that is whole on each device, or spread over them along its first axis."""
    if not isinstance(array, jax.Array) or array.is_fully_replicated:
        return np.asarray(array)
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def select_training_devices(config: ParallelConfig, batch_size: int, field: str) -> Devices:
    """The devices to train on, of all processes; with `num_devices` = 0 as many as the batch can be spread over.

    Args:
        config: Mode and number.
        batch_size: Images that the devices share, of all processes together: of a microbatch where there are some.
        field: Where the config says so, for messages.

    Raises:
        ConfigError: There are not so many devices, or they do not divide the batch.
    """
    processes = jax.process_count()
    of_process = [[device for device in jax.devices() if device.process_index == i] for i in range(processes)]
    most = min(len(devices) for devices in of_process)
    count = config.num_devices or max((n for n in range(1, most + 1) if batch_size % (n * processes) == 0), default=1)
    _require_devices(count, most)
    if batch_size % (count * processes):
        found = f"{batch_size} images at a time for {processes} x {count} devices"
        raise ConfigError(field, found, "a multiple of their number", "change it, or parallel.num_devices")
    if most * processes > 1:
        print(f"  devices: {count * processes} of {most * processes}, by {config.mode}; {batch_size} images at a time")
    return _devices([device for devices in of_process for device in devices[:count]], config)


def select_local_devices(config: ParallelConfig) -> Devices:
    """This process's devices, all of them or `num_devices`: to evaluate and predict, where any batch is filled up."""
    local = jax.local_devices()
    _require_devices(config.num_devices, len(local))
    return _devices(local[: config.num_devices or None], config)


def _devices(chosen: Sequence[Any], config: ParallelConfig) -> Devices:
    return Devices(Mesh(np.array(chosen), (AXIS,)), config.mode, config.shard_params)


def _require_devices(asked: int, there: int) -> None:
    if asked > there:
        action = "lower it; on a CPU XLA_FLAGS=--xla_force_host_platform_device_count=N makes several"
        raise ConfigError("parallel.num_devices", f"{asked}", f"at most the {there} that a process has", action)

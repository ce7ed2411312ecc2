"""Several processes of one run, connected by JAX's distributed runtime.

They share a file system. Each process reads its part of the images. Only the first one prints, and writes logs, tables and
pictures; all of them write checkpoints.
"""

import itertools
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from pldmlt_jax.config import ParallelConfig
from pldmlt_jax.errors import ConfigError

LONGEST_WAIT_S = 7 * 24 * 3600
"""Longest wait for the first process; collective operations on a CPU would give up after half a minute."""

T = TypeVar("T")

_waits = itertools.count()


def join_processes(config: ParallelConfig) -> None:
    """Connects this process with the others, if there are any; call it once, before any device is used.

    Raises:
        ConfigError: SLURM has started several processes, but `parallel.mode` is "pmap".
    """
    if jax.distributed.is_initialized():
        return
    if config.num_processes > 1:
        jax.distributed.initialize(config.coordinator, config.num_processes, config.process_id)
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        jax.distributed.initialize()  # JAX reads SLURM's variables
    if jax.process_count() > 1 and config.mode == "pmap":
        raise ConfigError("parallel.mode", f"'pmap' in {jax.process_count()} processes", "one process", "use 'mesh'")
    if not is_first_process():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


def is_first_process() -> bool:
    """Returns whether this process is the first one, which prints and writes; a single process is."""
    return jax.process_index() == 0


def take_own_share(positions: Sequence[int]) -> Sequence[int]:
    """Returns this process's part of the positions: every n-th of n processes."""
    return positions[jax.process_index() :: jax.process_count()]


def all_gather(value: T) -> list[T]:
    """Returns the values of all processes in their order; all must call this, with values that pickle."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(data), np.int32))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def sum_over_processes(tree: T) -> T:
    """Sums trees of NumPy arrays and numbers over all processes, without a change of precision."""
    return jax.tree.map(lambda *parts: sum(parts[1:], start=parts[0]), *all_gather(tree))


def broadcast_from_first(value: T) -> T:
    """Returns the first process's value, for what all must agree on, such as elapsed time."""
    return all_gather(value)[0]


def merge_rows(rows: dict[int, T]) -> list[T]:
    """Merges the rows of all processes.

    Args:
        rows: This process's rows by position.

    Returns:
        The rows of all processes in the order of their positions.
    """
    merged = {position: row for part in all_gather(rows) for position, row in part.items()}
    return [merged[position] for position in sorted(merged)]


def run_on_first(function: Callable[[], T]) -> T:
    """Runs a function in the first process only; the others wait, and return its result or exit if it failed.

    Raises:
        SystemExit: In the other processes, if the function has raised an error in the first.
    """
    if jax.process_count() == 1:
        return function()
    outcome: tuple[T] | None = None
    try:
        if is_first_process():
            outcome = (function(),)
    finally:
        ocp.multihost.sync_global_processes(
            f"run_on_first {next(_waits)}", timeout=LONGEST_WAIT_S, processes=set(range(jax.process_count()))
        )
        result = all_gather(outcome)[0]
    if result is None:
        raise SystemExit(1)
    return result[0]

"""Several processes of one run, by JAX's own runtime: how they find, await and tell each other.

They share a file system. Each reads its part of the images; the first one alone prints, and writes logs, tables and
pictures; checkpoints are written by all.
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
"""For what one process does alone; collectives, on a CPU, would give up after half a minute."""

T = TypeVar("T")

_waits = itertools.count()


def join_processes(config: ParallelConfig) -> None:
    """Joins the other processes, where there are some; before any device is used, and once.

    Raises:
        ConfigError: SLURM has started several, for pmap.
    """
    if jax.distributed.is_initialized():
        return
    if config.num_processes > 1:
        jax.distributed.initialize(config.coordinator, config.num_processes, config.process_id)
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        jax.distributed.initialize()  # JAX asks SLURM's variables
    if jax.process_count() > 1 and config.mode == "pmap":
        raise ConfigError("parallel.mode", f"'pmap' in {jax.process_count()} processes", "one process", "take 'mesh'")
    if not is_first_process():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


def is_first_process() -> bool:
    """Whether this process is the one that writes and prints; an only one is."""
    return jax.process_index() == 0


def take_own_share(places: Sequence[int]) -> Sequence[int]:
    """Every `process_count`-th place, from this process's number on."""
    return places[jax.process_index() :: jax.process_count()]


def all_gather(value: T) -> list[T]:
    """Every process's value (anything that pickles), in order, exactly; all of them must call this."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(data), np.int32))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def sum_over_processes(tree: T) -> T:
    """Sum over the processes of trees of NumPy arrays and numbers, in their own precision."""
    return jax.tree.map(lambda *parts: sum(parts[1:], start=parts[0]), *all_gather(tree))


def broadcast_from_first(value: T) -> T:
    """The first process's value: what all must agree on, as the time that has passed."""
    return all_gather(value)[0]


def merge_rows(rows: dict[int, T]) -> list[T]:
    """What the processes have found at each place, in the order of the places."""
    together = {place: row for part in all_gather(rows) for place, row in part.items()}
    return [together[place] for place in sorted(together)]


def run_on_first(function: Callable[[], T]) -> T:
    """Runs a function in the first process alone; the others wait, get what it returned, and end where it has failed."""
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
        told = all_gather(outcome)[0]
    if told is None:
        raise SystemExit(1)
    return told[0]

"""The cells of a table: which are complete, and one run in a process of its own.

A process of its own has all memory mappings that Linux grants (compiled programs hold them, and many runs' together crash
XLA), has a peak of memory that is its own, and, where it fails or is killed, takes nothing else with it. What it compiles it
finds in the compilation cache, where a cell before it had the same shapes.
"""

import contextlib
import ctypes
import dataclasses
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pldmlt_jax.cli.app import configure_libraries, guarded, own_folder
from pldmlt_jax.config import Config, frozen
from pldmlt_jax.config_checks import validate_config
from pldmlt_jax.data.datasets.registry import RawListings
from pldmlt_jax.errors import UserError
from pldmlt_jax.io.files import read_json, read_json_if_present, write_json
from pldmlt_jax.io.signals import STOP
from pldmlt_jax.table_config import Run
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.fingerprints import describe_raw_sets
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.pipeline import is_complete, run_stage
from pldmlt_jax.workflow.stage_table import Stage, stages_of

STAGES_OF = {
    "network": ("prepare", "train-grader", "pseudo-label", "train", "evaluate"),
    "graders": ("prepare", "train-grader"),
}
"""Part of a row -> the stages of its cells."""

COST, FAILURE = "cost.json", "failure.json"
"""In a cell's workdir: its peak memory, and why it has failed."""

PR_SET_PDEATHSIG = 1
"""Of Linux' prctl (sys/prctl.h)."""

POLL_S = 0.2


class Order(NamedTuple):
    """All that a cell's process is told."""

    options: RunOptions
    part: str
    others: tuple[Path, ...]
    debug: bool
    parent: int


class RawSets:
    """What the raw files of the cells' sets are: read once for all cells that share them."""

    def __init__(self) -> None:
        self._found: dict[Config, dict[str, str]] = {}

    def of(self, config: Config, errors: list[UserError] | None = None) -> dict[str, str]:
        """See `pipeline.describe_raw_sets`; bad files are left to `prepare`."""
        key = frozen(Config(data=dataclasses.replace(config.data, fold=0)))
        if key not in self._found:
            self._found[key] = describe_raw_sets(
                key.data, RawListings(key.data), [] if errors is None else errors, defer_errors=True
            )
        return self._found[key]


def cell_arguments(cell: Run, split: str = "") -> RunOptions:
    """The command line that the cell's run would have."""
    return RunOptions(frozen(cell.config), cell.workdir, split=split)


def cell_stages(cell: Run) -> list[Stage]:
    return stages_of(cell.row.config, STAGES_OF[cell.row.part])


def cell_is_complete(cell: Run, raw: RawSets, split: str = "") -> bool:
    """Whether every stage of the cell is, for its inputs as they are now."""
    try:
        return is_complete(Context(cell_arguments(cell, split)), cell_stages(cell), raw.of(cell.config))
    except UserError:  # what it starts from is not there yet, or a file of it is damaged: told when it runs
        return False


def run_cell(cell: Run, others: tuple[Path, ...], split: str = "", *, debug: bool = False) -> str:
    """Runs a cell in a process of its own; a signal is passed on to it.

    Args:
        cell: Of the table.
        others: Workdirs whose stage 1 is taken where it is the same.
        split: That `evaluate` scores; "" = the one that is held out.
        debug: Print tracebacks of errors.

    Returns:
        Why it has failed; "" where it is complete.

    Raises:
        Interrupted: A signal has come, and the cell has stopped in good order.
    """
    failure = cell.workdir / FAILURE
    failure.unlink(missing_ok=True)
    order = Order(cell_arguments(cell, split), cell.row.part, others, debug, os.getpid())
    process = multiprocessing.get_context("spawn").Process(target=_main, args=(order,), name=cell.label)
    with STOP.deferred():
        process.start()
        told = False
        while process.is_alive():
            if STOP.signum and not told and process.pid is not None:
                os.kill(process.pid, STOP.signum)
                told = True
            process.join(POLL_S)
    if process.exitcode == 0:
        return ""
    if failure.is_file():
        return str(read_json(failure)["message"])
    code = process.exitcode or 0
    found = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    message = f"{found}{', perhaps for lack of memory' if code == -signal.SIGKILL else ''}"
    write_json(failure, {"message": message})
    return message


def _main(order: Order) -> None:
    """What the process does."""
    _end_with(order.parent)

    def tell(message: str) -> None:
        with contextlib.suppress(OSError):  # a full disk: it is on the terminal
            write_json(order.options.workdir / FAILURE, {"message": message})

    sys.exit(guarded(lambda: _work(order), debug=order.debug, tell=tell))


def _end_with(parent: int) -> None:
    """In a group of its own, for the terminal's Ctrl-C is passed on; killed when its parent is killed."""
    os.setpgid(0, 0)
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def _work(order: Order) -> int:
    validate_config(order.options.config)
    configure_libraries()
    config = order.options.config
    context = Context(dataclasses.replace(order.options, config=frozen(config)), order.others)
    with own_folder(order.options):
        raw = describe_raw_sets(config.data, context.listings, [], defer_errors=True)
        for stage in stages_of(config, STAGES_OF[order.part]):
            try:
                run_stage(stage, context, raw, may_skip=True)
            finally:
                _record_peak(context.workdir / COST)
    return 0


def _record_peak(path: Path) -> None:
    """The most memory that any process of this cell has had, in bytes; on the first device where it says so."""
    import jax

    before: Mapping[str, int] = read_json_if_present(path)
    now = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        now["peak_device_bytes"] = int(stats["peak_bytes_in_use"])
    write_json(path, {name: max(value, before.get(name, 0)) for name, value in now.items()})

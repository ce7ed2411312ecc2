"""The runs of a table: which of them are complete, and how one is executed in a process of its own.

A run has its own process for three reasons: compiled programs hold memory mappings, and those of many runs exceed what Linux
grants one process; its peak memory can be measured; and a run that fails or is killed does not end the others. The
compilation cache keeps what an earlier run with the same shapes has compiled.
"""

import contextlib
import dataclasses
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jax

from pldmlt_jax.config import Config, frozen
from pldmlt_jax.data.datasets.registry import RawListings
from pldmlt_jax.errors import ConfigError, UserError
from pldmlt_jax.io.files import read_json, read_json_if_present, write_json
from pldmlt_jax.io.signals import STOP
from pldmlt_jax.table_config import Run, Table, list_runs
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.fingerprints import fingerprint_raw_sets
from pldmlt_jax.workflow.method_stages import Stage, select_stages
from pldmlt_jax.workflow.options import RunOptions, lock_output_folder
from pldmlt_jax.workflow.pipeline import is_complete, run_stage

STAGE_NAMES = {
    "network": ("prepare", "train-grader", "pseudo-label", "train", "evaluate"),
    "graders": ("prepare", "train-grader"),
}
"""Part of a row -> the stages of its runs."""

COST, FAILURE = "cost.json", "failure.json"
"""Files in the workdir of a run: its peak memory, and why it has failed."""

PROGRAM = (sys.executable, "-m", "pldmlt_jax.cli.app")

POLL_S = 0.2


class RawSets:
    """The raw files of the runs' data sets, listed and hashed once for all runs that share them."""

    def __init__(self) -> None:
        self._found: dict[Config, dict[str, str]] = {}

    def fingerprint(self, config: Config, errors: list[UserError] | None = None) -> dict[str, str]:
        """Fingerprints the raw files of a config's data sets as `fingerprint_raw_sets` does.

        Bad files are left to the stage `prepare`.
        """
        key = frozen(Config(data=dataclasses.replace(config.data, fold=0)))
        if key not in self._found:
            self._found[key] = fingerprint_raw_sets(
                key.data, RawListings(key.data), [] if errors is None else errors, defer_errors=True
            )
        return self._found[key]


def make_run_options(run: Run, split: str = "") -> RunOptions:
    """Returns the options of a run of a table; `split` is the one to score, "" for the held-out one."""
    return RunOptions(frozen(run.config), run.workdir, split=split)


def select_run_stages(run: Run) -> list[Stage]:
    """Returns the stages of a run of a table."""
    return select_stages(run.row.config, STAGE_NAMES[run.row.part])


def is_run_complete(run: Run, raw: RawSets, split: str = "") -> bool:
    """Tells whether all stages of a run are complete for their present inputs."""
    try:
        return is_complete(Context(make_run_options(run, split)), select_run_stages(run), raw.fingerprint(run.config))
    except UserError:  # the run that it starts from is missing, or a file is damaged: reported when it runs
        return False


def execute_in_subprocess(run: Run, options: RunOptions) -> str:
    """Executes a run in a process of its own, and passes the first signal on to it.

    The process gets this command line, with flags that select the run. So it executes the table's file as well, which may
    define data sets or networks of the user.

    Args:
        run: A run of the table.
        options: The options of `compare`.

    Returns:
        Why the run has failed; "" if it is complete.

    Raises:
        Interrupted: A signal has come, and the run has stopped in good order.
    """
    failure = run.workdir / FAILURE
    failure.unlink(missing_ok=True)
    selection = (f"--rows={run.row.name}", f"--folds={run.fold}", f"--seeds={run.seed}", "--one_run")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with STOP.deferred():
        # A process group of its own: Ctrl-C reaches it once, from here, and not from the terminal as well.
        process = subprocess.Popen([*PROGRAM, *options.words, *selection], env=environment, process_group=0)
        is_passed_on = False
        while process.poll() is None:
            if STOP.signum and not is_passed_on:
                process.send_signal(STOP.signum)
                is_passed_on = True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)
    code = process.returncode
    if code == 0:
        return ""
    if not failure.is_file():
        found = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        write_failure(run, f"{found}{', perhaps for lack of memory' if code == -signal.SIGKILL else ''}")
    return str(read_json(failure)["message"])


def write_failure(run: Run, message: str) -> None:
    """Writes the reason why a run has failed to its workdir."""
    write_json(run.workdir / FAILURE, {"message": message})


def execute_run(options: RunOptions) -> None:
    """Executes the one run of a table that the options select, in this process.

    Args:
        options: The options of `compare` with `one_run`, whose table has one fold and one seed.

    Raises:
        UserError: The options select no run or several, or an input of the run is wrong.
    """
    assert options.table is not None
    runs = [run for run in list_runs(options.table, options.workdir) if run.row.name in options.rows]
    if len(runs) != 1:
        action = "select one run: --rows=NAME --folds=NUMBER --seeds=NUMBER"
        raise ConfigError("--one_run", f"{len(runs)} runs", "one row, one fold and one seed", action)
    (run,) = runs
    own = make_run_options(run, options.split)
    try:
        with lock_output_folder(own):
            context = Context(own, find_other_workdirs(options.table, run, options.workdir))
            raw = RawSets().fingerprint(run.config)
            for stage in select_run_stages(run):
                try:
                    run_stage(stage, context, raw, may_skip=True)
                finally:
                    record_peak_memory(run.workdir / COST)
    except Exception as error:  # reported by the command line, and kept for the table
        kind = "error" if isinstance(error, UserError) else f"failed: {type(error).__name__}"
        with contextlib.suppress(OSError):  # a full disk
            write_failure(run, f"{kind}: {error}")
        raise


def find_other_workdirs(table: Table, run: Run, folder: Path) -> tuple[Path, ...]:
    """Returns the workdirs of all other runs of the table, which may have the same stage 1."""
    found = [path for row in table.rows for path in sorted((folder / row.name).glob("fold*_seed*"))]
    return tuple(path for path in found if path != run.workdir)


def record_peak_memory(path: Path) -> None:
    """Writes the peak memory of a run in bytes, on the host and on the first device, over all processes that ran it."""
    before: Mapping[str, int] = read_json_if_present(path)
    now = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        now["peak_device_bytes"] = int(stats["peak_bytes_in_use"])
    write_json(path, {name: max(value, before.get(name, 0)) for name, value in now.items()})

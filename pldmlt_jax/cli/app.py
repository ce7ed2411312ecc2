"""From the command line to one verb, and from an exception to an exit status."""

import contextlib
import ctypes
import dataclasses
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from pldmlt_jax.cli.flags import COMPARE, parse
from pldmlt_jax.cli.print_config import print_config
from pldmlt_jax.config import Config, frozen
from pldmlt_jax.errors import ConfigError, UserError, explain_missing_package, raise_all, suggest_nearest
from pldmlt_jax.io.files import find_disk_error
from pldmlt_jax.io.signals import Interrupted, stop_on_signals
from pldmlt_jax.workflow.options import RunOptions, lock_output_folder

PIPELINE = "pldmlt_jax.workflow.pipeline"
"""The one module whose work several processes share; that of the others is done by the first process."""

VERBS: dict[str, str] = {
    "run": PIPELINE,
    "check": "pldmlt_jax.cli.check",
    "prepare": PIPELINE,
    "train-grader": PIPELINE,
    "pseudo-label": PIPELINE,
    "train": PIPELINE,
    "evaluate": PIPELINE,
    "predict": "pldmlt_jax.workflow.stages.predict",
    "export": "pldmlt_jax.cli.export",
    "report": "pldmlt_jax.workflow.stages.report",
    "figures": "pldmlt_jax.cli.figures",
    COMPARE: "pldmlt_jax.cli.compare",
}
"""Verb -> the module whose `main(options)` executes it, imported only then, so that `--help` is quick."""

SCORE_FILES = "pldmlt_jax.workflow.stages.score_files"
"""The module for `evaluate --predictions`, which needs no network."""

MAX_CACHE_BYTES = 2**30
"""Size of the compilation cache; programs that were not used for the longest time are removed from it."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt (malloc.h)."""


def run(argv: list[str]) -> int:
    """Runs the program.

    Args:
        argv: The command line, as in `sys.argv`.

    Returns:
        The exit status: 0 if all is done, 1 after a failure, 2 if a flag, the config or an input is wrong.
    """

    def execute() -> int:
        options = parse(argv, tuple(VERBS))
        if options is None:
            return 0
        if options.print_config:
            print_config(options)
            return 0
        return _run_verb(options)

    return _exit_status(execute, debug="--debug" in argv)


def _exit_status(function: Callable[[], int], *, debug: bool) -> int:
    """Calls a function that signals may stop; returns its exit status, or prints its exception and returns that one's."""
    try:
        with stop_on_signals():
            return function()
    except KeyboardInterrupt as error:
        stop = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        print(f"{stop}; {stop.then}", file=sys.stderr)
        return 128 + stop.signum
    except Exception as error:  # the last line of defence: an error of the user, of the program or of the machine
        status, message = _describe_failure(error)
        if debug:
            traceback.print_exc()
        if status == 2 or not debug:
            print(message, file=sys.stderr)
        return status


def _describe_failure(error: Exception) -> tuple[int, str]:
    """Returns the exit status and the message of an exception."""
    if isinstance(error, UserError):
        return 2, f"error: {error}"
    if isinstance(error, ModuleNotFoundError):
        return 1, explain_missing_package(error)
    if disk := find_disk_error(error):
        where = f"{disk.filename}: " if disk.filename else ""
        action = "earlier files are intact; make room, and the same command resumes from its last checkpoint"
        return 1, f"failed: {where}{disk.strerror}\n  {action}"
    return 1, f"failed: {type(error).__name__}: {error}\n(--debug shows the traceback)"


def run_config(config: Config, verb: str = "run", *, workdir: str | Path = "") -> Path:
    """Does what `python main.py VERB --config=...` does, for a config that was made in Python, for example in a notebook.

    Args:
        config: A config, as the files under `configs/` make it; it is not changed.
        verb: "run" for the whole method, of which complete stages are skipped; or one stage, "check", "report", "export".
        workdir: The folder for the files of the run; "" for `config.workdir`, or runs/NAME.

    Returns:
        The workdir, which `load` takes.

    Raises:
        UserError: The config, a file of a data set or the verb is wrong; several such errors at once.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     workdir = run_config(Config(name="mine"), "report", workdir=folder)  # doctest: +ELLIPSIS
        ...     print((workdir / "report.html").exists())
          report: 1 done in ... s
        True
    """
    if verb not in VERBS:
        action = suggest_nearest(verb, tuple(VERBS), "choose one of them")
        raise ConfigError(repr(verb), "no such verb", "one of " + ", ".join(VERBS), action)
    folder = Path(workdir or config.workdir or f"runs/{config.name}")
    with stop_on_signals():
        _run_verb(RunOptions(config, folder, verb, workdir_given=bool(workdir)))
    return folder


def _run_verb(options: RunOptions) -> int:
    """Checks and freezes the config, imports the verb's module and executes it; returns the exit status."""
    if options.table is not None:
        return _run_table(options)
    from pldmlt_jax.config_checks import validate_config
    from pldmlt_jax.workflow.load_checkpoint import with_saved_config

    options = options if options.predictions else with_saved_config(options)
    validate_config(options.config)
    options = dataclasses.replace(options, config=frozen(options.config))
    configure_libraries()
    from pldmlt_jax.io.processes import is_first_process, join_processes, run_on_first

    join_processes(options.config.parallel)
    name = SCORE_FILES if options.predictions else VERBS[options.verb]
    module = importlib.import_module(name)
    with lock_output_folder(options) if is_first_process() else contextlib.nullcontext():
        if name == PIPELINE:
            module.main(options)
        else:
            run_on_first(lambda: module.main(options))
    return 0


def _run_table(options: RunOptions) -> int:
    """Executes `compare`, which uses no device itself and leaves it to the processes of its runs."""
    from pldmlt_jax.workflow.comparison.table_checks import table_errors

    assert options.table is not None
    raise_all(table_errors(options.table, options.overrides))
    rows = tuple(dataclasses.replace(row, config=frozen(row.config)) for row in options.table.rows)
    configure_libraries()
    module = importlib.import_module(VERBS[COMPARE])
    return module.main(dataclasses.replace(options, table=dataclasses.replace(options.table, rows=rows)))


def _keep_freed_memory() -> None:
    """Makes glibc reuse large blocks instead of giving them back to the system.

    XLA's buffers on the CPU are such blocks: otherwise the system maps and zeroes all their pages again in every step.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _except_failed_saves(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Hides the tracebacks that tensorstore prints for further writes after one has failed; that error itself is raised."""
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__excepthook__(kind, error, trace)


def configure_libraries() -> None:
    """Keeps compiled programs between runs, in a folder of at most 1 GiB in the home folder, and silences OpenCV and Orbax.

    JAX's own variables choose otherwise: JAX_COMPILATION_CACHE_DIR, whose size is then not bounded here because other
    programs may share it, JAX_COMPILATION_CACHE_MAX_SIZE in bytes, and JAX_ENABLE_COMPILATION_CACHE=false.
    """
    import cv2
    import jax

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its messages name no file; our errors do
    sys.excepthook = _except_failed_saves
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # Orbax prints the same errors
    _keep_freed_memory()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/pldmlt_jax/xla"))
        if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
            jax.config.update("jax_compilation_cache_max_size", MAX_CACHE_BYTES)


if __name__ == "__main__":  # `compare` starts its runs like this
    sys.exit(run(sys.argv))

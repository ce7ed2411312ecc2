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
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from pldmlt_jax.cli.flags import COMPARE, VERBS_OF, parse
from pldmlt_jax.config import Config, frozen
from pldmlt_jax.errors import ConfigError, UserError, explain_missing_package, raise_all, suggest_nearest
from pldmlt_jax.io.files import find_disk_error
from pldmlt_jax.io.locks import locked
from pldmlt_jax.io.signals import Interrupted, stop_on_signals
from pldmlt_jax.workflow.options import RunOptions

PIPELINE = "pldmlt_jax.workflow.pipeline"
"""Shares its stages among several processes; the other verbs' work is the first one's."""

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
    COMPARE: "pldmlt_jax.workflow.comparison.compare",
}
"""Verb -> the module whose `main(options)` does it; imported only then, so that `--help` answers at once."""

SCORE_FILES = "pldmlt_jax.workflow.stages.score_files"
"""What `evaluate --predictions` does, which needs no network."""

LOCK = ".lock"
"""In a workdir: held by the process that works there."""

MAX_CACHE_BYTES = 2**30
"""Of compiled programs; those that were not used for the longest time are removed."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's mallopt (malloc.h)."""


def run(argv: list[str]) -> int:
    """Runs the program; returns 0 done, 1 a failure with one message, 2 a wrong flag, config or input."""

    def work() -> int:
        options = parse(argv, tuple(VERBS))
        if options is None:
            return 0
        return _print_config(options) if options.print_config else _run_verb(options)

    return guarded(work, debug="--debug" in argv)


def guarded(work: Callable[[], int], *, debug: bool = False, tell: Callable[[str], None] = lambda message: None) -> int:
    """Does something that signals may stop; returns its exit status, or that of its failure, whose message is printed.

    Args:
        work: Returns its own exit status.
        debug: Print tracebacks of errors.
        tell: Is given the message of a failure as well.
    """
    try:
        with stop_on_signals():
            return work()
    except KeyboardInterrupt as error:
        stop = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        print(f"{stop}; {stop.then}", file=sys.stderr)
        return 128 + stop.signum
    except Exception as error:  # a user's, a defect, or the machine's: the last line of defence, which tells it and fails
        status, message = _failure(error)
        tell(message)
        if debug:
            traceback.print_exc()
        if status == 2 or not debug:
            print(message, file=sys.stderr)
        return status


def _failure(error: Exception) -> tuple[int, str]:
    """Exit status and message of an exception."""
    if isinstance(error, UserError):
        return 2, f"error: {error}"
    if isinstance(error, ModuleNotFoundError):
        return 1, explain_missing_package(error)
    if disk := find_disk_error(error):
        where = f"{disk.filename}: " if disk.filename else ""
        kept = "what was written before is whole; make room, and the same command goes on from its last checkpoint"
        return 1, f"failed: {where}{disk.strerror}\n  {kept}"
    return 1, f"failed: {type(error).__name__}: {error}\n(--debug shows the traceback)"


def _print_config(options: RunOptions) -> int:
    """Prints the config that the verb would use, a table's row by row: a trained network's own, where it would take that."""
    from pldmlt_jax.cli.config_listing import print_config

    if options.verb in VERBS_OF["checkpoint"]:
        from pldmlt_jax.workflow.context import with_saved_config

        options = with_saved_config(options)
    if options.table is None:
        print_config(options.config)
    for row in options.table.rows if options.table is not None else ():
        print(f"row {row.name}")
        print_config(row.config)
    return 0


def run_config(config: Config, verb: str = "run", *, workdir: str | Path = "") -> Path:
    """Does what `python main.py VERB --config=...` does, for a config that was made in Python: in a notebook, say.

    Args:
        config: As a file under `configs/` makes it; it stays as it is.
        verb: "run" for the whole method, of which complete stages are skipped, or one stage; "check", "report", "export".
        workdir: Where the files go; "" = `config.workdir`, or runs/NAME.

    Returns:
        The workdir, which `load` takes.

    Raises:
        UserError: The config, a file of a data set or the verb is wrong; several such errors at once.
    """
    if verb not in VERBS:
        action = suggest_nearest(verb, tuple(VERBS), "choose one of them")
        raise ConfigError(repr(verb), "no such verb", "one of " + ", ".join(VERBS), action)
    folder = Path(workdir or config.workdir or f"runs/{config.name}")
    with stop_on_signals():
        _run_verb(RunOptions(config, folder, verb, workdir_given=bool(workdir)))
    return folder


def _run_verb(options: RunOptions) -> int:
    if options.table is not None:
        return _run_table(options)
    from pldmlt_jax.config_checks import validate_config
    from pldmlt_jax.workflow.context import with_saved_config

    scores_files = bool(options.predictions)
    options = options if scores_files else with_saved_config(options)
    validate_config(options.config)
    options = dataclasses.replace(options, config=frozen(options.config))
    configure_libraries()
    from pldmlt_jax.io.processes import is_first_process, join_processes, run_on_first

    join_processes(options.config.parallel)
    name = SCORE_FILES if scores_files else VERBS[options.verb]
    module = importlib.import_module(name)
    with own_folder(options) if is_first_process() else contextlib.nullcontext():
        if name == PIPELINE:
            module.main(options)
        else:
            run_on_first(lambda: module.main(options))
    return 0


def _run_table(options: RunOptions) -> int:
    """`compare`, which leaves devices to the processes of its cells."""
    from pldmlt_jax.config_checks import config_errors
    from pldmlt_jax.workflow.comparison.table_file import table_errors

    assert options.table is not None
    raise_all(table_errors(options.table, options.overrides, config_errors))
    rows = tuple(dataclasses.replace(row, config=frozen(row.config)) for row in options.table.rows)
    options = dataclasses.replace(options, table=dataclasses.replace(options.table, rows=rows))
    configure_libraries()
    module = importlib.import_module(VERBS[COMPARE])
    with own_folder(options):
        return module.main(options)


@contextlib.contextmanager
def own_folder(options: RunOptions) -> Iterator[None]:
    """Keeps other processes out of the folder that this one writes to.

    Raises:
        ConfigError: Another process is at work there, or nothing can be written there.
    """
    folder, flag = options.workdir, "--workdir"
    if options.output:
        folder, flag = Path(options.output), "--output"
    made = not folder.exists()
    if options.verb == "report" and made:  # it tells that itself
        yield
        return

    def refused(holder: str) -> ConfigError:
        action = f"wait for its end, stop it, or take another folder: {flag}=DIR"
        return ConfigError(f"{flag}: {folder}", f"in use by {holder}", "one process at a time", action)

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK, refused))
        except OSError as error:
            expected, action = "a folder that can be written to", f"change its permissions, or take {flag}=DIR"
            raise ConfigError(f"{flag}: {folder}", error.strerror or str(error), expected, action) from error
        try:
            yield
        finally:
            if made and os.listdir(folder) == [LOCK]:  # the input was wrong, and nothing came of it
                (folder / LOCK).unlink()
                folder.rmdir()


def _keep_freed_memory() -> None:
    """Lets glibc reuse large blocks, which it gives back to the system by default.

    XLA's buffers on the CPU are such blocks: without this each step has all their pages mapped and zeroed anew.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _except_failed_saves(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """After the first write that fails, tensorstore prints a traceback for each other one; the error itself is raised."""
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__excepthook__(kind, error, trace)


def configure_libraries() -> None:
    """Compiled steps are kept between runs, in a place of our own, of at most 1 GiB.

    JAX's own variables choose another: JAX_COMPILATION_CACHE_DIR (which JAX then bounds as it is told elsewhere: other
    programs may share it), JAX_COMPILATION_CACHE_MAX_SIZE in bytes, JAX_ENABLE_COMPILATION_CACHE=false for none.
    """
    import cv2
    import jax

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it names no file; our own errors do
    sys.excepthook = _except_failed_saves
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # Orbax' part of the same
    _keep_freed_memory()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/pldmlt_jax/xla"))
        if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
            jax.config.update("jax_compilation_cache_max_size", MAX_CACHE_BYTES)

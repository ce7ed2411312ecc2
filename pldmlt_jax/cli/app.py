"""From the command line to one verb, and from an exception to an exit status."""

import contextlib
import ctypes
import importlib
import os
import sys
import traceback

from pldmlt_jax.cli.flags import Arguments, fail, parse
from pldmlt_jax.errors import UserError

PIPELINE = "pldmlt_jax.pipeline"
"""Shares its stages among several processes; the other verbs' work is the first one's."""

VERBS: dict[str, str] = {
    "run": PIPELINE,
    "check": "pldmlt_jax.cli.check",
    "prepare": PIPELINE,
    "train-grader": PIPELINE,
    "pseudo-label": PIPELINE,
    "train": PIPELINE,
    "evaluate": PIPELINE,
    "predict": "pldmlt_jax.cli.predict",
    "export": "pldmlt_jax.cli.export",
    "report": "pldmlt_jax.cli.report",
}
"""Verb -> the module whose `main(arguments)` does it; imported only then, so that `--help` answers at once."""

MAX_CACHE_BYTES = 2**30
"""Of compiled programs; those that were not used for the longest time are removed."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's mallopt (malloc.h)."""


def run(argv: list[str]) -> int:
    """Runs the program; returns 0 done, 1 a failure with one message, 2 a wrong flag, config or input."""
    debug = "--debug" in argv
    try:
        arguments = parse(argv, tuple(VERBS))
        if arguments is None:
            return 0
        return _run_verb(arguments)
    except UserError as error:
        if debug:
            traceback.print_exc()
        return fail(error)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"failed: {type(error).__name__}: {error}\n(--debug shows the traceback)", file=sys.stderr)
        return 1


def _run_verb(arguments: Arguments) -> int:
    from pldmlt_jax.cli.context import with_saved_config
    from pldmlt_jax.validation import validate

    arguments = with_saved_config(arguments)
    validate(arguments.config)
    _configure_libraries()
    from pldmlt_jax.training.processes import join, on_first

    join(arguments.config.parallel)
    module = importlib.import_module(VERBS[arguments.verb])
    if VERBS[arguments.verb] == PIPELINE:
        module.main(arguments)
    else:
        on_first(lambda: module.main(arguments))
    return 0


def _keep_freed_memory() -> None:
    """Lets glibc reuse large blocks, which it gives back to the system by default.

    XLA's buffers on the CPU are such blocks: without this each step has all their pages mapped and zeroed anew.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _configure_libraries() -> None:
    """Compiled steps are kept between runs, in a place of our own, of at most 1 GiB.

    JAX's own variables choose another: JAX_COMPILATION_CACHE_DIR (which JAX then bounds as it is told elsewhere: other
    programs may share it), JAX_COMPILATION_CACHE_MAX_SIZE in bytes, JAX_ENABLE_COMPILATION_CACHE=false for none.
    """
    import cv2
    import jax

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it names no file; our own errors do
    _keep_freed_memory()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/pldmlt_jax/xla"))
        if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
            jax.config.update("jax_compilation_cache_max_size", MAX_CACHE_BYTES)

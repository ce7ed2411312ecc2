"""From the command line to one verb, and from an exception to an exit status."""

import contextlib
import ctypes
import importlib
import os
import sys
import traceback

from pldmlt_jax.cli.flags import Arguments, fail, parse
from pldmlt_jax.errors import UserError

VERBS: dict[str, str] = {
    "run": "pldmlt_jax.pipeline",
    "check": "pldmlt_jax.cli.check",
    "prepare": "pldmlt_jax.pipeline",
    "train-grader": "pldmlt_jax.pipeline",
    "pseudo-label": "pldmlt_jax.pipeline",
    "train": "pldmlt_jax.pipeline",
    "evaluate": "pldmlt_jax.pipeline",
    "predict": "pldmlt_jax.cli.predict",
    "export": "pldmlt_jax.cli.export",
    "report": "pldmlt_jax.cli.report",
}
"""Verb -> the module whose `main(arguments)` does it; imported only then, so that `--help` answers at once."""

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
    importlib.import_module(VERBS[arguments.verb]).main(arguments)
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
    """Compiled steps are kept between runs, in at most 1 GiB; JAX's own variables choose another place."""
    import jax

    _keep_freed_memory()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/pldmlt_jax/xla"))
        jax.config.update("jax_compilation_cache_max_size", 2**30)

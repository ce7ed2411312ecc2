"""`--print_config`: prints the config that a verb would use."""

import os
import shutil
import sys
import textwrap

from pldmlt_jax.cli.flags import FLAGS
from pldmlt_jax.config import Config
from pldmlt_jax.config.text import DIFFERS, config_lines
from pldmlt_jax.workflow.options import RunOptions

INDENT = " " * 8
"""Before the further lines of a field that is wider than the terminal."""


def print_config(options: RunOptions) -> None:
    """Prints the config that the verb would use: of a table every row's, of a trained network its own."""
    if options.table is not None:
        for row in options.table.rows:
            print(f"row {row.name}")
            _print_fields(row.config)
        return
    if options.verb in FLAGS["checkpoint"].verbs:
        from pldmlt_jax.workflow.load_checkpoint import with_saved_config  # imports JAX

        options = with_saved_config(options)
    _print_fields(options.config)


def _print_fields(config: Config) -> None:
    """Prints every field, wrapped to the width of a terminal. The reader may close the pipe early, as `head` does."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    try:
        print(f"{DIFFERS} differs from the default")
        for line in config_lines(config):
            print(textwrap.fill(line, width, subsequent_indent=INDENT, break_on_hyphens=False))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports the closed pipe at exit

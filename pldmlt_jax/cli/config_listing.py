"""`--print_config`: prints a config and exits."""

import os
import shutil
import sys
import textwrap

from pldmlt_jax.config import Config
from pldmlt_jax.config.listing import DIFFERS, config_lines

INDENT = " " * 8
"""Before the further lines of a field that is wider than the terminal."""


def print_config(config: Config) -> None:
    """Prints every field, wrapped to the width of a terminal. The reader may close the pipe early, as `head` does."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    try:
        print(f"{DIFFERS} differs from the default")
        for line in config_lines(config):
            print(textwrap.fill(line, width, subsequent_indent=INDENT, break_on_hyphens=False))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports the closed pipe at exit

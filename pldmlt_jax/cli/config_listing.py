"""`--print_config`: a config on the terminal."""

import os
import shutil
import sys
import textwrap

from pldmlt_jax.config import Config
from pldmlt_jax.config_text import DIFFERS, config_lines

CONTINUED = " " * 8
"""Before the further lines of a field that is wider than the terminal."""


def print_config(config: Config) -> None:
    """Prints the lines, wrapped where they go to a terminal; a reader like `head` may have had enough of them."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    try:
        print(f"{DIFFERS} differs from the default in pldmlt_jax/config.py")
        for line in config_lines(config):
            print(textwrap.fill(line, width, subsequent_indent=CONTINUED, break_on_hyphens=False))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it ends

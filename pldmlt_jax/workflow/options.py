"""The options of a run as plain values, which the command line or `run_config` passes to stages and tables."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pldmlt_jax.config import Config
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.io.locks import locked
from pldmlt_jax.table_config import Table

LOCK = ".lock"
"""File of a workdir that is locked by the process that writes there."""


@dataclass(frozen=True)
class RunOptions:
    """All inputs of a stage, a table or another verb except the files in its workdir.

    Attributes:
        config: The config of the run.
        workdir: The folder for the files of the run.
        verb: "run" for the whole method, the name of a stage, or another verb of the command line.
        config_given: Whether the user chose the config. If not, verbs that use a trained network take the config that it
            was trained with.
        workdir_given: Whether the user chose the workdir.
        overrides: Dotted names of the config fields that the command line sets.
        checkpoint: Workdirs or exported folders of trained networks, separated by commas; "" for the workdir.
        split: The split to score or show; "" for test, or val if no test images are on disk.
        input: Image files, folders or patterns for `predict`, separated by commas.
        output: The folder for results; "" for the verb's own folder below the workdir.
        engine: What runs the network: "xla", "onnx" or "openvino"; "" for xla.
        probabilities: Whether `predict` also writes the probabilities of each lesion.
        predictions: A folder of mask files that `evaluate` scores instead of a network.
        format: Formats that `export` writes, separated by commas; "" for the usual ones.
        images: Names of the images that `figures` shows, separated by commas; "" to choose them by their lesions.
        augmented: The number of augmented training images on the sheet that `prepare` writes; 0 for no sheet.
        table: The table of `compare`, its rows' configs with the command line's overrides.
        rows: Names of the rows of the table to run; the rows that they start from are run as well.
        one_run: Whether `compare` executes one run of the table in this process, instead of each in a process of its own.
        words: The words of the command line, which a table keeps.
        print_config: Whether to print the config and do nothing else.
        debug: Whether errors come with a traceback.
    """

    config: Config
    workdir: Path
    verb: str = "run"
    config_given: bool = True
    workdir_given: bool = True
    overrides: tuple[str, ...] = ()
    checkpoint: str = ""
    split: str = ""
    input: str = ""
    output: str = ""
    engine: str = ""
    probabilities: bool = False
    predictions: str = ""
    format: str = ""
    images: str = ""
    augmented: int = 0
    table: Table | None = None
    rows: tuple[str, ...] = ()
    one_run: bool = False
    words: tuple[str, ...] = ()
    print_config: bool = False
    debug: bool = False


@contextlib.contextmanager
def lock_output_folder(options: RunOptions) -> Iterator[None]:
    """Locks the folder that a run writes to: its output folder if it has one, else its workdir.

    A folder that is made here and stays empty is removed again.

    Raises:
        ConfigError: Another process uses the folder, or it cannot be written to.
    """
    folder, flag = (Path(options.output), "--output") if options.output else (options.workdir, "--workdir")
    is_new = not folder.exists()
    if options.verb == "report" and is_new:  # the verb reports the missing folder itself
        yield
        return

    def refused(holder: str) -> ConfigError:
        action = f"wait until it ends, stop it, or choose another folder: {flag}=DIR"
        return ConfigError(f"{flag}: {folder}", f"in use by {holder}", "one process at a time", action)

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK, refused))
        except OSError as error:
            expected, action = "a folder that can be written to", f"change its permissions, or choose {flag}=DIR"
            raise ConfigError(f"{flag}: {folder}", error.strerror or str(error), expected, action) from error
        try:
            yield
        finally:
            if is_new and os.listdir(folder) == [LOCK]:  # the input was wrong
                (folder / LOCK).unlink()
                folder.rmdir()

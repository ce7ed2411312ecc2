"""Reading and writing of small files: atomic writes, errors that name the file, and JSON."""

import contextlib
import errno
import json
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from pldmlt_jax.errors import DataError

PARTIAL = ".part"

WINDOWS_ENCODING = "cp1252"
"""The encoding of tables that spreadsheets on Windows save, unless it is UTF-8."""

MAX_TEXT_BYTES = 2**24
"""Limit for a table or a JSON file; a larger one is some other file."""


def sort_visible_paths(paths: Iterable[Path]) -> list[Path]:
    """Sorts paths and drops hidden files: archives made on a Mac have one with the same suffix beside each image."""
    return sorted(path for path in paths if not path.name.startswith("."))


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Opens a temporary file that is synced and replaces `path` when the block ends; an error leaves `path` as it was.

    Args:
        path: The file to write; its folder is made if needed.
        mode: "w" or "wb".
        options: Further arguments of `open`; the encoding of text is UTF-8 by default.

    Raises:
        OSError: The file could not be written; the error names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(path)
    if "b" not in mode:
        options = {"encoding": "utf-8"} | options
    try:
        with name_file_in_errors(path):
            with open(temporary, mode, **options) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Adds the path to an `OSError` that lacks one: on a full disk `write` fails, and it knows no file name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors of the machine rather than of this program: disk full, quota reached, read-only, input or output failed."""


def find_disk_error(error: Exception, where: object = None) -> OSError | None:
    """Returns the `OSError` of a disk problem behind an exception, also if a library only quotes it in its message.

    Args:
        error: The exception.
        where: The file or folder to name if the exception is not an `OSError`.

    Returns:
        The error; None if the exception has another cause.
    """
    if isinstance(error, OSError):
        return error if error.errno in DISK_ERRORS else None
    number = next((n for n in DISK_ERRORS if os.strerror(n).lower() in str(error).lower()), None)
    return None if number is None else OSError(number, os.strerror(number), where and str(where))


def sync_folder(path: Path) -> None:
    """Flushes a folder's list of names to disk; without it a renamed file may have its old name after a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sync_tree(root: Path) -> None:
    """Flushes all files and folders below a folder to disk, before the folder is renamed to its final name."""
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, atomically; NumPy and JAX arrays become lists."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=1, default=_jsonable) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        DataError: The file is missing, damaged or holds something else.
    """
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        found, action = f"not readable as JSON: {error}", "restore it, or remove it and run its stage again"
        raise DataError(path, found, "a JSON file written by this program", action) from error
    if not isinstance(value, dict):
        raise DataError(path, f"a JSON {type(value).__name__}", "an object", "restore it")
    return value


def read_json_if_present(path: Path) -> dict[str, Any]:
    """Reads a JSON file as `read_json` does; returns an empty dictionary if there is no file."""
    return read_json(path) if path.exists() else {}


def read_bounded(path: Path, max_bytes: int, expected: str) -> bytes:
    """Reads a file of limited size.

    Args:
        path: The file.
        max_bytes: The largest size.
        expected: What the file should be, for the message.

    Raises:
        DataError: The file is missing, unreadable, not a regular file, or larger than `max_bytes`.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(path, "no regular file", expected, "check the path")
        if status.st_size > max_bytes:
            found = f"{status.st_size} bytes"
            raise DataError(path, found, f"{expected} of at most {max_bytes} bytes", "is it the right file?")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DataError(path, getattr(error, "strerror", None) or str(error), expected, "check the path") from error


def read_text(path: Path, *, fallback_encoding: str = "") -> str:
    """Reads a text file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        fallback_encoding: The encoding if it is not UTF-8; characters that it lacks are replaced. "" for none.

    Raises:
        DataError: The file is missing, unreadable, too large or of another encoding.
    """
    content = read_bounded(path, MAX_TEXT_BYTES, "a text file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if fallback_encoding:
            return content.decode(fallback_encoding, errors="replace")
        raise DataError(path, str(error), "text in UTF-8", "save it as UTF-8") from error


FOLDER_NAME = "a folder name: a letter, digit or _, then up to 99 letters, digits, spaces or . + - _"
"""What `is_folder_name` accepts, for messages."""


def is_folder_name(name: str) -> bool:
    """Returns whether a name of a run or a table can be used as a folder name on any system."""
    return re.fullmatch(r"\w[\w.+ -]{0,99}", name) is not None


def partial_path(path: Path) -> Path:
    """Returns the path of a temporary file beside `path`; its name contains the machine and the process that writes it."""
    return path.with_name(f"{path.stem}.{platform.node()}.{os.getpid()}{PARTIAL}{path.suffix}")


def remove_leftovers(directory: Path, max_age_s: float = 86400.0) -> None:
    """Removes temporary files that killed processes left behind.

    Args:
        directory: The folder to clean.
        max_age_s: Age in seconds at which a file is removed even if its process may still run, or is of another machine.
    """
    for path in directory.glob(f"*{PARTIAL}*"):
        *_, machine, process = path.name.partition(PARTIAL)[0].rsplit(".", 2)
        with contextlib.suppress(OSError):  # another process removes it, or has finished it, at the same time
            dead = machine == platform.node() and not Path(f"/proc/{process}").exists()
            if dead or time.time() - path.stat().st_mtime > max_age_s:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _jsonable(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)

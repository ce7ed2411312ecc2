"""Small files that are written whole or not at all, and read with an error that names them."""

import contextlib
import csv
import errno
import fcntl
import io
import json
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pldmlt_jax.errors import DataError, UserError

PARTIAL = ".part"

WINDOWS = "cp1252"
"""The encoding that spreadsheets on Windows save tables in, where it is not UTF-8."""

MAX_TEXT_BYTES, MAX_ROWS = 2**24, 10**6
"""Of a table or a JSON file: a larger one is no such thing."""


def visible(paths: Iterable[Path]) -> list[Path]:
    """Sorted, without hidden files: archives made on a Mac hold one of the same suffix beside each photograph."""
    return sorted(path for path in paths if not path.name.startswith("."))


@contextlib.contextmanager
def writing(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """A file to write to that takes its place when it is whole and on the disk; an error leaves what was there before.

    Args:
        path: Its place; folders are made.
        mode: "w" or "wb".
        options: Of `open`; text is UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(path)
    if "b" not in mode:
        options = {"encoding": "utf-8"} | options
    try:
        with naming(path):
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
def naming(path: Path) -> Iterator[None]:
    """Adds a file's name to errors of the system that lack it: a full disk is met by `write`, which knows no names."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Of the machine, not of this program."""


def as_disk_error(error: Exception, where: object = None) -> OSError | None:
    """The error of the system that an exception is, or that a library has put into the text of its own."""
    if isinstance(error, OSError):
        return error if error.errno in DISK_ERRORS else None
    number = next((n for n in DISK_ERRORS if os.strerror(n).lower() in str(error).lower()), None)
    return None if number is None else OSError(number, os.strerror(number), where and str(where))


def sync_folder(path: Path) -> None:
    """Brings the names in a folder to the disk: without it a renamed file may have its old name after a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sync_tree(root: Path) -> None:
    """Brings all files below a folder to the disk, before it is renamed to what it will be read as."""
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    with writing(path) as file:
        file.write(json.dumps(value, indent=1, default=_jsonable) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        DataError: It is missing, damaged or something else.
    """
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        found, action = f"not readable as JSON: {error}", "restore it, or remove it and run its stage again"
        raise DataError(path, found, "a file that this program has written", action) from error
    if not isinstance(value, dict):
        raise DataError(path, f"a JSON {type(value).__name__}", "an object", "restore it")
    return value


def read_json_if_present(path: Path) -> dict[str, Any]:
    """Reads a JSON file as `read_json` does; returns an empty dictionary if there is no file."""
    return read_json(path) if path.exists() else {}


def read_bounded(path: Path, max_bytes: int, expected: str) -> bytes:
    """A file's content.

    Raises:
        DataError: It is missing, unreadable, no regular file, or larger than `max_bytes`.
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


def read_text(path: Path, *, otherwise: str = "") -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        otherwise: The encoding that it has where it is no UTF-8; what that cannot read is replaced.

    Raises:
        DataError: It is missing, unreadable, too large or of another encoding.
    """
    content = read_bounded(path, MAX_TEXT_BYTES, "a text file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if otherwise:
            return content.decode(otherwise, errors="replace")
        raise DataError(path, str(error), "text in UTF-8", "save it as UTF-8") from error


FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""What a spreadsheet takes for a formula, and what `_escape_formula` has made of it."""


def _escape_formula(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front; file names can be anything."""
    if not isinstance(value, str) or not FORMULA.match(value) or _is_number(value):
        return value
    return f"'{value}"


def _unescape_formula(text: str) -> str:
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV whole or not at all; texts that a spreadsheet would run as formulas get an apostrophe in front."""
    with writing(path, newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _escape_formula(value) for name, value in row.items()} for row in rows)


def read_cells(path: Path, delimiters: Sequence[str] = (",",)) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """A CSV's header, and its rows, each with its line and with a cell for each column; apostrophes of `write_rows` go.

    Args:
        path: The file, in UTF-8 or what spreadsheets on Windows save in its place.
        delimiters: The one that the first line has most of separates the cells.

    Raises:
        DataError: It is missing or no CSV.
    """
    text = read_text(path, otherwise=WINDOWS)
    delimiter = max(delimiters, key=text.partition("\n")[0].count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    try:
        header = next(lines, [])
        for cells in lines:
            if len(rows) == MAX_ROWS:
                raise DataError(path, f"more than {MAX_ROWS} rows", "a table of photographs", "is it the right file?")
            if cells:
                rows.append(
                    (lines.line_num, [_unescape_formula(cell) for cell in [*cells, *[""] * len(header)][: len(header)]])
                )
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}", str(error), "a CSV", "restore the line") from error
    return header, rows


def read_rows(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV by column, each with its line; see `read_cells`.

    Args:
        path: The file.
        required: Columns that it must have; blanks around the names in its header are ignored.

    Raises:
        DataError: It is missing, no CSV, or lacks columns.
    """
    header, rows = read_cells(path)
    header = [name.strip() for name in header]
    if missing := [name for name in required if name not in header]:
        expected = f"columns {', '.join(required)}, with commas between them"
        found = f"no column {', '.join(missing)}, but {', '.join(header) or 'none'}"
        raise DataError(path, found, expected, "restore the header")
    return [(line, dict(zip(header, cells, strict=True))) for line, cells in rows]


NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What file systems answer that have no locks; there nobody is kept out."""


@contextlib.contextmanager
def locked(path: Path, refused: Callable[[str], UserError] | None = None) -> Iterator[None]:
    """Holds a lock, which the system takes back when this process ends in whatever way.

    Args:
        path: The lock's file, which stays and says who holds it.
        refused: Who holds it already -> what is raised then; without it, waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refused else 0))
        except BlockingIOError:
            file.seek(0)
            raise refused(file.read().strip() or "another process") if refused else RuntimeError from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {platform.node()} since {since}\n")
        file.flush()
        yield


def partial_path(path: Path) -> Path:
    """A sibling to write to before it is renamed: its name says which process of which machine writes it."""
    return path.with_name(f"{path.stem}.{platform.node()}.{os.getpid()}{PARTIAL}{path.suffix}")


def remove_leftovers(directory: Path, max_age_s: float = 86400.0) -> None:
    """Removes what killed processes have left half written: those of this machine, and of any that are a day old."""
    for path in directory.glob(f"*{PARTIAL}*"):
        *_, machine, process = path.name.partition(PARTIAL)[0].rsplit(".", 2)
        with contextlib.suppress(OSError):  # another process removes it, or has finished it, at the same time
            dead = machine == platform.node() and not Path(f"/proc/{process}").exists()
            if dead or time.time() - path.stat().st_mtime > max_age_s:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _jsonable(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)

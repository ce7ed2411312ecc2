"""Reading and writing of CSV files, with text that a spreadsheet would run as a formula made harmless."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pldmlt_jax.errors import DataError
from pldmlt_jax.io.files import WINDOWS_ENCODING, atomic_write, read_text

MAX_ROWS = 10**6
"""Limit for a table; a longer one is some other file."""

FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Text that a spreadsheet would run as a formula, or what `_escape_formula` has made of it."""


def _escape_formula(value: Any) -> Any:
    """Puts an apostrophe before a text that a spreadsheet would run as a formula, such as an unusual file name."""
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
    """Writes a CSV file atomically; a text that a spreadsheet would run as a formula gets an apostrophe in front.

    Args:
        path: The file.
        rows: At least one row; the columns are those of the first.
    """
    with atomic_write(path, newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _escape_formula(value) for name, value in row.items()} for row in rows)


def read_cells(path: Path, delimiters: Sequence[str] = (",",)) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Reads a CSV file as lists of cells; the apostrophes of `write_rows` are removed.

    Args:
        path: The file, in UTF-8 or the encoding of spreadsheets on Windows.
        delimiters: Possible separators; the most frequent one in the first line is used.

    Returns:
        The header; and for each row its line number and one cell per column of the header.

    Raises:
        DataError: The file is missing or not a CSV.
    """
    text = read_text(path, fallback_encoding=WINDOWS_ENCODING)
    delimiter = max(delimiters, key=text.partition("\n")[0].count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    try:
        header = next(lines, [])
        for cells in lines:
            if len(rows) == MAX_ROWS:
                raise DataError(path, f"more than {MAX_ROWS} rows", "a table of images", "is it the right file?")
            if cells:
                rows.append(
                    (lines.line_num, [_unescape_formula(cell) for cell in [*cells, *[""] * len(header)][: len(header)]])
                )
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}", str(error), "a CSV", "restore the line") from error
    return header, rows


def read_rows(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Reads the rows of a CSV file by column name; see `read_cells`.

    Args:
        path: The file.
        required: Columns that it must have. Blanks around the names in the header are ignored.

    Returns:
        For each row its line number and its cells by column.

    Raises:
        DataError: The file is missing, not a CSV, or lacks columns.
    """
    header, rows = read_cells(path)
    header = [name.strip() for name in header]
    if missing := [name for name in required if name not in header]:
        expected = f"columns {', '.join(required)}, separated by commas"
        found = f"no column {', '.join(missing)}, but {', '.join(header) or 'none'}"
        raise DataError(path, found, expected, "restore the header")
    return [(line, dict(zip(header, cells, strict=True))) for line, cells in rows]

"""Checks of a comparison table as a whole, and the selection of its rows, folds and seeds."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from pldmlt_jax.config import NO_SET
from pldmlt_jax.errors import ConfigError, UserError, raise_all, suggest_nearest
from pldmlt_jax.table_config import PARTS, PUBLISHED, Row, Table

SET_BY_THE_TABLE = {
    "name": "each row has its own",
    "workdir": "use --workdir",
    "seed": "use --seeds",
    "data.fold": "use --folds",
    "train.init_from": "see Row.starts_from",
}
"""Fields that the command line cannot set for all rows -> what to do instead."""


def select_rows(table: Table, rows: str, folds: str, seeds: str) -> tuple[Table, tuple[str, ...]]:
    """Replaces a table's folds and seeds by those of the command line, and selects the rows to run.

    Args:
        table: The table.
        rows: Names of rows, separated by commas; "" for all.
        folds: Whole numbers, separated by commas; "" for the table's own.
        seeds: Likewise, for the seeds.

    Returns:
        The table, and the names of the selected rows.

    Raises:
        ConfigError: A row is unknown, or a fold or seed is not a number; all such errors at once, as an `ErrorGroup`.
    """
    errors: list[UserError] = []
    known = [row.name for row in table.rows]
    names = [name.strip() for name in rows.split(",")] if rows else known
    for name in names:
        if name not in known:
            action = suggest_nearest(name, known, "choose some of them")
            errors.append(ConfigError("--rows", f"no row {name!r}", "some of " + ", ".join(known), action))
    for flag, text in (("folds", folds), ("seeds", seeds)):
        if not re.fullmatch(r"(\d{1,9}(,\d{1,9})*)?", text):
            errors.append(ConfigError(f"--{flag}", repr(text), "whole numbers separated by commas", "correct them"))
        elif text:
            table = dataclasses.replace(table, **{flag: tuple(int(number) for number in text.split(","))})
    raise_all(errors)
    return table, tuple(dict.fromkeys(names))


def add_starting_rows(table: Table, names: Sequence[str]) -> Iterator[str]:
    """Yields the names of rows, each after the row that it starts from; a name may occur more than once."""
    for name in names:
        start = table.row(name).starts_from
        if start in [row.name for row in table.rows if row.name != name]:
            yield from add_starting_rows(table, [start])
        yield name


def table_errors(table: Table, overrides: Sequence[str]) -> list[UserError]:
    """Returns all errors of a table and of the configs of its rows; an error that rows share is reported once.

    Args:
        table: The table, its rows' configs with the command line's overrides.
        overrides: Dotted names of the fields that the command line sets.
    """
    from pldmlt_jax.config_checks import config_errors  # imports the method, and with it JAX

    errors: list[UserError] = [
        ConfigError(f"--config.{name}", "set for every row of a table", "the table's own", SET_BY_THE_TABLE[name])
        for name in overrides
        if name in SET_BY_THE_TABLE
    ]
    errors += _name_errors(table)
    for i, row in enumerate(table.rows):
        errors += _row_errors(table, row, [earlier.name for earlier in table.rows[:i]])
    rows: dict[tuple, list[str]] = defaultdict(list)
    for row in table.rows:
        for fold in table.folds:
            config = dataclasses.replace(row.config, name=row.name, data=dataclasses.replace(row.config.data, fold=fold))
            for error in config_errors(config):
                if row.name not in rows[error.args]:
                    rows[error.args].append(row.name)
    for (where, *rest), names in rows.items():
        of = "every row" if len(names) == len(table.rows) else "row " + ", ".join(names)
        errors.append(ConfigError(f"{where} ({of})", *rest))
    return errors


def _name_errors(table: Table) -> Iterator[UserError]:
    names = [row.name.lower() for row in table.rows]
    for name in (table.name, *(row.name for row in table.rows)):
        if not re.fullmatch(r"\w[\w.+ -]{0,99}", name):
            expected = "the name of a folder: a letter or digit, then letters, digits, spaces and . + - _"
            yield ConfigError("name", repr(name), expected, "correct it")
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield ConfigError("rows", f"{name!r} twice", "a name of its own for each row", "rename one")
    if table.reference and table.reference not in [row.name for row in table.rows]:
        yield ConfigError("reference", repr(table.reference), "the name of a row", "name a row, or none for the last one")
    for field in ("folds", "seeds"):
        values = getattr(table, field)
        if not values or len(set(values)) < len(values):
            yield ConfigError(field, f"{values}", "one or more different numbers", "correct them")


def _row_errors(table: Table, row: Row, earlier: Sequence[str]) -> Iterator[UserError]:
    data, where = row.config.data, f"row {row.name}"
    if row.part not in PARTS:
        yield ConfigError(f"{where}: part", repr(row.part), "one of " + ", ".join(PARTS), "choose one")
    if row.starts_from and (row.starts_from not in earlier or row.part != "network"):
        expected = "a network, and a row above it: " + (", ".join(earlier) or "there is none")
        yield ConfigError(f"{where}: starts_from", repr(row.starts_from), expected, "put that row first")
    if unknown := sorted(row.published.keys() - PUBLISHED.keys()):
        yield ConfigError(f"{where}: published", ", ".join(unknown), "some of " + ", ".join(PUBLISHED), "rename them")
    split = data.grading_split if row.part == "graders" else data.split
    if len(table.folds) > 1 and split == "official":
        found = f"{len(table.folds)} folds of 'official', whose held-out images are always the same"
        yield ConfigError(f"{where}: data.split", found, "'folds' or 'all_folds'", "set the split, or one fold")
    if row.part == "graders" and (len(row.config.grader.architectures) != 1 or data.grading == NO_SET):
        found = f"{row.config.grader.architectures} on {data.grading!r}"
        expected, action = "one grader and a graded set", "give each grader its own row"
        yield ConfigError(f"{where}: grader.architectures", found, expected, action)
    if row.config.parallel.num_processes > 1:
        found = f"{row.config.parallel.num_processes} processes"
        yield ConfigError(f"{where}: parallel", found, "one, because each run is a process of its own", "set it to 1")

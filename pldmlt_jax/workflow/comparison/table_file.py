"""A table's file, read and checked as a whole: every error of every row at once."""

import dataclasses
import importlib.util
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pldmlt_jax.config import NO_SET, Config
from pldmlt_jax.errors import ConfigError, UserError, raise_all, suggest_nearest
from pldmlt_jax.io.files import FOLDER_NAME, is_folder_name
from pldmlt_jax.table_config import PARTS, PUBLISHED, Row, Table

EXPECTED = "a file with get_table() -> Table"

SET_BY_THE_TABLE = {
    "name": "each row's is its own",
    "workdir": "take --workdir",
    "seed": "take --seeds",
    "data.fold": "take --folds",
    "train.init_from": "see Row.starts_from",
}
"""Fields that the command line cannot set for all rows, and what to do instead."""


def load_table(path: str) -> Table:
    """The table of a file.

    Raises:
        ConfigError: There is no such file, or it makes no table.
    """
    if not Path(path).is_file():
        known = ", ".join(sorted(str(p) for p in Path("configs/tables").glob("*.py"))) or "none under configs/tables/ here"
        raise ConfigError("--config", f"no file {path!r}", f"a table's file: {known}", "check the path")
    spec = importlib.util.spec_from_file_location("table", path)
    if spec is None or spec.loader is None:
        raise ConfigError(path, "no Python file", EXPECTED, "name a table under configs/tables/")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        table = module.get_table()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the file is a program, and can raise anything
        found = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        action = "name a table under configs/tables/" if hasattr(module, "get_config") else "mend the file"
        raise ConfigError(path, found, EXPECTED, action) from error
    _require_types(path, table)
    return table


def _require_types(path: str, table: object) -> None:
    if not isinstance(table, Table):
        raise ConfigError(path, f"get_table() returns a {type(table).__name__}", EXPECTED, "return a Table")
    wrong = [row for row in table.rows if not (isinstance(row, Row) and isinstance(row.config, Config))]
    if wrong or not table.rows:
        raise ConfigError(path, f"{wrong or 'no rows'}", "rows of type Row, each with a Config", "mend the file")


def chosen(table: Table, rows: str, folds: str, seeds: str) -> tuple[Table, tuple[str, ...]]:
    """The table with the folds and seeds that the command line names in place of its own, and the rows to run.

    Raises:
        ConfigError: Or a group of them: unknown rows, and what is no number.
    """
    errors: list[UserError] = []
    names = [row.name for row in table.rows]
    wanted = [name.strip() for name in rows.split(",")] if rows else names
    for name in wanted:
        if name not in names:
            action = suggest_nearest(name, names, "choose some of them")
            errors.append(ConfigError("--rows", f"no row {name!r}", "some of " + ", ".join(names), action))
    for flag, text in (("folds", folds), ("seeds", seeds)):
        if not re.fullmatch(r"(\d{1,9}(,\d{1,9})*)?", text):
            errors.append(ConfigError(f"--{flag}", repr(text), "whole numbers with commas between them", "correct them"))
        elif text:
            table = dataclasses.replace(table, **{flag: tuple(int(number) for number in text.split(","))})
    raise_all(errors)
    return table, tuple(dict.fromkeys(with_starts(table, wanted)))


def with_starts(table: Table, names: Sequence[str]) -> Iterator[str]:
    """Rows, each behind the one that it starts from."""
    for name in names:
        start = table.row(name).starts_from
        if start in [row.name for row in table.rows if row.name != name]:
            yield from with_starts(table, [start])
        yield name


def table_errors(
    table: Table, overrides: Sequence[str], config_errors: Callable[[Config], list[UserError]]
) -> list[UserError]:
    """Everything that is wrong with a table and the configs of its rows; what several rows have in common is told once.

    Args:
        table: With what the command line sets of its rows' configs.
        overrides: The fields that it sets.
        config_errors: See `config_checks.config_errors`, which imports JAX.
    """
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
        if not is_folder_name(name):
            yield ConfigError("name", repr(name), FOLDER_NAME, "mend it")
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield ConfigError("rows", f"{name!r} twice", "a name of its own for each row", "rename one")
    if table.reference and table.reference not in [row.name for row in table.rows]:
        yield ConfigError("reference", repr(table.reference), "the name of a row", "name one, or none for the last")
    for field in ("folds", "seeds"):
        values = getattr(table, field)
        if not values or len(set(values)) < len(values):
            yield ConfigError(field, f"{values}", "one number or several different ones", "mend them")


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
        yield ConfigError(f"{where}: grader.architectures", found, "one grader and a graded set", "give each its own row")
    if row.config.parallel.num_processes > 1:
        found = f"{row.config.parallel.num_processes} processes"
        yield ConfigError(f"{where}: parallel", found, "one, for each cell is a process of its own", "set it to 1")

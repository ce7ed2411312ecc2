"""Config files and table files: Python files that are executed once, and whose result is checked."""

import importlib.util
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from pldmlt_jax.config import Config, fields
from pldmlt_jax.errors import ConfigError, UserError, suggest_nearest
from pldmlt_jax.table_config import Row, Table

MODULE = "pldmlt_jax_config_file"
"""Name in `sys.modules` of the file that was executed last."""

EXPECTED_FILE = {"get_config": "a file with get_config() -> Config", "get_table": "a file with get_table() -> Table"}


def load_config(path: str) -> Config:
    """Executes a config file and returns the config that it makes.

    Raises:
        ConfigError: There is no such file, it fails, or it makes no config.
    """
    _require_file(path, "a config file", "configs")
    config = _call(path, "get_config")
    if not isinstance(config, Config):
        found = f"get_config() returns a {type(config).__name__}"
        raise ConfigError(path, found, EXPECTED_FILE["get_config"], "return a Config")
    return config


def load_table(path: str) -> Table:
    """Executes a table file and returns the table that it makes.

    Raises:
        ConfigError: There is no such file, it fails, or it makes no table.
    """
    _require_file(path, "a table file", "configs/tables")
    table = _call(path, "get_table")
    if not isinstance(table, Table):
        found = f"get_table() returns a {type(table).__name__}"
        raise ConfigError(path, found, EXPECTED_FILE["get_table"], "return a Table")
    wrong = [row for row in table.rows if not (isinstance(row, Row) and isinstance(row.config, Config))]
    if wrong or not table.rows:
        raise ConfigError(path, f"{wrong or 'no rows'}", "rows of type Row, each with a Config", "correct the file")
    return table


def _require_file(path: str, kind: str, folder: str) -> None:
    if not Path(path).is_file():
        known = sorted(str(file) for file in Path(folder).glob("*.py"))
        expected = f"{kind}: {', '.join(known) or f'none under {folder}/ here'}"
        raise ConfigError("--config", f"no file {path!r}", expected, suggest_nearest(path, known, "check the path"))


def _call(path: str, function: str) -> Any:
    """Executes a file and calls a function of it."""
    loader = SourceFileLoader(MODULE, path)
    spec = importlib.util.spec_from_loader(MODULE, loader)
    assert spec is not None  # the file exists
    module = sys.modules[MODULE] = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        return getattr(module, function)()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the file is a program, and can raise anything
        found = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        if function == "get_config" and hasattr(module, "get_table"):
            action = f"it is a table: python main.py compare --config={path}"
        elif function == "get_table" and hasattr(module, "get_config"):
            action = "name a table under configs/tables/"
        else:
            action = _suggest_field(found)
        raise ConfigError(path, found, EXPECTED_FILE[function], action) from error


def _suggest_field(message: str) -> str:
    """Suggests the most similar field if Python complains about a misspelt one, else where to look."""
    otherwise = "correct the file; --debug shows where"
    match = re.search(r"unexpected keyword argument '(\w+)'", message)
    known = {name for path, _ in fields(Config()) for name in path.split(".")}
    return suggest_nearest(match[1], sorted(known), otherwise) if match else otherwise

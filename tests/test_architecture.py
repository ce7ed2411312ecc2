"""The layout of the package: which way imports point, and how large folders, files and functions may be."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pldmlt_jax"

LAYERS = (
    ("errors", "types", "config", "table_config"),
    ("io",),
    ("data", "models"),
    ("method", "training"),
    ("evaluation",),
    ("config_checks", "export", "reporting"),
    ("workflow",),
    ("cli",),
    ("__init__", "__main__"),
)
"""Modules and folders of the package. A layer imports only from itself and from those above it in this list."""

MAX_MODULES, MAX_FILE_LINES, MAX_FUNCTION_LINES = 10, 300, 60


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of the package that a module imports, at its top or inside a function, except for type checking only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in FILES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        yield from imported(node)


IMPORTS = {name: set(imported(tree)) - {name} for name, tree in TREES.items()}


def layer(module: str) -> int:
    top = [*module.split("."), "__init__"][1]
    return next(number for number, names in enumerate(LAYERS) if top in names)


def test_every_module_has_a_layer() -> None:
    known = {name for names in LAYERS for name in names}
    found = {[*name.split("."), "__init__"][1] for name in FILES}
    assert found <= known and known - found <= {"__main__"}


def test_imports_point_one_way() -> None:
    upward = [
        f"{name} imports {other}" for name, others in IMPORTS.items() for other in others if layer(other) > layer(name)
    ]
    assert not upward


def test_imports_have_no_cycle() -> None:
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which names one


def test_an_upward_import_and_a_cycle_would_be_found() -> None:
    lazy = ast.parse("def f():\n    from pldmlt_jax.workflow import context")
    assert list(imported(lazy)) == ["pldmlt_jax.workflow.context"]
    assert layer("pldmlt_jax.workflow.context") > layer("pldmlt_jax.data.loader")
    with pytest.raises(ValueError, match="cycle"):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


def test_folders_hold_few_modules() -> None:
    modules = Counter(path.parent for path in FILES.values() if path.name not in ("__init__.py", "__main__.py"))
    assert {str(folder): number for folder, number in modules.items() if number > MAX_MODULES} == {}


def test_files_are_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    too_long = {
        f"{name}.{node.name}": length
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert too_long == {}

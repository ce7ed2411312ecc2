"""The examples in docstrings run and print what they say."""

import doctest
import importlib
from pathlib import Path
from types import ModuleType

import pytest

import pldmlt_jax

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pldmlt_jax"
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
"""Modules with an example."""

REQUIRED = {
    "pldmlt_jax.method.gradcam": {"grad_cam"},
    "pldmlt_jax.method.pseudo_labels": {"refine"},
    "pldmlt_jax.method.state": {"make_method"},
    "pldmlt_jax.method.steps": {"train_step", "meta_step"},
    "pldmlt_jax.method.virtual_step": {"virtual_params", "meta_loss"},
    "pldmlt_jax.models.build": {"build_network"},
}
"""Functions that the notebooks use, which must have an example, as the package's public names must."""

for public in pldmlt_jax.__all__:
    REQUIRED.setdefault(getattr(pldmlt_jax, public).__module__, set()).add(public)


def find_examples(module: ModuleType, names: dict) -> list[doctest.DocTest]:
    """The examples of a module; `names` are known to them besides those of the module."""
    return [test for test in doctest.DocTestFinder().find(module, extraglobs=names) if test.examples]


def run_example(test: doctest.DocTest) -> None:
    """Runs the examples of one docstring; their names stay in `test.globs`."""
    failures: list[str] = []
    result = doctest.DocTestRunner().run(test, out=failures.append, clear_globs=False)
    assert result.attempted and not result.failed, "".join(failures)


@pytest.fixture(scope="module")
def tiny_names() -> dict:
    """`method`, `state` and `batch` of the example of `make_method`, to which other examples refer."""
    module = importlib.import_module("pldmlt_jax.method.state")
    (test,) = [test for test in find_examples(module, {}) if test.name.endswith(".make_method")]
    run_example(test)
    return {name: test.globs[name] for name in ("method", "state", "batch")}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tiny_names: dict) -> None:
    module = importlib.import_module(name)
    tests = find_examples(module, tiny_names if name.startswith("pldmlt_jax.method.") else {})
    found = {test.name.removeprefix(f"{name}.") for test in tests}
    assert found >= REQUIRED.get(name, set())
    assert tests, "doctest does not find the example of this module"
    for test in tests:
        run_example(test)

"""`compare` as a user runs it, on the tiny table: every row, what is shared, resumption, failures, and bad tables."""

import shutil
from pathlib import Path

import pytest

from pldmlt_jax.cli.app import run

TABLE = "tests/faults/tiny_table.py"


def arguments(workdir: Path, cache: Path, *more: str) -> list[str]:
    return ["main.py", "compare", f"--config={TABLE}", f"--workdir={workdir}", f"--config.data.cache_dir={cache}", *more]


def names(folder: Path) -> list[str]:
    """Compiled programs of a persistent cache, by name."""
    return [path.name.rsplit("-", 2)[0] for path in folder.glob("jit_*-cache")]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of the whole table, on two seeds for a network; and what was compiled, beside it."""
    root = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(root / "compiled"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        assert run(arguments(root / "table", root / "cache")) == 0
        shutil.copytree(root / "compiled", root / "compiled_once")
        assert run(arguments(root / "table", root / "cache", "--rows=ours", "--seeds=0,1")) == 0
    return root / "table"


def test_one_compilation_of_each_step_serves_all_runs_of_one_shape(table: Path) -> None:
    """Each run is a process of its own, and finds in the cache what the first of its shapes has compiled."""
    once, twice = (names(table.parent / name) for name in ("compiled_once", "compiled"))
    for step in ("train_step", "meta_step", "grader_step", "eval_step"):
        found = [name for name in once if step in name]
        assert found, once
        assert sorted(name for name in twice if step in name) == sorted(found), step

"""What all tests share: types and shapes checked at run time, a compilation cache, the real data where they are."""

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
COMPILATION_CACHE = REPOSITORY / ".cache" / "jax"
MAX_CACHE_BYTES = 1 << 30

# Read when JAX is imported, here and in the programs that tests start; what is set outside goes first.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILATION_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # tests compile far more than they compute
os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import install_import_hook  # noqa: E402  (after the environment)

install_import_hook("pldmlt_jax", "typechecking.check")


def pytest_sessionstart() -> None:
    """Empties a compilation cache that has grown too large: JAX itself never removes anything from it."""
    if sum(path.stat().st_size for path in COMPILATION_CACHE.glob("*")) > MAX_CACHE_BYTES:
        shutil.rmtree(COMPILATION_CACHE)


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_end_with_their_module() -> Iterator[None]:
    """Each holds memory mappings, of which Linux grants a process 65,530: all tests' together crashed XLA."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


def _path_beside_the_repository(name: str) -> Path:
    path = REPOSITORY.parent / "shared" / name
    if not path.exists():
        pytest.skip(f"../shared/{name} is not there")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The root of the real data sets (`data.root`); skips the test where it is absent."""
    return _path_beside_the_repository("data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The folder of ImageNet weights; skips the test where it is absent."""
    return _path_beside_the_repository("weights")

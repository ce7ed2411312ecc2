"""Double precision for the tests that request it."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def float64() -> Iterator[None]:
    """Switches JAX to double precision for one test."""
    with jax.enable_x64(True):
        yield

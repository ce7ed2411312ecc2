"""The type checker that the tests put on every function of the package (see conftest.py)."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int passes for a float, as for static checkers


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks arguments and results, except of initialisers.

    JAX rebuilds registered dataclasses with placeholders and with added or removed axes (`vmap`, `scan`, `tree.map`),
    so their fields cannot be held to the annotated shapes.
    """
    return function if function.__name__ == "__init__" else _beartype(function)

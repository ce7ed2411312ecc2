"""Counts how often a builder lists its raw files."""

from collections import Counter
from pathlib import Path

import pytest

from pldmlt_jax.data.datasets.base import FundusBuilder
from pldmlt_jax.data.records import Listing


def count_listings(builder: type[FundusBuilder], listed: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds to the counter, under the builder's name, whenever the builder lists a folder."""
    original = builder.listing.__func__

    def listing(cls: type[FundusBuilder], folder: Path) -> Listing:
        listed[cls.__name__] += 1
        return original(cls, folder)

    monkeypatch.setattr(builder, "listing", classmethod(listing))

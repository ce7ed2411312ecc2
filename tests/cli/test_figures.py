"""`figures` as a user runs it: which images, which networks, and what it leaves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pldmlt_jax.cli.figures import median_area, most_kinds, names_of


def _selection(*areas: tuple[int, int, int, int]) -> Any:
    """Of images with these areas of MA, HE, EX and SE, in reverse order."""
    metadata = [SimpleNamespace(lesion_px=np.array(area)) for area in areas]
    return SimpleNamespace(split=SimpleNamespace(metadata=metadata), indices=np.arange(len(areas))[::-1])


def test_the_photograph_of_most_kinds_is_not_that_of_most_pixels():
    assert most_kinds(_selection((9, 9, 9, 9), (0, 0, 9000, 0), (9, 9, 8, 9))) == 2


def test_the_median_is_of_those_that_have_the_lesion():
    selection = _selection((0, 0, 7, 0), (0, 0, 0, 0), (0, 0, 900, 0), (0, 0, 30, 0), (0, 0, 0, 0))
    assert selection.indices[median_area(selection, "EX")] == 3
    assert median_area(selection, "SE") is None


def test_networks_are_named_by_what_tells_them_apart():
    paths = [Path("runs/ours/checkpoints"), Path("runs/unet")]
    assert names_of(paths) == ["ours", "unet"]
    assert names_of([Path("/a/fold0/checkpoints"), Path("/b/fold0/checkpoints")]) == ["a/fold0", "b/fold0"]
    assert names_of([Path("/a/fold0")] * 2) == ["fold0 (1)", "fold0 (2)"]

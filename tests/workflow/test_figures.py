"""Which images `figures` shows and how it names the networks; the verb itself runs in test_end_to_end.py."""

from pathlib import Path

import numpy as np

from pldmlt_jax.workflow.figures import find_median_area, find_most_kinds, shorten_names


def test_the_photograph_of_most_kinds_is_not_that_of_most_pixels():
    assert find_most_kinds(np.array([(9, 9, 8, 9), (0, 0, 9000, 0), (9, 9, 9, 9)])) == 2


def test_the_median_is_of_those_that_have_the_lesion():
    areas = np.array([(0, 0, 0, 0), (0, 0, 30, 0), (0, 0, 900, 0), (0, 0, 0, 0), (0, 0, 7, 0)])
    assert find_median_area(areas, "EX") == 1
    assert find_median_area(areas, "SE") is None


def test_networks_are_named_by_what_tells_them_apart():
    paths = [Path("runs/ours/checkpoints"), Path("runs/unet")]
    assert shorten_names(paths) == ["ours", "unet"]
    assert shorten_names([Path("/a/fold0/checkpoints"), Path("/b/fold0/checkpoints")]) == ["a/fold0", "b/fold0"]
    assert shorten_names([Path("/a/fold0")] * 2) == ["fold0 (1)", "fold0 (2)"]

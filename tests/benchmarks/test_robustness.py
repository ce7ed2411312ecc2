"""The changes of benchmarks/robustness.py: still photographs, of the same field of view."""

import numpy as np
import pytest

from benchmarks.robustness import CHANGES
from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.data.synthetic.dataset import draw_fundus


@pytest.mark.parametrize("name", CHANGES)
def test_change_keeps_the_size_the_field_of_view_and_its_input(name):
    image = draw_fundus((3,), 3, 192).image
    before = image.copy()
    changed = CHANGES[name](image)
    np.testing.assert_array_equal(image, before)
    assert changed.dtype == np.uint8 and changed.shape == image.shape
    assert (changed == image).all() == (name == "unchanged")
    kept, field = field_of_view(changed), field_of_view(image)
    assert (kept & field).sum() / (kept | field).sum() > 0.97

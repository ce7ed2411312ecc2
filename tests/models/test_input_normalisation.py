"""Image normalisation by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.models.input_normalisation import normalise


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("torch", [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.406 / 0.225]),
        ("caffe", [0 - 103.939, 51 - 116.779, 255 - 123.68]),
        ("tf", [1.0, 51 / 127.5 - 1, -1.0]),
        ("none", [1.0, 0.2, 0.0]),
    ],
)
def test_normalise_of_one_pixel_by_hand(scheme: str, expected: list[float]) -> None:
    pixel = np.array([255, 51, 0], np.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(normalise(pixel, scheme)[0, 0, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(normalise(pixel, scheme), normalise(pixel.astype(np.float32), scheme))


def test_normalise_rounds_once_in_bfloat16() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    half = normalise(image, "torch", jnp.bfloat16)
    np.testing.assert_array_equal(half, normalise(image, "torch").astype(jnp.bfloat16))

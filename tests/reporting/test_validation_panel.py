"""The small pictures that TensorBoard shows of validation images."""

import numpy as np
import pytest

from pldmlt_jax.reporting.overlays import CAPTION_PX, FILL_OPACITY, LESION_COLOURS
from pldmlt_jax.reporting.validation_panel import SIDE_PX, validation_panel
from pldmlt_jax.types import LESIONS, MASK_BITS

GREY = 100


def panels(target: str, channels: int, bits: dict[str, slice], predicted: dict[int, slice]) -> list[np.ndarray]:
    """The three panels without captions, of a grey image of half their side, valid in its left half."""
    size = SIDE_PX // 2
    mask_bits, probabilities = np.zeros((size, size), np.uint8), np.zeros((size, size, channels), np.float32)
    mask_bits[:, : size // 2] = MASK_BITS["valid"]
    for name, rows in bits.items():
        mask_bits[rows, : size // 2] |= MASK_BITS[name]
    for channel, rows in predicted.items():
        probabilities[rows, :, channel] = 0.9
    picture = validation_panel(np.full((size, size, 3), GREY, np.uint8), mask_bits, probabilities, target, 0.5)
    assert picture.shape == (CAPTION_PX + SIDE_PX, 3 * SIDE_PX, 3)
    return np.split(picture[CAPTION_PX:], 3, axis=1)


def filled(name: str) -> np.ndarray:
    return ((1 - FILL_OPACITY) * GREY + FILL_OPACITY * np.array(LESION_COLOURS[name])).astype(np.uint8)


@pytest.mark.parametrize(
    ("target", "channels", "name", "channel"),
    [("fused", 2, "lesion", 1), ("lesions", 4, "EX", 2), ("exclusive", 5, "EX", 3)],
)
def test_truth_and_prediction_stand_beside_the_photograph_in_their_colours(target, channels, name, channel):
    assert LESIONS[2] == "EX"
    upper, lower = slice(0, 30), slice(40, 80)
    photograph, truth, prediction = panels(target, channels, {"EX": upper, "fused": upper}, {channel: lower})
    assert np.all(photograph == GREY)
    assert np.array_equal(truth[30, 20], filled(name)) and np.all(truth[120, 20] == GREY)
    assert np.array_equal(prediction[120, 20], filled(name)) and np.all(prediction[30, 20] == GREY)
    assert np.all(prediction[120, 150] == GREY)  # outside the field of view nothing is predicted

"""Overlays, captions, heat maps and the panels that are made of them."""

import cv2
import numpy as np
import pytest

from pldmlt_jax.reporting.overlays import (
    CAPTION_PX,
    FILL_OPACITY,
    LESION_COLOURS,
    STRIP_PANEL_PX,
    VALIDATION_PANEL_PX,
    add_caption,
    cam_strip,
    colour_heatmap,
    overlay,
    overlay_at_size,
    validation_panel,
    write_picture,
)
from pldmlt_jax.types import LESIONS, MASK_BITS

GREY = 100


def test_overlay_colours_only_the_mask_and_does_not_change_the_image():
    image = np.full((20, 30, 3), 100, np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[5:10, 5:15] = True
    picture = overlay(image, {"HE": mask})
    assert (picture[~mask] == 100).all()
    assert (picture[5, 5:15] == LESION_COLOURS["HE"]).all()  # the outline is solid
    filled = 0.65 * 100 + 0.35 * np.array(LESION_COLOURS["HE"])
    np.testing.assert_allclose(picture[7, 10], filled, atol=1)
    assert (image == 100).all()


def test_colours_of_lesions_differ():
    assert len(set(LESION_COLOURS.values())) == len(LESION_COLOURS)


def test_map_is_scaled_to_its_own_range_and_a_constant_one_is_dark():
    rising = np.linspace(3.0, 4.0, 49, dtype=np.float32).reshape(7, 7)
    ends = cv2.applyColorMap(np.array([[0, 255]], np.uint8), cv2.COLORMAP_VIRIDIS)[0, :, ::-1]
    picture = colour_heatmap(rising, (70, 70))
    np.testing.assert_array_equal(picture[0, 0], ends[0])
    np.testing.assert_array_equal(picture[-1, -1], ends[1])
    assert (colour_heatmap(np.full((7, 7), 5.0, np.float32), (70, 70)) == ends[0]).all()


def test_strip_shows_photograph_mask_and_five_maps():
    image = np.full((40, 40, 3), 90, np.uint8)
    lesion = np.zeros((40, 40), bool)
    lesion[10, 10] = True
    maps = np.zeros((5, 4, 4), np.float32)
    maps[3, 1, 1] = 1.0
    strip = cam_strip(image, lesion, maps)
    bar = add_caption(np.zeros((STRIP_PANEL_PX, STRIP_PANEL_PX, 3), np.uint8), "x").shape[0] - STRIP_PANEL_PX
    assert strip.shape == (STRIP_PANEL_PX + bar, 7 * STRIP_PANEL_PX, 3)
    panels = np.split(strip[bar:], 7, axis=1)
    assert (panels[0] == 90).all()
    assert panels[1].sum() == 3 * 255 * (STRIP_PANEL_PX // 40) ** 2
    assert (panels[2] == panels[3]).all()  # grades 0 and 1, both empty
    assert (panels[5] != panels[2]).any()  # grade 3


def test_outlines_look_the_same_in_small_and_large_pictures():
    for scale in (1, 16):
        image, mask = np.full((40 * scale, 60 * scale, 3), 90, np.uint8), np.zeros((40 * scale, 60 * scale), bool)
        mask[10 * scale : 20 * scale, 30 * scale : 40 * scale] = True
        picture = overlay_at_size(image, {"EX": mask}, longer_side_px=240)
        assert picture.shape == (160, 240, 3)
        changed = (np.abs(picture.astype(int) - 90) > 8).any(axis=-1)
        assert 38**2 <= changed.sum() <= 46**2  # the square, four times as large and less sharp, and its outline


def test_a_picture_is_written_whole(tmp_path):
    write_picture(tmp_path / "IDRiD.1", np.zeros((45, 90, 3), np.uint8))
    assert cv2.imread(str(tmp_path / "IDRiD.1.jpg")).shape == (45, 90, 3)


def panels(target: str, channels: int, bits: dict[str, slice], predicted: dict[int, slice]) -> list[np.ndarray]:
    """The three panels without captions, of a grey image of half their side, valid in its left half."""
    size = VALIDATION_PANEL_PX // 2
    mask_bits, probabilities = np.zeros((size, size), np.uint8), np.zeros((size, size, channels), np.float32)
    mask_bits[:, : size // 2] = MASK_BITS["valid"]
    for name, rows in bits.items():
        mask_bits[rows, : size // 2] |= MASK_BITS[name]
    for channel, rows in predicted.items():
        probabilities[rows, :, channel] = 0.9
    picture = validation_panel(np.full((size, size, 3), GREY, np.uint8), mask_bits, probabilities, target, 0.5)
    assert picture.shape == (CAPTION_PX + VALIDATION_PANEL_PX, 3 * VALIDATION_PANEL_PX, 3)
    return np.split(picture[CAPTION_PX:], 3, axis=1)


def filled(name: str) -> np.ndarray:
    return ((1 - FILL_OPACITY) * GREY + FILL_OPACITY * np.array(LESION_COLOURS[name])).astype(np.uint8)


@pytest.mark.parametrize(
    ("target", "channels", "name", "channel"),
    [("fused", 2, "lesion", 1), ("lesions", 4, "EX", 2), ("exclusive", 5, "EX", 3)],
)
def test_validation_panel_shows_truth_and_prediction_next_to_the_photograph(target, channels, name, channel):
    assert LESIONS[2] == "EX"
    upper, lower = slice(0, 30), slice(40, 80)
    photograph, truth, prediction = panels(target, channels, {"EX": upper, "fused": upper}, {channel: lower})
    assert np.all(photograph == GREY)
    assert np.array_equal(truth[30, 20], filled(name)) and np.all(truth[120, 20] == GREY)
    assert np.array_equal(prediction[120, 20], filled(name)) and np.all(prediction[30, 20] == GREY)
    assert np.all(prediction[120, 150] == GREY)  # nothing is predicted outside the field of view

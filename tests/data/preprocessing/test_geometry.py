"""Reading photographs, and the way to the network's square and back."""

import dataclasses

import cv2
import numpy as np
import pytest

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.data.preprocessing.geometry import image_to_network, make_geometry, read_image, to_original
from pldmlt_jax.data.preprocessing.masks import mask_to_network
from pldmlt_jax.data.preprocessing.prepare import prepare_image
from pldmlt_jax.errors import DataError

DATA = DataConfig(size_px=64)


def disc_photograph(height: int = 200, width: int = 300, radius: int = 90, colour=(160, 80, 20)) -> np.ndarray:
    """A lit circle, shifted off the centre, on a black ground."""
    image = np.zeros((height, width, 3), np.uint8)
    cv2.circle(image, (width // 2 + 10, height // 2), radius, colour, -1)
    return image


# Reading


def test_image_is_read_as_rgb_whatever_the_file_holds(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), rgb)
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([rgb[..., ::-1], np.full((20, 30), 7, np.uint8)]))
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), rgb)
    cv2.imwrite(str(tmp_path / "grey.png"), rgb[..., 0])
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat(rgb[..., :1], 3, axis=-1))
    cv2.imwrite(str(tmp_path / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), rgb)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated_image_is_an_error_naming_the_file(tmp_path, suffix, kept):
    """Older versions of OpenCV return such a JPEG with its lower part grey, without a word."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    path = tmp_path / f"photograph{suffix}"
    cv2.imwrite(str(path), noise)
    read_image(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=f"photograph{suffix}: a truncated image"):
        read_image(path)


def test_what_a_telephone_appends_to_a_photograph_does_not_make_it_truncated(tmp_path):
    """Motion photographs carry a film behind the image's end."""
    path = tmp_path / "photograph.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))
    plain = read_image(path)
    path.write_bytes(path.read_bytes() + bytes(10_000))
    np.testing.assert_array_equal(read_image(path), plain)


@pytest.mark.parametrize("content, found", [(None, "No such file"), (b"", "empty"), (b"no image", "not a readable")])
def test_missing_empty_and_foreign_files_are_told_apart(tmp_path, content, found):
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=found):
        read_image(path)


# The geometry


def test_padding_keeps_the_aspect_ratio_and_is_symmetric():
    image, valid, _, geometry = prepare_image(disc_photograph(radius=140), DATA, 64)
    g = geometry
    assert max(g.resized_height_px, g.resized_width_px) == 64
    assert abs(g.resized_height_px / g.resized_width_px - g.crop_height_px / g.crop_width_px) < 0.5 / 64
    assert abs(2 * g.pad_top_px + g.resized_height_px - 64) <= 1
    assert image.shape == (64, 64, 3)
    assert not image[: g.pad_top_px].any()
    assert not valid[: g.pad_top_px].any()


def test_stretch_fills_the_square():
    g = make_geometry(np.ones((40, 100), bool), dataclasses.replace(DATA, resize="stretch"), 64)
    assert (g.resized_height_px, g.resized_width_px, g.pad_top_px, g.pad_left_px) == (64, 64, 0, 0)


def test_without_cropping_the_whole_frame_is_kept():
    g = make_geometry(field_of_view(disc_photograph()), dataclasses.replace(DATA, fov_crop=False), 64)
    assert (g.crop_height_px, g.crop_width_px) == (200, 300)


@pytest.mark.parametrize("resize", ["pad", "stretch"])
@pytest.mark.parametrize("size_px", [64, 160, 333])
def test_network_and_original_pixels_stay_aligned(resize, size_px):
    """A smooth ramp goes to the square and back, and ends where it was: no half-pixel shift, no swapped axis."""
    height, width = 211, 307
    y, x = np.mgrid[0:height, 0:width]
    ramp = np.round(np.dstack([60 + 0.5 * x, 60 + 0.4 * y, np.full(x.shape, 128.0)])).astype(np.uint8)
    image = np.where((np.hypot(y - 100, x - 160) < 95)[..., None], ramp, np.uint8(0))
    data = dataclasses.replace(DATA, resize=resize)
    geometry = make_geometry(field_of_view(image), data, size_px)
    square = image_to_network(ramp, geometry)
    back = to_original(square.astype(np.float32), geometry)
    g = geometry
    margin = int(np.ceil(1.5 * g.crop_width_px / size_px)) + 1
    inner = np.s_[
        g.crop_y_px + margin : g.crop_y_px + g.crop_height_px - margin,
        g.crop_x_px + margin : g.crop_x_px + g.crop_width_px - margin,
    ]
    difference = back[inner] - ramp[inner]
    assert np.abs(difference.mean(axis=(0, 1))).max() < 0.1  # half a pixel would be 0.25 and 0.2 levels
    assert np.abs(difference).max() < 1.6  # rounded twice
    outside = np.ones((height, width), bool)
    outside[g.crop_y_px : g.crop_y_px + g.crop_height_px, g.crop_x_px : g.crop_x_px + g.crop_width_px] = False
    assert not back[outside].any()


def test_mask_lands_on_its_lesion():
    """A lesion in image and mask is at the same place in both after reduction."""
    image, mask = np.full((200, 200, 3), 100, np.uint8), np.zeros((200, 200), np.uint8)
    cv2.circle(image, (61, 133), 6, (255, 255, 255), -1)
    cv2.circle(mask, (61, 133), 6, 1, -1)
    geometry = make_geometry(np.ones((200, 200), bool), DATA, 64)
    bright = image_to_network(image, geometry)[..., 0].astype(float) - 100
    reduced = mask_to_network(mask.astype(bool), geometry, "max")
    centres = [np.average(np.argwhere(np.ones((64, 64))), axis=0, weights=w.ravel()) for w in (bright, reduced)]
    np.testing.assert_allclose(centres[0], centres[1], atol=0.35)

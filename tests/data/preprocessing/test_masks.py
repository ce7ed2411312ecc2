"""Reading masks, reducing them to the network's square, fusing them."""

import dataclasses

import cv2
import numpy as np
import pytest

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing.geometry import make_geometry
from pldmlt_jax.data.preprocessing.masks import REDUCTIONS, count_components, fuse_lesions, mask_to_network, read_mask
from pldmlt_jax.errors import DataError

DATA = DataConfig(size_px=64)


# Reading


@pytest.mark.parametrize("value", [1, 76, 255])
def test_any_value_above_zero_is_a_lesion(tmp_path, value):
    truth = np.zeros((20, 30), bool)
    truth[3:5, 7:9] = True
    cv2.imwrite(str(tmp_path / "m.tif"), truth.astype(np.uint8) * value)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif", (20, 30)), truth)


def test_red_palette_mask_is_read(tmp_path):
    """Red is 76 in OpenCV's grey: below the usual threshold at 127."""
    truth = np.zeros((20, 30), bool)
    truth[3:5, 7:9] = True
    cv2.imwrite(str(tmp_path / "m.tif"), np.dstack([np.zeros((20, 30, 2), np.uint8), truth * np.uint8(255)]))
    assert cv2.imread(str(tmp_path / "m.tif"), cv2.IMREAD_GRAYSCALE).max() == 76
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif", (20, 30)), truth)


def test_alpha_of_a_mask_is_ignored(tmp_path):
    truth = np.zeros((20, 30), bool)
    truth[3:5, 7:9] = True
    rgba = np.dstack([truth * np.uint8(255)] * 3 + [np.full((20, 30), 255, np.uint8)])
    cv2.imwrite(str(tmp_path / "m.tif"), rgba)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif", (20, 30)), truth)


def test_mask_of_another_size_or_unreadable_names_file_and_both_sizes(tmp_path):
    cv2.imwrite(str(tmp_path / "m.tif"), np.zeros((10, 30), np.uint8))
    with pytest.raises(DataError, match=r"m\.tif: a mask 10 px high, 30 px wide\n.*20 px high, 30 px wide"):
        read_mask(tmp_path / "m.tif", (20, 30))
    (tmp_path / "m.tif").write_bytes(b"II*\x00 and nothing more")
    with pytest.raises(DataError, match="not a readable mask"):
        read_mask(tmp_path / "m.tif", (20, 30))


# Reduction of masks


@pytest.mark.parametrize("size_px", [32, 50, 64, 100])
def test_max_reduction_loses_no_lesion_and_matches_a_loop(size_px):
    rng = np.random.default_rng(size_px)
    mask = rng.random((127, 101)) < 0.01
    geometry = make_geometry(np.ones(mask.shape, bool), DATA, size_px)
    expected = np.zeros((size_px, size_px), bool)
    scale_y, scale_x = geometry.resized_height_px / 127, geometry.resized_width_px / 101
    for y, x in np.argwhere(mask):
        expected[int((y + 0.5) * scale_y) + geometry.pad_top_px, int((x + 0.5) * scale_x) + geometry.pad_left_px] = True
    np.testing.assert_array_equal(mask_to_network(mask, geometry, "max"), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(90, 120), (120, 90)])
def test_a_stretched_mask_has_no_gaps_along_the_side_that_is_enlarged(shape: tuple[int, int], reduction: str):
    geometry = make_geometry(np.ones(shape, bool), dataclasses.replace(DATA, resize="stretch"), 100)
    mask = np.zeros(shape, bool)
    mask[shape[0] // 3 :] = True
    reduced = mask_to_network(mask, geometry, reduction)
    assert not reduced[:33].any()
    assert reduced[34:].all()


def test_area_reduction_keeps_areas_and_loses_specks_where_max_inflates():
    mask = np.zeros((400, 400), bool)
    mask[100:200, 100:200] = True
    mask[300:302, 300:302] = True
    geometry = make_geometry(np.ones(mask.shape, bool), DATA, 40)
    by_area, by_max = (mask_to_network(mask, geometry, name) for name in ("area", "max"))
    assert by_area.sum() == 100
    assert by_max.sum() == 101
    assert by_max[30, 30]


def test_reduction_by_one_changes_nothing():
    mask = np.random.default_rng(0).random((64, 64)) < 0.2
    geometry = make_geometry(np.ones(mask.shape, bool), DATA, 64)
    for reduction in REDUCTIONS:
        np.testing.assert_array_equal(mask_to_network(mask, geometry, reduction), mask)


@pytest.mark.parametrize("seed", range(4))
def test_kept_areas_lose_no_lesion_either_and_add_one_pixel_for_each_that_would_vanish(seed):
    rng = np.random.default_rng(seed)
    mask = cv2.dilate((rng.random((240, 240)) < 0.002).astype(np.uint8), np.ones((3, 2), np.uint8)).astype(bool)
    mask[100:140, 30:90] = True
    geometry = make_geometry(np.ones(mask.shape, bool), DATA, 64)
    by_area, kept = (mask_to_network(mask, geometry, name) for name in ("area", "area_keep"))
    lost = count_components(mask, by_area, geometry)
    assert lost.vanished > 20
    assert count_components(mask, kept, geometry).vanished == 0
    assert (kept & by_area).sum() == by_area.sum()
    added = int(kept.sum() - by_area.sum())
    assert 0 < added <= lost.vanished  # two of them may share a pixel
    assert kept.sum() < mask_to_network(mask, geometry, "max").sum()


def test_a_vanished_lesion_keeps_the_pixel_that_it_covers_most_of():
    mask = np.zeros((40, 40), bool)
    mask[9:12, 13] = True  # one of its pixels in the first target row, two in the second
    geometry = make_geometry(np.ones(mask.shape, bool), DATA, 4)
    assert np.argwhere(mask_to_network(mask, geometry, "area_keep")).tolist() == [[1, 1]]


def test_components_are_counted_before_and_after_and_those_that_vanished():
    mask = np.zeros((80, 80), bool)
    mask[10:30, 10:30] = True  # stays
    mask[40, 40] = True  # vanishes by area
    mask[60:70, 8:18] = mask[60:70, 22:32] = True  # grow together by maximum: they touch at an eighth
    geometry = make_geometry(np.ones(mask.shape, bool), DATA, 10)
    assert count_components(mask, mask_to_network(mask, geometry, "area"), geometry) == (4, 3, 1)
    assert count_components(mask, mask_to_network(mask, geometry, "max"), geometry) == (4, 3, 0)
    empty = np.zeros_like(mask)
    assert count_components(empty, mask_to_network(empty, geometry, "max"), geometry) == (0, 0, 0)


# The fused mask


def test_fusion_is_the_union_and_then_the_closing():
    masks = {"MA": np.zeros((9, 9), bool), "EX": np.zeros((9, 9), bool)}
    masks["MA"][4, (3, 5)] = masks["EX"][(3, 5), 4] = True  # around one pixel, which the closing by a cross fills
    fused, before, after = fuse_lesions(masks, (9, 9), DATA)
    assert (before, after) == (4, 5)
    assert fused[4, 4]
    plain, before, after = fuse_lesions(masks, (9, 9), dataclasses.replace(DATA, fusion="none"))
    assert (before, after) == (4, 4)
    assert not plain[4, 4]
    _, _, dilated = fuse_lesions(masks, (9, 9), dataclasses.replace(DATA, fusion="dilate"))
    assert dilated == 13  # every pixel within two steps of the centre


def test_overlapping_lesions_count_once_and_none_at_all_is_empty():
    one = np.ones((3, 3), bool)
    assert fuse_lesions({"HE": one, "EX": one}, (3, 3), DATA)[1] == 9
    assert not fuse_lesions({}, (3, 3), DATA)[0].any()

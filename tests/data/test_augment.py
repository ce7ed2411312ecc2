"""Image and masks under one random geometry."""

import dataclasses

import cv2
import numpy as np
import pytest

from pldmlt_jax.config import AugmentConfig
from pldmlt_jax.data.augment import Window, augment, choose_window_centre, jitter_colours, make_elastic_maps, random_affine
from pldmlt_jax.types import MASK_BITS

IDENTITY = AugmentConfig(flip=False, rotation_deg=0.0, min_scale=1.0)
ROTATION = dataclasses.replace(IDENTITY, rotation_deg=180.0)
FULL = AugmentConfig()
ALL_BITS = sum(MASK_BITS.values())


def _noise(size_px: int = 48, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size_px, size_px, 3), np.uint8), rng.integers(0, 128, (size_px, size_px), np.uint8)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size_px", [47, 48])
def test_no_operation_is_the_exact_identity(size_px: int) -> None:
    image, bits = _noise(size_px)
    warped, warped_bits = augment(image, bits, IDENTITY, _rng())
    np.testing.assert_array_equal(warped, image)
    np.testing.assert_array_equal(warped_bits, bits)


@pytest.mark.parametrize("size_px", [47, 48])
def test_flips_are_exact_independent_and_the_same_for_image_and_masks(size_px: int) -> None:
    image, bits = _noise(size_px)
    flips = {(y, x): (image[::y, ::x].tobytes(), bits[::y, ::x].tobytes()) for y in (1, -1) for x in (1, -1)}
    seen = dict.fromkeys(flips, 0)
    for seed in range(80):
        warped = augment(image, bits, dataclasses.replace(IDENTITY, flip=True), _rng(seed))
        (found,) = [flip for flip, expected in flips.items() if tuple(plane.tobytes() for plane in warped) == expected]
        seen[found] += 1
    assert min(seen.values()) >= 8  # 20 expected of each; fewer than 8 has a probability below 1e-3


def test_a_quarter_turn_is_a_transposed_image() -> None:
    image, _ = _noise(48)
    affine = random_affine(48, ROTATION, _Fixed(uniform=[1.0, 90.0, np.zeros(2)]))
    np.testing.assert_array_equal(cv2.warpAffine(image, affine, (48, 48)), np.rot90(image, -1))


class _Fixed(np.random.Generator):
    """A generator that draws what the test says."""

    def __init__(self, uniform: list) -> None:
        super().__init__(np.random.PCG64(0))
        self._uniform = iter(uniform)

    def uniform(self, *_: object, **__: object) -> object:
        return next(self._uniform)


def test_the_crop_stays_inside_the_image_and_fills_the_target() -> None:
    config = AugmentConfig(flip=False, rotation_deg=0.0, min_scale=0.5)
    sides = []
    for seed in range(200):
        affine = random_affine(100, config, _rng(seed))
        corners = np.array([[-0.5, -0.5], [99.5, 99.5]])  # outer edges of the target, seen in the source
        low, high = (corners - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
        assert (low >= -0.5 - 1e-9).all() and (high <= 99.5 + 1e-9).all()
        np.testing.assert_allclose(high - low, (high - low)[0])
        sides.append((high - low)[0] / 100)
    assert 0.5 <= min(sides) < 0.52 and 0.98 < max(sides) <= 1.0


@pytest.mark.parametrize("seed", range(20))
def test_a_dot_stays_under_its_mask_bit(seed: int) -> None:
    """Centre of mass of a bright disc in the image against that of its mask, in whatever place it lands."""
    image, bits = np.zeros((96, 96, 3), np.uint8), np.full((96, 96), MASK_BITS["valid"], np.uint8)
    x, y = (int(v) for v in _rng(seed + 100).integers(35, 60, 2))
    cv2.circle(image, (x, y), 5, (255, 255, 255), -1)
    bits[image[..., 0] > 0] |= MASK_BITS["MA"]
    warped, warped_bits = augment(image, bits, FULL, _rng(seed))
    grey, marked = warped[..., 0].astype(float), warped_bits & MASK_BITS["MA"] != 0
    assert marked.sum() > 40
    centres = [(np.argwhere(w > 0) * w[w > 0][:, None]).sum(axis=0) / w.sum() for w in (grey, marked.astype(float))]
    np.testing.assert_allclose(*centres, atol=0.35)  # the nearest pixel is half a pixel off at most, 0.08 in the mean
    np.testing.assert_array_equal(marked[(grey > 200)], True)
    np.testing.assert_array_equal(marked[(grey < 55)], False)


def test_what_comes_from_outside_is_black_and_not_valid() -> None:
    image, bits = np.full((64, 64, 3), 200, np.uint8), np.full((64, 64), ALL_BITS, np.uint8)
    warped, warped_bits = augment(image, bits, ROTATION, _Fixed(uniform=[1.0, 45.0, np.zeros(2)]))
    corners = np.ix_([0, -1], [0, -1])
    assert (warped[corners] == 0).all() and (warped_bits[corners] == 0).all()
    assert set(np.unique(warped_bits)) == {0, ALL_BITS}  # no mixture of bits
    assert (warped[warped_bits == 0] <= 100).all()  # at most half of such a pixel lies inside


def test_areas_are_kept_on_average_also_of_one_pixel() -> None:
    """A microaneurysm of one pixel may vanish or double: its expected area is that of the geometry."""
    bits = np.zeros((65, 65), np.uint8)
    bits[20::12, 20:46:12] = MASK_BITS["MA"]  # single pixels
    bits = np.where(np.hypot(*(np.indices(bits.shape) - 32)) < 30, bits, 0).astype(np.uint8)
    image = np.zeros((65, 65, 3), np.uint8)
    areas = [np.count_nonzero(augment(image, bits, ROTATION, _rng(seed))[1]) for seed in range(400)]
    error = np.std(areas) / np.sqrt(len(areas))
    assert np.std(areas) > 0.3  # single pixels do come and go
    assert abs(np.mean(areas) - np.count_nonzero(bits)) < 4 * error


def test_the_generators_state_alone_decides_and_inputs_stay() -> None:
    image, bits = _noise()
    before = image.copy(), bits.copy()
    config = dataclasses.replace(FULL, photometric=0.3)
    first, again, other = (augment(image, bits, config, _rng(seed)) for seed in (1, 1, 2))
    for a, b, c, unchanged, kept in zip(first, again, other, (image, bits), before, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
        np.testing.assert_array_equal(unchanged, kept)


# ---- photometric jitter


def test_jitter_is_saturation_then_contrast_then_brightness() -> None:
    """Against the three operations one after the other, in float64."""
    image, _ = _noise(32)
    image = (image // 4 + 90).astype(np.uint8)  # away from 0 and 255, so that nothing is clipped
    valid = np.ones((32, 32), bool)
    for seed in range(5):
        brightness, contrast, saturation = _rng(seed).uniform(0.8, 1.2, size=3)
        pixels = image.astype(float)
        grey = pixels.mean(axis=-1, keepdims=True)
        pixels = grey + saturation * (pixels - grey)
        expected = brightness * (image.mean() + contrast * (pixels - image.mean()))
        np.testing.assert_allclose(jitter_colours(image, valid, 0.2, _rng(seed)), expected, atol=1.0)


def test_jitter_saturates_and_leaves_invalid_pixels_black() -> None:
    image = np.full((16, 16, 3), 240, np.uint8)
    valid = np.zeros((16, 16), bool)
    valid[4:12, 4:12] = True
    image[~valid] = 0
    results = [jitter_colours(image, valid, 0.5, _rng(seed)) for seed in range(20)]
    assert all((result[~valid] == 0).all() for result in results)
    assert max(int(result.max()) for result in results) == 255  # no wrap-around of uint8
    assert all(np.ptp(result[valid]) == 0 for result in results)


def test_weak_jitter_does_not_darken() -> None:
    """Rounding, not truncation: a factor of 1 is the identity."""
    image, _ = _noise()
    np.testing.assert_array_equal(jitter_colours(image, np.ones(image.shape[:2], bool), 0.0, _rng()), image)


# ---- elastic deformation and blur


def test_elastic_deformation_moves_image_and_masks_alike_and_smoothly() -> None:
    image, bits = np.zeros((128, 128, 3), np.uint8), np.full((128, 128), MASK_BITS["valid"], np.uint8)
    for x in range(24, 120, 20):
        cv2.circle(image, (x, 64), 5, (255, 255, 255), -1)
    bits[image[..., 0] > 0] |= MASK_BITS["MA"]
    config = dataclasses.replace(IDENTITY, elastic=0.02)
    for seed in range(5):
        warped, warped_bits = augment(image, bits, config, _rng(seed))
        marked = warped_bits & MASK_BITS["MA"] != 0
        assert (warped != image).any()
        np.testing.assert_array_equal(marked[warped[..., 0] > 200], True)
        np.testing.assert_array_equal(marked[warped[..., 0] < 55], False)
        count, _, statistics, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8))
        assert count == 6  # no dot is torn or merged
        assert abs(statistics[1:, cv2.CC_STAT_AREA].mean() / 81 - 1) < 0.3


def test_elastic_deformation_of_no_strength_is_the_affine_map() -> None:
    image, _ = _noise(64)
    affine = random_affine(64, FULL, _rng(3))
    x, y = make_elastic_maps(affine, 64, 0.0, _rng(0))
    expected = cv2.warpAffine(image, affine, (64, 64), flags=cv2.INTER_LINEAR).astype(int)
    found = cv2.remap(image, x, y, cv2.INTER_LINEAR).astype(int)
    assert np.abs(found - expected)[1:-1, 1:-1].mean() < 2  # OpenCV rounds positions to 1/32 of a pixel


def test_displacements_have_the_strength_that_was_asked_for() -> None:
    identity = np.eye(2, 3)
    shifts = [make_elastic_maps(identity, 60, 3.0, _rng(seed))[0] - np.arange(60)[None, :] for seed in range(40)]
    assert np.std(shifts) == pytest.approx(3.0, rel=0.25)  # smaller between the grid's points
    assert np.abs(np.diff(shifts, axis=-1)).max() < 3  # and smooth


def test_blur_smooths_the_image_and_leaves_the_masks() -> None:
    image, bits = _noise(64)
    config = dataclasses.replace(IDENTITY, blur_px=2.0)
    spread = []
    for seed in range(20):
        blurred, same = augment(image, bits, config, _rng(seed))
        np.testing.assert_array_equal(same, bits)
        spread.append(blurred.std())
    assert min(spread) < 0.3 * image.std() < max(spread)


# ---- windows


def _two_lesions() -> tuple[np.ndarray, np.ndarray]:
    """A large exudate and one microaneurysm in a field that fills the image."""
    image, bits = np.full((256, 256, 3), 90, np.uint8), np.full((256, 256), MASK_BITS["valid"], np.uint8)
    bits[20:60, 20:60] |= MASK_BITS["EX"] | MASK_BITS["fused"]
    bits[200, 220] |= MASK_BITS["MA"] | MASK_BITS["fused"]
    return image, bits


def test_windows_hold_lesions_as_often_as_asked_for_and_each_kind_alike() -> None:
    image, bits = _two_lesions()
    shares = {}
    for share in (0.0, 1.0):
        found = [augment(image, bits, IDENTITY, _rng(seed), Window(64, share))[1] for seed in range(200)]
        assert {window.shape for window in found} == {(64, 64)}
        shares[share] = [np.mean([(window & MASK_BITS[kind]).any() for window in found]) for kind in ("EX", "MA")]
    assert 0.35 < shares[1.0][0] < 0.65 and 0.35 < shares[1.0][1] < 0.65
    assert sum(shares[1.0]) > 0.99  # every window holds one
    assert sum(shares[0.0]) < 0.35


def test_windows_stay_inside_and_keep_their_scale() -> None:
    image, bits = _two_lesions()
    for seed in range(50):
        window, window_bits = augment(image, bits, IDENTITY, _rng(seed), Window(96, 0.5))
        assert (window_bits & MASK_BITS["valid"]).all()
        assert (window == 90).all()


def test_a_window_is_the_part_of_the_image_around_its_centre() -> None:
    image, bits = _noise(80)
    centre = choose_window_centre(bits | MASK_BITS["valid"], Window(16, 0.0), _rng(5))
    affine = random_affine(80, IDENTITY, _rng(5), 16, np.round(centre) + 0.5)
    x, y = (np.round(centre) + 0.5 - 7.5).astype(int)
    np.testing.assert_array_equal(cv2.warpAffine(image, affine, (16, 16)), image[y : y + 16, x : x + 16])


def test_an_image_without_lesions_has_windows_too() -> None:
    image, bits = np.full((64, 64, 3), 90, np.uint8), np.zeros((64, 64), np.uint8)
    assert augment(image, bits, FULL, _rng(), Window(32, 1.0))[0].shape == (32, 32, 3)

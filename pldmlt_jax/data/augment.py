"""Augments an image and its masks with the paper's flips, rotation, crop and rescaling, in one warp.

Options beyond the paper: elastic deformation, colour jitter, blur, and training on crops with lesions.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.config import AugmentConfig, TrainConfig
from pldmlt_jax.types import LESIONS, MASK_BITS

ELASTIC_CELLS = 6
"""Points per side of the coarse grid on which the elastic deformation is random; it is smooth in between."""


@dataclass(frozen=True)
class Window:
    """A square crop that training takes from each image."""

    size_px: int  # side of the crop
    lesion_share: float  # share of crops placed on a lesion, among images that have one


def make_training_window(config: TrainConfig) -> Window | None:
    """Returns the crop that the config trains on, or None for whole images."""
    return Window(config.crop_px, config.crop_lesion_share) if config.crop_px else None


def augment(
    image: UInt8[np.ndarray, "s s 3"],
    mask_bits: UInt8[np.ndarray, "s s"],
    config: AugmentConfig,
    rng: np.random.Generator,
    window: Window | None = None,
) -> tuple[UInt8[np.ndarray, "t t 3"], UInt8[np.ndarray, "t t"]]:
    """Warps an image and its masks by one random geometry. Pixels from outside the image are black and not valid.

    Masks take the nearest pixel: a lesion of one pixel may vanish or double, but keeps its area on average (apart from the
    enlargement by the crop).

    Args:
        image: uint8 RGB [s, s, 3].
        mask_bits: uint8 [s, s]; see MASK_BITS.
        config: Ranges of the random geometry, colour jitter and blur.
        rng: Source of all randomness.
        window: The crop to take; None for the whole image.

    Returns:
        New arrays uint8 [t, t, 3] and [t, t], where t is the side of the window or of the image.

    Example:
        >>> image, mask_bits = np.full((64, 64, 3), 90, np.uint8), np.full((64, 64), MASK_BITS["valid"], np.uint8)
        >>> warped, warped_bits = augment(image, mask_bits, AugmentConfig(), np.random.default_rng(0), Window(32, 0.5))
        >>> warped.shape, warped_bits.shape
        ((32, 32, 3), (32, 32))
    """
    source_px = image.shape[0]
    target_px = window.size_px if window else source_px
    focus = choose_window_centre(mask_bits, window, rng) if window else None
    affine = random_affine(source_px, config, rng, target_px, focus)
    size = (target_px, target_px)
    if config.elastic:
        x, y = make_elastic_maps(affine, target_px, config.elastic * source_px, rng)
        warped = cv2.remap(image, x, y, cv2.INTER_LINEAR)
        warped_bits = cv2.remap(mask_bits, x, y, cv2.INTER_NEAREST)
    else:
        warped = cv2.warpAffine(image, affine, size, flags=cv2.INTER_LINEAR)
        warped_bits = cv2.warpAffine(mask_bits, affine, size, flags=cv2.INTER_NEAREST)
    if config.photometric:
        warped = jitter_colours(warped, np.bitwise_and(warped_bits, MASK_BITS["valid"]) > 0, config.photometric, rng)
    if config.blur_px and (sigma := rng.uniform(0.0, config.blur_px)) > 0.1:  # less changes nothing
        warped = cv2.GaussianBlur(warped, (0, 0), sigma)
    return warped, warped_bits


def choose_window_centre(
    mask_bits: UInt8[np.ndarray, "s s"], window: Window, rng: np.random.Generator
) -> Float[np.ndarray, "2"]:
    """Chooses the centre of a crop: a random pixel of the field of view, or a point near a random lesion pixel.

    Each kind of lesion in the image is equally likely. The crop stays inside the image.

    Args:
        mask_bits: uint8 [s, s]; see MASK_BITS.
        window: The crop; its `lesion_share` is the probability of a lesion.
        rng: Source of all randomness.

    Returns:
        float64 (x, y) in pixels.
    """
    kinds = [bit for name in LESIONS if (mask_bits & (bit := MASK_BITS[name])).any()]
    kinds = kinds or ([MASK_BITS["fused"]] if (mask_bits & MASK_BITS["fused"]).any() else [])
    on_lesion = bool(kinds) and rng.random() < window.lesion_share
    bit = kinds[rng.integers(len(kinds))] if on_lesion else MASK_BITS["valid"]
    places = np.flatnonzero(mask_bits & bit)
    side = mask_bits.shape[0]
    place = int(places[rng.integers(len(places))]) if len(places) else (side // 2) * (side + 1)
    centre = np.array([place % side, place // side], float)
    if on_lesion:  # not always in the middle
        centre += rng.uniform(-0.25, 0.25, size=2) * window.size_px
    half = (window.size_px - 1) / 2.0
    return centre.clip(half, side - 1 - half)


def random_affine(
    source_px: int,
    config: AugmentConfig,
    rng: np.random.Generator,
    target_px: int | None = None,
    focus: Float[np.ndarray, "2"] | None = None,
) -> Float[np.ndarray, "2 3"]:
    """Samples an affine map: crop and rescale, then rotation about the centre, then flips.

    Args:
        source_px: Side of the image.
        config: Ranges of scale, rotation and flips.
        rng: Source of all randomness.
        target_px: Side of the result; None for the image's.
        focus: Source pixel (x, y) that becomes the centre of the result; None for a random one with the crop in the image.

    Returns:
        float64 [2, 3], from source to target pixels (x, y).
    """
    side = rng.uniform(config.min_scale, 1.0)  # of the crop, relative to the target
    angle = np.deg2rad(rng.uniform(-config.rotation_deg, config.rotation_deg))
    flips = np.where(rng.random(2) < 0.5, -1.0, 1.0) if config.flip else np.ones(2)
    if focus is None:
        focus = (source_px - 1) / 2.0 + rng.uniform(-0.5, 0.5, size=2) * (1.0 - side) * source_px
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = np.diag(flips) @ rotation / side
    return np.column_stack([linear, ((target_px or source_px) - 1) / 2.0 - linear @ focus])


def make_elastic_maps(
    affine: Float[np.ndarray, "2 3"], target_px: int, sigma_px: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "t t"], Float[np.ndarray, "t t"]]:
    """Adds a smooth random displacement to an affine map, for `cv2.remap`.

    Args:
        affine: [2, 3], from source to target pixels.
        target_px: Side of the result.
        sigma_px: Standard deviation of the displacement at the points of the coarse grid, in source pixels.
        rng: Source of the displacement.

    Returns:
        float32 [t, t] twice: the source's x and y for each target pixel.
    """
    inverse = cv2.invertAffineTransform(affine)
    coarse = rng.normal(0.0, sigma_px, (ELASTIC_CELLS, ELASTIC_CELLS, 2)).astype(np.float32)
    moved = cv2.resize(coarse, (target_px, target_px), interpolation=cv2.INTER_CUBIC)
    along = np.arange(target_px)
    x = inverse[0, 0] * along[None, :] + inverse[0, 1] * along[:, None] + inverse[0, 2] + moved[..., 0]
    y = inverse[1, 0] * along[None, :] + inverse[1, 1] * along[:, None] + inverse[1, 2] + moved[..., 1]
    return x.astype(np.float32), y.astype(np.float32)


def jitter_colours(
    image: UInt8[np.ndarray, "s s 3"], valid: Bool[np.ndarray, "s s"], strength: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    """Changes saturation, contrast and brightness of the valid pixels by random factors.

    Args:
        image: uint8 RGB [s, s, 3].
        valid: bool [s, s], True inside the field of view. Other pixels stay unchanged.
        strength: Each factor is uniform in [1 - strength, 1 + strength].
        rng: Source of the three factors.

    Returns:
        A new array uint8 [s, s, 3].
    """
    brightness, contrast, saturation = rng.uniform(1.0 - strength, 1.0 + strength, size=3)
    inside = valid.astype(np.uint8)
    mean = float(np.mean(cv2.mean(image, inside)[:3]))
    # One affine map of a pixel's RGB does all three, because saturation and contrast do not change the mean.
    matrix = brightness * contrast * (saturation * np.eye(3) + (1.0 - saturation) / 3.0)
    offset = np.full((3, 1), brightness * (1.0 - contrast) * mean)
    return cv2.copyTo(cv2.transform(image, np.hstack([matrix, offset])), inside, image.copy())

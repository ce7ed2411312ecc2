"""The paper's augmentation: flips, rotation, crop and rescale, in one warp of image and masks by one geometry."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.config import AugmentConfig
from pldmlt_jax.types import MASK_BITS


def augment(
    image: UInt8[np.ndarray, "s s 3"],
    mask_bits: UInt8[np.ndarray, "s s"],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]]:
    """Warps an image and its masks by one random geometry; what comes from outside is black and not valid.

    The mask bits are taken from the nearest pixel: a lesion of a single pixel may vanish or double, and keeps its area
    on average (times the enlargement by the crop).

    Args:
        image: RGB, 0..255.
        mask_bits: See MASK_BITS.
        config: Ranges of the random geometry and of the photometric jitter.
        rng: Source of all randomness.

    Returns:
        New arrays of the same shapes; the inputs stay as they are.
    """
    size_px = image.shape[0]
    affine = random_affine(size_px, config, rng)
    size = (size_px, size_px)
    warped = cv2.warpAffine(image, affine, size, flags=cv2.INTER_LINEAR)
    warped_bits = cv2.warpAffine(mask_bits, affine, size, flags=cv2.INTER_NEAREST)
    if config.photometric:
        warped = jitter(warped, np.bitwise_and(warped_bits, MASK_BITS["valid"]) > 0, config.photometric, rng)
    return warped, warped_bits


def random_affine(size_px: int, config: AugmentConfig, rng: np.random.Generator) -> Float[np.ndarray, "2 3"]:
    """A random map from source to target pixels (x, y): crop and rescale, then rotation about the centre, then flips."""
    side = rng.uniform(config.min_scale, 1.0)  # of the crop, relative to the image
    angle = np.deg2rad(rng.uniform(-config.rotation_deg, config.rotation_deg))
    flips = np.where(rng.random(2) < 0.5, -1.0, 1.0) if config.flip else np.ones(2)
    centre = (size_px - 1) / 2.0
    crop_centre = centre + rng.uniform(-0.5, 0.5, size=2) * (1.0 - side) * size_px
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = np.diag(flips) @ rotation / side
    return np.column_stack([linear, centre - linear @ crop_centre])


def jitter(
    image: UInt8[np.ndarray, "s s 3"], valid: Bool[np.ndarray, "s s"], strength: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    """Saturation, contrast about the mean and brightness of the valid pixels; the others stay as they are.

    Args:
        image: RGB, 0..255.
        valid: Inside the field of view.
        strength: Each factor is uniform in [1 - strength, 1 + strength].
        rng: Source of the three factors.
    """
    brightness, contrast, saturation = rng.uniform(1.0 - strength, 1.0 + strength, size=3)
    mean = float(np.mean(cv2.mean(image, valid.astype(np.uint8))[:3]))
    # The three operations compose to one affine map of a pixel's RGB, since none of the first two moves the mean.
    matrix = brightness * contrast * (saturation * np.eye(3) + (1.0 - saturation) / 3.0)
    offset = np.full((3, 1), brightness * (1.0 - contrast) * mean)
    return np.where(valid[..., None], cv2.transform(image, np.hstack([matrix, offset])), image)

"""The paper's augmentation: flips, rotation, crop and rescale, in one warp of image and masks by one geometry."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from pldmlt_jax.config import AugmentConfig
from pldmlt_jax.types import MASK_BITS


def random_affine(size_px: int, config: AugmentConfig, rng: np.random.Generator) -> Float[np.ndarray, "2 3"]:
    """A random map from source to target pixels: crop and rescale, then rotation about the centre, then flips."""
    side = rng.uniform(config.min_scale, 1.0)  # of the crop, relative to the image
    angle = np.deg2rad(rng.uniform(-config.rotation_deg, config.rotation_deg))
    flips = np.where(rng.random(2) < 0.5, -1.0, 1.0) if config.flip else np.ones(2)
    centre = (size_px - 1) / 2.0
    crop_centre = centre + rng.uniform(-0.5, 0.5, size=2) * (1.0 - side) * size_px
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = np.diag(flips) @ rotation / side
    return np.column_stack([linear, centre - linear @ crop_centre])


def augment(
    image: UInt8[np.ndarray, "s s 3"],
    mask_bits: UInt8[np.ndarray, "s s"],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]]:
    """Warps image (bilinear) and mask bits (nearest) alike; what comes from outside is black and not valid."""
    size_px = image.shape[0]
    affine = random_affine(size_px, config, rng)
    size = (size_px, size_px)
    warped = cv2.warpAffine(image, affine, size, flags=cv2.INTER_LINEAR)
    warped_bits = cv2.warpAffine(mask_bits, affine, size, flags=cv2.INTER_NEAREST)
    if config.photometric:
        warped = jitter(warped, warped_bits & MASK_BITS["valid"] != 0, config.photometric, rng)
    return warped, warped_bits


def jitter(
    image: UInt8[np.ndarray, "s s 3"], valid: np.ndarray, strength: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    """Brightness, contrast and saturation, each by a factor uniform in [1 - strength, 1 + strength], where valid."""
    brightness, contrast, saturation = rng.uniform(1.0 - strength, 1.0 + strength, size=3)
    pixels = image.astype(np.float32)
    mean = pixels[valid].mean() if valid.any() else 0.0
    grey = pixels.mean(axis=-1, keepdims=True)
    pixels = grey + saturation * (pixels - grey)
    pixels = brightness * (mean + contrast * (pixels - mean))
    return np.where(valid[..., None], np.clip(pixels, 0, 255), image).astype(np.uint8)

"""Optional contrast enhancement of the network's input, the same for training and prediction."""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

CLAHE_LIMIT, CLAHE_TILES = 2.0, 8
"""Clip limit, and tiles per side."""

GRAHAM_SIGMA_SHARE = 1 / 30
"""Standard deviation of the blur relative to the square's side; the original uses about a tenth of the field's radius."""

GRAHAM_GAIN, GRAHAM_GREY = 4.0, 128


def _none(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return image


def _clahe(image: UInt8[np.ndarray, "s s 3"], valid: Bool[np.ndarray, "s s"]) -> UInt8[np.ndarray, "s s 3"]:
    """Equalises the lightness with CLAHE (Zuiderveld 1994; L of CIE L*a*b*)."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    equaliser = cv2.createCLAHE(CLAHE_LIMIT, (CLAHE_TILES, CLAHE_TILES))
    lab[..., 0] = equaliser.apply(np.ascontiguousarray(lab[..., 0]))
    return np.where(valid[..., None], cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8(0))


def _ben_graham(image: UInt8[np.ndarray, "s s 3"], valid: Bool[np.ndarray, "s s"]) -> UInt8[np.ndarray, "s s 3"]:
    """Subtracts the local mean colour: 4 (image - blurred) + 128 (Graham, Kaggle Diabetic Retinopathy report, 2015).

    The mean is taken inside the field of view only, so that its rim is not brightened.
    """
    sigma = GRAHAM_SIGMA_SHARE * image.shape[0]
    weight = cv2.GaussianBlur(valid.astype(np.float32), (0, 0), sigma)[..., None]
    inside = np.where(valid[..., None], image, np.uint8(0)).astype(np.float32)
    mean = cv2.GaussianBlur(inside, (0, 0), sigma) / np.maximum(weight, 1e-3)
    result = (GRAHAM_GAIN * (inside - mean) + GRAHAM_GREY).clip(0, 255).astype(np.uint8)
    return np.where(valid[..., None], result, np.uint8(0))


ENHANCEMENTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "none": _none,
    "clahe": _clahe,
    "ben_graham": _ben_graham,
}
"""By name: a function of the image uint8 [s, s, 3] and its field of view bool [s, s] that returns a new image."""

"""Small panels of a few validation images for TensorBoard: photograph, truth and prediction side by side."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.evaluation.operating_points import lesion_masks
from pldmlt_jax.reporting.overlays import add_caption, overlay

NUM_IMAGES = 3
SIDE_PX = 192
"""Of each of the three panels."""


def validation_panel(
    image: UInt8[np.ndarray, "s s 3"],
    mask_bits: UInt8[np.ndarray, "s s"],
    probabilities: Float[np.ndarray, "s s k"],
    target: str,
    threshold: float,
) -> UInt8[np.ndarray, "h w 3"]:
    """One image's three panels; lesions in their colours, where the network tells them apart, else in one.

    Args:
        image: RGB.
        mask_bits: The truth, see MASK_BITS.
        probabilities: Of the channels of `target`.
        target: A key of `losses.TARGETS`.
        threshold: Above which a pixel is predicted to be of a lesion.
    """
    truth, predicted = lesion_masks(mask_bits, probabilities, target, threshold)
    panels = {"photograph": {}, "truth": truth, "prediction": predicted}
    return np.concatenate([_panel(image, masks, title) for title, masks in panels.items()], axis=1)


def _panel(
    image: UInt8[np.ndarray, "s s 3"], masks: dict[str, Bool[np.ndarray, "s s"]], title: str
) -> UInt8[np.ndarray, "h w 3"]:
    enlarging = image.shape[0] < SIDE_PX
    way = cv2.INTER_NEAREST if enlarging else cv2.INTER_AREA
    return add_caption(cv2.resize(overlay(image, masks), (SIDE_PX, SIDE_PX), interpolation=way), title)

"""Warns of images that do not look like a fundus photograph, in words for a person to check."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

WORKING_PX = 256

MIN_REDNESS = 1.15
"""Smallest ratio of red to green and to blue inside the field of view; the smallest in 440 photographs of IDRiD is 1.56."""

MAX_ELONGATION = 1.8
"""Largest ratio of the longer to the shorter side of a field of view."""

MAX_COVER = 0.98
"""Largest share of the image that a field of view covers; at least the corners are dark."""

MIN_BRIGHTNESS, MAX_BRIGHTNESS = 12, 235
MAX_SIZE_RATIO = 2.0
"""Largest factor by which a field of view may be larger or smaller than those of the training photographs."""


def image_warnings(
    image: UInt8[np.ndarray, "h w 3"], fov: Bool[np.ndarray, "h w"], field_px: tuple[int, int] | None
) -> list[str]:
    """Describes how an image differs from a fundus photograph, or from the training photographs.

    Args:
        image: uint8 RGB [h, w, 3].
        fov: bool [h, w], the field of view that was found.
        field_px: Smallest and largest longer side of the field of view in the training photographs; None if unknown.

    Returns:
        One phrase for each difference; empty if there is none.
    """
    rows, columns = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
    height, width = int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
    found = [*_colour_warnings(image, fov)]
    if max(height, width) > MAX_ELONGATION * min(height, width):
        found.append(f"a field of view of {width} x {height} px, which is not a disc")
    if fov.mean() > MAX_COVER:
        found.append("no dark border around a field of view")
    if field_px is not None:
        longer, (low, high) = max(height, width), field_px
        trained = f"{low}" if low == high else f"{low} to {high}"
        if longer * MAX_SIZE_RATIO < low or longer > MAX_SIZE_RATIO * high:
            size = "smaller" if longer < low else "larger"
            found.append(f"a field of view of {longer} px, much {size} than the {trained} px of the training photographs")
    return found


def _colour_warnings(image: UInt8[np.ndarray, "h w 3"], fov: Bool[np.ndarray, "h w"]) -> list[str]:
    scale = min(WORKING_PX / max(fov.shape), 1.0)
    size = (max(round(fov.shape[1] * scale), 1), max(round(fov.shape[0] * scale), 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    inside = cv2.resize(fov.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    pixels = small[inside].astype(np.float32)
    red, green, blue = np.median(pixels, axis=0)
    brightest = float(np.median(pixels.max(axis=1)))
    if brightest < MIN_BRIGHTNESS:
        return ["nearly black"]
    found = []
    if brightest > MAX_BRIGHTNESS and min(red, green, blue) > MAX_BRIGHTNESS:
        found.append("nearly white")
    if red < MIN_REDNESS * max(green, blue, 1.0):
        found.append("not red or orange as a fundus is")
    return found

"""Whether a picture looks like a photograph of a fundus at all, told in words for a person to look."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

WORKING_PX = 256

MIN_REDNESS = 1.15
"""Red over green and over blue, inside the field: of the medians of 440 photographs of IDRiD the least is 1.56."""

MAX_ELONGATION = 1.8
MAX_COVER = 0.98
"""Share of the picture that a field of view may cover: it has dark corners at least."""

MIN_BRIGHTNESS, MAX_BRIGHTNESS = 12, 235
FAR_FACTOR = 2.0
"""How many times larger or smaller than the training photographs a field may be."""


def image_warnings(
    image: UInt8[np.ndarray, "h w 3"], fov: Bool[np.ndarray, "h w"], field_px: tuple[int, int] | None
) -> list[str]:
    """What is unlike a fundus photograph, or far from the training photographs; empty where nothing is.

    Args:
        image: RGB.
        fov: The field of view that was found.
        field_px: Least and greatest longer side of the field in the training photographs, None where it is not known.
    """
    rows, columns = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
    height, width = int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
    found = [*_colours(image, fov)]
    if max(height, width) > MAX_ELONGATION * min(height, width):
        found.append(f"a field of view of {width} x {height} px, which is no disc")
    if fov.mean() > MAX_COVER:
        found.append("no dark border around a field of view")
    if field_px is not None:
        longer, (low, high) = max(height, width), field_px
        trained = f"{low}" if low == high else f"{low} to {high}"
        if longer * FAR_FACTOR < low or longer > FAR_FACTOR * high:
            size = "smaller" if longer < low else "larger"
            found.append(f"a field of view of {longer} px, much {size} than the {trained} px of the training photographs")
    return found


def _colours(image: UInt8[np.ndarray, "h w 3"], fov: Bool[np.ndarray, "h w"]) -> list[str]:
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

"""Finds the field of view of a fundus photograph: the lit disc, possibly cut off by the frame, on a plain border."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

WORKING_PX = 512
"""Longer side of the reduced image in which the field of view is found, without specks of noise."""

MIN_SHARE = 0.05
"""A smaller share of the image is not a field of view; the whole image is taken instead."""

RECTANGLE, FRAME_EDGE = 0.98, 2
"""A region on a coloured border that fills this share of its bounding box is a whole photograph in a frame; this many pixels
at its edge may be mixed with the frame."""

BLACK = np.zeros(3)
BLACK_WEIGHTS = np.array([1.0, 0.25, 0.25])
"""Weights of RGB on a black border. Red counts most: the fundus is red, and light scattered by the lens is green or blue."""

CORNER_SHARE = 0.04
"""Side of the corners that are looked at, relative to the longer side."""

CORNERS_DIFFER = 12.0
"""Levels, of 255, by which the corners of a plain border may differ."""

NEARLY_BLACK = 10.0
"""Levels, of 255, below which a border counts as black."""

THRESHOLD_SHARE = 0.08
"""A pixel is lit from this share of the bright parts' distance from the border's colour."""

NOISE_MARGIN = 4.0
"""Levels, of 255, by which a lit pixel exceeds the noise of the border."""

SOLID = 0.985
"""Smallest ratio of area to that of the convex hull; below it, writing in the margin touches the field. IDRiD's are 0.993 or
more."""

COLOURED_SOLID, COLOURED_SHARE, COLOURED_STEP = 0.9, 0.2, 0.3
"""Minimum for a field on a coloured border: its solidity, its share of the image, and the difference of its rim from the
border relative to that of the bright parts. The corners of a photograph without a border are alike too, but there the
fundus changes slowly."""


def field_of_view(image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Finds the part of a photograph that shows the fundus.

    The border may be black, noisy or of any single colour, and may contain writing.

    Args:
        image: uint8 RGB [h, w, 3].

    Returns:
        bool [h, w]: one region without holes; all True if there is no border.
    """
    height, width = image.shape[:2]
    scale = min(WORKING_PX / max(height, width), 1.0)
    small_size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.medianBlur(cv2.resize(image, small_size, interpolation=cv2.INTER_AREA), 5).astype(np.float32)
    region = _find_field(small)
    if region.mean() < MIN_SHARE:
        return np.ones((height, width), bool)
    return cv2.resize(region.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5


def _find_field(small: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    border = _border_colour(small)
    region = _field_on_colour(small, border) if border.any() else None
    if region is None:
        return _lit_region(_colour_distance(small, BLACK))
    x, y, width, height = cv2.boundingRect(region)
    rows, columns = slice(y + FRAME_EDGE, y + height - FRAME_EDGE), slice(x + FRAME_EDGE, x + width - FRAME_EDGE)
    if min(width, height) <= 4 * FRAME_EDGE or region[rows, columns].mean() < RECTANGLE:
        return region
    inside = np.zeros_like(region)  # the photograph in the frame may have a border of its own
    inside[rows, columns] = _find_field(small[rows, columns])
    return inside


def _corners(plane: np.ndarray) -> list[np.ndarray]:
    side = max(round(CORNER_SHARE * max(plane.shape[:2])), 3)
    return [plane[:side, :side], plane[:side, -side:], plane[-side:, :side], plane[-side:, -side:]]


def _border_colour(small: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "3"]:
    """Returns the colour on which three corners agree, or black if they do not."""
    medians = np.array([np.median(corner.reshape(-1, 3), axis=0) for corner in _corners(small)])
    typical = np.median(medians, axis=0)
    agree = (np.abs(medians - typical).max(axis=1) <= CORNERS_DIFFER).sum() >= 3
    return typical.astype(np.float32) if agree and typical.max() >= NEARLY_BLACK else BLACK


def _colour_distance(small: Float[np.ndarray, "h w 3"], border: Float[np.ndarray, "3"]) -> Float[np.ndarray, "h w"]:
    weights = np.ones(3) if border.any() else BLACK_WEIGHTS
    return (np.abs(small - border) * weights).max(axis=-1)


def _lit_region(distance: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Returns the largest connected part that differs from the border, filled, without thin bridges to writing."""
    bright = float(np.percentile(distance, 99))
    noise = float(np.median([np.percentile(corner, 90) for corner in _corners(distance)]))
    if noise >= COLOURED_STEP * bright:  # the corners do not show the border
        noise = 0.0
    lit = (distance > max(THRESHOLD_SHARE * bright, min(noise + NOISE_MARGIN, NEARLY_BLACK))).astype(np.uint8)
    region = _fill_largest(lit)
    if _solidity(region) < SOLID:
        side = max(round(0.05 * max(region.shape)), 3) | 1
        region = _fill_largest(
            cv2.morphologyEx(region, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
        )
    return region


def _field_on_colour(small: np.ndarray, border: np.ndarray) -> UInt8[np.ndarray, "h w"] | None:
    """Returns the field on a coloured border, or None if the colour is the fundus' own."""
    distance = _colour_distance(small, border)
    region = _lit_region(distance)
    inner = cv2.erode(region, np.ones((9, 9), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=(1,))
    rim = distance[(region > 0) & (inner == 0)]
    steep = len(rim) and np.median(rim) >= COLOURED_STEP * np.percentile(distance, 99)
    return region if steep and _solidity(region) >= COLOURED_SOLID and region.mean() >= COLOURED_SHARE else None


def _largest_contour(region: UInt8[np.ndarray, "h w"]) -> np.ndarray | None:
    contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(contours, key=cv2.contourArea) if contours else None


def _fill_largest(lit: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    region, outline = np.zeros_like(lit), _largest_contour(lit)
    if outline is not None:
        cv2.drawContours(region, [outline], -1, 1, cv2.FILLED)
    return region


def _solidity(region: UInt8[np.ndarray, "h w"]) -> float:
    outline = _largest_contour(region)
    return 0.0 if outline is None else cv2.contourArea(outline) / max(cv2.contourArea(cv2.convexHull(outline)), 1.0)

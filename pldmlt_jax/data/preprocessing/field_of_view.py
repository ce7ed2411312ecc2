"""Where a fundus photograph shows the fundus: the lit disc, or what a frame has left of it, before a plain border."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

WORKING_PX = 512
"""The field is found at this length of the longer side: it is smooth, and specks of noise are gone."""

MIN_SHARE = 0.05
"""A region smaller than this is no field of view: the whole image is taken."""

RECTANGLE, FRAME_EDGE = 0.98, 2
"""A region before a coloured border that fills so much of its bounding box is a whole photograph in a frame; so many pixels
of its edge may be mixed with the frame."""

BLACK = np.zeros(3)
BLACK_WEIGHTS = np.array([1.0, 0.25, 0.25])
"""Before black, red counts most: the fundus is red, and the light that a lens scatters around it is green or blue."""

CORNER_SHARE = 0.04
CORNERS_DIFFER = 12.0
"""Levels of 255 that the corners of a plain border may differ by."""

NEARLY_BLACK = 10.0

THRESHOLD_SHARE = 0.08
"""Of the bright parts' distance from the border's colour, from which a pixel is lit."""

NOISE_MARGIN = 4.0

SOLID = 0.985
"""Area over that of its convex hull: less means that writing in the margin touches the field. Those of IDRiD have 0.993 at
least."""

COLOURED_SOLID, COLOURED_SHARE, COLOURED_STEP = 0.9, 0.2, 0.3
"""What a field before a coloured border must have at least: this shape, this share of the image, and a rim that differs from
the border by this share of what the bright parts do. The corners of a picture without a border are alike, too, but the
fundus changes slowly from there."""


def field_of_view(image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """The part of the photograph that shows the fundus, without holes; all of it where there is no border.

    The border may be black, noisy, or of any one colour, and may carry writing.
    """
    height, width = image.shape[:2]
    scale = min(WORKING_PX / max(height, width), 1.0)
    small_size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.medianBlur(cv2.resize(image, small_size, interpolation=cv2.INTER_AREA), 5).astype(np.float32)
    region = _field(small)
    if region.mean() < MIN_SHARE:
        return np.ones((height, width), bool)
    return cv2.resize(region.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5


def _field(small: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    border = _border_colour(small)
    region = _before_colour(small, border) if border.any() else None
    if region is None:
        return _region(_distance(small, BLACK))
    x, y, width, height = cv2.boundingRect(region)
    rows, columns = slice(y + FRAME_EDGE, y + height - FRAME_EDGE), slice(x + FRAME_EDGE, x + width - FRAME_EDGE)
    if min(width, height) <= 4 * FRAME_EDGE or region[rows, columns].mean() < RECTANGLE:
        return region
    inside = np.zeros_like(region)  # of a frame around a photograph, which may have a border of its own
    inside[rows, columns] = _field(small[rows, columns])
    return inside


def _corners(plane: np.ndarray) -> list[np.ndarray]:
    side = max(round(CORNER_SHARE * max(plane.shape[:2])), 3)
    return [plane[:side, :side], plane[:side, -side:], plane[-side:, :side], plane[-side:, -side:]]


def _border_colour(small: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "3"]:
    """The colour on which three corners agree; black where they do not."""
    medians = np.array([np.median(corner.reshape(-1, 3), axis=0) for corner in _corners(small)])
    typical = np.median(medians, axis=0)
    agree = (np.abs(medians - typical).max(axis=1) <= CORNERS_DIFFER).sum() >= 3
    return typical.astype(np.float32) if agree and typical.max() >= NEARLY_BLACK else BLACK


def _distance(small: Float[np.ndarray, "h w 3"], border: Float[np.ndarray, "3"]) -> Float[np.ndarray, "h w"]:
    weights = np.ones(3) if border.any() else BLACK_WEIGHTS
    return (np.abs(small - border) * weights).max(axis=-1)


def _region(distance: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The largest connected part that stands out from the border, filled; thin bridges to writing are cut."""
    bright = float(np.percentile(distance, 99))
    noise = float(np.median([np.percentile(corner, 90) for corner in _corners(distance)]))
    if noise >= COLOURED_STEP * bright:  # the corners are not border
        noise = 0.0
    lit = (distance > max(THRESHOLD_SHARE * bright, min(noise + NOISE_MARGIN, NEARLY_BLACK))).astype(np.uint8)
    region = _largest(lit)
    if _solidity(region) < SOLID:
        side = max(round(0.05 * max(region.shape)), 3) | 1
        region = _largest(
            cv2.morphologyEx(region, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
        )
    return region


def _before_colour(small: np.ndarray, border: np.ndarray) -> UInt8[np.ndarray, "h w"] | None:
    """The field before a coloured border, or None where the colour turns out to be the fundus' own."""
    distance = _distance(small, border)
    region = _region(distance)
    inner = cv2.erode(region, np.ones((9, 9), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=(1,))
    rim = distance[(region > 0) & (inner == 0)]
    steep = len(rim) and np.median(rim) >= COLOURED_STEP * np.percentile(distance, 99)
    return region if steep and _solidity(region) >= COLOURED_SOLID and region.mean() >= COLOURED_SHARE else None


def _outline(region: UInt8[np.ndarray, "h w"]) -> np.ndarray | None:
    contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(contours, key=cv2.contourArea) if contours else None


def _largest(lit: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    region, outline = np.zeros_like(lit), _outline(lit)
    if outline is not None:
        cv2.drawContours(region, [outline], -1, 1, cv2.FILLED)
    return region


def _solidity(region: UInt8[np.ndarray, "h w"]) -> float:
    outline = _outline(region)
    return 0.0 if outline is None else cv2.contourArea(outline) / max(cv2.contourArea(cv2.convexHull(outline)), 1.0)

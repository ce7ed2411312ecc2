"""A fundus photograph: reading it, and the way to the network's square and back."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.config import DataConfig
from pldmlt_jax.errors import DataError
from pldmlt_jax.types import Geometry

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".jp2", ".avif")

PHOTOGRAPH_SUFFIXES = (*IMAGE_SUFFIXES, ".heic", ".heif", ".dng", ".dcm")
"""Those that are read, and those that have to be converted first: they are told, not passed over in silence."""

_END_MARKERS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}
_TAIL_BYTES = 4096


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an RGB image of 8 bits: grey, alpha and 16 bits are converted, a rotation in its EXIF data is applied.

    Raises:
        DataError: The file is missing, no image, or cut off.
    """
    content = read_bytes(path)
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        if any(content.startswith(start) and end not in content[-_TAIL_BYTES:] for start, end in _END_MARKERS.items()):
            raise DataError(path, "a truncated image", "a whole one", "fetch the file again")
        raise DataError(
            path, "not a readable image", "a file of " + ", ".join(IMAGE_SUFFIXES), "fetch it again, or convert it"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Raises:
        DataError: The file is missing, unreadable or empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(path, error.strerror or "unreadable", "an image file", "check the path") from error
    if not content:
        raise DataError(path, "an empty file", "an image", "fetch the file again")
    return content


def make_geometry(fov: Bool[np.ndarray, "h w"], config: DataConfig, size_px: int) -> Geometry:
    """Crop to the field of view's box, then fit the longer side (`pad`) or both sides (`stretch`) to the square."""
    height, width = fov.shape
    y0, y1, x0, x1 = 0, height, 0, width
    if config.fov_crop:
        rows, columns = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
        y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    crop_height, crop_width = int(y1 - y0), int(x1 - x0)
    scale = size_px / max(crop_height, crop_width)
    resized = (size_px, size_px)
    if config.resize == "pad":
        resized = (max(round(crop_height * scale), 1), max(round(crop_width * scale), 1))
    return Geometry(
        original_height_px=height,
        original_width_px=width,
        crop_y_px=int(y0),
        crop_x_px=int(x0),
        crop_height_px=crop_height,
        crop_width_px=crop_width,
        resized_height_px=resized[0],
        resized_width_px=resized[1],
        pad_top_px=(size_px - resized[0]) // 2,
        pad_left_px=(size_px - resized[1]) // 2,
        size_px=size_px,
    )


def crop_to(plane: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The crop of an image or a mask of the original size, as a view."""
    g = geometry
    return plane[g.crop_y_px : g.crop_y_px + g.crop_height_px, g.crop_x_px : g.crop_x_px + g.crop_width_px]


def place(resized: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A resized crop in the network's square, zeros around it."""
    square = np.zeros((geometry.size_px, geometry.size_px, *resized.shape[2:]), resized.dtype)
    top, left = geometry.pad_top_px, geometry.pad_left_px
    square[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return square


def image_to_network(image: UInt8[np.ndarray, "h w 3"], geometry: Geometry) -> UInt8[np.ndarray, "s s 3"]:
    """Crops, resizes (area averaging when it shrinks) and pads with zeros."""
    shrinks = geometry.resized_width_px < geometry.crop_width_px
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    size = (geometry.resized_width_px, geometry.resized_height_px)
    return place(cv2.resize(crop_to(image, geometry), size, interpolation=interpolation), geometry)


def to_original(probabilities: Float[np.ndarray, "s s *k"], geometry: Geometry) -> Float[np.ndarray, "h w *k"]:
    """Writes the square's values back onto the original's pixels: bilinear, half-pixel centres, zero outside the crop."""
    g = geometry
    inner = probabilities[
        g.pad_top_px : g.pad_top_px + g.resized_height_px, g.pad_left_px : g.pad_left_px + g.resized_width_px
    ]
    inner = np.ascontiguousarray(inner, np.float32)
    resized = cv2.resize(inner, (g.crop_width_px, g.crop_height_px), interpolation=cv2.INTER_LINEAR)
    resized = resized.reshape(g.crop_height_px, g.crop_width_px, *probabilities.shape[2:])
    original = np.zeros((g.original_height_px, g.original_width_px, *probabilities.shape[2:]), np.float32)
    crop_to(original, g)[:] = resized
    return original

"""A fundus photograph: reading it, and the way to the network's square and back."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing.image_headers import MAX_PIXELS, declared_size
from pldmlt_jax.errors import DataError
from pldmlt_jax.io.files import atomic_write, read_bounded
from pldmlt_jax.types import Geometry

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".jp2", ".avif")

PHOTOGRAPH_SUFFIXES = (*IMAGE_SUFFIXES, ".heic", ".heif", ".dng", ".dcm")
"""Those that are read, and those that have to be converted first: they are told, not passed over in silence."""

_END_MARKERS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}
_TAIL_BYTES = 4096

MAX_BYTES = 2**29
"""Of an image file: as large as the largest image that is read, without any compression, in 16 bits."""


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an RGB image of 8 bits: grey, alpha and 16 bits are converted, a rotation in its EXIF data is applied.

    Args:
        path: Of a file of one of IMAGE_SUFFIXES.

    Returns:
        uint8 [h, w, 3] in 0..255.

    Raises:
        DataError: The file is missing, no image, or cut off.
    """
    path = Path(path)
    content = read_bytes(path)
    return cv2.cvtColor(decode_image(content, path, cv2.IMREAD_COLOR, "image"), cv2.COLOR_BGR2RGB)


def decode_image(content: bytes, path: Path, mode: int, what: str) -> np.ndarray:
    """The pixels of an image file in memory.

    Raises:
        DataError: It is not readable, or declares more than `MAX_PIXELS`: it is not decoded then.
    """
    try:
        height, width = declared_size(content)
        if height * width > MAX_PIXELS:
            found, expected = f"{height} x {width} px", f"at most {MAX_PIXELS} pixels"
            raise DataError(path, found, expected, "make it smaller, or leave it out")
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), mode)
        if pixels is None:
            raise ValueError("it cannot be decoded")
    except (ValueError, cv2.error) as error:
        if any(content.startswith(start) and end not in content[-_TAIL_BYTES:] for start, end in _END_MARKERS.items()):
            raise DataError(path, "a truncated image", "a whole one", "fetch the file again") from error
        reason = str(error) if isinstance(error, ValueError) else "it cannot be decoded"  # not the failed C++ assertion
        found, expected = f"not a readable {what}: {reason}", "a file of " + ", ".join(IMAGE_SUFFIXES)
        raise DataError(path, found, expected, "fetch it again, or convert it") from error
    return pixels


def write_image(path: Path, pixels: np.ndarray, options: Sequence[int] = ()) -> None:
    """Writes an image as OpenCV encodes it, whole or not at all; colours in OpenCV's order."""
    with atomic_write(path, "wb") as file:
        file.write(encode_image(pixels, path.suffix, options))


def encode_image(pixels: np.ndarray, suffix: str, options: Sequence[int] = ()) -> bytes:
    """An image as the content of a file of that suffix; `cv2.imwrite` is silent where a disk is full."""
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Raises:
        DataError: The file is missing, unreadable or empty.
    """
    content = read_bounded(path, MAX_BYTES, "an image file")
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


def pad_to_square(resized: np.ndarray, geometry: Geometry) -> np.ndarray:
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
    return pad_to_square(cv2.resize(crop_to(image, geometry), size, interpolation=interpolation), geometry)


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

"""Reads and writes images, and maps them to the network's square input and back."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing.image_headers import MAX_PIXELS, TooLargeError, declared_size
from pldmlt_jax.errors import DataError
from pldmlt_jax.io.files import atomic_write, read_bounded
from pldmlt_jax.types import Geometry

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".jp2", ".avif")

PHOTOGRAPH_SUFFIXES = (*IMAGE_SUFFIXES, ".heic", ".heif", ".dng", ".dcm")
"""Suffixes that are listed as photographs. The last four cannot be read: listing them gives an error instead of silence."""

_END_MARKERS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}
_TAIL_BYTES = 4096

MAX_BYTES = 2**29
"""Largest image file that is read: the largest image in 16 bits without compression."""


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image file as 8-bit RGB.

    Grey images and 16-bit images are converted, alpha is dropped, and the rotation in the EXIF data is applied.

    Args:
        path: An image file with one of IMAGE_SUFFIXES.

    Returns:
        uint8 [h, w, 3] in 0..255.

    Raises:
        DataError: The file is missing, is not an image, is truncated, or declares more than `MAX_PIXELS` pixels.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_image(Path(folder, "photograph.png"), np.full((48, 64), 200, np.uint8))
        ...     image = read_image(Path(folder, "photograph.png"))
        >>> image.shape, image.dtype, int(image.max())
        ((48, 64, 3), dtype('uint8'), 200)
    """
    path = Path(path)
    return cv2.cvtColor(decode_image(read_bytes(path), path, cv2.IMREAD_COLOR, "image"), cv2.COLOR_BGR2RGB)


def decode_image(content: bytes, path: Path, mode: int, what: str) -> np.ndarray:
    """Decodes an image file that is in memory.

    Args:
        content: The whole file.
        path: Its path, for error messages.
        mode: OpenCV's flag, for example `cv2.IMREAD_COLOR`.
        what: What the file should be, for error messages: "image" or "mask".

    Returns:
        [h, w] or [h, w, channels], with channels in OpenCV's order (BGR).

    Raises:
        DataError: The file cannot be decoded, is truncated, or declares more than `MAX_PIXELS` pixels.
    """
    try:
        declared_size(content)
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), mode)
        if pixels is None:
            raise ValueError("it cannot be decoded")
    except TooLargeError as error:
        raise DataError(path, str(error), f"at most {MAX_PIXELS} pixels", "make it smaller, or leave it out") from error
    except (ValueError, cv2.error) as error:
        if any(content.startswith(start) and end not in content[-_TAIL_BYTES:] for start, end in _END_MARKERS.items()):
            raise DataError(path, "a truncated image", "a complete image", "get the file again") from error
        reason = str(error) if isinstance(error, ValueError) else "it cannot be decoded"  # not the failed C++ assertion
        found, expected = f"not a readable {what}: {reason}", "a file of " + ", ".join(IMAGE_SUFFIXES)
        raise DataError(path, found, expected, "get it again, or convert it") from error
    return pixels


def write_image(path: Path, pixels: np.ndarray, options: Sequence[int] = ()) -> None:
    """Writes an image atomically.

    Args:
        path: Its suffix decides the format.
        pixels: Grey [h, w] or BGR [h, w, 3].
        options: OpenCV's encoding flags and values.
    """
    with atomic_write(path, "wb") as file:
        file.write(encode_image(pixels, path.suffix, options))


def encode_image(pixels: np.ndarray, suffix: str, options: Sequence[int] = ()) -> bytes:
    """Encodes an image as the content of a file with that suffix.

    Writing these bytes reports a full disk, which `cv2.imwrite` does not.
    """
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()


def read_bytes(path: Path) -> bytes:
    """Reads the content of an image file.

    Raises:
        DataError: The file is missing, unreadable, empty, or larger than `MAX_BYTES`.
    """
    content = read_bounded(path, MAX_BYTES, "an image file")
    if not content:
        raise DataError(path, "an empty file", "an image", "get the file again")
    return content


def make_geometry(fov: Bool[np.ndarray, "h w"], config: DataConfig, size_px: int) -> Geometry:
    """Computes how a photograph is mapped to the network's square input.

    Args:
        fov: The field of view. With `config.fov_crop` its bounding box is cropped.
        config: `resize` is "pad" (keep the aspect ratio and pad) or "stretch" (resize both sides to the square).
        size_px: Side of the square.
    """
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
    """Crops an image or a mask of the original size [h, w, ...], without copying."""
    g = geometry
    return plane[g.crop_y_px : g.crop_y_px + g.crop_height_px, g.crop_x_px : g.crop_x_px + g.crop_width_px]


def pad_to_square(resized: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Pads a resized crop with zeros to the network's square."""
    square = np.zeros((geometry.size_px, geometry.size_px, *resized.shape[2:]), resized.dtype)
    top, left = geometry.pad_top_px, geometry.pad_left_px
    square[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return square


def image_to_network(image: UInt8[np.ndarray, "h w 3"], geometry: Geometry) -> UInt8[np.ndarray, "s s 3"]:
    """Crops a photograph, resizes it and pads it with zeros to the network's square.

    Shrinking averages over areas; enlarging is bilinear.

    Args:
        image: uint8 RGB at its original size.
        geometry: The geometry of this image.

    Returns:
        uint8 [s, s, 3].
    """
    shrinks = geometry.resized_width_px < geometry.crop_width_px
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    size = (geometry.resized_width_px, geometry.resized_height_px)
    return pad_to_square(cv2.resize(crop_to(image, geometry), size, interpolation=interpolation), geometry)


def to_original(probabilities: Float[np.ndarray, "s s *k"], geometry: Geometry) -> Float[np.ndarray, "h w *k"]:
    """Maps values in the network's square back to the original image, bilinearly with half-pixel centres.

    Args:
        probabilities: float [s, s] or [s, s, k].
        geometry: The geometry of the image.

    Returns:
        float32 [h, w] or [h, w, k] at the original size; zero outside the crop.
    """
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

"""A fundus photograph: reading it and its masks, and the way to the network's square and back."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt16

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.field_of_view import field_of_view
from pldmlt_jax.errors import DataError
from pldmlt_jax.types import Geometry

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

_END_MARKERS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}
_TAIL_BYTES = 4096


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an RGB image of 8 bits: grey, alpha and 16 bits are converted, a rotation in its EXIF data is applied.

    Raises:
        DataError: The file is missing, no image, or cut off (OpenCV fills the rest of such a JPEG with grey in silence).
    """
    content = _read_bytes(path)
    for start, end in _END_MARKERS.items():
        if content.startswith(start) and end not in content[-_TAIL_BYTES:]:
            raise DataError(path, "a truncated image", "a whole one", "fetch the file again")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(path, "not a readable image", "a JPEG, PNG, TIFF or BMP file", "fetch the file again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(path, error.strerror or "unreadable", "an image file", "check the path") from error
    if not content:
        raise DataError(path, "an empty file", "an image", "fetch the file again")
    return content


def read_mask(path: Path, shape: tuple[int, int], rule: str = "not_black") -> Bool[np.ndarray, "h w"]:
    """Reads a mask; alpha is ignored.

    IDRiD's masks are palette TIFFs, which OpenCV reads as {0, 76} in grey, so a threshold at 127 would lose all; one is
    RGBA with alpha 255 everywhere.

    Args:
        path: Of the mask.
        shape: Height and width of its image.
        rule: Which pixels are set, a key of MASK_RULES.

    Raises:
        DataError: The file is unreadable, of another size than its image or against the rule.
    """
    return apply_rule(brightest(read_mask_pixels(path)), path, shape, rule)


def read_mask_pixels(path: Path) -> np.ndarray:
    """The pixels of a mask file as they are: grey, colour or colour with alpha, of 8 or 16 bits.

    Raises:
        DataError: The file is unreadable.
    """
    pixels = cv2.imdecode(np.frombuffer(_read_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(path, "not a readable mask", "a TIFF or PNG file of 8 or 16 bits", "fetch the file again")
    return pixels


def brightest(pixels: np.ndarray) -> UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]:
    """The greatest of the colours at each pixel, without alpha."""
    return np.atleast_3d(pixels)[..., :3].max(axis=-1)


def apply_rule(values: np.ndarray, path: Path, shape: tuple[int, int], rule: str) -> Bool[np.ndarray, "h w"]:
    """The mask of a file's brightest values.

    Raises:
        DataError: It is of another size than its image, or against the rule.
    """
    if values.shape != shape:
        found, expected = (f"{s[0]} px high, {s[1]} px wide" for s in (values.shape, shape))
        raise DataError(path, f"a mask {found}", f"the size of its image: {expected}", "pair it with its own image")
    return MASK_RULES[rule](values, path)


def mask_levels(values: np.ndarray) -> Int[np.ndarray, "levels"]:
    """The different values of a mask, ascending."""
    return np.flatnonzero(np.bincount(values.ravel()))


def _not_black(values: np.ndarray, path: Path) -> Bool[np.ndarray, "h w"]:
    return values > 0


def _two_levels(values: np.ndarray, path: Path) -> Bool[np.ndarray, "h w"]:
    levels = mask_levels(values)
    if len(levels) > 2:
        found = f"{len(levels)} grey levels, {levels[0]} to {levels[-1]}"
        raise DataError(path, found, "two at most: background and lesion", "fetch the file again, or threshold it")
    return values > 0


def _upper_half(values: np.ndarray, path: Path) -> Bool[np.ndarray, "h w"]:
    levels = mask_levels(values)
    if len(levels) > 2 and levels[-1] < SOFT_MASK_MIN:
        found = f"{len(levels)} values, the greatest {levels[-1]}: indices of classes?"
        raise DataError(path, found, "one lesion a file: black, and white or any other colour", "write a file a lesion")
    return (values > 0) & (values >= levels[-1] / 2)


MASK_RULES: dict[str, Callable[[np.ndarray, Path], np.ndarray]] = {
    "not_black": _not_black,
    "two_levels": _two_levels,
    "upper_half": _upper_half,
}
"""Which pixels of a mask are set: all that are not black; the same, with an error where there are more than two values; or
those of at least half the greatest value, for masks with grey edges or lossy compression."""

SOFT_MASK_MIN = 32
"""A mask of several values has to be this bright somewhere, of 255: one that is not holds indices, or noise around 0."""


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


def _crop(plane: np.ndarray, geometry: Geometry) -> np.ndarray:
    g = geometry
    return plane[g.crop_y_px : g.crop_y_px + g.crop_height_px, g.crop_x_px : g.crop_x_px + g.crop_width_px]


def _place(resized: np.ndarray, geometry: Geometry) -> np.ndarray:
    square = np.zeros((geometry.size_px, geometry.size_px, *resized.shape[2:]), resized.dtype)
    top, left = geometry.pad_top_px, geometry.pad_left_px
    square[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return square


def image_to_network(image: UInt8[np.ndarray, "h w 3"], geometry: Geometry) -> UInt8[np.ndarray, "s s 3"]:
    """Crops, resizes (area averaging when it shrinks) and pads with zeros."""
    shrinks = geometry.resized_width_px < geometry.crop_width_px
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    size = (geometry.resized_width_px, geometry.resized_height_px)
    return _place(cv2.resize(_crop(image, geometry), size, interpolation=interpolation), geometry)


def mask_to_network(mask: Bool[np.ndarray, "h w"], geometry: Geometry, reduction: str) -> Bool[np.ndarray, "s s"]:
    """Crops, reduces and pads a mask.

    Args:
        mask: At the original size.
        geometry: Of its image.
        reduction: "max": a target pixel is set when the centre of any set pixel falls into it, so that no lesion
            vanishes, and areas grow; "area": when at least half of it is covered. Both are nearest when it enlarges.
    """
    cropped = _crop(mask, geometry)
    height, width = geometry.resized_height_px, geometry.resized_width_px
    if height >= cropped.shape[0] and width >= cropped.shape[1]:
        enlarged = cv2.resize(cropped.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return _place(enlarged.astype(bool), geometry)
    if reduction == "area":
        covered = cv2.resize(cropped.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        return _place(covered >= 0.5, geometry)
    rows, columns = np.nonzero(cropped)
    reduced = np.zeros((height, width), bool)
    reduced[(rows * 2 + 1) * height // (2 * cropped.shape[0]), (columns * 2 + 1) * width // (2 * cropped.shape[1])] = True
    return _place(reduced, geometry)


def prepare_image(
    image: UInt8[np.ndarray, "h w 3"], config: DataConfig, size_px: int
) -> tuple[UInt8[np.ndarray, "s s 3"], Bool[np.ndarray, "s s"], Geometry]:
    """The network's view of a photograph: the image, where it is valid, and how to get back."""
    fov = field_of_view(image)
    geometry = make_geometry(fov, config, size_px)
    return image_to_network(image, geometry), mask_to_network(fov, geometry, "area"), geometry


def fuse(
    masks: dict[str, Bool[np.ndarray, "h w"]], shape: tuple[int, int], config: DataConfig
) -> tuple[Bool[np.ndarray, "h w"], int, int]:
    """The paper's fused mask: the union of all lesions, then a morphological operation, at the original size.

    Returns:
        The mask, and its pixels before and after the operation.
    """
    union = np.zeros(shape, np.uint8)
    for mask in masks.values():
        union |= mask
    operations = {"close": cv2.MORPH_CLOSE, "dilate": cv2.MORPH_DILATE}
    fused = union
    if config.fusion in operations:
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (config.fusion_px, config.fusion_px))
        fused = cv2.morphologyEx(union, operations[config.fusion], element)
    return fused.astype(bool), int(union.sum()), int(fused.sum())


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
    _crop(original, g)[:] = resized
    return original

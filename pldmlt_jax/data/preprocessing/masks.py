"""Reads lesion masks, fuses them and reduces them to the network's square."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt16

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing.expert_markings import DISC_AGREEMENT, PLANES, count_votes, read_markings, required_votes
from pldmlt_jax.data.preprocessing.geometry import crop_to, decode_image, pad_to_square, read_bytes
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.errors import DataError
from pldmlt_jax.types import EVIDENCE, LESIONS, Geometry


def read_mask(path: Path, shape: tuple[int, int], rule: str = "not_black") -> Bool[np.ndarray, "h w"]:
    """Reads a mask file; alpha is ignored.

    IDRiD's masks are palette TIFFs, which OpenCV reads as {0, 76} in grey, so that a threshold of 127 would lose everything.
    One of them is RGBA with alpha 255 everywhere.

    Args:
        path: The mask file.
        shape: Height and width of its image.
        rule: Which pixels are set, a key of MASK_RULES.

    Raises:
        DataError: The file cannot be read, has another size than its image, or breaks the rule.
    """
    return apply_mask_rule(brightest_channel(read_mask_pixels(path)), path, shape, rule)


def read_mask_pixels(path: Path) -> np.ndarray:
    """Reads the pixels of a mask file as they are: grey, colour or colour with alpha, of 8 or 16 bits.

    Raises:
        DataError: The file cannot be read.
    """
    pixels = decode_image(read_bytes(path), path, cv2.IMREAD_UNCHANGED, "mask")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(path, "not a readable mask", "a TIFF or PNG file of 8 or 16 bits", "fetch the file again")
    return pixels


def brightest_channel(pixels: np.ndarray) -> UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]:
    """Returns the highest colour value of each pixel, without alpha."""
    return np.atleast_3d(pixels)[..., :3].max(axis=-1)


def apply_mask_rule(values: np.ndarray, path: Path, shape: tuple[int, int], rule: str) -> Bool[np.ndarray, "h w"]:
    """Turns the brightest values of a mask file into a mask.

    Args:
        values: See `brightest_channel`.
        path: The mask file, for the error.
        shape: Height and width of its image.
        rule: A key of MASK_RULES.

    Raises:
        DataError: The file has another size than its image, or breaks the rule.
    """
    if values.shape != shape:
        found, expected = (f"{s[0]} px high, {s[1]} px wide" for s in (values.shape, shape))
        raise DataError(path, f"a mask {found}", f"the size of its image: {expected}", "pair it with its own image")
    return MASK_RULES[rule](values, path)


def mask_levels(values: np.ndarray) -> Int[np.ndarray, "levels"]:
    """Returns the distinct values of a mask in ascending order."""
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
"""Which pixels of a mask are set. "not_black": all that are not black. "two_levels": the same, and more than two values are
an error. "upper_half": those of at least half the highest value, for masks with grey edges or lossy compression."""

SOFT_MASK_MIN = 32
"""A mask of several values must be this bright somewhere, of 255; a darker one holds class indices, or noise around 0."""


class Annotation(NamedTuple):
    """What is marked in one image, at its original size.

    Attributes:
        masks: Masks by name of EVIDENCE; an absent name marks nothing.
        disc: Mask of the optic disc.
        evidence_px: Number of pixels that anyone marked, by EVIDENCE; -1: the set has no masks.
    """

    masks: dict[str, Bool[np.ndarray, "h w"]]
    disc: Bool[np.ndarray, "h w"] | None
    evidence_px: Int[np.ndarray, "5"]


def read_annotation(record: RawRecord, shape: tuple[int, int], data: DataConfig) -> Annotation:
    """Reads the masks of an image, or fuses the regions that several experts marked.

    Args:
        record: The raw files.
        shape: Height and width of the image.
        data: How many experts must agree.

    Raises:
        DataError: See `read_mask` and `expert_markings.read_markings`.
    """
    if record.markings:
        return _fused_markings(record, shape, data)
    masks = {name: read_mask(path, shape, record.mask_rule) for name, path in (record.masks or {}).items()}
    disc = read_mask(record.disc, shape, record.mask_rule) if record.disc else None
    absent = -1 if record.masks is None else 0
    return Annotation(masks, disc, np.array([masks[name].sum() if name in masks else absent for name in EVIDENCE], np.int64))


def _fused_markings(record: RawRecord, shape: tuple[int, int], data: DataConfig) -> Annotation:
    """A single expert's mark is evidence for a grade; a mask needs the agreement of several."""
    experts = [read_markings(path) for path in record.markings]
    total = count_votes(experts, shape, weighted=data.agreement_weighted)
    planes = {name: total[..., i] for i, name in enumerate(PLANES)}
    needed = required_votes(data.agreement, len(experts))
    masks = {lesion: planes[lesion] >= needed for lesion in LESIONS}
    disc = planes["OD"] >= required_votes(DISC_AGREEMENT, len(experts))
    evidence = [np.count_nonzero(planes[name]) if name in planes else 0 for name in EVIDENCE]
    return Annotation(masks, disc if disc.any() else None, np.array(evidence, np.int64))


def fuse_lesions(
    masks: dict[str, Bool[np.ndarray, "h w"]], shape: tuple[int, int], config: DataConfig
) -> tuple[Bool[np.ndarray, "h w"], int, int]:
    """Fuses lesion masks as the paper does: their union, then a morphological operation, at the original size.

    Args:
        masks: Masks by lesion.
        shape: Height and width of the image.
        config: The operation (`fusion`) and its diameter (`fusion_px`).

    Returns:
        The fused mask, and its number of pixels before and after the operation.
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


def mask_to_network(mask: Bool[np.ndarray, "h w"], geometry: Geometry, reduction: str) -> Bool[np.ndarray, "s s"]:
    """Crops, reduces and pads a mask.

    Args:
        mask: The mask at the original size.
        geometry: The geometry of its image.
        reduction: A key of REDUCTIONS. A side that is enlarged is resized to the nearest pixel, whatever the reduction.
    """
    cropped = crop_to(mask, geometry)
    height, width = geometry.resized_height_px, geometry.resized_width_px
    least_height, least_width = max(height, cropped.shape[0]), max(width, cropped.shape[1])
    if (least_height, least_width) != cropped.shape:  # a stretched image may be enlarged along one side only
        enlarged = cv2.resize(cropped.astype(np.uint8), (least_width, least_height), interpolation=cv2.INTER_NEAREST_EXACT)
        cropped = enlarged.astype(bool)
    return pad_to_square(
        cropped if cropped.shape == (height, width) else REDUCTIONS[reduction](cropped, height, width), geometry
    )


def _targets(cropped: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns row and column of each set pixel, and the flat index of the target pixel that its centre falls into."""
    rows, columns = np.nonzero(cropped)
    down, right = (rows * 2 + 1) * height // (2 * cropped.shape[0]), (columns * 2 + 1) * width // (2 * cropped.shape[1])
    return rows, columns, down * width + right


def _labels(mask: np.ndarray) -> Int[np.ndarray, "h w"]:
    """Labels connected components from 1; 0 is the background."""
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1].astype(np.int64)


def _by_maximum(cropped: np.ndarray, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    reduced = np.zeros(height * width, bool)
    reduced[_targets(cropped, height, width)[2]] = True
    return reduced.reshape(height, width)


def _by_area(cropped: np.ndarray, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    return cv2.resize(cropped.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) >= 0.5


def _by_area_keeping_all(cropped: np.ndarray, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    reduced = _by_area(cropped, height, width).ravel()
    rows, columns, targets = _targets(cropped, height, width)
    labels = _labels(cropped)[rows, columns]
    kept = np.zeros(int(labels.max(initial=0)) + 1, bool)
    kept[labels[reduced[targets]]] = True
    lost = ~kept[labels]
    pairs, covered = np.unique(np.stack([labels[lost], targets[lost]]), axis=1, return_counts=True)
    best = {int(pairs[0, i]): int(pairs[1, i]) for i in np.argsort(covered, kind="stable")}  # the last of a label stays
    reduced[list(best.values())] = True
    return reduced.reshape(height, width)


REDUCTIONS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "max": _by_maximum,
    "area": _by_area,
    "area_keep": _by_area_keeping_all,
}
"""How a mask is reduced. "max": a target pixel is set if the centre of any set pixel falls into it; no lesion vanishes, and
areas grow. "area": it is set if at least half of it is covered; areas stay, and small lesions vanish. "area_keep": the same,
but a lesion that would vanish keeps the pixel that it covers most."""


class Components(NamedTuple):
    """Numbers of connected components (8 neighbours) of a mask.

    Attributes:
        before: At the original size.
        after: In the reduced mask, where neighbours may have merged.
        vanished: Components of the original mask that have no pixel in the reduced one.
    """

    before: int
    after: int
    vanished: int


def count_components(mask: Bool[np.ndarray, "h w"], reduced: Bool[np.ndarray, "s s"], geometry: Geometry) -> Components:
    """Counts the lesions of a mask before and after its reduction.

    Args:
        mask: The mask at the original size.
        reduced: The reduced mask in the network's square.
        geometry: The geometry of their image.
    """
    cropped, g = crop_to(mask, geometry), geometry
    labels = _labels(cropped)
    inner = reduced[g.pad_top_px : g.pad_top_px + g.resized_height_px, g.pad_left_px : g.pad_left_px + g.resized_width_px]
    rows, columns, targets = _targets(cropped, *inner.shape)
    surviving = np.unique(labels[rows, columns][inner.ravel()[targets]])
    before = int(labels.max(initial=0))
    return Components(before, int(_labels(reduced).max(initial=0)), before - len(surviving))

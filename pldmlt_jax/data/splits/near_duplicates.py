"""Finds the same photograph under other names and sizes, and the same eye: a difference hash of the field of view's crop."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8

HASH_SIDE = 24
"""The hash compares 24 x 24 neighbouring cells: 576 bits, in 72 bytes."""

FLATTENED_PX, FLATTENED_SIGMA_PX = 128, 6.0
"""Before that the crop is made this large and shading wider than this is taken away, for fundus photographs are all lit
alike. In IDRiD at most 21 bits differ between two files of the same photograph, 51 to 66 between two photographs of the same
eye, and 112 at least between others."""

SAME_IMAGE_BITS = 36
"""Bits that differ at most between files of the same photograph; with more, up to `data.leakage_distance`, they are two
photographs of the same eye."""

BLOCK = 1024
"""Hashes compared with all others at once."""


def difference_hash(image: UInt8[np.ndarray, "h w 3"], fov: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "72"]:
    """A 576-bit hash that does not depend on size, black border, compression or lighting.

    Bit = whether a cell of the grey image, without its shading and shrunk to 24 rows and 25 columns, is darker than its
    right neighbour.
    """
    rows, columns = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
    crop = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (FLATTENED_PX, FLATTENED_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    flat = grey - cv2.GaussianBlur(grey, (0, 0), FLATTENED_SIGMA_PX)
    cells = cv2.resize(flat, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(cells[:, :-1] < cells[:, 1:])


def find_near_duplicates(
    first: Sequence[UInt8[np.ndarray, "bytes"]], second: Sequence[UInt8[np.ndarray, "bytes"]], distance: int
) -> list[tuple[int, int, int]]:
    """Pairs of positions whose hashes differ in at most `distance` bits, with that number."""
    if not len(first) or not len(second):
        return []
    left, right = (np.unpackbits(np.stack(list(hashes)), axis=1).astype(np.float32) for hashes in (first, second))
    pairs = []
    for start in range(0, len(left), BLOCK):  # in blocks, for sets of many thousands
        block = left[start : start + BLOCK]
        differing = block.sum(axis=1)[:, None] + right.sum(axis=1) - 2.0 * block @ right.T
        pairs += [(start + int(i), int(j), int(differing[i, j])) for i, j in np.argwhere(differing <= distance)]
    return pairs


def group_near_duplicates(hashes: Sequence[UInt8[np.ndarray, "bytes"]], distance: int) -> Int[np.ndarray, "n"]:
    """The group of each image: the position of the first image that shows the same eye, over any chain of pairs."""
    groups = np.arange(len(hashes))
    for i, j, _ in find_near_duplicates(hashes, hashes, distance):
        if groups[i] != groups[j]:
            low, high = sorted((groups[i], groups[j]))
            groups[groups == high] = low
    return groups

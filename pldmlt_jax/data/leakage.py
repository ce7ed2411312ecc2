"""Finds the same photograph under different names and sizes: a difference hash of the field of view's crop."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8

HASH_SIDE = 16
"""The hash compares 16 x 16 neighbouring cells: 256 bits. 64 bits are too few, for all fundus photographs look alike."""

BLOCK = 1024
"""Hashes compared with all others at once."""


def difference_hash(image: UInt8[np.ndarray, "h w 3"], fov: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "32"]:
    """A 256-bit hash that does not depend on size, black border or compression.

    Bit = whether a cell of the grey image, shrunk to 16 rows and 17 columns, is darker than its right neighbour.
    """
    rows, columns = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
    crop = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits(cells[:, :-1] < cells[:, 1:])


def same_photographs(
    first: Sequence[UInt8[np.ndarray, "32"]], second: Sequence[UInt8[np.ndarray, "32"]], distance: int
) -> list[tuple[int, int, int]]:
    """Pairs of positions whose hashes differ in at most `distance` bits, with that number."""
    if not len(first) or not len(second):
        return []
    left, right = (np.unpackbits(np.stack(list(hashes)), axis=1).astype(np.float32) for hashes in (first, second))
    pairs = []
    for start in range(0, len(left), BLOCK):  # in blocks, for sets of many thousands
        block = left[start : start + BLOCK]
        differing = block @ (1.0 - right.T) + (1.0 - block) @ right.T
        pairs += [(start + int(i), int(j), int(differing[i, j])) for i, j in np.argwhere(differing <= distance)]
    return pairs


def photograph_groups(hashes: Sequence[UInt8[np.ndarray, "32"]], distance: int) -> Int[np.ndarray, "n"]:
    """The group of each image: the position of the first image that shows the same photograph, over any chain of pairs."""
    groups = np.arange(len(hashes))
    for i, j, _ in same_photographs(hashes, hashes, distance):
        if groups[i] != groups[j]:
            low, high = sorted((groups[i], groups[j]))
            groups[groups == high] = low
    return groups

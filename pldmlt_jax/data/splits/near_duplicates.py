"""Finds near duplicates: files of the same photograph under other names and sizes, and photographs of the same eye.

They are compared by a difference hash of the cropped field of view.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pldmlt_jax.data.preprocessing.prepared_split import PreparedSplit

SAME_IMAGE_BITS = 36
"""At most this many bits differ between files of the same photograph. With more, up to `data.leakage_distance`, they are two
photographs of the same eye."""

HELD_OUT_FIRST = ("test", "val", "train")
"""Official splits, in the order in which they keep an image that is in several of them."""

BLOCK = 1024
"""Number of hashes that are compared with all others at once."""


def find_near_duplicates(
    first: Sequence[UInt8[np.ndarray, "bytes"]], second: Sequence[UInt8[np.ndarray, "bytes"]], distance: int
) -> list[tuple[int, int, int]]:
    """Finds the pairs of hashes that differ in at most `distance` bits.

    Returns:
        Position in `first`, position in `second` and number of differing bits of each pair.
    """
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
    """Groups images that are linked by a chain of near duplicates.

    Returns:
        The position of the first image of each image's group.
    """
    pairs = np.array(find_near_duplicates(hashes, hashes, distance), np.int64).reshape(-1, 3)
    linked = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(hashes), len(hashes)))
    _, first, group = np.unique(connected_components(linked)[1], return_index=True, return_inverse=True)
    return first[group]


class NearDuplicate(NamedTuple):
    """An image of the graded set that shows the same photograph or the same eye as a pixel-labelled image.

    Attributes:
        grading_split: Official split of the graded image.
        grading_image: Its id.
        segmentation_image: Id of the pixel-labelled image.
        differing_bits: Number of bits by which their hashes differ.
    """

    grading_split: str
    grading_image: str
    segmentation_image: str
    differing_bits: int

    @property
    def same_photograph(self) -> bool:
        return self.differing_bits <= SAME_IMAGE_BITS


def find_duplicates_across_sets(
    graded: Sequence[PreparedSplit], segmented: Sequence[PreparedSplit], distance: int
) -> list[NearDuplicate]:
    """Finds the images of the graded set's official splits that are near duplicates of pixel-labelled images."""
    others = [row for split in segmented for row in split.metadata]
    hashes = [row.dhash for row in others]
    return [
        NearDuplicate(split.name, split.image_ids[i], others[j].image_id, bits)
        for split in graded
        for i, j, bits in find_near_duplicates([row.dhash for row in split.metadata], hashes, distance)
    ]


def find_duplicates_within_set(
    official: Sequence[PreparedSplit], distance: int, *, among_training: bool = True
) -> dict[str, set[str]]:
    """Finds the images to leave out because the same photograph is in the set twice, or the same eye in a held-out split.

    One image of each group of duplicates stays: of the test split if there is one, or else of the validation split. None
    stays if the grades of the same photograph contradict each other.

    Args:
        official: The official splits of one set.
        distance: See `find_near_duplicates`.
        among_training: Also look inside the training split; folds keep such images together.

    Returns:
        The ids of the images to leave out, by official split.
    """
    splits = sorted(official, key=lambda split: HELD_OUT_FIRST.index(split.name))
    rows = [(split.name, row) for split in splits for row in split.metadata]
    hashes = [row.dhash for _, row in rows]
    left_out: dict[str, set[str]] = {split.name: set() for split in splits}
    for i, j, bits in find_near_duplicates(hashes, hashes, distance):
        same_photograph, same_split = bits <= SAME_IMAGE_BITS, rows[i][0] == rows[j][0]
        if same_split and (not same_photograph or (rows[i][0] == "train" and not among_training)):
            continue
        contradict = same_photograph and rows[i][1].grade != rows[j][1].grade
        if i < j or (i != j and contradict):
            name, row = rows[j]
            left_out[name].add(row.image_id)
    return left_out

"""Hashes a fundus image so that files of the same photograph, and photographs of the same eye, differ in few bits."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

HASH_SIDE = 24
"""The hash compares 24 x 24 neighbouring cells: 576 bits or 72 bytes."""

FLATTENED_PX, FLATTENED_SIGMA_PX = 128, 6.0
"""The crop is first resized to this side, and shading wider than this is removed because all fundus images are lit alike.
In IDRiD at most 21 bits differ between two files of the same photograph, 51 to 66 between two photographs of the same eye,
and at least 112 between others."""


def difference_hash(image: UInt8[np.ndarray, "h w 3"], fov: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "72"]:
    """Computes a 576-bit hash that does not depend on size, black border, compression or lighting.

    The grey image is freed of its shading and shrunk to 24 rows and 25 columns of cells. Each bit says whether a cell is
    darker than its right neighbour.

    Args:
        image: RGB.
        fov: The field of view.
    """
    rows, columns = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
    crop = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (FLATTENED_PX, FLATTENED_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    flat = grey - cv2.GaussianBlur(grey, (0, 0), FLATTENED_SIGMA_PX)
    cells = cv2.resize(flat, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(cells[:, :-1] < cells[:, 1:])

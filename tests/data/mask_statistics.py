"""What lesions are like in a set of photographs: number, share, size and contrast, one figure an image.

`idrid_mask_statistics.json` holds the 10, 50 and 90 % quantiles over the 54 training images of IDRiD's segmentation
part; `tests/real` computes them anew from the images, where those are.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from pldmlt_jax.data.preprocessing.field_of_view import field_of_view

FILE = Path(__file__).with_name("idrid_mask_statistics.json")
QUANTILES = (10, 50, 90)
RING_SHARE = 15 / 1024
"""Width of the element that makes the ring around a lesion, relative to the photograph's height."""

Photograph = tuple[np.ndarray, Mapping[str, np.ndarray]]


def lesion_statistics(image: np.ndarray, fov: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Of one lesion in one photograph.

    Returns:
        count: Connected regions. share: Of the field of view's pixels. size: Median region, as such a share.
        contrast_{r,g,b}: Mean in the mask relative to a ring around it, minus 1.
    """
    number, _, regions, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    width = max(round(RING_SHARE * image.shape[0]), 3)
    ring = cv2.dilate(mask.astype(np.uint8), np.ones((width, width), np.uint8)).astype(bool) & ~mask & fov
    contrast = image[mask].mean(axis=0) / image[ring].mean(axis=0) - 1.0
    return {
        "count": number - 1,
        "share": mask.sum() / fov.sum(),
        "size": float(np.median(regions[1:, cv2.CC_STAT_AREA])) / fov.sum(),
        **{f"contrast_{channel}": float(value) for channel, value in zip("rgb", contrast, strict=True)},
    }


def statistics(photographs: Iterable[Photograph]) -> dict[str, dict[str, list[float]]]:
    """Lesion -> figure -> its quantiles over the images that have the lesion; and the field of view's mean colour."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for image, masks in photographs:
        fov = field_of_view(image)
        for channel, value in zip("rgb", image[fov].mean(axis=0), strict=True):
            values["field_of_view"][f"mean_{channel}"].append(float(value))
        for lesion, mask in masks.items():
            if mask.any():
                for name, value in lesion_statistics(image, fov, mask).items():
                    values[lesion][name].append(value)
    return {
        group: {name: [float(f"{v:.4g}") for v in np.percentile(column, QUANTILES)] for name, column in columns.items()}
        for group, columns in values.items()
    }


def recorded() -> dict[str, dict[str, list[float]]]:
    return json.loads(FILE.read_text())

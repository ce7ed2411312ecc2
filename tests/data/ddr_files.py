"""Writes small files in DDR's layout, with the release's peculiarities."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from data.idrid_files import SHAPE, photograph

from pldmlt_jax.types import LESIONS

LABEL_FOLDERS = {"train": "label", "valid": "segmentation label", "test": "label"}


def write_segmentation(root: Path, lesions: Mapping[str, Iterable[str]], split: str = "train", first_seed: int = 0) -> None:
    """Writes photographs and a mask of every lesion, black where the photograph has none of it."""
    base = root / "lesion_segmentation" / split
    for folder in ("image", *(f"{LABEL_FOLDERS[split]}/{lesion}" for lesion in LESIONS)):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for i, (name, kinds) in enumerate(lesions.items()):
        cv2.imwrite(str(base / "image" / f"{name}.jpg"), photograph(first_seed + i))
        for j, lesion in enumerate(LESIONS):
            mask = np.zeros(SHAPE, np.uint8)
            if lesion in kinds:
                mask[20 + 4 * j : 22 + 4 * j, 40:43] = 255
            cv2.imwrite(str(base / LABEL_FOLDERS[split] / lesion / f"{name}.tif"), mask)


def write_grading(root: Path, grades: Mapping[str, object], split: str = "train", first_seed: int = 100) -> Path:
    """Writes photographs and their list; returns the list's path."""
    folder = root / "DR_grading" / split
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(grades):
        cv2.imwrite(str(folder / f"{name}.jpg"), photograph(first_seed + i))
    table = folder.with_suffix(".txt")
    table.write_text("".join(f"{name}.jpg {grade}\n" for name, grade in grades.items()))
    return table

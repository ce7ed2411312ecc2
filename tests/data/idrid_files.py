"""Writes small files in IDRiD's layout, with the release's peculiarities."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from pldmlt_jax.data.datasets.idrid import DISC_FOLDER, GRADE_FILES, LESION_FOLDERS, SPLIT_FOLDERS

SHAPE = (60, 90)
HEADER = "Image name,Retinopathy grade,Risk of macular edema ,,,,,,,,,"


def photograph(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A lit circle with smooth structure of its own."""
    rng = np.random.default_rng(seed)
    height, width = shape
    structure = cv2.resize(rng.uniform(60, 220, (6, 9, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[0:height, 0:width]
    lit = np.hypot(y - height / 2, x - width / 2) < 0.48 * min(height, width) * 1.4
    return np.where(lit[..., None], structure.clip(40, 255), 0).astype(np.uint8)


def write_segmentation(root: Path, lesions: Mapping[str, Iterable[str]], split: str = "train") -> None:
    """Writes photographs and, for each lesion that one has, a red mask of a few pixels."""
    base = root / "A. Segmentation"
    folders = [base / "1. Original Images" / SPLIT_FOLDERS[split]]
    masks = base / "2. All Segmentation Groundtruths" / SPLIT_FOLDERS[split]
    suffixes = {"OD": DISC_FOLDER} | LESION_FOLDERS
    folders += [masks / folder for folder in suffixes.values()]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for i, (name, kinds) in enumerate(lesions.items()):
        cv2.imwrite(str(folders[0] / f"{name}.jpg"), photograph(i))
        for j, kind in enumerate(kinds):
            mask = np.zeros((*SHAPE, 3), np.uint8)
            mask[20 + 4 * j : 22 + 4 * j, 40:43] = (0, 0, 255)
            cv2.imwrite(str(masks / suffixes[kind] / f"{name}_{kind}.tif"), mask)


def write_grading(
    root: Path,
    grades: Mapping[str, object],
    split: str = "train",
    first_seed: int = 100,
    shape: tuple[int, int] = SHAPE,
) -> Path:
    """Writes photographs and their table; returns the table's path."""
    base = root / "B. Disease Grading"
    images = base / "1. Original Images" / SPLIT_FOLDERS[split]
    table = base / "2. Groundtruths" / GRADE_FILES[split]
    for folder in (images, table.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(grades):
        cv2.imwrite(str(images / f"{name}.jpg"), photograph(first_seed + i, shape))
    rows = [f"{name},{grade},0,,,,,,,,," for name, grade in grades.items()]
    table.write_text("\n".join([HEADER, *rows, ",,,,,,,,,,,"]) + "\n")
    return table

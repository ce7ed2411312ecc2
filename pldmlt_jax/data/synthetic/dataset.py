"""Makes the synthetic data set: files in IDRiD's official layout, written once and then read like IDRiD itself."""

import csv
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from pldmlt_jax.config import DataConfig, SyntheticConfig
from pldmlt_jax.data.datasets.idrid import (
    DISC_FOLDER,
    GIVEN_GRADES_FILE,
    GRADE_FILES,
    LESION_FOLDERS,
    SPLIT_FOLDERS,
    TRUE_GRADES_FILE,
    TRUE_GRADING_FILE,
    IdridSegmentation,
    list_grading,
)
from pldmlt_jax.data.preprocessing.geometry import encode_image
from pldmlt_jax.data.records import Listing
from pldmlt_jax.data.synthetic.fundus import draw_disc, draw_vessels, new_canvas, render_photograph
from pldmlt_jax.data.synthetic.lesions import DrawnSigns, draw_signs, grade_from_signs
from pldmlt_jax.io.files import name_file_in_errors, partial_path, remove_leftovers, sync_folder, sync_tree
from pldmlt_jax.io.locks import locked
from pldmlt_jax.io.progress import OnProgress
from pldmlt_jax.types import LESIONS, NUM_GRADES

DRAWING_VERSION = 4
"""Part of the folder's name, increased when the same seed gives other files."""

SEGMENTATION_MIX = (0.26, 0.10, 0.28, 0.18, 0.18)
GRADING_MIX = (0.34, 0.08, 0.24, 0.18, 0.16)
"""Shares of the grades 0 to 4. Those of the graded part are roughly IDRiD's. IDRiD's pixel-labelled part has hardly any of
grades 0 and 1, and a network trained on it alone cannot predict them."""

JPEG_QUALITY = 95
GRADE_COLUMNS = ("Image name", "Retinopathy grade", "Risk of macular edema ", *[""] * 9)
MASK_COLOUR_BGR = (0, 0, 255)
"""Colour of lesions in the released masks; OpenCV reads it as 76 in grey."""


class SyntheticFundus(NamedTuple):
    """A synthetic photograph with its labels."""

    image: UInt8[np.ndarray, "h w 3"]
    masks: dict[str, Bool[np.ndarray, "h w"]]
    disc: Bool[np.ndarray, "h w"]
    grade: int


def draw_fundus(seed: Sequence[int], grade: int, height_px: int) -> SyntheticFundus:
    """Draws a synthetic fundus photograph with its masks.

    Args:
        seed: Seed of everything random in it; any integers.
        grade: 0..4, which decides what is drawn.
        height_px: Height in pixels; the width is 1.5 times as large.

    Returns:
        The photograph as uint8 RGB [h, w, 3], bool masks [h, w] of lesions and optic disc, and the grade of what was drawn.

    Example:
        >>> fundus = draw_fundus((0, 1), grade=2, height_px=96)
        >>> fundus.image.shape, sorted(fundus.masks), fundus.grade
        ((96, 144, 3), ['EX', 'HE', 'MA', 'SE'], 2)
    """
    rng = np.random.default_rng(seed)
    canvas = new_canvas(rng, height_px)
    disc = draw_disc(canvas, rng)
    beaded = grade == 3 and rng.random() < 0.4
    draw_vessels(canvas, rng, beaded)
    signs: DrawnSigns = draw_signs(canvas, rng, grade)
    signs.beading = beaded
    return SyntheticFundus(render_photograph(canvas, rng), signs.masks, disc, grade_from_signs(signs))


def ensure_synthetic_set(config: SyntheticConfig, cache_dir: str, progress: OnProgress | None = None) -> Path:
    """Returns the folder of the synthetic data set, and draws the set if the folder does not exist.

    A set whose drawing was interrupted is drawn again.

    Args:
        config: Numbers of images, their size, the seed, and the share of corrupted grades.
        cache_dir: The folder's parent.
        progress: Called with the number of images drawn, the number of all images, and what is drawn.
    """
    facts = json.dumps([DRAWING_VERSION, dataclasses.asdict(config)], sort_keys=True)
    root = Path(cache_dir) / f"synthetic-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
    if root.is_dir():
        return root
    with locked(root.with_name(f".{root.name}.lock")):
        if not root.is_dir():  # another process may have drawn it meanwhile
            remove_leftovers(root.parent)
            partial = partial_path(root)
            shutil.rmtree(partial, ignore_errors=True)
            _draw_all(config, partial, progress)
            sync_tree(partial)
            partial.rename(root)
            sync_folder(root.parent)
    return root


class SyntheticSegmentation(IdridSegmentation):
    """Synthetic photographs with lesion masks; nothing has to be downloaded."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = None
    CITATION = "drawn by this program (data/synthetic/dataset.py)"
    LICENCE = "Apache-2.0"

    @classmethod
    def raw_folder(cls, data: DataConfig) -> Path:
        return ensure_synthetic_set(data.synthetic, data.cache_dir)


class SyntheticGrading(SyntheticSegmentation):
    """Synthetic photographs with grades."""

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_grading(folder)


class _Job(NamedTuple):
    image: Path
    masks: Path | None  # the split's folder of masks, for pixel-labelled images
    seed: tuple[int, ...]
    grade: int


def _draw_all(config: SyntheticConfig, root: Path, progress: OnProgress | None) -> None:
    jobs = _plan_segmentation(config, root) + _plan_grading(config, root)
    for job in jobs:
        job.image.parent.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, _ in enumerate(pool.map(lambda job: _draw_one(job, config.height_px), jobs), start=1):
            if progress:
                progress(done, len(jobs), "synthetic images drawn")


def _sample_grades(mix: Sequence[float], num: int, rng: np.random.Generator) -> np.ndarray:
    """Returns `num` grades in random order, with the shares of `mix` to the nearest integer."""
    edges = np.round(np.cumsum(mix) * num).astype(int)
    return rng.permutation(np.searchsorted(edges, np.arange(num), side="right").clip(0, NUM_GRADES - 1))


def _plan_segmentation(config: SyntheticConfig, root: Path) -> list[_Job]:
    base, jobs, truth, labels, number = root / "A. Segmentation", [], [], [], 0
    rng, label_rng = np.random.default_rng((config.seed, 0)), np.random.default_rng((config.seed, 5))
    for split, num in (("train", config.num_segmentation_train), ("test", config.num_segmentation_test)):
        folder = SPLIT_FOLDERS[split]
        grades = _sample_grades(SEGMENTATION_MIX, num, rng)
        given = corrupt_grades(grades, config.corrupt_share, label_rng) if split == "train" else grades
        for grade, label in zip(grades, given, strict=True):
            number += 1
            image = base / "1. Original Images" / folder / f"IDRiD_{number:02d}.jpg"
            masks = base / "2. All Segmentation Groundtruths" / folder
            jobs.append(_Job(image, masks, (config.seed, 1, number), int(grade)))
            truth.append((image.stem, int(grade)))
            labels.append((image.stem, int(label)))
    _write_csv(root / TRUE_GRADES_FILE, ("image", "dr_grade"), truth)
    _write_csv(root / GIVEN_GRADES_FILE, ("image", "dr_grade"), labels)
    return jobs


def _plan_grading(config: SyntheticConfig, root: Path) -> list[_Job]:
    base, jobs, truth = root / "B. Disease Grading", [], []
    rng = np.random.default_rng((config.seed, 2))
    for code, (split, num) in enumerate((("train", config.num_grading_train), ("test", config.num_grading_test))):
        grades = _sample_grades(GRADING_MIX, num, rng)
        given = corrupt_grades(grades, config.corrupt_share, rng) if split == "train" else grades
        names = [f"IDRiD_{i:03d}" for i in range(1, num + 1)]
        folder = base / "1. Original Images" / SPLIT_FOLDERS[split]
        jobs += [
            _Job(folder / f"{name}.jpg", None, (config.seed, 3 + code, i), int(grade))
            for i, (name, grade) in enumerate(zip(names, grades, strict=True))
        ]
        truth += [(name, split, int(grade)) for name, grade in zip(names, grades, strict=True)]
        rows = [(name, int(grade), 2 if grade > 1 else 0, *[""] * 9) for name, grade in zip(names, given, strict=True)]
        _write_csv(base / "2. Groundtruths" / GRADE_FILES[split], GRADE_COLUMNS, rows)
    _write_csv(root / TRUE_GRADING_FILE, ("image", "split", "dr_grade"), truth)
    return jobs


def corrupt_grades(grades: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Replaces a share of the grades by one of the four other grades each.

    Args:
        grades: int [n] in 0..4.
        share: In 0..1; share * n grades, rounded, are replaced.
        rng: Source of all randomness.

    Returns:
        A new array int [n].
    """
    chosen = rng.permutation(len(grades))[: round(share * len(grades))]
    result = grades.copy()
    result[chosen] = (grades[chosen] + rng.integers(1, NUM_GRADES, size=len(chosen))) % NUM_GRADES
    return result


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _draw_one(job: _Job, height_px: int) -> None:
    fundus = draw_fundus(job.seed, job.grade, height_px)
    if fundus.grade != job.grade:
        raise AssertionError(f"{job.image.name}: drew grade {fundus.grade} for {job.grade}")
    bgr = cv2.cvtColor(fundus.image, cv2.COLOR_RGB2BGR)
    with name_file_in_errors(job.image):
        job.image.write_bytes(encode_image(bgr, job.image.suffix, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]))
    if job.masks is None:
        return
    planes = {LESION_FOLDERS[lesion]: (lesion, fundus.masks[lesion]) for lesion in LESIONS}
    for folder, (suffix, mask) in (planes | {DISC_FOLDER: ("OD", fundus.disc)}).items():
        (job.masks / folder).mkdir(parents=True, exist_ok=True)
        if mask.any():
            _write_mask(job.masks / folder / f"{job.image.stem}_{suffix}.tif", mask)


def _write_mask(path: Path, mask: Bool[np.ndarray, "h w"]) -> None:
    coloured = np.where(mask[..., None], np.array(MASK_COLOUR_BGR, np.uint8), np.uint8(0))
    with name_file_in_errors(path):
        path.write_bytes(encode_image(coloured, path.suffix))

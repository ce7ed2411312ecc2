"""The embedded synthetic set, written once as files in IDRiD's official layout and then read like IDRiD itself."""

import csv
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
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
from pldmlt_jax.data.datasets.records import Listing
from pldmlt_jax.data.preprocessing.geometry import encode_image
from pldmlt_jax.data.synthetic.fundus import draw_disc, draw_vessels, new_canvas, render_photograph
from pldmlt_jax.data.synthetic.lesions import DrawnSigns, draw_signs, grade_from_signs
from pldmlt_jax.io.files import locked, name_file_in_errors, partial_path, remove_leftovers, sync_folder, sync_tree
from pldmlt_jax.types import LESIONS, NUM_GRADES

DRAWING_VERSION = 4
"""Part of the folder's name: raised when the same seed would be written differently."""

SEGMENTATION_MIX = (0.26, 0.10, 0.28, 0.18, 0.18)
GRADING_MIX = (0.34, 0.08, 0.24, 0.18, 0.16)
"""Shares of the grades. Of the graded part they are IDRiD's, roughly; IDRiD's pixel-labelled part has hardly any of the
grades 0 and 1, and a network trained on that part alone cannot answer them."""

JPEG_QUALITY = 95
GRADE_COLUMNS = ("Image name", "Retinopathy grade", "Risk of macular edema ", *[""] * 9)
MASK_COLOUR_BGR = (0, 0, 255)
"""Of the released masks' palette; OpenCV reads it as 76 in grey."""


class SyntheticFundus(NamedTuple):
    image: UInt8[np.ndarray, "h w 3"]
    masks: dict[str, Bool[np.ndarray, "h w"]]
    disc: Bool[np.ndarray, "h w"]
    grade: int


def draw_fundus(seed: Sequence[int], grade: int, height_px: int) -> SyntheticFundus:
    """Draws one photograph.

    Args:
        seed: Of everything random in it.
        grade: 0..4; decides what is drawn.
        height_px: The width is 1.5 times that.

    Returns:
        The photograph, its lesion and disc masks, and the grade that follows from what was drawn.
    """
    rng = np.random.default_rng(seed)
    canvas = new_canvas(rng, height_px)
    disc = draw_disc(canvas, rng)
    beaded = grade == 3 and rng.random() < 0.4
    draw_vessels(canvas, rng, beaded)
    signs: DrawnSigns = draw_signs(canvas, rng, grade)
    signs.beading = beaded
    return SyntheticFundus(render_photograph(canvas, rng), signs.masks, disc, grade_from_signs(signs))


def ensure_synthetic_set(
    config: SyntheticConfig, cache_dir: str, progress: Callable[[int, int, str], None] | None = None
) -> Path:
    """The set's folder, drawn if it is not there yet; a set that was interrupted is drawn anew.

    Args:
        config: Numbers, size, seed and the share of corrupted grades.
        cache_dir: Where the folder goes.
        progress: Called with the number drawn, the number in all and what is drawn.
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
            _write(config, partial, progress)
            sync_tree(partial)
            partial.rename(root)
            sync_folder(root.parent)
    return root


class SyntheticSegmentation(IdridSegmentation):
    """Drawn photographs with their lesion masks; nothing has to be got by hand."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = None
    CITATION = "drawn by this program (data/synthetic/dataset.py)"
    LICENCE = "Apache-2.0"

    @classmethod
    def raw_folder(cls, data: DataConfig) -> Path:
        return ensure_synthetic_set(data.synthetic, data.cache_dir)


class SyntheticGrading(SyntheticSegmentation):
    """Drawn photographs with their grades."""

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_grading(folder)


class _Job(NamedTuple):
    image: Path
    masks: Path | None  # the split's folder of masks, for pixel-labelled images
    seed: tuple[int, ...]
    grade: int


def _write(config: SyntheticConfig, root: Path, progress: Callable[[int, int, str], None] | None) -> None:
    jobs = _segmentation_jobs(config, root) + _grading_jobs(config, root)
    for job in jobs:
        job.image.parent.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, _ in enumerate(pool.map(lambda job: _write_one(job, config.height_px), jobs), start=1):
            if progress:
                progress(done, len(jobs), "synthetic photographs drawn")


def _grades(mix: Sequence[float], num: int, rng: np.random.Generator) -> np.ndarray:
    """Grades in the mix's shares, to the nearest whole number, in random order."""
    edges = np.round(np.cumsum(mix) * num).astype(int)
    return rng.permutation(np.searchsorted(edges, np.arange(num), side="right").clip(0, NUM_GRADES - 1))


def _segmentation_jobs(config: SyntheticConfig, root: Path) -> list[_Job]:
    base, jobs, truth, labels, number = root / "A. Segmentation", [], [], [], 0
    rng, label_rng = np.random.default_rng((config.seed, 0)), np.random.default_rng((config.seed, 5))
    for split, num in (("train", config.num_segmentation_train), ("test", config.num_segmentation_test)):
        folder = SPLIT_FOLDERS[split]
        grades = _grades(SEGMENTATION_MIX, num, rng)
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


def _grading_jobs(config: SyntheticConfig, root: Path) -> list[_Job]:
    base, jobs, truth = root / "B. Disease Grading", [], []
    rng = np.random.default_rng((config.seed, 2))
    for code, (split, num) in enumerate((("train", config.num_grading_train), ("test", config.num_grading_test))):
        grades = _grades(GRADING_MIX, num, rng)
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
    """Replaces exactly that share of the grades, rounded, each by one of the four others."""
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


def _write_one(job: _Job, height_px: int) -> None:
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

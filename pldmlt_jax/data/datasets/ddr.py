"""Reads DDR: photographs with lesion masks, and photographs with grades.

Li, Gao, Wang et al.: Diagnostic assessment of deep learning algorithms for diabetic retinopathy screening. Information
Sciences 501, 2019. DDR has an all-black mask for each lesion that a photograph lacks, so a missing mask file is an error.
"""

from pathlib import Path

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.base import FundusBuilder, FundusConfig
from pldmlt_jax.data.datasets.matching import (
    GRADES,
    add_grade,
    find_masks_without_image,
    find_unmatched,
    list_jpegs,
    no_images,
)
from pldmlt_jax.data.records import Listing, RawRecord
from pldmlt_jax.errors import DataError, UserError
from pldmlt_jax.io.files import WINDOWS_ENCODING, read_text, sort_visible_paths
from pldmlt_jax.types import LESIONS

LAYOUT = """the layout of DDR (https://github.com/nkicsl/DDR-dataset):
    DDR-dataset/lesion_segmentation/{train,valid,test}/image/*.jpg
    DDR-dataset/lesion_segmentation/{train,valid,test}/{label or segmentation label}/{EX,HE,MA,SE}/*.tif
    DDR-dataset/DR_grading/{train,valid,test}.txt
    DDR-dataset/DR_grading/{train,valid,test}/*.jpg"""

SPLIT_FOLDERS = {"train": "train", "val": "valid", "test": "test"}
LABEL_FOLDERS = ("label", "segmentation label")
"""The released validation split spells this folder differently."""

UNGRADABLE = 5
"""The grade of photographs that cannot be graded. They are dropped and counted."""

LEAST_GRADE = 1
"""Lowest possible grade of the pixel-labelled photographs, which were all selected for their lesions."""

ACTION = "set --config.data.root to the folder that contains DDR-dataset/, or --config.data.ddr_root to DDR-dataset/ itself"


class DdrSegmentation(FundusBuilder):
    """DDR's photographs with lesion masks."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT
    BUILDER_CONFIGS = (FundusConfig(),)
    CITATION = (
        "Li, Gao, Wang et al.: Diagnostic assessment of deep learning algorithms for diabetic retinopathy screening. "
        "Information Sciences 501, 511-522, 2019"
    )
    LICENCE = "see the release"

    @classmethod
    def raw_folder(cls, data: DataConfig) -> Path:
        return Path(data.ddr_root or Path(data.root) / "DDR-dataset")

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_segmentation(folder)


class DdrGrading(DdrSegmentation):
    """DDR's photographs with grades, without the ungradable ones."""

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_grading(folder)


def list_segmentation(root: Path) -> Listing:
    """Lists the photographs that have masks, by split.

    Args:
        root: The folder DDR-dataset.

    Returns:
        The photographs. Missing masks, and masks without an image, are its errors.

    Raises:
        DataError: There are no training images, or a split lacks its folder of masks.
    """
    base = root / "lesion_segmentation"
    records: dict[str, list[RawRecord]] = {}
    errors: list[UserError] = []
    for split, folder in SPLIT_FOLDERS.items():
        images = _list_images(base / folder / "image", root, split)
        if not images:
            continue
        labels = next((path for name in LABEL_FOLDERS if (path := base / folder / name).is_dir()), None)
        if labels is None:
            raise DataError(base / folder, "no folder of masks", LAYOUT, "join all parts of the archive and unpack it again")
        records[split] = []
        for image in images:
            masks = {lesion: labels / lesion / f"{image.stem}.tif" for lesion in LESIONS}
            wrong = [
                DataError(path, "no such file", "a mask for each lesion, black if there is none", "get the whole release")
                for path in masks.values()
                if not path.is_file()
            ]
            errors += wrong
            if not wrong:
                records[split].append(RawRecord(image.stem, image, masks, least_grade=LEAST_GRADE, mask_rule="two_levels"))
        found = [path for lesion in LESIONS for path in sort_visible_paths((labels / lesion).glob("*.tif"))]
        errors += find_masks_without_image(((path, path.stem) for path in found), images)
    return Listing(records, tuple(errors))


def list_grading(root: Path) -> Listing:
    """Lists the photographs that have a grade, by split. Ungradable ones are dropped and counted.

    Args:
        root: The folder DDR-dataset.

    Returns:
        The photographs. Wrong lines, and lines and images without each other, are its errors.

    Raises:
        DataError: There are no training images, or a split lacks its list.
    """
    base = root / "DR_grading"
    records: dict[str, list[RawRecord]] = {}
    errors: list[UserError] = []
    dropped: dict[str, int] = {}
    for split, folder in SPLIT_FOLDERS.items():
        images = {image.name: image for image in _list_images(base / folder, root, split)}
        if not images:
            continue
        table = base / f"{folder}.txt"
        grades, wrong = read_grade_list(table)
        errors += [*wrong, *find_unmatched(images, grades, table)]
        listed = {name: grade for name, grade in grades.items() if name in images and grade is not None}
        dropped[split] = sum(grade == UNGRADABLE for grade in listed.values())
        records[split] = [
            RawRecord(images[name].stem, images[name], grade=grade) for name, grade in listed.items() if grade != UNGRADABLE
        ]
    return Listing(records, tuple(errors), dropped)


def read_grade_list(path: Path) -> tuple[dict[str, int | None], list[UserError]]:
    """Reads one of DDR's lists of grades.

    Args:
        path: A text file with an image's file name and its grade on each line.

    Returns:
        Grades 0..5 by file name, None for an image without one valid grade, and an error for each wrong line.

    Raises:
        DataError: There is no such file.
    """
    if not path.is_file():
        raise DataError(path, "no such file", LAYOUT, "get the list with its images")
    grades: dict[str, int | None] = {}
    errors: list[UserError] = []
    for number, line in enumerate(read_text(path, fallback_encoding=WINDOWS_ENCODING).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, *rest = line.split()
        if len(rest) != 1 or rest[0] not in (*GRADES, str(UNGRADABLE)):
            expected = "an image's name and its grade: 0, 1, 2, 3, 4, or 5 for ungradable"
            errors.append(DataError(where, repr(line), expected, "correct the line"))
            grades[name] = None
        else:
            errors += add_grade(grades, name, int(rest[0]), where)
    return grades, errors


def _list_images(folder: Path, root: Path, split: str) -> list[Path]:
    images = list_jpegs(folder)
    if split == "train" and not images:
        raise no_images("data.ddr_root", root, folder, LAYOUT, ACTION)
    return images

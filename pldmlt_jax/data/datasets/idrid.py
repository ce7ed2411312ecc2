"""Reads IDRiD in its official layout: part A (segmentation) and part B (disease grading).

A lesion that an image lacks has no mask file. Names never identify a photograph: A numbers its photographs differently
from B, and B uses the same names in both of its splits.
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
from pldmlt_jax.errors import DataError, UserError, raise_all
from pldmlt_jax.io.csv_files import read_rows
from pldmlt_jax.io.files import sort_visible_paths
from pldmlt_jax.types import UNKNOWN_GRADE

LAYOUT = """the official layout of IDRiD (https://ieee-dataport.org/open-access/indian-diabetic-retinopathy-image-dataset-idrid):
    IDRiD/A. Segmentation/1. Original Images/{a. Training Set,b. Testing Set}/IDRiD_NN.jpg
    IDRiD/A. Segmentation/2. All Segmentation Groundtruths/{a. Training Set,b. Testing Set}/
        {1. Microaneurysms,2. Haemorrhages,3. Hard Exudates,4. Soft Exudates,5. Optic Disc}/IDRiD_NN_{MA,HE,EX,SE,OD}.tif
    IDRiD/B. Disease Grading/1. Original Images/{a. Training Set,b. Testing Set}/IDRiD_NNN.jpg
    IDRiD/B. Disease Grading/2. Groundtruths/{a. IDRiD_Disease Grading_Training Labels.csv,b. ..._Testing Labels.csv}"""

LESION_FOLDERS = {
    "MA": "1. Microaneurysms",
    "HE": "2. Haemorrhages",
    "EX": "3. Hard Exudates",
    "SE": "4. Soft Exudates",
}
DISC_FOLDER = "5. Optic Disc"
SPLIT_FOLDERS = {"train": "a. Training Set", "test": "b. Testing Set"}
GRADE_FILES = {
    "train": "a. IDRiD_Disease Grading_Training Labels.csv",
    "test": "b. IDRiD_Disease Grading_Testing Labels.csv",
}
ACTION = "set --config.data.root to the folder that contains IDRiD/"

TRUE_GRADES_FILE = "true_grades_of_segmentation_images.csv"
"""Not part of the release: grades of A's photographs that are in B too, used to evaluate pseudo-labels."""

GIVEN_GRADES_FILE = "given_grades_of_segmentation_images.csv"
"""Synthetic sets only: A's grades to train on (`pseudo.source=given`), some of which may be wrong."""

TRUE_GRADING_FILE = "true_grades_of_grading_images.csv"
"""Synthetic sets only: B's grades before some were corrupted."""


class IdridSegmentation(FundusBuilder):
    """Part A of IDRiD: photographs with lesion masks."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT
    BUILDER_CONFIGS = (FundusConfig(),)
    CITATION = "Porwal, Pachade, Kamble et al.: Indian Diabetic Retinopathy Image Dataset (IDRiD). Data 3(3), 25, 2018"
    LICENCE = "CC BY 4.0"

    @classmethod
    def raw_folder(cls, data: DataConfig) -> Path:
        return Path(data.idrid_root or Path(data.root) / "IDRiD")

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_segmentation(folder)


class IdridGrading(IdridSegmentation):
    """Part B of IDRiD: photographs with grades."""

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_grading(folder)


def list_segmentation(root: Path) -> Listing:
    """Lists part A's photographs with their masks, by split.

    Args:
        root: The folder IDRiD.

    Returns:
        The photographs. Masks without an image are its errors.

    Raises:
        DataError: The folder, its training images, or a folder of masks is missing.
    """
    base = root / "A. Segmentation"
    true_grades = _read_extra_grades(root / TRUE_GRADES_FILE)
    given_grades = _read_extra_grades(root / GIVEN_GRADES_FILE)
    records: dict[str, list[RawRecord]] = {}
    errors: list[UserError] = []
    for split, folder in SPLIT_FOLDERS.items():
        masks = base / "2. All Segmentation Groundtruths" / folder
        images = _list_images(base / "1. Original Images" / folder, root, split)
        if images:
            raise_all(_check_mask_folders(masks))
            found = [
                (path, path.stem.removesuffix(f"_{lesion}"))
                for lesion, lesion_folder in LESION_FOLDERS.items()
                for path in sort_visible_paths((masks / lesion_folder).glob(f"*_{lesion}.tif"))
            ]
            errors += find_masks_without_image(found, images)
            records[split] = [_segmentation_record(image, masks, given_grades, true_grades) for image in images]
    return Listing(records, tuple(errors))


def _check_mask_folders(masks: Path) -> list[UserError]:
    """Returns an error for each lesion without a folder or with other file names; a single absent file is no error."""
    errors: list[UserError] = []
    for lesion, folder in LESION_FOLDERS.items():
        if not (masks / folder).is_dir():
            errors.append(DataError(masks / folder, "no such folder", LAYOUT, "get the masks of these images too"))
        elif any((masks / folder).iterdir()) and not any((masks / folder).glob(f"*_{lesion}.tif")):
            expected = f"masks named IDRiD_NN_{lesion}.tif"
            errors.append(DataError(masks / folder, "files of other names only", expected, "restore the released names"))
    return errors


def _segmentation_record(image: Path, masks: Path, given_grades: dict[str, int], true_grades: dict[str, int]) -> RawRecord:
    found = {
        lesion: path
        for lesion, folder in LESION_FOLDERS.items()
        if (path := masks / folder / f"{image.stem}_{lesion}.tif").exists()
    }
    disc = masks / DISC_FOLDER / f"{image.stem}_OD.tif"
    return RawRecord(
        image_id=image.stem,
        image=image,
        masks=found,
        disc=disc if disc.exists() else None,
        grade=given_grades.get(image.stem, UNKNOWN_GRADE),
        true_grade=true_grades.get(image.stem, UNKNOWN_GRADE),
    )


def list_grading(root: Path) -> Listing:
    """Lists part B's photographs with their grades, by split.

    Args:
        root: The folder IDRiD.

    Returns:
        The photographs. Wrong grades, and rows and images without each other, are its errors.

    Raises:
        DataError: The folder, its training images, or a table is missing, or a table lacks a column.
    """
    base = root / "B. Disease Grading"
    records: dict[str, list[RawRecord]] = {}
    errors: list[UserError] = []
    for split, folder in SPLIT_FOLDERS.items():
        images = {image.stem: image for image in _list_images(base / "1. Original Images" / folder, root, split)}
        if not images:
            continue
        table = base / "2. Groundtruths" / GRADE_FILES[split]
        grades, wrong = read_grade_table(table)
        errors += [*wrong, *find_unmatched(images, grades, table)]
        true_grades = _read_extra_grades(root / TRUE_GRADING_FILE, split)
        records[split] = [
            RawRecord(name, image, grade=grade, true_grade=true_grades.get(name, UNKNOWN_GRADE))
            for name, image in images.items()
            if (grade := grades.get(name)) is not None
        ]
    return Listing(records, tuple(errors))


def read_grade_table(path: Path) -> tuple[dict[str, int | None], list[UserError]]:
    """Reads one of part B's tables of grades.

    The released tables have twelve columns, nine of them empty, and a header with a trailing space.

    Args:
        path: A CSV file with the columns "Image name" and "Retinopathy grade".

    Returns:
        Grades 0..4 by image name, None for an image without one valid grade, and an error for each wrong row.

    Raises:
        DataError: There is no such file, or it lacks a column.
    """
    if not path.is_file():
        raise DataError(path, "no such file", "a CSV of grades", "get it together with the images:\n" + LAYOUT)
    grades: dict[str, int | None] = {}
    errors: list[UserError] = []
    for line, row in read_rows(path, ("Image name", "Retinopathy grade")):
        name, text = row["Image name"].strip(), row["Retinopathy grade"].strip()
        if not name:
            continue
        where = f"{path}, line {line}"
        if text not in GRADES:
            errors.append(DataError(where, f"grade {text!r} of {name}", "0, 1, 2, 3 or 4", "correct the row"))
            grades[name] = None
        else:
            errors += add_grade(grades, name, int(text), where)
    return grades, errors


def _read_extra_grades(path: Path, split: str | None = None) -> dict[str, int]:
    if not path.is_file():
        return {}
    rows = read_rows(path, ("image", "dr_grade") if split is None else ("image", "dr_grade", "split"))
    raise_all(
        [
            DataError(f"{path}, line {line}", f"grade {row['dr_grade']!r}", "0, 1, 2, 3 or 4", "correct the row")
            for line, row in rows
            if row["dr_grade"] not in GRADES
        ]
    )
    return {row["image"]: int(row["dr_grade"]) for _, row in rows if split is None or row["split"] == split}


def _list_images(folder: Path, root: Path, split: str) -> list[Path]:
    images = list_jpegs(folder)
    if split == "train" and not images:
        raise no_images("data.root", root, folder, LAYOUT, ACTION)
    return images

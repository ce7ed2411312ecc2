"""IDRiD's builders and its official layout: segmentation (A) and disease grading (B).

A lesion that an image does not have has no file. A numbers its photographs differently from B, and B uses the same names
in both of its splits: names never identify a photograph.
"""

from collections.abc import Collection
from pathlib import Path

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.base import FundusBuilder, FundusConfig
from pldmlt_jax.data.datasets.records import Listing, RawRecord
from pldmlt_jax.errors import DataError, UserError, raise_all
from pldmlt_jax.io.files import read_rows, sort_visible_paths
from pldmlt_jax.types import NUM_GRADES, UNKNOWN_GRADE

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
GRADES = tuple(map(str, range(NUM_GRADES)))
"""As tables spell them."""

TRUE_GRADES_FILE = "true_grades_of_segmentation_images.csv"
"""Not part of the release: grades of A's photographs that stand in B as well, to evaluate pseudo-labels."""

GIVEN_GRADES_FILE = "given_grades_of_segmentation_images.csv"
"""Synthetic sets only: A's grades to learn from (`pseudo.source=given`), some of which may be wrong."""

TRUE_GRADING_FILE = "true_grades_of_grading_images.csv"
"""Synthetic sets only: B's grades before some were corrupted."""


class IdridSegmentation(FundusBuilder):
    """Part A: photographs with their lesion masks."""

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
    """Part B: photographs with their grades."""

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_grading(folder)


def list_segmentation(root: Path) -> Listing:
    """A's photographs with their masks; a mask without its image is an error of the listing.

    Raises:
        DataError: The folder or its training images are missing, or a folder of masks is.
    """
    base = root / "A. Segmentation"
    true_grades = _table_of_grades(root / TRUE_GRADES_FILE)
    given_grades = _table_of_grades(root / GIVEN_GRADES_FILE)
    records: dict[str, list[RawRecord]] = {}
    errors: list[UserError] = []
    for split, folder in SPLIT_FOLDERS.items():
        masks = base / "2. All Segmentation Groundtruths" / folder
        images = _images(base / "1. Original Images" / folder, required=split == "train", root=root)
        if images:
            raise_all(_missing_mask_folders(masks))
            errors += _masks_without_image(masks, images)
            records[split] = [_segmentation_record(image, masks, given_grades, true_grades) for image in images]
    return Listing(records, tuple(errors))


def _missing_mask_folders(masks: Path) -> list[UserError]:
    """A lesion without a file is absent from its image; a lesion without a folder, or under other names, is a mistake."""
    errors: list[UserError] = []
    for lesion, folder in LESION_FOLDERS.items():
        if not (masks / folder).is_dir():
            errors.append(DataError(masks / folder, "no such folder", LAYOUT, "the images are there: get their masks too"))
        elif any((masks / folder).iterdir()) and not any((masks / folder).glob(f"*_{lesion}.tif")):
            expected = f"masks named IDRiD_NN_{lesion}.tif"
            errors.append(DataError(masks / folder, "files of other names only", expected, "restore the released names"))
    return errors


def _masks_without_image(masks: Path, images: list[Path]) -> list[UserError]:
    """An image that was lost would otherwise be left out without a word."""
    names = {image.stem for image in images}
    return [
        DataError(path, "a mask without its image", f"{image_id}.jpg in {images[0].parent}", "restore it or remove the mask")
        for lesion, folder in LESION_FOLDERS.items()
        for path in sort_visible_paths((masks / folder).glob(f"*_{lesion}.tif"))
        if (image_id := path.stem.removesuffix(f"_{lesion}")) not in names
    ]


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
    """B's photographs with their grades; rows and images without each other are errors of the listing, and wrong grades.

    Raises:
        DataError: The folder, its training images or a table is missing, or a table has other columns.
    """
    base = root / "B. Disease Grading"
    records: dict[str, list[RawRecord]] = {}
    errors: list[UserError] = []
    for split, folder in SPLIT_FOLDERS.items():
        images = _images(base / "1. Original Images" / folder, required=split == "train", root=root)
        if not images:
            continue
        table = base / "2. Groundtruths" / GRADE_FILES[split]
        grades, found = read_grade_table(table)
        errors += [*found, *_unmatched(images, grades, table)]
        true_grades = _table_of_grades(root / TRUE_GRADING_FILE, split)
        records[split] = [
            RawRecord(image.stem, image, grade=grade, true_grade=true_grades.get(image.stem, UNKNOWN_GRADE))
            for image in images
            if (grade := grades.get(image.stem)) is not None
        ]
    return Listing(records, tuple(errors))


def read_grade_table(path: Path) -> tuple[dict[str, int | None], list[UserError]]:
    """Image name -> grade of one of B's tables, None where it is none of 0..4, and what is wrong in it.

    The released tables have twelve columns, nine of them empty, and a header with a trailing space.

    Raises:
        DataError: There is no such file, or it has other columns.
    """
    if not path.is_file():
        raise DataError(path, "no such file", "a CSV of grades", "get it with the images:\n" + LAYOUT)
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
        elif grades.get(name, int(text)) != int(text):
            errors.append(DataError(where, f"{name} again, with another grade", "each image once", "correct the rows"))
            grades[name] = None
        else:
            grades[name] = int(text)
    return grades, errors


def _unmatched(images: list[Path], grades: Collection[str], table: Path) -> list[UserError]:
    names = {image.stem for image in images}
    errors: list[UserError] = [
        DataError(image, f"no row in {table.name}", "a grade for each image", "add the row or remove the image")
        for image in images
        if image.stem not in grades
    ]
    return errors + [
        DataError(table, f"a row for {name}", "an image for each row", "get the image or remove the row")
        for name in grades
        if name not in names
    ]


def _table_of_grades(path: Path, split: str | None = None) -> dict[str, int]:
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


def _images(folder: Path, *, required: bool, root: Path) -> list[Path]:
    images = sort_visible_paths(folder.glob("*.jpg")) if folder.is_dir() else []
    if required and not images:
        found = f"no images in {folder}" if root.is_dir() else "no such folder"
        raise DataError(f"data.root: {root}", found, LAYOUT, "set --config.data.root to the folder that holds IDRiD/")
    return images

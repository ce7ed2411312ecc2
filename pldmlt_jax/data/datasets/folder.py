"""Reads a user's own folder: images, masks of some of them, and a CSV file with grades of some of them."""

import re
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.base import FundusBuilder, FundusConfig
from pldmlt_jax.data.datasets.matching import GRADES, add_grade, no_images
from pldmlt_jax.data.preprocessing.geometry import IMAGE_SUFFIXES, PHOTOGRAPH_SUFFIXES
from pldmlt_jax.data.records import Listing, RawRecord
from pldmlt_jax.errors import DataError, UserError
from pldmlt_jax.io.csv_files import read_cells
from pldmlt_jax.io.files import sort_visible_paths
from pldmlt_jax.types import UNKNOWN_GRADE

LAYOUT = """a folder of your own photographs:
    FOLDER/images/NAME.jpg (or png, tif, bmp, webp, gif, ppm, jp2, avif), in subfolders train/, val/ and test/ if they are
        split already
    FOLDER/masks/{MA,HE,EX,SE,OD}/NAME.png, or FOLDER/masks/NAME_{MA,HE,EX,SE,OD}.png
        "lesion" instead of MA, HE, EX, SE if lesions are not distinguished; lesions are white, or any colour but black
        a photograph without any mask file is not pixel-labelled; one with some lacks the lesions that have no file
    FOLDER/grades.csv with the columns image and grade (0 to 4, empty if unknown)"""

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
          "testing": "test"}  # fmt: skip

MASK_NAMES = {
    "MA": ("ma", "microaneurysm", "microaneurysms"),
    "HE": ("he", "haemorrhage", "haemorrhages", "hemorrhage", "hemorrhages"),
    "EX": ("ex", "hardexudate", "hardexudates"),
    "SE": ("se", "softexudate", "softexudates", "cottonwoolspots"),
    "OD": ("od", "opticdisc", "opticdisk", "disc"),
    "untyped": ("lesion", "lesions", "mask"),
}
"""Accepted names of mask folders and mask suffixes, in lower case and letters only."""

IMAGE_COLUMNS = ("image", "imagename", "imageid", "filename", "file", "name", "idcode", "id")
DELIMITERS = (",", ";", "\t")
"""Column separators of CSV files; spreadsheets use different ones in different languages."""

GRADE_COLUMNS = ("grade", "drgrade", "retinopathygrade", "level", "diagnosis", "label", "dr")


class FolderSegmentation(FundusBuilder):
    """The photographs of a folder that have masks."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT
    BUILDER_CONFIGS = (FundusConfig(),)

    @classmethod
    def raw_folder(cls, data: DataConfig) -> Path:
        return Path(data.folder_root or Path(data.root) / "folder")

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_segmentation(folder)


class FolderGrading(FolderSegmentation):
    """The photographs of a folder that have a grade."""

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_grading(folder)


class Folder(NamedTuple):
    """The content of a user's folder; the dictionaries have the images' names, without suffix, as keys."""

    images: dict[str, Path]
    splits: dict[str, str]  # "train", "val" or "test"
    masks: dict[str, dict[str, Path]]  # by key of MASK_NAMES
    grades: dict[str, int]  # known grades only
    errors: tuple[UserError, ...]


def list_segmentation(root: Path) -> Listing:
    """Lists the photographs that have a mask, by split. Their grades in the CSV file evaluate pseudo-labels.

    Args:
        root: See LAYOUT.

    Returns:
        The photographs. Everything that cannot be paired is among its errors.

    Raises:
        DataError: There is no such folder, or it has no image, no mask, or no training image with a mask.
    """
    folder = read_folder(root)
    records: dict[str, list[RawRecord]] = defaultdict(list)
    for name, masks in sorted(folder.masks.items()):
        lesions = {lesion: path for lesion, path in masks.items() if lesion != "OD"}
        if lesions:
            records[folder.splits[name]].append(
                RawRecord(
                    name, folder.images[name], lesions, disc=masks.get("OD"), mask_rule="upper_half",
                    true_grade=folder.grades.get(name, UNKNOWN_GRADE),
                )
            )  # fmt: skip
    if not records and not folder.errors:
        action = "add masks/, which the lesions are trained on"
        raise DataError(f"data.folder_root: {root}", "no masks in it", LAYOUT, action)
    return Listing(_require_training(records, root, "a mask"), folder.errors)


def list_grading(root: Path) -> Listing:
    """Lists the photographs that have a grade, by split.

    Args:
        root: See LAYOUT.

    Returns:
        The photographs. Everything that cannot be paired is among its errors.

    Raises:
        DataError: There is no such folder, or it has no image, no grade, or no training image with a grade.
    """
    folder = read_folder(root)
    if not folder.grades and not folder.errors:
        action = (
            "add grades.csv; or train on lesions only: "
            "--config.data.grading=none --config.loss.grading=False --config.meta.enabled=False"
        )
        raise DataError(f"data.folder_root: {root}", "no grades in it", LAYOUT, action)
    records: dict[str, list[RawRecord]] = defaultdict(list)
    for name, grade in sorted(folder.grades.items()):
        records[folder.splits[name]].append(RawRecord(name, folder.images[name], grade=grade))
    return Listing(_require_training(records, root, "a grade"), folder.errors)


def _require_training(records: dict[str, list[RawRecord]], root: Path, what: str) -> dict[str, list[RawRecord]]:
    if records and not records.get("train"):
        action = "label training images; or, to evaluate with --split=all, use no folders of splits"
        raise DataError(f"data.folder_root: {root}", f"no image of images/train has {what}", LAYOUT, action)
    return dict(records)


def read_folder(root: Path) -> Folder:
    """Pairs the images, masks and grades of a folder by their names.

    Args:
        root: See LAYOUT.

    Raises:
        DataError: There is no such folder, it has no image, or its table of grades cannot be read.
    """
    base = root / "images" if (root / "images").is_dir() else root
    recursive = base != root
    found = sort_visible_paths(base.rglob("*") if recursive else base.glob("*")) if root.is_dir() else []
    paths = [path for path in found if path.suffix.lower() in PHOTOGRAPH_SUFFIXES and path.is_file()]
    if not recursive:  # masks may then be in the same folder
        names = {_image_name(path) for path in paths}
        paths = [path for path in paths if not ((parts := _split_mask_name(_image_name(path))) and parts[0] in names)]
    if not paths:
        action = "set --config.data.folder_root to the folder that contains images/ and masks/"
        raise no_images("data.folder_root", root, base, LAYOUT, action)
    errors: list[UserError] = []
    images: dict[str, Path] = {}
    splits: dict[str, str] = {}
    for path in paths:
        if (name := _image_name(path)) in images:
            expected = f"a unique name; {images[name]} has it too"
            action = "rename one of them, with its masks and grade"
            errors.append(DataError(path, "a second image of this name", expected, action))
            continue
        images[name] = path
        splits[name] = SPLITS.get(path.relative_to(base).parts[0].lower(), "train")
    masks = _find_masks(root, images, errors, beside=not recursive)
    return Folder(images, splits, masks, _read_grades(root, images, errors), tuple(errors))


def _image_name(path: Path) -> str:
    """Returns the stem with composed accents: file names on a Mac have decomposed ones, tables mostly not."""
    return unicodedata.normalize("NFC", path.stem)


def _split_mask_name(stem: str) -> tuple[str, str] | None:
    """Splits the name of a mask, such as IMAGE_MA or IMAGE-MA, into the image and a key of MASK_NAMES."""
    match = re.fullmatch(r"(.+)[_\-. ]([A-Za-z]+)", stem)
    lesion = _match_lesion(match[2]) if match else None
    return (match[1], lesion) if match and lesion else None


def _match_lesion(text: str) -> str | None:
    plain = re.sub(r"[^a-z]", "", text.lower())
    return next((name for name, aliases in MASK_NAMES.items() if plain in aliases), None)


def _find_masks(root: Path, images: dict[str, Path], errors: list[UserError], *, beside: bool) -> dict[str, dict[str, Path]]:
    base = root / "masks"
    found = sort_visible_paths(base.rglob("*")) if base.is_dir() else []
    if beside:
        found += sort_visible_paths(
            path for path in root.glob("*") if (parts := _split_mask_name(_image_name(path))) and parts[0] in images
        )
    masks: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in found:
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        own_name = _image_name(path)
        by_suffix, by_folder = _split_mask_name(own_name), _match_lesion(path.parent.name)
        if by_folder and own_name in images:
            name, lesion = own_name, by_folder
        elif by_suffix:
            name, lesion = by_suffix
        elif by_folder:
            name, lesion = own_name, by_folder
        else:
            expected = "a folder or a suffix that names the lesion: " + ", ".join(names[0] for names in MASK_NAMES.values())
            errors.append(DataError(path, "a mask of no known lesion", expected, "name it like NAME_MA.png"))
            continue
        if name not in images:
            expected = f"an image called {name}"
            errors.append(DataError(path, "a mask without its image", expected, "restore the image or remove the mask"))
        elif lesion in masks[name]:
            expected = f"one mask for each lesion; {masks[name][lesion]} is another"
            errors.append(DataError(path, f"a second {lesion} mask of {name}", expected, "remove one of them"))
        else:
            masks[name][lesion] = path
    return {name: found for name, found in masks.items() if found}


def _read_grades(root: Path, images: dict[str, Path], errors: list[UserError]) -> dict[str, int]:
    tables = [root / "grades.csv"] if (root / "grades.csv").is_file() else sort_visible_paths(root.glob("*.csv"))
    if not tables:
        return {}
    if len(tables) > 1:
        expected = "one CSV file, or one named grades.csv"
        raise DataError(root, f"{len(tables)} CSV files", expected, "rename the table of grades")
    path = tables[0]
    grades: dict[str, int | None] = {}
    header, rows = read_cells(path, DELIMITERS)
    header = [re.sub(r"[^a-z]", "", cell.lower()) for cell in header]
    image_column = next((header.index(name) for name in IMAGE_COLUMNS if name in header), None)
    grade_column = next((header.index(name) for name in GRADE_COLUMNS if name in header), None)
    if image_column is None or grade_column is None:
        raise DataError(path, f"columns {', '.join(header) or 'none'}", "the columns image and grade", "add a header")
    for line, cells in rows:
        given, grade = cells[image_column].strip(), cells[grade_column].strip().removesuffix(".0")
        where = f"{path}, line {line}"
        if not given or not grade:
            continue
        given = unicodedata.normalize("NFC", given)
        name = given if given in images else Path(given).stem
        if name not in images:
            errors.append(DataError(where, f"a row for {given}", "an image for each row", "add the image or remove the row"))
        elif grade not in GRADES:
            errors.append(DataError(where, f"grade {grade!r} of {given}", "0, 1, 2, 3 or 4", "correct the row"))
            grades[name] = None
        else:
            errors += add_grade(grades, name, int(grade), where)
    return {name: grade for name, grade in grades.items() if grade is not None}

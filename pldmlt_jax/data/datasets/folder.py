"""One's own photographs: a folder of images, masks of some of them and a CSV of grades of some of them."""

import re
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.base import FundusBuilder, FundusConfig
from pldmlt_jax.data.datasets.records import Listing, RawRecord
from pldmlt_jax.data.preprocessing.geometry import IMAGE_SUFFIXES, PHOTOGRAPH_SUFFIXES
from pldmlt_jax.errors import DataError, UserError
from pldmlt_jax.io.files import read_cells, sort_visible_paths
from pldmlt_jax.types import NUM_GRADES, UNKNOWN_GRADE

LAYOUT = """a folder of one's own photographs:
    FOLDER/images/NAME.jpg (or png, tif, bmp, webp, gif, ppm, jp2, avif), in subfolders train/, val/ and test/ where there is
        a split already
    FOLDER/masks/{MA,HE,EX,SE,OD}/NAME.png, or FOLDER/masks/NAME_{MA,HE,EX,SE,OD}.png
        "lesion" in place of MA, HE, EX, SE where the lesions are not told apart; lesions are white, or any colour but black
        a photograph with no mask file is not pixel-labelled; one with some has none of the lesions that lack a file
    FOLDER/grades.csv with the columns image and grade (0 to 4, empty where unknown)"""

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
"""What folders and suffixes of masks may be called, without capitals, digits, blanks and punctuation."""

IMAGE_COLUMNS = ("image", "imagename", "imageid", "filename", "file", "name", "idcode", "id")
DELIMITERS = (",", ";", "\t")
"""Of CSV files, as spreadsheets of several languages write them."""

GRADE_COLUMNS = ("grade", "drgrade", "retinopathygrade", "level", "diagnosis", "label", "dr")


class FolderSegmentation(FundusBuilder):
    """Those of the photographs that have masks."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT
    BUILDER_CONFIGS = (FundusConfig(),)

    @classmethod
    def raw_folder(cls, data: DataConfig) -> Path:
        return Path(data.folder_root or Path(data.root) / "folder")

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_segmentation(folder)


class FolderGrading(FolderSegmentation):
    """Those of the photographs that have a grade."""

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_grading(folder)


class Folder(NamedTuple):
    """What is in the folder."""

    images: dict[str, Path]  # by name
    splits: dict[str, str]  # of each image
    masks: dict[str, dict[str, Path]]  # by image, by name of MASK_NAMES
    grades: dict[str, int]  # by image; only those that are known
    errors: tuple[UserError, ...]


def list_segmentation(root: Path) -> Listing:
    """The photographs that have a mask; grades that the CSV gives them serve to evaluate pseudo-labels.

    Raises:
        DataError: There is no such folder, no image or no mask in it.
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
        action = "add masks/: the lesions are learnt from them"
        raise DataError(f"data.folder_root: {root}", "no masks in it", LAYOUT, action)
    return Listing(_with_training(records, root, "a mask"), folder.errors)


def list_grading(root: Path) -> Listing:
    """The photographs that have a grade.

    Raises:
        DataError: There is no such folder, no image or no grade in it.
    """
    folder = read_folder(root)
    if not folder.grades and not folder.errors:
        action = (
            "add grades.csv; or learn lesions alone: "
            "--config.data.grading=none --config.loss.grading=False --config.meta.enabled=False"
        )
        raise DataError(f"data.folder_root: {root}", "no grades in it", LAYOUT, action)
    records: dict[str, list[RawRecord]] = defaultdict(list)
    for name, grade in sorted(folder.grades.items()):
        records[folder.splits[name]].append(RawRecord(name, folder.images[name], grade=grade))
    return Listing(_with_training(records, root, "a grade"), folder.errors)


def _with_training(records: dict[str, list[RawRecord]], root: Path, what: str) -> dict[str, list[RawRecord]]:
    if records and not records.get("train"):
        action = "label training images; or, to score a network by --split=all, do without folders of splits"
        raise DataError(f"data.folder_root: {root}", f"no image of images/train has {what}", LAYOUT, action)
    return dict(records)


def read_folder(root: Path) -> Folder:
    """Pairs images, masks and grades by their names.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    base = root / "images" if (root / "images").is_dir() else root
    recursive = base != root
    found = sort_visible_paths(base.rglob("*") if recursive else base.glob("*")) if root.is_dir() else []
    paths = [path for path in found if path.suffix.lower() in PHOTOGRAPH_SUFFIXES and path.is_file()]
    if not recursive:  # masks may lie beside the images then
        names = {_name(path) for path in paths}
        paths = [path for path in paths if not ((parts := _suffix_of(_name(path))) and parts[0] in names)]
    if not paths:
        what = "no images in it" if root.is_dir() else "no such folder"
        action = "set --config.data.folder_root to the folder that holds images/ and masks/"
        raise DataError(f"data.folder_root: {root}", what, LAYOUT, action)
    errors: list[UserError] = []
    images: dict[str, Path] = {}
    splits: dict[str, str] = {}
    for path in paths:
        if (name := _name(path)) in images:
            expected = f"a name of its own; {images[name]} has it too"
            errors.append(DataError(path, "a second image of this name", expected, "rename one, with its masks and grade"))
            continue
        images[name] = path
        splits[name] = SPLITS.get(path.relative_to(base).parts[0].lower(), "train")
    masks = _masks(root, images, errors, beside=not recursive)
    return Folder(images, splits, masks, _grades(root, images, errors), tuple(errors))


def _name(path: Path) -> str:
    """Without the suffix, accents composed: a Mac spells them as letters of their own, a table does not."""
    return unicodedata.normalize("NFC", path.stem)


def _suffix_of(stem: str) -> tuple[str, str] | None:
    """Image and lesion of a mask that is called IMAGE_LESION, or IMAGE-LESION."""
    match = re.fullmatch(r"(.+)[_\-. ]([A-Za-z]+)", stem)
    lesion = _mask_name(match[2]) if match else None
    return (match[1], lesion) if match and lesion else None


def _mask_name(text: str) -> str | None:
    plain = re.sub(r"[^a-z]", "", text.lower())
    return next((name for name, aliases in MASK_NAMES.items() if plain in aliases), None)


def _masks(root: Path, images: dict[str, Path], errors: list[UserError], *, beside: bool) -> dict[str, dict[str, Path]]:
    base = root / "masks"
    found = sort_visible_paths(base.rglob("*")) if base.is_dir() else []
    if beside:
        found += sort_visible_paths(
            path for path in root.glob("*") if (parts := _suffix_of(_name(path))) and parts[0] in images
        )
    masks: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in found:
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        own_name = _name(path)
        by_suffix, by_folder = _suffix_of(own_name), _mask_name(path.parent.name)
        if by_folder and own_name in images:
            name, lesion = own_name, by_folder
        elif by_suffix:
            name, lesion = by_suffix
        elif by_folder:
            name, lesion = own_name, by_folder
        else:
            expected = "a folder or a suffix that says which lesion: " + ", ".join(names[0] for names in MASK_NAMES.values())
            errors.append(DataError(path, "a mask of no known lesion", expected, "name it like NAME_MA.png"))
            continue
        if name not in images:
            expected = f"an image called {name}"
            errors.append(DataError(path, "a mask without its image", expected, "restore it or remove the mask"))
        elif lesion in masks[name]:
            expected = f"one mask a lesion; {masks[name][lesion]} is one"
            errors.append(DataError(path, f"a second {lesion} mask of {name}", expected, "remove one"))
        else:
            masks[name][lesion] = path
    return {name: found for name, found in masks.items() if found}


def _grades(root: Path, images: dict[str, Path], errors: list[UserError]) -> dict[str, int]:
    tables = [root / "grades.csv"] if (root / "grades.csv").is_file() else sort_visible_paths(root.glob("*.csv"))
    if not tables:
        return {}
    if len(tables) > 1:
        expected = "one, or one of them called grades.csv"
        raise DataError(root, f"{len(tables)} CSV files", expected, "rename the table of grades")
    path = tables[0]
    grades: dict[str, int] = {}
    contradicted: set[str] = set()
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
            errors.append(DataError(where, f"a row for {given}", "an image for each row", "add it or remove the row"))
        elif grade not in map(str, range(NUM_GRADES)):
            errors.append(DataError(where, f"grade {grade!r} of {given}", "0, 1, 2, 3 or 4", "correct the row"))
        elif grades.get(name, int(grade)) != int(grade):
            errors.append(DataError(where, f"{given} again, with another grade", "each image once", "correct the rows"))
            contradicted.add(name)
        else:
            grades[name] = int(grade)
    return {name: grade for name, grade in grades.items() if name not in contradicted}

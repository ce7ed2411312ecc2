"""DDR's two builders and its layout: photographs with lesion masks, and photographs with grades.

Li, Gao, Wang et al.: Diagnostic assessment of deep learning algorithms for diabetic retinopathy screening. Information
Sciences 501, 2019. A lesion that a photograph does not have has an all-black mask here, so a missing file is an error.
"""

from pathlib import Path

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.base import FundusBuilder, FundusConfig
from pldmlt_jax.data.datasets.records import Listing, RawRecord
from pldmlt_jax.errors import DataError, UserError
from pldmlt_jax.io.files import WINDOWS_ENCODING, read_text, sort_visible_paths
from pldmlt_jax.types import LESIONS, NUM_GRADES

LAYOUT = """the layout of DDR (https://github.com/nkicsl/DDR-dataset):
    DDR-dataset/lesion_segmentation/{train,valid,test}/image/*.jpg
    DDR-dataset/lesion_segmentation/{train,valid,test}/{label or segmentation label}/{EX,HE,MA,SE}/*.tif
    DDR-dataset/DR_grading/{train,valid,test}.txt
    DDR-dataset/DR_grading/{train,valid,test}/*.jpg"""

SPLIT_FOLDERS = {"train": "train", "val": "valid", "test": "test"}
LABEL_FOLDERS = ("label", "segmentation label")
"""The released validation split spells its folder otherwise than the two others."""

UNGRADABLE = 5
LEAST_GRADE = 1
"""Of the pixel-labelled photographs, all of which were chosen for their lesions."""


class DdrSegmentation(FundusBuilder):
    """Photographs with their lesion masks."""

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
    """Photographs with their grades, without the ungradable ones."""

    @classmethod
    def listing(cls, folder: Path) -> Listing:
        return list_grading(folder)


def list_segmentation(root: Path) -> Listing:
    """The photographs that have masks.

    Raises:
        DataError: There are no training images, or a split lacks its folder of masks.
    """
    base = root / "lesion_segmentation"
    records: dict[str, list[RawRecord]] = {}
    errors: list[UserError] = []
    for split, folder in SPLIT_FOLDERS.items():
        images = _images(base / folder / "image", root, required=split == "train")
        if not images:
            continue
        labels = next((path for name in LABEL_FOLDERS if (path := base / folder / name).is_dir()), None)
        if labels is None:
            raise DataError(base / folder, "no folder of masks", LAYOUT, "join all parts of the archive and unpack it anew")
        records[split] = []
        for image in images:
            masks = {lesion: labels / lesion / f"{image.stem}.tif" for lesion in LESIONS}
            wrong = [
                DataError(path, "no such file", "a mask for each lesion, black where there is none", "get the whole release")
                for path in masks.values()
                if not path.is_file()
            ]
            errors += wrong
            if not wrong:
                records[split].append(RawRecord(image.stem, image, masks, least_grade=LEAST_GRADE, mask_rule="two_levels"))
        errors += _masks_without_image(labels, {image.stem for image in images}, base / folder / "image")
    return Listing(records, tuple(errors))


def _masks_without_image(labels: Path, names: set[str], images: Path) -> list[UserError]:
    return [
        DataError(path, "a mask without its image", f"{path.stem}.jpg in {images}", "restore it or remove the mask")
        for lesion in LESIONS
        for path in sort_visible_paths((labels / lesion).glob("*.tif"))
        if path.stem not in names
    ]


def list_grading(root: Path) -> Listing:
    """The graded photographs by the set's own lists; ungradable ones are dropped and counted.

    Raises:
        DataError: There are no training images.
    """
    base = root / "DR_grading"
    records: dict[str, list[RawRecord]] = {}
    errors: list[UserError] = []
    dropped: dict[str, int] = {}
    for split, folder in SPLIT_FOLDERS.items():
        images = _images(base / folder, root, required=split == "train")
        if not images:
            continue
        table = base / f"{folder}.txt"
        grades, wrong = read_grade_list(table)
        names = {image.name: image for image in images}
        errors += wrong
        errors += [
            DataError(image, f"no line in {table.name}", "a grade for each image", "add the line or remove the image")
            for image in images
            if image.name not in grades
        ]
        errors += [
            DataError(table, f"a line for {name}", f"an image for each line, in {base / folder}", "get the image")
            for name in grades
            if name not in names
        ]
        listed = {name: grade for name, grade in grades.items() if name in names and grade is not None}
        dropped[split] = sum(grade == UNGRADABLE for grade in listed.values())
        records[split] = [
            RawRecord(names[name].stem, names[name], grade=grade) for name, grade in listed.items() if grade != UNGRADABLE
        ]
    return Listing(records, tuple(errors), dropped)


def read_grade_list(path: Path) -> tuple[dict[str, int | None], list[UserError]]:
    """Image name -> grade 0..5 of one list, None where the line has no such grade, and what is wrong in it."""
    if not path.is_file():
        raise DataError(path, "no such file", LAYOUT, "get the list with its images")
    grades: dict[str, int | None] = {}
    errors: list[UserError] = []
    for number, line in enumerate(read_text(path, fallback_encoding=WINDOWS_ENCODING).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, *rest = line.split()
        if len(rest) != 1 or rest[0] not in map(str, range(NUM_GRADES + 1)):
            expected = "an image's name and its grade: 0, 1, 2, 3, 4, or 5 for ungradable"
            errors.append(DataError(where, repr(line), expected, "correct the line"))
            grades[name] = None
        elif grades.get(name, int(rest[0])) != int(rest[0]):
            errors.append(DataError(where, f"{name} again, with another grade", "each image once", "correct the lines"))
            grades[name] = None
        else:
            grades[name] = int(rest[0])
    return grades, errors


def _images(folder: Path, root: Path, *, required: bool) -> list[Path]:
    images = sort_visible_paths(folder.glob("*.jpg")) if folder.is_dir() else []
    if required and not images:
        found = f"no images in {folder}" if root.is_dir() else "no such folder"
        action = "set --config.data.root to the folder that holds DDR-dataset/, or --config.data.ddr_root to that itself"
        raise DataError(f"data.ddr_root: {root}", found, LAYOUT, action)
    return images

"""Lists images and matches them with their masks and grades, for the data sets that keep these in separate files."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pldmlt_jax.errors import DataError, UserError
from pldmlt_jax.io.files import sort_visible_paths
from pldmlt_jax.types import NUM_GRADES

GRADES = tuple(map(str, range(NUM_GRADES)))
"""The grades as tables spell them."""


def list_jpegs(folder: Path) -> list[Path]:
    """Lists the JPEG files of a folder by name; none where the folder does not exist."""
    return sort_visible_paths(folder.glob("*.jpg")) if folder.is_dir() else []


def no_images(field: str, root: Path, folder: Path, layout: str, action: str) -> DataError:
    """Returns the error for a data set without training images.

    Args:
        field: The config field that names `root`.
        root: The folder of the whole data set.
        folder: Where the images should be.
        layout: The expected layout of `root`.
        action: What the user can do.
    """
    found = f"no images in {folder}" if root.is_dir() else "no such folder"
    return DataError(f"{field}: {root}", found, layout, action)


def find_masks_without_image(masks: Iterable[tuple[Path, str]], images: Collection[Path]) -> list[UserError]:
    """Returns an error for each mask whose image is missing; that image would otherwise be left out silently.

    Args:
        masks: Each mask file with the name of its image, without suffix.
        images: The images, all in one folder and not empty.
    """
    names = {image.stem for image in images}
    folder = next(iter(images)).parent
    return [
        DataError(path, "a mask without its image", f"{name}.jpg in {folder}", "restore the image or remove the mask")
        for path, name in masks
        if name not in names
    ]


def find_unmatched(images: Mapping[str, Path], grades: Collection[str], table: Path) -> list[UserError]:
    """Returns an error for each image without a row in the table of grades, and for each row without an image.

    Args:
        images: By the name that the table uses.
        grades: The names in the table.
        table: Path of the table.
    """
    errors: list[UserError] = [
        DataError(path, f"no row in {table.name}", "a grade for each image", "add the row or remove the image")
        for name, path in images.items()
        if name not in grades
    ]
    return errors + [
        DataError(table, f"a row for {name}", "an image for each row", "add the image or remove the row")
        for name in grades
        if name not in images
    ]


def add_grade(grades: dict[str, int | None], name: str, grade: int, where: str) -> list[UserError]:
    """Adds the grade of an image. A second, different grade is an error, and leaves the image without a grade.

    Args:
        grades: Grades by image, which this changes; None where an image has no valid grade.
        name: The image.
        grade: Its grade.
        where: File and line, for the error.
    """
    if grades.setdefault(name, grade) == grade:
        return []
    grades[name] = None
    return [DataError(where, f"{name} again, with another grade", "one grade for each image", "keep the correct row")]

"""Finds the image files that `--input` names."""

import glob
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pldmlt_jax.data.preprocessing.geometry import IMAGE_SUFFIXES, PHOTOGRAPH_SUFFIXES
from pldmlt_jax.errors import DataError, UserError, collect_errors, raise_all
from pldmlt_jax.io.files import sort_visible_paths

PATTERN_MARKS = frozenset("*?[")


def find_images(text: str) -> list[Path]:
    """Finds every image that a comma-separated list of files, folders and glob patterns names, each once.

    Folders are searched with everything below them; in a pattern `**` stands for any folders. A file or folder whose own
    name has a comma or a pattern's character is taken as it is. Hidden files and folders are skipped. Photographs in formats
    that need conversion are included: reading them reports it.

    Raises:
        DataError: Parts that name no image, all at once.
    """
    if Path(text).exists():
        return _find_in_part(text)
    errors: list[UserError] = []
    found: dict[Path, None] = {}
    for part in text.split(","):
        with collect_errors(errors):
            found |= dict.fromkeys(_find_in_part(part.strip()))
    raise_all(errors)
    return list(found)


def _find_in_part(text: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    if path.is_dir():
        found, what = _images(_below(path)), "no images in it"
    elif PATTERN_MARKS & set(text):
        matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
        inside = (below for match in matches if match.is_dir() for below in _below(match))
        found, what = _images(itertools.chain(matches, inside)), "a pattern that no image fits"
    else:
        found, what = [], "no such file or folder"
    if not found:
        raise DataError(text or "--input", what, "images named *" + ", *".join(IMAGE_SUFFIXES), "check --input")
    return found


def _below(folder: Path) -> Iterator[Path]:
    """Everything in a folder except hidden folders, which hold thumbnails for instance."""
    for path in folder.rglob("*"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _images(paths: Iterable[Path]) -> list[Path]:
    return sort_visible_paths({path for path in paths if path.suffix.lower() in PHOTOGRAPH_SUFFIXES and path.is_file()})


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A name for each image's outputs: its stem, with a number if two would be equal on a case-insensitive file system."""
    taken: set[str] = set()
    counts: dict[str, int] = {}
    names = []
    for path in paths:
        key, name = path.stem.lower(), path.stem
        while name.lower() in taken:
            counts[key] = counts.get(key, 1) + 1
            name = f"{path.stem}_{counts[key]}"
        taken.add(name.lower())
        names.append(name)
    return names

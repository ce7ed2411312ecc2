"""Reads any method's masks from files: pairs the files with images and lesions, and finds out what their values mean.

For each image NAME a folder holds either `NAME.png` (any lesion), or some of `NAME_MA.png`, `NAME_HE.png`, `NAME_EX.png` and
`NAME_SE.png`; or `.npy` instead of `.png`. Names may also end with `_lesion` and `_probability`, as those that
`predict --probabilities` writes. Each file has the height and width of its photograph and holds probabilities or a mask:

- PNG, grey: 0 is 0 and the largest value of 8 or 16 bits is 1. A file with only the values 0 and 1 is a mask, unless other
  files of the folder hold probabilities: then 1 is the smallest of these.
- PNG, in colour or with a palette: a mask, black and one other colour.
- NPY, two axes: probabilities from 0 to 1 as floats, or a mask as bool; integers as in a grey PNG.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from pldmlt_jax.data.preprocessing.geometry import MAX_BYTES
from pldmlt_jax.data.preprocessing.image_headers import MAX_PIXELS
from pldmlt_jax.data.preprocessing.masks import brightest_channel, mask_levels, read_mask_pixels
from pldmlt_jax.errors import DataError, UserError, collect_errors
from pldmlt_jax.io.files import sort_visible_paths
from pldmlt_jax.types import LESIONS

FUSED = "lesion"
SUFFIXES = (".png", ".npy")
PREDICTED_MASK = re.compile(r"_mask\.png$")
"""The coloured picture of all lesions that `predict` writes beside the probabilities."""

MAX_CLASS_NUMBER = 1 + len(LESIONS)
"""Largest value of a picture that numbers its classes: the lesions and the optic disc."""

EXPECTED_FILES = "for each image NAME.png (any lesion), or NAME_{MA,HE,EX,SE}.png, or .npy; see docs/compare.md"


@dataclasses.dataclass(frozen=True)
class MaskFiles:
    """The mask files of some images.

    Attributes:
        folder: Holds them.
        files: By image and lesion, with `FUSED` for any lesion.
        lesions: The lesions that are predicted: only FUSED, or some of LESIONS.
        num_others: Files of other images of the set.
    """

    folder: Path
    files: Mapping[str, Mapping[str, Path]]
    lesions: tuple[str, ...]
    num_others: int

    @property
    def target(self) -> str:
        """What the files predict, a key of `losses.TARGETS`."""
        return "fused" if self.lesions == (FUSED,) else "lesions"


def find_mask_files(folder: Path, names: Collection[str], others: Collection[str], errors: list[UserError]) -> MaskFiles:
    """Pairs files with images by their names.

    Args:
        folder: Holds the files; its subfolders are not searched.
        names: Images to score.
        others: Other images of the set, whose files are skipped.
        errors: Files that are missing, ambiguous or of no image are appended.
    """
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    passed_over = 0
    known = [*names, *others]
    for path in sort_visible_paths(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()):
        name, lesion = _parse_name(path, known)
        if name is None:
            if not PREDICTED_MASK.search(path.name):
                errors.append(
                    DataError(path, "no image of the set has this name", EXPECTED_FILES, "rename or remove the file")
                )
        elif name not in names:
            passed_over += 1
        elif lesion in found[name]:
            twice = f"beside {found[name][lesion].name}"
            errors.append(DataError(path, f"a second file of the same image and lesion, {twice}", "one", "remove one"))
        else:
            found[name][lesion] = path
    kinds = {lesion for files in found.values() for lesion in files}
    if FUSED in kinds and len(kinds) > 1:
        mixed = f"files of any lesion (NAME.png) and of {', '.join(sorted(kinds - {FUSED}))}"
        errors.append(DataError(folder, mixed, "one of the two for all images", "move one kind to a folder of its own"))
        kinds.discard(FUSED)
    lesions = tuple(lesion for lesion in (FUSED, *LESIONS) if lesion in kinds)
    for name in names:
        lacking = [lesion for lesion in lesions or (FUSED,) if lesion not in found[name]]
        if lacking:
            action = "add it: all black where the method finds nothing"
            errors.append(DataError(folder, f"no file of {name} for {', '.join(lacking)}", EXPECTED_FILES, action))
    return MaskFiles(folder, found, lesions, passed_over)


def _parse_name(path: Path, known: Collection[str]) -> tuple[str | None, str]:
    """Parses a file's name into image and lesion; the image is None if it is unknown."""
    stem = path.stem.removesuffix("_probability")
    if stem in known:
        return stem, FUSED
    name, _, lesion = stem.rpartition("_")
    return (name, lesion) if lesion in (FUSED, *LESIONS) and name in known else (None, "")


def read_probabilities(path: Path, shape: tuple[int, int], *, has_probabilities: bool = False) -> Float[np.ndarray, "h w"]:
    """Reads one file as probabilities, float32; 0 and 1 if it holds a mask.

    Args:
        path: The file.
        shape: Height and width of its photograph.
        has_probabilities: Whether other files of the folder can only hold probabilities; see `scan_mask_files`.

    Raises:
        DataError: It is unreadable or of another size than its photograph, or its values are ambiguous.
    """
    values = _read_values(path, shape)
    return values if values.dtype.kind == "f" else _scale_integers(path, values, has_probabilities=has_probabilities)


class MaskEncoding(NamedTuple):
    """What the integers in a folder's files mean.

    Attributes:
        probabilities: Whether they are probabilities, since some file cannot be a mask; else all are masks.
        num_binary: Files with only the values 0 and 1.
    """

    probabilities: bool
    num_binary: int


def scan_mask_files(
    paths: Mapping[Path, tuple[int, int]], errors: list[UserError], done: Callable[[Path], None]
) -> MaskEncoding:
    """Reads every file to check it, and finds out what the integers of all mean.

    Args:
        paths: The files, each with the height and width of its photograph.
        errors: What is wrong is appended; ambiguous values only if no other file settles their meaning.
        done: Called after each file.
    """
    unclear: list[UserError] = []
    decided, greatest, num_binary = False, 0, 0
    for path, shape in paths.items():
        with collect_errors(errors):
            values = _read_values(path, shape)
            if values.dtype.kind == "u":
                levels = mask_levels(values)
                greatest, num_binary = max(greatest, int(levels[-1])), num_binary + int(levels[-1] == 1)
                if _cannot_be_mask(levels, values.dtype):
                    decided = True
                else:
                    with collect_errors(unclear):
                        _scale_integers(path, values, has_probabilities=False)
        done(path)
    if not decided:
        errors += unclear
    elif greatest <= MAX_CLASS_NUMBER:
        found = f"no value above {greatest} in any file: numbers of classes?"
        expected = "masks, or 255 for a probability of 1"
        errors.append(DataError(next(iter(paths)).parent, found, expected, "write a file a lesion, white where it is"))
    return MaskEncoding(decided, num_binary)


def _read_values(path: Path, shape: tuple[int, int]) -> Shaped[np.ndarray, "h w"]:
    """Reads floats, whose meaning is certain, or integers of 8 or 16 bits."""
    values = _read_npy(path) if path.suffix.lower() == ".npy" else _read_png(path)
    if values.shape != shape:
        found, expected = (f"{s[0]} px high, {s[1]} px wide" for s in (values.shape, shape))
        raise DataError(path, found, f"the size of its photograph: {expected}", "write masks at the photographs' own size")
    return values


def _read_png(path: Path) -> np.ndarray:
    pixels = np.atleast_3d(read_mask_pixels(path))[..., :3]
    grey = pixels.shape[-1] == 1 or bool((pixels == pixels[..., :1]).all())
    if grey:
        return pixels[..., 0]
    values = brightest_channel(pixels)
    if len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 2 or values.min() > 0:
        raise DataError(path, "a picture in several colours", "grey, or black and one colour", "write a file a lesion")
    return (values > 0).astype(np.float32)


def _read_npy(path: Path) -> np.ndarray:
    expected = "a NumPy array [height, width] of floats from 0 to 1, bool, uint8 or uint16"
    try:
        with open(path, "rb") as file:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"{path.stat().st_size} bytes")
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, dtype = read_header(file)
            if len(shape) != 2 or np.prod(shape) > MAX_PIXELS or dtype.kind not in "fbu":
                raise ValueError(f"{dtype} {list(shape)}")
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, KeyError, EOFError, SyntaxError) as error:
        raise DataError(path, f"not readable: {error}", expected, "write it with numpy.save") from error
    if dtype.kind == "b":
        return values.astype(np.float32)
    if dtype.kind == "u":
        if dtype.itemsize > 2:
            raise DataError(path, f"{dtype}", expected, "convert it")
        return values
    if not np.isfinite(values).all() or (values.size and (values.min() < 0 or values.max() > 1)):
        found = "values that are not finite" if not np.isfinite(values).all() else f"{values.min():g} to {values.max():g}"
        raise DataError(path, found, "probabilities from 0 to 1", "convert logits by a sigmoid or softmax first")
    return values.astype(np.float32)


def _cannot_be_mask(levels: Int[np.ndarray, "levels"], dtype: np.dtype) -> bool:
    """Whether integers with these levels cannot be a mask."""
    if len(levels) == 1:
        return int(levels[0]) not in (0, 1, np.iinfo(dtype).max)
    return len(levels) > 2 or int(levels[0]) > 0


def _scale_integers(path: Path, values: np.ndarray, *, has_probabilities: bool) -> Float[np.ndarray, "h w"]:
    """Scales grey values to probabilities, and those of a mask to 0 and 1."""
    one = int(np.iinfo(values.dtype).max)
    levels = mask_levels(values)
    if not has_probabilities and levels[-1] == 1:
        return values.astype(np.float32)
    if not has_probabilities and len(levels) == 2 and levels[0] == 0 and levels[1] < one:
        found = f"two values, 0 and {levels[1]}: a mask, or probabilities?"
        raise DataError(path, found, f"0 and 1 or 0 and {one} for a mask", "write the mask with one of these")
    return values.astype(np.float32) / np.float32(one)

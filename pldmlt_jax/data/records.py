"""The raw files of an image, and the listing of a data set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pldmlt_jax.errors import UserError
from pldmlt_jax.types import UNKNOWN_GRADE


@dataclass(frozen=True)
class RawRecord:
    """The raw files of one image and what its data set says about it.

    Attributes:
        image_id: Name of the image, unique within its split.
        image: The image file.
        masks: Mask files by name of EVIDENCE; an absent name: the file was not found; None: the set has no masks.
        markings: Regions marked by several experts, one file each, instead of masks.
        disc: Mask of the optic disc.
        grade: The grade to train on.
        true_grade: A grade that only evaluates pseudo-labels; nothing is trained on it.
        least_grade: The lowest grade that an image of this set can have, whatever its masks show.
        mask_rule: Which pixels of a mask file are set, a key of `masks.MASK_RULES`.
    """

    image_id: str
    image: Path
    masks: Mapping[str, Path] | None = None
    markings: tuple[Path, ...] = ()
    disc: Path | None = None
    grade: int = UNKNOWN_GRADE
    true_grade: int = UNKNOWN_GRADE
    least_grade: int = 0
    mask_rule: str = "not_black"

    @property
    def files(self) -> list[Path]:
        """All raw files, the image first."""
        masks = [self.masks[name] for name in sorted(self.masks)] if self.masks else []
        return [self.image, *masks, *self.markings, *([self.disc] if self.disc else [])]


@dataclass(frozen=True)
class Listing:
    """The images of a data set by official split, and what is wrong with single files.

    Attributes:
        records: Images of "train" and, if they are on disk, "val" and "test".
        errors: What is wrong with single files; the images concerned are not among the records.
        dropped: Number of images by split that the set calls ungradable.
    """

    records: dict[str, list[RawRecord]]
    errors: tuple[UserError, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

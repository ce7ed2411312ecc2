"""One photograph's raw files, and the listing of a whole set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pldmlt_jax.errors import UserError, raise_all
from pldmlt_jax.types import UNKNOWN_GRADE


@dataclass(frozen=True)
class RawRecord:
    """What a data set says of one photograph."""

    image_id: str
    image: Path
    masks: Mapping[str, Path] | None = None  # by name of EVIDENCE; one that is absent was not found; None: no masks
    markings: tuple[Path, ...] = ()  # the regions of several experts, one file each, in place of masks
    disc: Path | None = None
    grade: int = UNKNOWN_GRADE  # what the set gives, to train on
    true_grade: int = UNKNOWN_GRADE  # to evaluate pseudo-labels only, never to train on
    least_grade: int = 0  # that the set's choice of photographs admits, whatever its masks say
    mask_rule: str = "not_black"  # a key of fundus.MASK_RULES

    @property
    def files(self) -> list[Path]:
        """Every raw file, the image first."""
        masks = [self.masks[name] for name in sorted(self.masks)] if self.masks else []
        return [self.image, *masks, *self.markings, *([self.disc] if self.disc else [])]


@dataclass(frozen=True)
class Listing:
    """The photographs of a set by official split, and what is wrong with single files of it."""

    records: dict[str, list[RawRecord]]  # "train" and, where they are on disk, "val" and "test"
    errors: tuple[UserError, ...] = ()  # the photographs that they concern are not among the records
    dropped: Mapping[str, int] = field(default_factory=dict)  # by split: photographs that the set calls ungradable

    def valid_records(self) -> dict[str, list[RawRecord]]:
        """The records.

        Raises:
            UserError: Everything that is wrong, at once.
        """
        raise_all(self.errors)
        return self.records

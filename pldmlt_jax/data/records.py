"""One photograph's raw files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pldmlt_jax.types import UNKNOWN_GRADE


@dataclass(frozen=True)
class RawRecord:
    """What a data set says of one photograph."""

    image_id: str
    image: Path
    masks: Mapping[str, Path] | None = None  # by lesion; one that is absent was not found in the eye; None: no masks
    disc: Path | None = None
    grade: int = UNKNOWN_GRADE  # what the set gives, to train on
    true_grade: int = UNKNOWN_GRADE  # to evaluate pseudo-labels only, never to train on

    @property
    def files(self) -> list[Path]:
        """Every raw file, the image first."""
        masks = [self.masks[lesion] for lesion in sorted(self.masks)] if self.masks else []
        return [self.image, *masks, *([self.disc] if self.disc else [])]

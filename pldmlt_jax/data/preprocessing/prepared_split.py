"""A prepared split: a sequence of samples, and what is known about its images without decoding them."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.errors import DataError
from pldmlt_jax.types import LESIONS, Geometry, Sample


@dataclasses.dataclass(frozen=True)
class ImageMetadata:
    """What is known about a prepared image without decoding it.

    Attributes:
        image_id: See `RawRecord`, as are the grades.
        grade: To train on.
        true_grade: To evaluate pseudo-labels.
        least_grade: The lowest that the image can have.
        evidence_px: int64 [5], see `Sample`.
        lesion_px: int64 [4], mask pixels by LESIONS at the original size.
        reduced_px: int64 [4], mask pixels by LESIONS at the network's size.
        components: int64 [4, 3], by LESIONS, see `masks.Components`.
        fused_px: int64 [2], pixels of the fused mask before and after the morphological operation, at the original size.
        geometry: The crop and the resizing.
        dhash: uint8 [72], see `difference_hash.difference_hash`.
    """

    image_id: str
    grade: int
    true_grade: int
    least_grade: int
    evidence_px: np.ndarray
    lesion_px: np.ndarray
    reduced_px: np.ndarray
    components: np.ndarray
    fused_px: np.ndarray
    geometry: Geometry
    dhash: np.ndarray

    @property
    def inflation(self) -> dict[str, float]:
        """The factor by which the reduction changed the area of each lesion that the image has."""
        scale = self.geometry.area_scale
        pairs = zip(LESIONS, self.reduced_px, self.lesion_px, strict=True)
        return {lesion: float(reduced * scale / original) for lesion, reduced, original in pairs if original > 0}


class PreparedSplit:
    """One official split of a prepared set, or several concatenated: a sequence of `Sample`.

    Args:
        source: What is stored for each image, with images as encoded bytes.
        records: The raw files of each image.
        name: "train", "val" or "test".
        origins: The data set that each image is from and its name there.
        skipped: What is wrong with the bad files of the set, whose images were left out.
        num_dropped: Number of images that the set calls ungradable.
    """

    def __init__(
        self,
        source: Any,
        records: list[RawRecord],
        name: str = "train",
        origins: Sequence[tuple[str, str]] = (),
        skipped: Sequence[str] = (),
        num_dropped: int = 0,
    ):
        self.source = source
        self.records = records
        self.image_ids = [record.image_id for record in records]
        self.name = name
        self.origins = origins
        self.skipped = skipped
        self.num_dropped = num_dropped

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        stored = self.source[int(index)]
        image = _decode(stored["image"], cv2.IMREAD_COLOR)
        bits = _decode(stored["mask_bits"], cv2.IMREAD_UNCHANGED)
        return Sample(
            image=cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
            mask_bits=bits,
            image_id=self.image_ids[index],
            grade=int(stored["grade"]),
            evidence_px=np.asarray(stored["evidence_px"]),
            least_grade=self.records[index].least_grade,
            geometry=Geometry.from_array(stored["geometry"]),
        )

    @cached_property
    def metadata(self) -> list[ImageMetadata]:
        """What is known about each image, in order."""
        rows = []
        for i, record in enumerate(self.records):
            stored = self.source[i]
            names = ("evidence_px", "lesion_px", "reduced_px", "components", "fused_px", "dhash")
            arrays = {name: np.asarray(stored[name]) for name in names}
            geometry = Geometry.from_array(stored["geometry"])
            rows.append(
                ImageMetadata(
                    record.image_id, record.grade, record.true_grade, record.least_grade, geometry=geometry, **arrays
                )
            )
        return rows


def _decode(content: bytes, mode: int) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), mode)
    if pixels is None:
        found, action = "a prepared image that cannot be decoded", "remove that folder, and prepare again"
        raise DataError("data.cache_dir", found, "a whole one", action)
    return pixels


class _ConcatenatedSource:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Any], lengths: Sequence[int]):
        self._sources, self._starts = sources, [0, *itertools.accumulate(lengths)]

    def __getitem__(self, index: int) -> Any:
        part = bisect.bisect_right(self._starts, index) - 1
        return self._sources[part][index - self._starts[part]]


def concatenate_splits(splits: Mapping[str, PreparedSplit], name: str) -> PreparedSplit:
    """Concatenates splits; if an image id is in several of them, every id gets its split's key as a prefix.

    Args:
        splits: The splits by a key that distinguishes them.
        name: Name of the result.
    """
    ids = [image_id for split in splits.values() for image_id in split.image_ids]
    prefixed = len(set(ids)) < len(ids)
    records = [
        dataclasses.replace(record, image_id=f"{key}-{record.image_id}") if prefixed else record
        for key, split in splits.items()
        for record in split.records
    ]
    source = _ConcatenatedSource([split.source for split in splits.values()], [len(split) for split in splits.values()])
    origins = [origin for split in splits.values() for origin in split.origins]
    skipped = dict.fromkeys(message for split in splits.values() for message in split.skipped)
    return PreparedSplit(source, records, name, origins, tuple(skipped), sum(split.num_dropped for split in splits.values()))

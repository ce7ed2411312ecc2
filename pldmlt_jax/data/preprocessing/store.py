"""Prepared sets: opened from array_record, built first where they are not there yet."""

import bisect
import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.base import FundusConfig
from pldmlt_jax.data.datasets.records import RawRecord
from pldmlt_jax.data.datasets.registry import dataset_spec, parse_set_names
from pldmlt_jax.data.preprocessing.prepare import prepare_listing
from pldmlt_jax.errors import DataError, UserError, collect_errors, raise_all
from pldmlt_jax.io.files import locked, sync_tree
from pldmlt_jax.io.progress import OnProgress
from pldmlt_jax.types import LESIONS, Geometry, Sample


@dataclasses.dataclass(frozen=True)
class ImageMetadata:
    """What is known of a prepared photograph without decoding it."""

    image_id: str
    grade: int
    true_grade: int
    least_grade: int  # see RawRecord
    evidence_px: np.ndarray  # int64 [5], see Sample
    lesion_px: np.ndarray  # int64 [4], of the masks at the original size
    reduced_px: np.ndarray  # int64 [4], of the masks at the network's size
    components: np.ndarray  # int64 [4, 3], see masks.Components
    fused_px: np.ndarray  # int64 [2], before and after the morphological operation, at the original size
    geometry: Geometry
    dhash: np.ndarray  # uint8 [72], see leakage.difference_hash

    @property
    def inflation(self) -> dict[str, float]:
        """Factor by which the reduction changed each lesion's area; only lesions that the image has."""
        scale = self.geometry.area_scale
        pairs = zip(LESIONS, self.reduced_px, self.lesion_px, strict=True)
        return {lesion: float(reduced * scale / original) for lesion, reduced, original in pairs if original > 0}


class PreparedSplit:
    """One official split, or several joined: `len`, `[i] -> Sample`, and what is known without decoding."""

    def __init__(
        self,
        source: Any,
        records: list[RawRecord],
        name: str = "train",
        origins: Sequence[tuple[str, str]] = (),
        skipped: Sequence[str] = (),
        num_dropped: int = 0,
    ):
        self.source = source  # [i] -> what is stored of a photograph, images as files in memory
        self.records = records
        self.image_ids = [record.image_id for record in records]
        self.name = name  # "train", "val" or "test"
        self.origins = origins  # of each photograph, the set that it is from and its name there
        self.skipped = skipped  # what is wrong with the set's bad files, which were left out
        self.num_dropped = num_dropped  # photographs that the set calls ungradable

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
        """Of every image, in order."""
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


class _Joined:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Any], lengths: Sequence[int]):
        self._sources, self._starts = sources, [0, *itertools.accumulate(lengths)]

    def __getitem__(self, index: int) -> Any:
        part = bisect.bisect_right(self._starts, index) - 1
        return self._sources[part][index - self._starts[part]]


def concatenate_splits(splits: Mapping[str, PreparedSplit], name: str) -> PreparedSplit:
    """Several splits as one; where an id stands in more than one of them, all get their split's key in front."""
    ids = [image_id for split in splits.values() for image_id in split.image_ids]
    prefixed = len(set(ids)) < len(ids)
    records = [
        dataclasses.replace(record, image_id=f"{key}-{record.image_id}") if prefixed else record
        for key, split in splits.items()
        for record in split.records
    ]
    source = _Joined([split.source for split in splits.values()], [len(split) for split in splits.values()])
    origins = [origin for split in splits.values() for origin in split.origins]
    skipped = dict.fromkeys(message for split in splits.values() for message in split.skipped)
    return PreparedSplit(source, records, name, origins, tuple(skipped), sum(split.num_dropped for split in splits.values()))


def open_prepared(
    name: str, data: DataConfig, size_px: int, on_progress: OnProgress | None = None
) -> dict[str, PreparedSplit]:
    """Opens a set at a size, preparing what is not there yet.

    Args:
        name: A key of DATASETS, or several with "+" between them, which are pooled split by split.
        data: Where the raw files are, and how they are prepared.
        size_px: Side of the square.
        on_progress: Called with the number done, the number in all and the image's name.

    Raises:
        UserError: Every bad file at once.
    """
    errors: list[UserError] = []
    sets: dict[str, dict[str, PreparedSplit]] = {}
    for part in parse_set_names(name):
        with collect_errors(errors):
            sets[part] = _open_one(part, data, size_px, on_progress)
    raise_all(errors)
    if len(sets) == 1:
        return sets[name]
    splits = dict.fromkeys(split for found in sets.values() for split in found)
    return {
        split: concatenate_splits({part: found[split] for part, found in sets.items() if split in found}, split)
        for split in splits
    }


def _open_one(name: str, data: DataConfig, size_px: int, on_progress: OnProgress | None) -> dict[str, PreparedSplit]:
    spec = dataset_spec(name)
    listing = spec.listing(data)
    readable = prepare_listing(listing, data, size_px, on_progress)
    stems = {split: [path.stem for path in paths] for split, paths in readable.files.items()}
    key = hashlib.sha256(json.dumps(stems).encode()).hexdigest()[:12]
    config = FundusConfig(name=f"{size_px}-{key}", size_px=size_px, data=data)
    directory = Path(data.cache_dir) / "tfds"
    logging.getLogger("absl").setLevel(logging.ERROR)
    with locked(directory / ".lock"):  # another process may share the cache, and be packing this very set
        for stale in directory.glob(f"*/{config.name}/*incomplete*"):
            shutil.rmtree(stale)
        builder: Any = spec.builder(config=config, data_dir=directory)
        if not builder.is_prepared():
            tfds.disable_progress_bar()
            from_there = tfds.download.DownloadConfig(manual_dir=spec.builder.raw_folder(data))
            with contextlib.redirect_stdout(io.StringIO()):  # our own progress is shown already
                builder.download_and_prepare(download_config=from_there, file_format="array_record")
            sync_tree(Path(builder.data_dir))
    decoders = {"image": tfds.decode.SkipDecoding(), "mask_bits": tfds.decode.SkipDecoding()}
    sources = builder.as_data_source(split=list(readable.records), decoders=decoders)
    skipped = tuple(str(error) for error in readable.skipped)
    return {
        split: PreparedSplit(
            source, records, split, [(name, r.image_id) for r in records], skipped, listing.dropped.get(split, 0)
        )
        for (split, records), source in zip(readable.records.items(), sources, strict=True)
    }

"""Prepares data sets, packs them into array_record files and opens them."""

import bisect
import contextlib
import dataclasses
import functools
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
from pldmlt_jax.data.datasets.base import FundusBuilder, FundusConfig
from pldmlt_jax.data.datasets.records import Listing, RawRecord
from pldmlt_jax.data.datasets.registry import RawListings, dataset_spec, parse_set_names
from pldmlt_jax.data.preprocessing.prepare import prepare_listing, prepare_records, prepared_paths
from pldmlt_jax.errors import DataError, UserError, collect_errors, raise_all
from pldmlt_jax.io.files import sync_tree
from pldmlt_jax.io.locks import locked
from pldmlt_jax.io.progress import show_progress
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
        dhash: uint8 [72], see `near_duplicates.difference_hash`.
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
        splits: The splits by a key that tells them apart.
        name: Of the result.
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


def open_prepared(
    name: str, data: DataConfig, size_px: int, listings: Mapping[str, Listing] | None = None
) -> dict[str, PreparedSplit]:
    """Opens a data set at a size; images that are not prepared yet are prepared first.

    Args:
        name: A key of DATASETS, or several joined by "+", which are pooled split by split.
        data: Where the raw files are, and how to prepare them.
        size_px: Side of the square.
        listings: The raw files of each set, if they are listed already.

    Returns:
        The official splits that have images.

    Raises:
        UserError: All bad files at once.
    """
    listings = RawListings(data) if listings is None else listings
    builders = prepare_set(name, data, size_px, listings)
    errors: list[UserError] = []
    sets: dict[str, dict[str, PreparedSplit]] = {}
    for part, builder in builders.items():
        with collect_errors(errors):
            sets[part] = _open_packed(part, builder, listings[part])
    raise_all(errors)
    if len(sets) == 1:
        return sets[name]
    splits = dict.fromkeys(split for found in sets.values() for split in found)
    return {
        split: concatenate_splits({part: found[split] for part, found in sets.items() if split in found}, split)
        for split in splits
    }


def prepare_set(
    name: str, data: DataConfig, size_px: int, listings: Mapping[str, Listing] | None = None
) -> dict[str, FundusBuilder]:
    """Prepares a data set at a size and packs it into array_record files, unless that has been done.

    Args:
        name: A key of DATASETS, or several joined by "+".
        data: Where the raw files are, and how to prepare them.
        size_px: Side of the square.
        listings: The raw files of each set, if they are listed already.

    Returns:
        The TFDS builder of each set.

    Raises:
        UserError: All bad files at once; what is prepared stays prepared.
    """
    listings = RawListings(data) if listings is None else listings
    errors: list[UserError] = []
    builders: dict[str, FundusBuilder] = {}
    for part in parse_set_names(name):
        with collect_errors(errors):
            builders[part] = _prepare_and_pack(part, data, size_px, listings[part])
    raise_all(errors)
    return builders


def _prepare_and_pack(name: str, data: DataConfig, size_px: int, listing: Listing) -> FundusBuilder:
    """Packs the set under a lock; prepared files, which an interrupted run resumes from, are removed afterwards."""
    paths = {split: prepared_paths(found, data, size_px) for split, found in listing.records.items() if found}
    keys = json.dumps({split: [path.stem for path in found] for split, found in paths.items()})
    config = FundusConfig(f"{size_px}-{hashlib.sha256(keys.encode()).hexdigest()[:12]}", size_px=size_px, data=data)
    make_builder = functools.partial(dataset_spec(name).builder, data_dir=Path(data.cache_dir) / "tfds")
    logging.getLogger("absl").setLevel(logging.ERROR)
    builder = make_builder(config=config)
    if not builder.is_prepared():
        folder = Path(builder.data_dir).parent
        with locked(folder / ".lock"):  # a process that waited here may find the set packed
            if not make_builder(config=config).is_prepared():
                for stale in folder.glob("*incomplete*"):
                    shutil.rmtree(stale)
                with show_progress(f"prepare {name} at {size_px} px") as task:
                    prepared = prepare_listing(listing, data, size_px, task)
                _pack(make_builder(config=dataclasses.replace(config, prepared=prepared)))
        builder = make_builder(config=config)
    if leftover := [path for path in itertools.chain(*paths.values()) if path.exists()]:
        sync_tree(Path(builder.data_dir))
        for path in leftover:
            path.unlink(missing_ok=True)  # another process may remove it at the same time
    return builder


def _pack(builder: FundusBuilder) -> None:
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # our own progress line has been printed
        builder.download_and_prepare(file_format="array_record")


def _open_packed(name: str, builder: Any, listing: Listing) -> dict[str, PreparedSplit]:
    """Opens the splits of a packed set; images that are not in it are reported as `data.on_bad_file` says.

    Raises:
        UserError: All bad files at once, unless they may be left out.
    """
    names = [split for split in listing.records if split in builder.info.splits]
    decoders = {"image": tfds.decode.SkipDecoding(), "mask_bits": tfds.decode.SkipDecoding()}
    sources = dict(zip(names, builder.as_data_source(split=names, decoders=decoders), strict=True))
    records, bad = {}, []
    for split, listed in listing.records.items():
        packed = sources.get(split, ())
        if len(packed) != len(listed):
            packed_ids = {packed[i]["image_id"].decode() for i in range(len(packed))}
            bad += [record for record in listed if record.image_id not in packed_ids]
            listed = [record for record in listed if record.image_id in packed_ids]
        records[split] = listed
    config = builder.builder_config
    errors = [*listing.errors, *_explain_missing(bad, config, builder.data_dir)]
    if config.data.on_bad_file == "stop":
        raise_all(errors)
    skipped = tuple(str(error) for error in errors)
    return {
        split: PreparedSplit(
            source,
            records[split],
            split,
            [(name, record.image_id) for record in records[split]],
            skipped,
            listing.dropped.get(split, 0),
        )
        for split, source in sources.items()
    }


def _explain_missing(records: Sequence[RawRecord], config: FundusConfig, folder: str) -> list[UserError]:
    """Reads images again that the packed set lacks, to say what is wrong with each."""
    errors: list[UserError] = []
    for record, outcome in zip(records, prepare_records(records, config.data, config.size_px), strict=True):
        if isinstance(outcome, Path):  # another version of a library can read it
            outcome.unlink(missing_ok=True)
            found, action = (
                f"a set without {record.image}, which can be read now",
                "remove that folder, and run prepare again",
            )
            outcome = DataError(folder, found, "every image that can be read", action)
        errors.append(outcome)
    return errors

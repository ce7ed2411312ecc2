"""Prepared sets: opened from array_record, built first where they are not there yet."""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.builder import FundusConfig
from pldmlt_jax.data.prepare import OnProgress, prepare_records
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.data.specs import dataset_spec
from pldmlt_jax.types import LESIONS, Geometry, Sample


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What is known of a prepared photograph without decoding it."""

    image_id: str
    grade: int
    true_grade: int
    evidence_px: np.ndarray  # int64 [4], at the original size; -1 where the set has no masks
    reduced_px: np.ndarray  # int64 [4], at the network's size
    fused_px: np.ndarray  # int64 [2], before and after the morphological operation, at the original size
    geometry: Geometry
    dhash: np.ndarray  # uint8 [32]

    @property
    def inflation(self) -> dict[str, float]:
        """Factor by which the reduction changed each lesion's area; only lesions that the image has."""
        scale = self.geometry.area_scale
        pairs = zip(LESIONS, self.reduced_px, self.evidence_px, strict=True)
        return {lesion: float(reduced * scale / original) for lesion, reduced, original in pairs if original > 0}


class PreparedSplit:
    """One official split: `len`, `[i] -> Sample`, and what is known without decoding."""

    def __init__(self, source: Any, records: list[RawRecord]):
        self._source = source
        self.records = records
        self.image_ids = [record.image_id for record in records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        stored = self._source[int(index)]
        image = _decode(stored["image"], cv2.IMREAD_COLOR)
        bits = _decode(stored["mask_bits"], cv2.IMREAD_UNCHANGED)
        return Sample(
            image=cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
            mask_bits=bits,
            image_id=self.image_ids[index],
            grade=int(stored["grade"]),
            evidence_px=np.asarray(stored["evidence_px"]),
            geometry=Geometry.from_array(stored["geometry"]),
        )

    @cached_property
    def metadata(self) -> list[Metadata]:
        """Of every image, in order."""
        rows = []
        for i, record in enumerate(self.records):
            stored = self._source[i]
            arrays = {name: np.asarray(stored[name]) for name in ("evidence_px", "reduced_px", "fused_px", "dhash")}
            geometry = Geometry.from_array(stored["geometry"])
            rows.append(Metadata(record.image_id, record.grade, record.true_grade, geometry=geometry, **arrays))
        return rows


def _decode(content: bytes, mode: int) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), mode)
    if pixels is None:
        raise ValueError("a prepared image cannot be decoded: delete data.cache_dir and prepare again")
    return pixels


def open_prepared(
    name: str, data: DataConfig, size_px: int, on_progress: OnProgress | None = None
) -> dict[str, PreparedSplit]:
    """Opens a set at a size, preparing what is not there yet.

    Args:
        name: A key of DATASETS.
        data: Where the raw files are, and how they are prepared.
        size_px: Side of the square.
        on_progress: Called with the number done, the number in all and the image's name.

    Raises:
        UserError: Every bad file of the set at once.
    """
    spec = dataset_spec(name)
    records = spec.records(data)
    files = prepare_records(records, data, size_px, on_progress)
    stems = {split: [path.stem for path in paths] for split, paths in files.items()}
    key = hashlib.sha256(json.dumps(stems).encode()).hexdigest()[:12]
    config = FundusConfig(name=f"{size_px}-{key}", size_px=size_px, data=data)
    directory = Path(data.cache_dir) / "tfds"
    for stale in directory.glob(f"*/{config.name}/*incomplete*"):
        shutil.rmtree(stale)
    logging.getLogger("absl").setLevel(logging.ERROR)
    builder: Any = spec.builder(config=config, data_dir=directory)
    if not builder.is_prepared():
        tfds.disable_progress_bar()
        from_there = tfds.download.DownloadConfig(manual_dir=spec.builder.raw_folder(data))
        with contextlib.redirect_stdout(io.StringIO()):  # our own progress is shown already
            builder.download_and_prepare(download_config=from_there, file_format="array_record")
    decoders = {"image": tfds.decode.SkipDecoding(), "mask_bits": tfds.decode.SkipDecoding()}
    sources = builder.as_data_source(split=list(records), decoders=decoders)
    return {split: PreparedSplit(source, records[split]) for split, source in zip(records, sources, strict=True)}

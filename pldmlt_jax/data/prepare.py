"""Raw files -> prepared photographs -> array_record, once.

Each photograph is prepared into a file of its own, named by the hash of its raw bytes and of the preparation, in
parallel; the TFDS builder only packs them. A run that was interrupted goes on where it stopped.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.builder import FundusConfig, FundusPhotographs
from pldmlt_jax.data.fundus import (
    field_of_view,
    fuse,
    image_to_network,
    make_geometry,
    mask_to_network,
    read_image,
    read_mask,
)
from pldmlt_jax.data.leakage import difference_hash
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.data.specs import dataset_spec
from pldmlt_jax.errors import UserError, raise_all
from pldmlt_jax.types import LESIONS, MASK_BITS, Geometry, Sample

PREPARATION_VERSION = 1
"""Part of every key: raised when the same input would be prepared differently."""

JPEG_QUALITY = 95

PREPARATION_FIELDS = ("fov_crop", "resize", "mask_reduction", "fusion", "fusion_px", "image_format")

OnProgress = Callable[[int, int, str], None]


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


def prepare_one(record: RawRecord, data: DataConfig, size_px: int) -> dict[str, Any]:
    """Reads one photograph and its masks, and makes the network's view of them.

    Raises:
        DataError: See `fundus.read_image` and `fundus.read_mask`.
    """
    image = read_image(record.image)
    shape = image.shape[:2]
    fov = field_of_view(image)
    geometry = make_geometry(fov, data, size_px)
    masks = {lesion: read_mask(path, shape) for lesion, path in (record.masks or {}).items()}
    fused, before_px, after_px = fuse(masks, shape, data)
    planes = {
        "valid": mask_to_network(fov, geometry, "area"),
        "fused": mask_to_network(fused, geometry, data.mask_reduction),
    }
    planes |= {lesion: mask_to_network(mask, geometry, data.mask_reduction) for lesion, mask in masks.items()}
    if record.disc:
        planes["OD"] = mask_to_network(read_mask(record.disc, shape), geometry, "area")
    bits = np.zeros((size_px, size_px), np.uint8)
    for name, plane in planes.items():
        bits |= np.where(plane, MASK_BITS[name], 0).astype(np.uint8)
    unknown = -1 if record.masks is None else 0
    return {
        "image": _encode(cv2.cvtColor(image_to_network(image, geometry), cv2.COLOR_RGB2BGR), data.image_format),
        "mask_bits": _encode(bits, "png"),
        "image_id": np.array(record.image_id),
        "grade": np.int64(record.grade),
        "true_grade": np.int64(record.true_grade),
        "evidence_px": np.array([masks[k].sum() if k in masks else unknown for k in LESIONS], np.int64),
        "reduced_px": np.array([planes[k].sum() if k in masks else unknown for k in LESIONS], np.int64),
        "fused_px": np.array([before_px, after_px], np.int64),
        "geometry": geometry.as_array(),
        "dhash": difference_hash(image, fov),
    }


def _encode(pixels: np.ndarray, image_format: str) -> np.ndarray:
    options = {"png": [cv2.IMWRITE_PNG_COMPRESSION, 1], "jpeg": [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]}[image_format]
    return cv2.imencode(f".{image_format}", pixels, options)[1]


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
    records = dataset_spec(name).records(data)
    files = _prepare_all(records, data, size_px, on_progress)
    stems = {split: [path.stem for path in paths] for split, paths in files.items()}
    key = hashlib.sha256(json.dumps(stems).encode()).hexdigest()[:12]
    config = FundusConfig(name=f"{name}-{size_px}-{key}", image_format=data.image_format, prepared=files)
    directory = Path(data.cache_dir) / "tfds"
    for stale in directory.glob(f"*/{config.name}/*incomplete*"):
        shutil.rmtree(stale)
    logging.getLogger("absl").setLevel(logging.ERROR)
    builder = FundusPhotographs(config=config, data_dir=directory)
    if not builder.is_prepared():
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # our own progress is shown already
            builder.download_and_prepare(file_format="array_record")
    decoders = {"image": tfds.decode.SkipDecoding(), "mask_bits": tfds.decode.SkipDecoding()}
    open_source: Any = builder.as_data_source
    sources = open_source(split=list(records), decoders=decoders)
    return {split: PreparedSplit(source, records[split]) for split, source in zip(records, sources, strict=True)}


def _prepare_all(
    records: Mapping[str, list[RawRecord]], data: DataConfig, size_px: int, on_progress: OnProgress | None
) -> dict[str, list[Path]]:
    cv2.setNumThreads(1)  # one image a thread is faster than one image over all threads
    directory = Path(data.cache_dir) / "photographs"
    directory.mkdir(parents=True, exist_ok=True)
    everything = [record for split in records.values() for record in split]
    done, errors, paths = 0, [], {}
    with ThreadPoolExecutor(data.num_threads) as pool:
        for record, outcome in zip(
            everything, pool.map(lambda r: _prepare_to_file(r, data, size_px, directory), everything), strict=True
        ):
            done += 1
            if isinstance(outcome, UserError):
                errors.append(outcome)
            paths[record.image] = outcome
            if on_progress:
                on_progress(done, len(everything), record.image_id)
    raise_all(errors)
    return {split: [paths[record.image] for record in split_records] for split, split_records in records.items()}


def _prepare_to_file(record: RawRecord, data: DataConfig, size_px: int, directory: Path) -> Path | UserError:
    """The prepared file; an error is returned, so that all bad files can be reported together."""
    try:
        path = directory / f"{_key(record, data, size_px)}.npz"
        if not path.exists():
            temporary = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
            np.savez(temporary, **prepare_one(record, data, size_px))
            temporary.replace(path)
    except UserError as error:
        return error
    return path


def _key(record: RawRecord, data: DataConfig, size_px: int) -> str:
    """Hash of the raw bytes and of everything that the preparation depends on."""
    preparation = {field: getattr(data, field) for field in PREPARATION_FIELDS}
    facts = [PREPARATION_VERSION, size_px, preparation, record.image_id, record.grade, record.true_grade,
             sorted(record.masks or {}), record.masks is None, record.disc is None]  # fmt: skip
    digest = hashlib.sha256(json.dumps(facts).encode())
    for path in record.files:
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:32]

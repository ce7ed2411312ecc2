"""A raw photograph and its masks -> the network's view of them, as a file, once.

Each photograph is prepared into a file of its own, named by the hash of its raw bytes and of the preparation, in
parallel; the TFDS builder packs them. A run that was interrupted goes on where it stopped.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pldmlt_jax.config import DataConfig
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
from pldmlt_jax.errors import UserError, raise_all
from pldmlt_jax.types import LESIONS, MASK_BITS

PREPARATION_VERSION = 1
"""Part of every key: raised when the same input would be prepared differently."""

JPEG_QUALITY = 95

PREPARATION_FIELDS = ("fov_crop", "resize", "mask_reduction", "fusion", "fusion_px", "image_format")

OnProgress = Callable[[int, int, str], None]


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


def prepare_records(
    records: Mapping[str, list[RawRecord]], data: DataConfig, size_px: int, on_progress: OnProgress | None = None
) -> dict[str, list[Path]]:
    """Prepares what is not prepared yet, in parallel.

    Args:
        records: By split.
        data: How to prepare, and where the prepared files go: `cache_dir`/photographs.
        size_px: Side of the square.
        on_progress: Called with the number done, the number in all and the image's name.

    Returns:
        The prepared file of each record.

    Raises:
        UserError: Every bad file of the set at once; the good ones are kept.
    """
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


def preparation(data: DataConfig) -> dict[str, Any]:
    """The fields that the network's view of a photograph depends on, besides its size."""
    return {field: getattr(data, field) for field in PREPARATION_FIELDS}


def _key(record: RawRecord, data: DataConfig, size_px: int) -> str:
    """Hash of the raw bytes and of everything that the preparation depends on."""
    facts = [PREPARATION_VERSION, size_px, preparation(data), record.image_id, record.grade, record.true_grade,
             sorted(record.masks or {}), record.masks is None, record.disc is None]  # fmt: skip
    digest = hashlib.sha256(json.dumps(facts).encode())
    for path in record.files:
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:32]

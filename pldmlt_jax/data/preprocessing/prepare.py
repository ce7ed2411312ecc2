"""A raw photograph and its masks -> the network's view of them, as a file, once.

Each photograph is prepared into a file of its own, named by the hash of its raw bytes and of the preparation, in
parallel; the TFDS builder packs them. A run that was interrupted goes on where it stopped.
"""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.records import Listing, RawRecord
from pldmlt_jax.data.preprocessing.contrast import ENHANCEMENTS
from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.data.preprocessing.geometry import image_to_network, make_geometry, read_image
from pldmlt_jax.data.preprocessing.hash_cache import hash_files
from pldmlt_jax.data.preprocessing.masks import Components, count_components, fuse_lesions, mask_to_network, read_annotation
from pldmlt_jax.data.splits.near_duplicates import difference_hash
from pldmlt_jax.errors import UserError, raise_all
from pldmlt_jax.io.files import remove_leftovers, writing
from pldmlt_jax.io.progress import OnProgress
from pldmlt_jax.types import LESIONS, MASK_BITS, Geometry

PREPARATION_VERSION = 6
"""Part of every key: raised when the same input would be prepared differently."""

JPEG_QUALITY = 95

PREPARATION_FIELDS = ("fov_crop", "resize", "enhance", "mask_reduction", "fusion", "fusion_px", "image_format")


class NetworkView(NamedTuple):
    """A photograph as the network sees it."""

    image: UInt8[np.ndarray, "s s 3"]
    valid: Bool[np.ndarray, "s s"]  # inside the field of view
    fov: Bool[np.ndarray, "h w"]  # the same at the original size
    geometry: Geometry


def prepare_record(record: RawRecord, data: DataConfig, size_px: int) -> dict[str, Any]:
    """Reads one photograph and its masks, and makes the network's view of them.

    Raises:
        DataError: See `fundus.read_image` and `fundus.read_mask`.
    """
    image = read_image(record.image)
    shape = image.shape[:2]
    square, valid, fov, geometry = prepare_image(image, data, size_px)
    annotation = read_annotation(record, shape, data)
    masks = annotation.masks
    fused, before_px, after_px = fuse_lesions(masks, shape, data)
    planes = {
        "valid": valid,
        "fused": mask_to_network(fused, geometry, data.mask_reduction),
    }
    lesions = {lesion: masks[lesion] for lesion in LESIONS if lesion in masks}
    planes |= {lesion: mask_to_network(mask, geometry, data.mask_reduction) for lesion, mask in lesions.items()}
    if annotation.disc is not None:
        planes["OD"] = mask_to_network(annotation.disc, geometry, "area")
    bits = np.zeros((size_px, size_px), np.uint8)
    for name, plane in planes.items():
        bits |= np.where(plane, MASK_BITS[name], 0).astype(np.uint8)
    return {
        "image": _encode(cv2.cvtColor(square, cv2.COLOR_RGB2BGR), data.image_format),
        "mask_bits": _encode(bits, "png"),
        "image_id": np.array(record.image_id),
        "grade": np.int64(record.grade),
        "true_grade": np.int64(record.true_grade),
        "evidence_px": annotation.evidence_px,
        "lesion_px": np.array([lesions[k].sum() if k in lesions else 0 for k in LESIONS], np.int64),
        "reduced_px": np.array([planes[k].sum() if k in lesions else 0 for k in LESIONS], np.int64),
        "components": np.array([_components(k, lesions, planes, geometry) for k in LESIONS], np.int64),
        "fused_px": np.array([before_px, after_px], np.int64),
        "geometry": geometry.as_array(),
        "dhash": difference_hash(image, fov),
    }


def prepare_image(image: UInt8[np.ndarray, "h w 3"], config: DataConfig, size_px: int) -> NetworkView:
    """The network's view of a photograph."""
    fov = field_of_view(image)
    geometry = make_geometry(fov, config, size_px)
    valid = mask_to_network(fov, geometry, "area")
    square = ENHANCEMENTS[config.enhance](image_to_network(image, geometry), valid)
    return NetworkView(square, valid, fov, geometry)


def _components(lesion: str, masks: dict, planes: dict, geometry: Geometry) -> Components:
    return count_components(masks[lesion], planes[lesion], geometry) if lesion in masks else Components(0, 0, 0)


def _encode(pixels: np.ndarray, image_format: str) -> np.ndarray:
    options = {"png": [cv2.IMWRITE_PNG_COMPRESSION, 1], "jpeg": [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]}[image_format]
    return cv2.imencode(f".{image_format}", pixels, options)[1]


class Readable(NamedTuple):
    """The photographs of a set that could be prepared."""

    records: dict[str, list[RawRecord]]
    files: dict[str, list[Path]]  # the prepared file of each record
    skipped: tuple[UserError, ...]  # why others were left out


def prepare_listing(listing: Listing, data: DataConfig, size_px: int, on_progress: OnProgress | None = None) -> Readable:
    """Prepares the photographs of a set; what is wrong stops, or is left out and listed, as `data.on_bad_file` says.

    Args:
        listing: Of the raw files.
        data: How to prepare, and where the prepared files go.
        size_px: Side of the square.
        on_progress: Called with the number done, the number in all and the image's name.

    Raises:
        UserError: Every bad file of the set at once; what is prepared stays prepared. With "skip" only where no training
            image is left.
    """
    outcomes = prepare_records(listing.records, data, size_px, on_progress)
    wrong = [outcome for split in outcomes.values() for outcome in split if isinstance(outcome, UserError)]
    errors = (*listing.errors, *wrong)
    pairs = {
        split: [(r, path) for r, path in zip(found, outcomes[split], strict=True) if isinstance(path, Path)]
        for split, found in listing.records.items()
    }
    pairs = {split: kept for split, kept in pairs.items() if kept}
    if data.on_bad_file == "stop" or "train" not in pairs:
        raise_all(errors)
    records = {split: [record for record, _ in kept] for split, kept in pairs.items()}
    files = {split: [path for _, path in kept] for split, kept in pairs.items()}
    return Readable(records, files, errors)


def prepare_records(
    records: Mapping[str, list[RawRecord]], data: DataConfig, size_px: int, on_progress: OnProgress | None = None
) -> dict[str, list[Path | UserError]]:
    """Prepares what is not prepared yet, in parallel.

    Args:
        records: By split.
        data: How to prepare, and where the prepared files go: `cache_dir`/photographs.
        size_px: Side of the square.
        on_progress: Called with the number done, the number in all and the image's name.

    Returns:
        The prepared file of each record, or what is wrong with its raw files.
    """
    cv2.setNumThreads(1)  # one image a thread is faster than one image over all threads
    directory = Path(data.cache_dir) / "photographs"
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory)
    everything = [record for split in records.values() for record in split]
    hashes = hash_files((path for record in everything for path in record.files), data.cache_dir, data.num_threads)
    done, outcomes = 0, {}
    with ThreadPoolExecutor(data.num_threads) as pool:
        for record, outcome in zip(
            everything, pool.map(lambda r: _prepare_to_file(r, hashes, data, size_px, directory), everything), strict=True
        ):
            done += 1
            outcomes[record.image] = outcome
            if on_progress:
                on_progress(done, len(everything), record.image_id)
    return {split: [outcomes[record.image] for record in split_records] for split, split_records in records.items()}


def _prepare_to_file(
    record: RawRecord, hashes: Mapping[Path, str], data: DataConfig, size_px: int, directory: Path
) -> Path | UserError:
    """The prepared file; an error is returned, so that all bad files can be reported together."""
    try:
        path = directory / f"{_key(record, hashes, data, size_px)}.npz"
        if not path.exists():
            prepared = prepare_record(record, data, size_px)
            with writing(path, "wb") as file:
                np.savez(file, **prepared)
    except UserError as error:
        return error
    return path


def preparation_fields(data: DataConfig) -> dict[str, Any]:
    """The fields that the network's view of a photograph depends on, besides its size."""
    return {field: getattr(data, field) for field in PREPARATION_FIELDS}


def _key(record: RawRecord, hashes: Mapping[Path, str], data: DataConfig, size_px: int) -> str:
    """Hash of the raw contents and of everything that the preparation depends on."""
    facts = [PREPARATION_VERSION, size_px, preparation_fields(data), record.image_id, record.grade, record.true_grade,
             sorted(record.masks or {}), record.masks is None, record.disc is None,
             record.mask_rule, [data.agreement, data.agreement_weighted] if record.markings else [],
             [hashes[path] for path in record.files]]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

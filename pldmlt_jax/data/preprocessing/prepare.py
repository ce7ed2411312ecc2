"""Turns raw images and their masks into what the network reads.

Images are prepared in parallel, each into a file of its own that is named by the hash of its raw files and of its
preparation. An interrupted preparation finds these files and resumes. When the set has been packed into array_record files
(`store.prepare_set`), they are removed.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing.contrast import ENHANCEMENTS
from pldmlt_jax.data.preprocessing.difference_hash import difference_hash
from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.data.preprocessing.geometry import image_to_network, make_geometry, read_image
from pldmlt_jax.data.preprocessing.hash_cache import hash_files
from pldmlt_jax.data.preprocessing.masks import Components, count_components, fuse_lesions, mask_to_network, read_annotation
from pldmlt_jax.data.records import Listing, RawRecord
from pldmlt_jax.errors import UserError, raise_all
from pldmlt_jax.io.files import atomic_write, remove_leftovers
from pldmlt_jax.io.progress import OnProgress
from pldmlt_jax.types import LESIONS, MASK_BITS, Geometry

PREPARATION_VERSION = 6
"""Part of every file's name: raised when the same input would be prepared differently."""

PREPARED_FOLDER = "photographs"
"""Folder of `data.cache_dir` for prepared files that are not packed yet."""

JPEG_QUALITY = 95

PREPARATION_FIELDS = ("fov_crop", "resize", "enhance", "mask_reduction", "fusion", "fusion_px", "image_format")


class PreparedImage(NamedTuple):
    """An image as the network sees it."""

    image: UInt8[np.ndarray, "s s 3"]
    valid: Bool[np.ndarray, "s s"]  # inside the field of view
    fov: Bool[np.ndarray, "h w"]  # the same at the original size
    geometry: Geometry


def prepare_record(record: RawRecord, data: DataConfig, size_px: int) -> dict[str, Any]:
    """Reads an image and its masks, and prepares them for the network.

    Args:
        record: The raw files.
        data: How to prepare.
        size_px: Side of the square.

    Returns:
        What the TFDS features of `FundusBuilder` hold, with images as encoded bytes.

    Raises:
        DataError: See `geometry.read_image` and `masks.read_annotation`.
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


def prepare_image(image: UInt8[np.ndarray, "h w 3"], config: DataConfig, size_px: int) -> PreparedImage:
    """Crops, resizes and enhances an image for the network.

    Args:
        image: RGB, at its original size.
        config: The crop, the resizing and the enhancement.
        size_px: Side of the square.
    """
    fov = field_of_view(image)
    geometry = make_geometry(fov, config, size_px)
    valid = mask_to_network(fov, geometry, "area")
    square = ENHANCEMENTS[config.enhance](image_to_network(image, geometry), valid)
    return PreparedImage(square, valid, fov, geometry)


def _components(lesion: str, masks: dict, planes: dict, geometry: Geometry) -> Components:
    return count_components(masks[lesion], planes[lesion], geometry) if lesion in masks else Components(0, 0, 0)


def _encode(pixels: np.ndarray, image_format: str) -> np.ndarray:
    options = {"png": [cv2.IMWRITE_PNG_COMPRESSION, 1], "jpeg": [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]}[image_format]
    return cv2.imencode(f".{image_format}", pixels, options)[1]


def prepare_listing(
    listing: Listing, data: DataConfig, size_px: int, on_progress: OnProgress | None = None
) -> dict[str, list[tuple[RawRecord, Path]]]:
    """Prepares the images of a set that are not prepared yet.

    Args:
        listing: The raw files.
        data: How to prepare, where the prepared files go, and what to do about bad files (`on_bad_file`).
        size_px: Side of the square.
        on_progress: Called after each image.

    Returns:
        Each image that could be prepared and its prepared file, by official split.

    Raises:
        UserError: All bad files of the set at once; what has been prepared stays prepared. With `on_bad_file` "skip" only if
            no training image is left.
    """
    outcomes = iter(prepare_records(list(itertools.chain(*listing.records.values())), data, size_px, on_progress))
    prepared, errors = {}, list(listing.errors)
    for split, records in listing.records.items():
        pairs = list(zip(records, itertools.islice(outcomes, len(records)), strict=True))
        errors += [outcome for _, outcome in pairs if isinstance(outcome, UserError)]
        if kept := [(record, path) for record, path in pairs if isinstance(path, Path)]:
            prepared[split] = kept
    if data.on_bad_file == "stop" or "train" not in prepared:
        raise_all(errors)
    return prepared


def prepare_records(
    records: Sequence[RawRecord], data: DataConfig, size_px: int, on_progress: OnProgress | None = None
) -> list[Path | UserError]:
    """Prepares the images that are not prepared yet, in parallel.

    Args:
        records: The raw files of each image.
        data: How to prepare, and where the prepared files go.
        size_px: Side of the square.
        on_progress: Called after each image.

    Returns:
        The prepared file of each image, or what is wrong with its raw files.
    """
    cv2.setNumThreads(1)  # one image a thread is faster than one image over all threads
    paths = prepared_paths(records, data, size_px)
    remove_leftovers(Path(data.cache_dir) / PREPARED_FOLDER)
    outcomes: list[Path | UserError] = []
    with ThreadPoolExecutor(data.num_threads) as pool:
        for outcome in pool.map(lambda record, path: _prepare_to_file(record, path, data, size_px), records, paths):
            outcomes.append(outcome)
            if on_progress:
                on_progress(len(outcomes), len(records), records[len(outcomes) - 1].image_id)
    return outcomes


def prepared_paths(records: Sequence[RawRecord], data: DataConfig, size_px: int) -> list[Path]:
    """Returns the file that each image is prepared into, whether it is there or not.

    Its name is a hash of the content of the raw files and of everything else that the preparation depends on.
    """
    hashes = hash_files((path for record in records for path in record.files), data.cache_dir, data.num_threads)
    folder = Path(data.cache_dir) / PREPARED_FOLDER
    return [folder / f"{_key(record, hashes, data, size_px)}.npz" for record in records]


def load_prepared(record: RawRecord, path: Path, data: DataConfig, size_px: int) -> dict[str, Any]:
    """Reads a prepared file, or prepares the image again if another process has packed and removed the file meanwhile."""
    with contextlib.suppress(FileNotFoundError), np.load(path) as stored:
        return {name: stored[name] for name in stored.files}
    return prepare_record(record, data, size_px)


def _prepare_to_file(record: RawRecord, path: Path, data: DataConfig, size_px: int) -> Path | UserError:
    """Returns the prepared file, or the error, so that all bad files can be reported together."""
    try:
        if not path.exists():
            prepared = prepare_record(record, data, size_px)
            with atomic_write(path, "wb") as file:
                np.savez(file, **prepared)
    except UserError as error:
        return error
    return path


def preparation_fields(data: DataConfig) -> dict[str, Any]:
    """Returns the fields that a prepared image depends on, besides its size."""
    return {field: getattr(data, field) for field in PREPARATION_FIELDS}


def _key(record: RawRecord, hashes: Mapping[Path, str], data: DataConfig, size_px: int) -> str:
    """Hashes the raw content and everything that the preparation depends on."""
    facts = [PREPARATION_VERSION, size_px, preparation_fields(data), record.image_id, record.grade, record.true_grade,
             sorted(record.masks or {}), record.masks is None, record.disc is None,
             record.mask_rule, [data.agreement, data.agreement_weighted] if record.markings else [],
             [hashes[path] for path in record.files]]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

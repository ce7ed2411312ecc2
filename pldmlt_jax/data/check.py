"""Reads every raw file of a data set once and collects what is wrong with it, in memory that does not grow with the images.

Only the hash, the grade and some counters of each photograph are kept.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.registry import dataset_spec
from pldmlt_jax.data.findings import Finding, disc_findings, error_findings, image_findings, mask_findings
from pldmlt_jax.data.preprocessing.difference_hash import difference_hash
from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.data.preprocessing.geometry import read_image
from pldmlt_jax.data.preprocessing.hash_cache import hash_files
from pldmlt_jax.data.preprocessing.masks import apply_mask_rule, brightest_channel, read_annotation, read_mask_pixels
from pldmlt_jax.data.records import Listing, RawRecord
from pldmlt_jax.data.splits.near_duplicates import SAME_IMAGE_BITS, find_near_duplicates
from pldmlt_jax.errors import UserError
from pldmlt_jax.io.progress import OnProgress
from pldmlt_jax.types import EVIDENCE

DIAMETER_BINS = np.linspace(-14.0, 0.0, 14 * 8 + 1)
"""Edges of the histogram of lesion diameters: log2 of the diameter divided by the field of view's longer side."""


def _empty_histograms() -> Int[np.ndarray, "5 112"]:
    return np.zeros((len(EVIDENCE), len(DIAMETER_BINS) - 1), np.int64)


@dataclass
class CheckedPhotograph:
    """What is kept of a photograph after its files were checked."""

    record: RawRecord
    split: str
    dhash: UInt8[np.ndarray, "72"]


@dataclass
class DatasetReport:
    """The findings of one data set, and the sizes of its lesions."""

    name: str  # a key of DATASETS
    findings: list[Finding] = field(default_factory=list)
    photographs: list[CheckedPhotograph] = field(default_factory=list)
    ungradable: Mapping[str, int] = field(default_factory=dict)  # by split
    diameters: Int[np.ndarray, "5 112"] = field(default_factory=_empty_histograms)  # of components, by EVIDENCE
    longer_sides_px: list[int] = field(default_factory=list)  # of the fields of view


@dataclass
class _ImageCheck:
    findings: list[Finding] = field(default_factory=list)
    diameters: Int[np.ndarray, "5 112"] = field(default_factory=_empty_histograms)
    dhash: UInt8[np.ndarray, "72"] | None = None  # None: the image cannot be read
    longer_side_px: int = 0


def check_dataset(name: str, data: DataConfig, on_progress: OnProgress | None = None) -> DatasetReport:
    """Reads every file of a data set and reports what is wrong with it.

    Args:
        name: A key of DATASETS.
        data: Where the files are, and how they are read.
        on_progress: Called with the number of images done, the number of all images, and the image's name.

    Returns:
        The report. Errors in files are among its findings; none is raised.
    """
    report, spec = DatasetReport(name), dataset_spec(name)
    try:
        listing = spec.listing(data)
    except UserError as error:
        report.findings += error_findings(error, "layout")
        return report
    report.ungradable = listing.dropped
    for error in listing.errors:
        report.findings += error_findings(error, "listing")
    report.findings += _count_findings(spec.released, listing, spec.builder.raw_folder(data))
    records = [(split, record) for split, found in listing.records.items() for record in found]
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(data.num_threads) as pool:
        checks = pool.map(lambda pair: _check_image(pair[1], data), records)
        for done, ((split, record), check) in enumerate(zip(records, checks, strict=True), start=1):
            report.findings += check.findings
            report.diameters += check.diameters
            if check.dhash is not None:
                report.photographs.append(CheckedPhotograph(record, split, check.dhash))
                report.longer_sides_px.append(check.longer_side_px)
            if on_progress:
                on_progress(done, len(records), record.image_id)
    if spec.has_masks and report.photographs and not report.diameters.any():
        where, expected = str(spec.builder.raw_folder(data)), "lesions in some of them"
        action = "look at the masks: they may have been saved all black"
        report.findings.append(Finding(where, "no_lesions", "warning", "no lesion in any mask", expected, action))
    hashes = hash_files((p.record.image for p in report.photographs), data.cache_dir, data.num_threads)
    report.findings += _duplicate_findings(report.photographs, hashes, data.leakage_distance)
    return report


def _check_image(record: RawRecord, data: DataConfig) -> _ImageCheck:
    check = _ImageCheck()
    try:
        image = read_image(record.image)
    except UserError as error:
        check.findings += error_findings(error, "image")
        return check
    fov = field_of_view(image)
    rows, columns = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
    check.longer_side_px = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    check.dhash = difference_hash(image, fov)
    check.findings += image_findings(record.image, image, fov)
    masks = _check_masks(record, image, fov, data, check.findings)
    for i, name in enumerate(EVIDENCE):
        if name in masks:
            check.diameters[i] = diameter_histogram(masks[name], check.longer_side_px)
    return check


def _check_masks(
    record: RawRecord, image: np.ndarray, fov: np.ndarray, data: DataConfig, findings: list[Finding]
) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Returns the masks that can be read, by name, and appends what is wrong with them to the findings."""
    masks: dict[str, np.ndarray] = {}
    try:
        if record.markings:
            annotation = read_annotation(record, image.shape[:2], data)
            masks |= annotation.masks
            if annotation.disc is not None:
                findings += disc_findings(record.image, image, fov, annotation.disc)
    except UserError as error:
        findings += error_findings(error, "markings")
    for name, path in [*(record.masks or {}).items(), *([("OD", record.disc)] if record.disc else [])]:
        try:
            pixels = read_mask_pixels(path)
            masks[name] = apply_mask_rule(brightest_channel(pixels), path, image.shape[:2], record.mask_rule)
            findings += mask_findings(path, pixels, masks[name], fov, record.mask_rule)
        except UserError as error:
            findings += error_findings(error, "mask")
    return masks


def diameter_histogram(mask: Bool[np.ndarray, "h w"], longer_side_px: int) -> Int[np.ndarray, "112"]:
    """Counts the connected components of a mask by diameter.

    Args:
        mask: At the original size.
        longer_side_px: Longer side of the field of view.

    Returns:
        int64 counts by DIAMETER_BINS. A diameter is that of the circle with the component's area.
    """
    count, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros(len(DIAMETER_BINS) - 1, np.int64)
    diameters = np.sqrt(4.0 * statistics[1:, cv2.CC_STAT_AREA] / np.pi) / longer_side_px
    return np.histogram(np.log2(diameters).clip(DIAMETER_BINS[0], DIAMETER_BINS[-1]), DIAMETER_BINS)[0].astype(np.int64)


def _count_findings(released: Mapping[str, int], listing: Listing, folder: Path) -> Iterator[Finding]:
    for split, expected in released.items():
        found = len(listing.records.get(split, ())) + listing.dropped.get(split, 0)
        if found != expected:
            text, action = f"{found} photographs in the {split} part", "get the missing photographs if you need them"
            yield Finding(str(folder), "count", "warning", text, f"{expected}, as released", action)


def find_leakage(segmented: DatasetReport, graded: DatasetReport, distance: int) -> Iterator[Finding]:
    """Yields a finding for each pixel-labelled photograph that is in the graded data set too: no grader may see it.

    Args:
        segmented: Report of the pixel-labelled data set.
        graded: Report of the graded data set.
        distance: Most bits by which the hashes of two photographs of one eye differ (`data.leakage_distance`).
    """
    hashes, others = ([p.dhash for p in report.photographs] for report in (segmented, graded))
    for i, j, bits in find_near_duplicates(hashes, others, distance):
        first, second = segmented.photographs[i].record, graded.photographs[j].record
        if first.image == second.image:
            yield Finding(
                str(first.image), "masks_and_grade", "note", "masks and a grade", "one of the two",
                "nothing: its grade evaluates pseudo-labels, and no grader is trained on it",
            )  # fmt: skip
            continue
        yield Finding(
            str(second.image), "leakage", "warning", f"{_relation(bits)} {first.image}, {bits} bits differ",
            "graders that have not seen the pixel-labelled photographs",
            "nothing: it is kept out of the graders' training (data.leakage)",
        )  # fmt: skip


def _relation(bits: int) -> str:
    return "the same photograph as" if bits <= SAME_IMAGE_BITS else "the same eye as"


def _duplicate_findings(
    photographs: list[CheckedPhotograph], hashes: Mapping[Path, str], distance: int
) -> Iterator[Finding]:
    """Yields a finding for each pair in one data set that shows the same photograph or the same eye."""
    dhashes = [p.dhash for p in photographs]
    for i, j, bits in find_near_duplicates(dhashes, dhashes, distance):
        if i >= j:
            continue
        first, second = photographs[i], photographs[j]
        identical = hashes[first.record.image] == hashes[second.record.image]
        what = "the same file as" if identical else _relation(bits)
        details = "" if identical else f", {bits} bits differ"
        kind, expected = "duplicate" if identical else "near_duplicate", "each photograph once"
        action = "nothing: both go into the same fold, or one is left out"
        if bits > SAME_IMAGE_BITS:
            kind, expected = "same_eye", "all photographs of an eye in one fold or split"
        if bits <= SAME_IMAGE_BITS and first.record.grade != second.record.grade:
            kind, expected = "conflicting_grades", "one grade for each photograph"
            details += f"; grades {first.record.grade} and {second.record.grade}"
            action = "nothing: both are left out; or correct one of the grades"
        elif first.split != second.split:
            kind = f"{kind}_across_splits"
            action = "nothing: it is left out of the training part (data.leakage)"
        yield Finding(str(second.record.image), kind, "warning", f"{what} {first.record.image}{details}", expected, action)

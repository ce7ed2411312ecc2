"""Reads every raw file of a set once and says what is wrong with it, file by file, in memory that does not grow.

An error is what `prepare` would stop at; a warning is what somebody should look at; a note says how a file is read that
others read wrongly. Of each photograph only its hash, its grade and some counters stay.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.records import RawRecord
from pldmlt_jax.data.datasets.registry import dataset_spec
from pldmlt_jax.data.preprocessing.field_of_view import MIN_SHARE, field_of_view
from pldmlt_jax.data.preprocessing.geometry import read_image
from pldmlt_jax.data.preprocessing.hash_cache import hash_files
from pldmlt_jax.data.preprocessing.masks import (
    apply_mask_rule,
    brightest_channel,
    mask_levels,
    read_annotation,
    read_mask_pixels,
)
from pldmlt_jax.data.splits.near_duplicates import SAME_IMAGE_BITS, difference_hash, find_near_duplicates
from pldmlt_jax.errors import ErrorGroup, UserError
from pldmlt_jax.io.progress import OnProgress
from pldmlt_jax.types import EVIDENCE

SEVERITIES = ("error", "warning", "note")

DIAMETER_BINS = np.linspace(-14.0, 0.0, 14 * 8 + 1)
"""Edges of the histogram of lesions' diameters: log2 of their share of the field of view's longer side."""

DARK = 20
"""A photograph whose field of view is darker than this on average, of 255, has hardly anything to see."""

MOST_OF_THE_FIELD = 0.5
"""A lesion mask that covers more of the field of view than this is probably black where it should be white."""

MUCH_OUTSIDE = 0.02
"""Share of a mask that may lie outside the field of view, for outlines are drawn coarsely."""


@dataclass(frozen=True)
class Finding:
    """One thing about one file."""

    file: str
    kind: str
    severity: str  # one of SEVERITIES
    found: str
    expected: str
    action: str


@dataclass
class CheckedPhotograph:
    """What stays of a photograph."""

    record: RawRecord
    split: str
    dhash: UInt8[np.ndarray, "72"]


@dataclass
class DatasetReport:
    """One set: what was found, and what its lesions measure."""

    name: str  # a key of DATASETS
    findings: list[Finding] = field(default_factory=list)
    photographs: list[CheckedPhotograph] = field(default_factory=list)
    ungradable: Mapping[str, int] = field(default_factory=dict)
    diameters: Int[np.ndarray, "5 112"] = field(
        default_factory=lambda: np.zeros((len(EVIDENCE), len(DIAMETER_BINS) - 1), np.int64)
    )  # connected components by EVIDENCE and DIAMETER_BINS
    longer_sides_px: list[int] = field(default_factory=list)  # of the fields of view


def check_dataset(name: str, data: DataConfig, on_progress: OnProgress | None = None) -> DatasetReport:
    """Reads every file of a set.

    Args:
        name: A key of DATASETS.
        data: Where the files are.
        on_progress: Called with the number done, the number in all and the image's name.
    """
    report = DatasetReport(name)
    try:
        listing = dataset_spec(name).listing(data)
    except UserError as error:
        report.findings += _as_findings(error, "layout")
        return report
    report.ungradable = listing.dropped
    for error in listing.errors:
        report.findings += _as_findings(error, "listing")
    records = [(split, record) for split, found in listing.records.items() for record in found]
    report.findings += list(_count_findings(name, listing.records, listing.dropped, data))
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(data.num_threads) as pool:
        for done, ((split, record), one) in enumerate(
            zip(records, pool.map(lambda pair: _check_one(pair[1], data), records), strict=True), start=1
        ):
            report.findings += one.findings
            report.diameters += one.diameters
            if one.dhash is not None:
                report.photographs.append(CheckedPhotograph(record, split, one.dhash))
                report.longer_sides_px.append(one.longer_side_px)
            if on_progress:
                on_progress(done, len(records), record.image_id)
    if dataset_spec(name).has_masks and report.photographs and not report.diameters.any():
        where, expected = str(dataset_spec(name).builder.raw_folder(data)), "lesions in some of them"
        action = "look at the masks: were they saved as black?"
        report.findings.append(Finding(where, "no_lesions", "warning", "no lesion in any mask", expected, action))
    hashes = hash_files((p.record.image for p in report.photographs), data.cache_dir, data.num_threads)
    report.findings += list(_repeated(report.photographs, hashes, data.leakage_distance))
    return report


def find_leakage(segmented: DatasetReport, graded: DatasetReport, distance: int) -> Iterator[Finding]:
    """Photographs of the pixel-labelled set that stand in the graded set as well: no grader may see them."""
    hashes, others = ([p.dhash for p in report.photographs] for report in (segmented, graded))
    for i, j, bits in find_near_duplicates(hashes, others, distance):
        first, second = segmented.photographs[i].record, graded.photographs[j].record
        if first.image == second.image:
            yield Finding(
                str(first.image), "masks_and_grade", "note", "masks and a grade", "either",
                "nothing: its grade evaluates pseudo-labels, no grader is trained on it",
            )  # fmt: skip
            continue
        yield Finding(
            str(second.image), "leakage", "warning", f"{_alike(bits)} {first.image}, {bits} bits differ",
            "graders that have not seen the pixel-labelled photographs",
            "nothing: it is kept out of the graders' training (data.leakage)",
        )  # fmt: skip


@dataclass
class _One:
    findings: list[Finding] = field(default_factory=list)
    diameters: np.ndarray = field(default_factory=lambda: np.zeros((len(EVIDENCE), len(DIAMETER_BINS) - 1), np.int64))
    dhash: np.ndarray | None = None
    longer_side_px: int = 0


def _as_findings(error: UserError, kind: str) -> list[Finding]:
    errors = error.errors if isinstance(error, ErrorGroup) else (error,)
    return [Finding(e.where, kind, "error", e.found, e.expected, e.action) for e in errors]


def _check_one(record: RawRecord, data: DataConfig) -> _One:
    one = _One()
    try:
        image = read_image(record.image)
    except UserError as error:
        one.findings += _as_findings(error, "image")
        return one
    fov = field_of_view(image)
    rows, columns = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
    one.longer_side_px = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    one.dhash = difference_hash(image, fov)
    one.findings += list(_image_findings(record, image, fov))
    masks: dict[str, np.ndarray] = {}
    try:
        if record.markings:
            annotation = read_annotation(record, image.shape[:2], data)
            masks |= annotation.masks
            if annotation.disc is not None:
                one.findings += list(_disc_findings(record, image, fov, annotation.disc))
    except UserError as error:
        one.findings += _as_findings(error, "markings")
    for name, path in [*(record.masks or {}).items(), *([("OD", record.disc)] if record.disc else [])]:
        try:
            pixels = read_mask_pixels(path)
            masks[name] = apply_mask_rule(brightest_channel(pixels), path, image.shape[:2], record.mask_rule)
            one.findings += list(_mask_findings(path, pixels, masks[name], fov, record.mask_rule))
        except UserError as error:
            one.findings += _as_findings(error, "mask")
    for i, name in enumerate(EVIDENCE):
        if name in masks:
            one.diameters[i] = diameter_histogram(masks[name], one.longer_side_px)
    return one


def diameter_histogram(mask: Bool[np.ndarray, "h w"], longer_side_px: int) -> Int[np.ndarray, "112"]:
    """Connected components by DIAMETER_BINS; a diameter is that of the circle of the same area."""
    count, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros(len(DIAMETER_BINS) - 1, np.int64)
    diameters = np.sqrt(4.0 * statistics[1:, cv2.CC_STAT_AREA] / np.pi) / longer_side_px
    return np.histogram(np.log2(diameters).clip(DIAMETER_BINS[0], DIAMETER_BINS[-1]), DIAMETER_BINS)[0].astype(np.int64)


def _image_findings(record: RawRecord, image: np.ndarray, fov: np.ndarray) -> Iterator[Finding]:
    brightness = float(image.max(axis=-1)[fov].mean())
    if brightness < DARK:
        found = f"mean brightness {brightness:.0f} of 255"
        yield Finding(str(record.image), "dark", "warning", found, "a lit photograph", "look at it")
    if fov.mean() < 2 * MIN_SHARE:
        found = f"a field of view of {100 * fov.mean():.0f} % of the picture"
        yield Finding(str(record.image), "field_of_view", "warning", found, "a fundus photograph", "look at it")


def _mask_findings(path: Path, pixels: np.ndarray, mask: np.ndarray, fov: np.ndarray, rule: str) -> Iterator[Finding]:
    """What somebody should look at in a mask, and what others read wrongly in it."""
    levels = mask_levels(brightest_channel(pixels))
    if len(levels) > 2:
        how = {"upper_half": "half of the brightest and more is set", "not_black": "all but black is set"}[rule]
        found = f"{len(levels)} grey levels, {levels[0]} to {levels[-1]}"
        yield Finding(str(path), "mask_levels", "warning", found, "black and one other", f"look at it: {how}")
    if not mask.any() and rule == "not_black":
        yield Finding(str(path), "mask_black", "warning", "all black", "no file where there is no lesion", "look at it")
    if not mask.any() and rule == "upper_half":
        yield Finding(str(path), "mask_black", "note", "all black", "either", "nothing: read as none of that lesion")
    if mask[fov].mean() > MOST_OF_THE_FIELD:
        found = f"{100 * mask[fov].mean():.0f} % of the field of view is set"
        yield Finding(str(path), "mask_inverted", "warning", found, "lesions white, background black", "invert it")
    elif (outside := np.count_nonzero(mask & ~fov)) > MUCH_OUTSIDE * max(np.count_nonzero(mask), 1):
        found = f"{outside} of {np.count_nonzero(mask)} marked pixels lie outside the field of view"
        yield Finding(str(path), "mask_outside", "warning", found, "lesions inside", "is it the mask of this photograph?")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        found = f"alpha from {pixels[..., 3].min()} to {pixels[..., 3].max()}"
        yield Finding(str(path), "mask_alpha", "note", found, "no alpha", "nothing: it is ignored")
    if pixels.dtype == np.uint8 and len(levels) > 1:
        grey = cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2GRAY) if pixels.ndim == 3 else pixels
        if (bright := int(grey.max())) < 128:
            found = f"{bright} at most when read in grey"
            yield Finding(str(path), "mask_dark", "note", found, "255", "nothing: any colour is read as set")


def _disc_findings(record: RawRecord, image: np.ndarray, fov: np.ndarray, disc: np.ndarray) -> Iterator[Finding]:
    """The optic disc is the brightest large spot: marks that are elsewhere belong to another photograph."""
    grey = image[..., 1]  # green: lesions and vessels are dark in it, the disc is bright
    inside, field_mean = float(grey[disc].mean()), float(grey[fov].mean())
    if inside < field_mean:
        found = f"disc marks where green is {inside:.0f}, {field_mean:.0f} in the whole field"
        expected, action = "disc marks on the bright disc", "are images and markings renumbered? Compare with the release"
        yield Finding(str(record.image), "disc_marks", "warning", found, expected, action)


def _count_findings(
    name: str, records: Mapping[str, list[RawRecord]], dropped: Mapping[str, int], data: DataConfig
) -> Iterator[Finding]:
    spec = dataset_spec(name)
    for split, released in spec.released.items():
        found = len(records.get(split, ())) + dropped.get(split, 0)
        if found != released:
            where = str(spec.builder.raw_folder(data))
            text = f"{found} photographs of the {split} part"
            yield Finding(where, "count", "warning", text, f"{released}, as released", "get the rest, if you want it")


def _alike(bits: int) -> str:
    return "the same photograph as" if bits <= SAME_IMAGE_BITS else "the same eye as"


def _repeated(photographs: list[CheckedPhotograph], hashes: Mapping[Path, str], distance: int) -> Iterator[Finding]:
    """The same photograph or eye more than once in one set: by content, or by what it shows."""
    by_content: dict[str, list[CheckedPhotograph]] = defaultdict(list)
    for p in photographs:
        by_content[hashes[p.record.image]].append(p)
    seen = [p.dhash for p in photographs]
    for i, j, bits in find_near_duplicates(seen, seen, distance):
        if i >= j:
            continue
        first, second = photographs[i], photographs[j]
        identical = hashes[first.record.image] == hashes[second.record.image]
        what = "the same file as" if identical else _alike(bits)
        details = "" if identical else f", {bits} bits differ"
        kind, expected = "duplicate" if identical else "near_duplicate", "each photograph once"
        action = "nothing: both go into the same fold, or one is left out"
        if bits > SAME_IMAGE_BITS:
            kind, expected = "same_eye", "all photographs of an eye in one fold or split"
        if bits <= SAME_IMAGE_BITS and first.record.grade != second.record.grade:
            kind, expected = "conflicting_grades", "one grade a photograph"
            details += f"; grades {first.record.grade} and {second.record.grade}"
            action = "nothing: both are left out; or correct one"
        elif first.split != second.split:
            kind = f"{kind}_across_splits"
            action = "nothing: it is left out of the training part (data.leakage)"
        yield Finding(str(second.record.image), kind, "warning", f"{what} {first.record.image}{details}", expected, action)

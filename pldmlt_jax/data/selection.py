"""Which images of the prepared sets a run trains on, validates on and reports."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.folds import split_indices
from pldmlt_jax.data.leakage import same_photographs
from pldmlt_jax.data.prepared import PreparedSplit, open_prepared
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.types import LESIONS, UNKNOWN_GRADE

OnProgress = Callable[[int, int, str], None]


class Selection(NamedTuple):
    """Some images of one prepared split."""

    split: PreparedSplit
    indices: np.ndarray  # int64, positions in the split

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def image_ids(self) -> list[str]:
        return [self.split.image_ids[i] for i in self.indices]


def evidence_pattern(evidence_px: np.ndarray) -> str:
    """The lesions that an image has, as the stratum of its fold: known before any pseudo-label, the same in every run."""
    return "+".join(lesion for lesion, pixels in zip(LESIONS, evidence_px, strict=True) if pixels > 0) or "none"


def select_segmented(
    data: DataConfig, on_progress: OnProgress | None = None, *, size_px: int | None = None
) -> dict[str, Selection]:
    """Train, val, test and, where it is on disk, official_test of the pixel-labelled set."""
    prepared = open_prepared(data.segmentation, data, size_px or data.size_px, on_progress)
    strata: list[Hashable] = [evidence_pattern(row.evidence_px) for row in prepared["train"].metadata]
    return _selections(prepared, split_indices(strata, data, mode=data.split))


def select_graded(
    data: DataConfig, size_px: int, segmented: dict[str, Selection], on_progress: OnProgress | None = None
) -> dict[str, Selection]:
    """The same of the graded set, stratified by grade, without photographs that stand in the pixel-labelled set."""
    prepared = open_prepared(data.grading, data, size_px, on_progress)
    strata: list[Hashable] = [row.grade for row in prepared["train"].metadata]
    selections = _selections(prepared, split_indices(strata, data, mode=data.grading_split))
    if data.leakage == "as_paper":
        return selections
    leaking = leaking_images(prepared, segmented, data.leakage_distance)
    repeated = repeated_images(prepared, data.leakage_distance)
    excluded = {id(split): leaking[name] | repeated[name] for name, split in prepared.items()}  # names recur in splits
    return {name: without(selection, excluded[id(selection.split)]) for name, selection in selections.items()}


def without(selection: Selection, image_ids: set[str]) -> Selection:
    """The selection less some images."""
    kept = [i for i in selection.indices if selection.split.image_ids[i] not in image_ids]
    return Selection(selection.split, np.array(kept, int))


def leaking_images(
    prepared: dict[str, PreparedSplit], segmented: dict[str, Selection], distance: int
) -> dict[str, set[str]]:
    """Images of each official split of the graded set whose photograph stands in the pixel-labelled set as well."""
    hashes = [row.dhash for split in _official_splits(segmented) for row in split.metadata]
    return {
        name: {split.image_ids[i] for i, _, _ in same_photographs([row.dhash for row in split.metadata], hashes, distance)}
        for name, split in prepared.items()
    }


def repeated_images(prepared: dict[str, PreparedSplit], distance: int) -> dict[str, set[str]]:
    """Images of each official split to leave out because the same photograph stands in the set more than once.

    One of each such group stays, of the test split if it has one; none stays where their grades contradict each other.
    """
    names = sorted(prepared)  # "test" before "train"
    rows = [(name, row) for name in names for row in prepared[name].metadata]
    hashes = [row.dhash for _, row in rows]
    left_out: dict[str, set[str]] = {name: set() for name in names}
    for i, j, _ in same_photographs(hashes, hashes, distance):
        contradict = rows[i][1].grade != rows[j][1].grade
        if i < j or (i != j and contradict):
            name, row = rows[j]
            left_out[name].add(row.image_id)
    return left_out


def choose_split(selections: dict[str, Selection], name: str = "") -> tuple[str, Selection]:
    """Name and images of a split; without a name the test images, or the validation images where there are none on disk.

    Raises:
        ConfigError: The set on disk has no such split.
    """
    name = name or ("test" if "test" in selections else "val")
    if name not in selections:
        raise ConfigError(
            "--split",
            f"{name!r}",
            f"one of {', '.join(selections)}",
            "the official test images are not under data.root; choose a split that is there",
        )
    return name, selections[name]


def known_grades(segmented: dict[str, Selection], graded: dict[str, Selection], distance: int) -> dict[Path, int]:
    """True grades of pixel-labelled photographs, by file: to evaluate pseudo-labels, never to train on.

    They come with the set, or from the graded set where the same photograph stands in it, unless it does so twice with
    different grades.
    """
    found: dict[Path, set[int]] = defaultdict(set)
    given: dict[Path, int] = {}
    for split in _official_splits(segmented):
        given |= {record.image: record.true_grade for record in split.records if record.true_grade != UNKNOWN_GRADE}
        hashes = [row.dhash for row in split.metadata]
        for other in _official_splits(graded):
            for i, j, _ in same_photographs(hashes, [row.dhash for row in other.metadata], distance):
                found[split.records[i].image].add(other.metadata[j].grade)
    return {image: grades.pop() for image, grades in found.items() if len(grades) == 1} | given


def _official_splits(selections: dict[str, Selection]) -> list[PreparedSplit]:
    return [selections[name].split for name in ("train", "official_test") if name in selections]


def describe(segmented: dict[str, Selection], graded: dict[str, Selection], data: DataConfig) -> dict[str, Any]:
    """What `data.json` records: who is in which split, lesion pixels before and after fusion, leakage."""
    train = segmented["train"].split
    rows = [
        train.metadata[i]
        for name in ("train", "val", "test")
        if name in segmented
        for i in segmented[name].indices
        if segmented[name].split is train
    ]
    official = {"train": graded["train"].split} | (
        {"test": graded["official_test"].split} if "official_test" in graded else {}
    )
    leaking = leaking_images(official, segmented, data.leakage_distance)
    excluded = sum(map(len, leaking.values())) if data.leakage == "exclude" else 0
    return {
        "segmentation": {
            "dataset": data.segmentation,
            "size_px": data.size_px,
            "splits": {name: selection.image_ids for name, selection in segmented.items()},
            "inflation": {
                lesion: float(np.mean(values))
                for lesion in LESIONS
                if (values := [row.inflation[lesion] for row in rows if row.inflation.get(lesion) is not None])
            },
            "fused_px": {
                "before": int(sum(row.fused_px[0] for row in rows)),
                "after": int(sum(row.fused_px[1] for row in rows)),
            },
        },
        "grading": {
            "dataset": data.grading,
            "grades": {name: grade_counts(selection) for name, selection in graded.items()},
        },
        "leakage": {
            "rule": data.leakage,
            "pairs": sum(map(len, leaking.values())),
            "excluded": excluded,
            "images": {name: sorted(images) for name, images in leaking.items()},
            "repeated": {name: sorted(images) for name, images in repeated_images(official, data.leakage_distance).items()},
        },
    }


def grade_counts(selection: Selection) -> dict[str, int]:
    """Number of images of each grade."""
    counts = Counter(selection.split.metadata[i].grade for i in selection.indices)
    return {str(grade): counts[grade] for grade in sorted(counts)}


def _selections(prepared: dict[str, PreparedSplit], indices: dict[str, np.ndarray]) -> dict[str, Selection]:
    selections = {name: Selection(prepared["train"], chosen) for name, chosen in indices.items()}
    if "test" in prepared:
        official = Selection(prepared["test"], np.arange(len(prepared["test"])))
        selections["official_test"] = official
        selections.setdefault("test", official)
    return selections

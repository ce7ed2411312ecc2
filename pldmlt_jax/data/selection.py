"""Which images of the prepared sets a run trains on, validates on and reports."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping
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
    pairs = leaking_pairs(prepared, segmented, data.leakage_distance)
    repeated = repeated_images(prepared, data.leakage_distance)
    excluded = {  # by split, for names recur in splits
        id(split): repeated[name] | {pair.grading_image for pair in pairs if pair.grading_split == name}
        for name, split in prepared.items()
    }
    return {name: without(selection, excluded[id(selection.split)]) for name, selection in selections.items()}


def without(selection: Selection, image_ids: set[str]) -> Selection:
    """The selection less some images."""
    kept = [i for i in selection.indices if selection.split.image_ids[i] not in image_ids]
    return Selection(selection.split, np.array(kept, int))


class SamePhotograph(NamedTuple):
    """An image of the graded set whose photograph stands in the pixel-labelled set as well."""

    grading_split: str
    grading_image: str
    segmentation_image: str
    differing_bits: int  # of the 256 bits of their hashes


def leaking_pairs(
    prepared: dict[str, PreparedSplit], segmented: dict[str, Selection], distance: int
) -> list[SamePhotograph]:
    """Every pair of the same photograph in the graded and in the pixel-labelled set, by official split of the graded."""
    others = [row for split in _official_splits(segmented) for row in split.metadata]
    hashes = [row.dhash for row in others]
    return [
        SamePhotograph(split_name, split.image_ids[i], others[j].image_id, bits)
        for split_name, split in prepared.items()
        for i, j, bits in same_photographs([row.dhash for row in split.metadata], hashes, distance)
    ]


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


def held_out(splits: Collection[str]) -> str:
    """The split that figures are reported on: the test images, or the validation images where none are on disk."""
    return "test" if "test" in splits else "val"


def choose_splits(sets: Mapping[str, Collection[str]], name: str = "") -> dict[str, str]:
    """The split of each set that has it; without a name the one that is held out.

    Args:
        sets: The names of the splits of each set, by the set's name.
        name: Of the split.

    Raises:
        ConfigError: No set on disk has such a split.
    """
    chosen = {key: name or held_out(splits) for key, splits in sets.items()}
    chosen = {key: split for key, split in chosen.items() if split in sets[key]}
    if not chosen:
        there = "; ".join(f"{', '.join(splits)} ({key})" for key, splits in sets.items())
        action = "choose one that is there; the official test images may not be on disk"
        raise ConfigError("--split", f"{name!r}", f"one of {there}", action)
    return chosen


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
    pairs = leaking_pairs(official, segmented, data.leakage_distance)
    leaking = {pair[:2] for pair in pairs}
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
            "images": len(leaking),
            "excluded": len(leaking) if data.leakage == "exclude" else 0,
            "pairs": [pair._asdict() for pair in pairs],
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

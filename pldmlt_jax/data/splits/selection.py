"""Which images of the prepared sets a run trains on, validates on and reports."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.registry import parse_set_names
from pldmlt_jax.data.preprocessing.store import ImageMetadata, PreparedSplit, concatenate_splits, open_prepared
from pldmlt_jax.data.splits.folds import read_folds, split_indices, stratified_folds
from pldmlt_jax.data.splits.near_duplicates import SAME_IMAGE_BITS, find_near_duplicates, group_near_duplicates
from pldmlt_jax.errors import ConfigError, DataError
from pldmlt_jax.io.progress import OnProgress
from pldmlt_jax.types import EVIDENCE, UNKNOWN_GRADE

HELD_OUT_FIRST = ("test", "val", "train")
"""Official splits, in the order in which they keep a photograph that several of them hold."""


ALL = "all"
"""In place of a split's name: every image of a set, to score a network on a set that it has not learnt from."""


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
    return "+".join(lesion for lesion, pixels in zip(EVIDENCE, evidence_px, strict=True) if pixels > 0) or "none"


def select_segmented(
    data: DataConfig, on_progress: OnProgress | None = None, *, size_px: int | None = None
) -> dict[str, Selection]:
    """Train, val, test and, where it is on disk, official_test of the pixel-labelled set.

    No photograph is in two folds, nor in a fold and in an official part that is held out, and no other one of the same eye.
    """
    prepared = open_prepared(data.segmentation, data, size_px or data.size_px, on_progress)
    selections = _selections(prepared, data, data.split, segmentation_strata)
    if data.leakage == "as_paper":
        return selections
    repeated = find_duplicates_within_set(official_splits(selections), data.leakage_distance, among_training=False)
    return {
        name: exclude_images(selection, repeated[selection.split.name]) if name in ("train", "val") else selection
        for name, selection in selections.items()
    }


def select_graded(
    data: DataConfig, size_px: int, segmented: dict[str, Selection], on_progress: OnProgress | None = None
) -> dict[str, Selection]:
    """The same of the graded set, stratified by grade, without photographs that stand in the pixel-labelled set."""
    prepared = open_prepared(data.grading, data, size_px, on_progress)
    selections = _selections(prepared, data, data.grading_split, lambda split: [row.grade for row in split.metadata])
    if data.leakage == "as_paper":
        return selections
    official = official_splits(selections)
    excluded = find_duplicates_within_set(official, data.leakage_distance)
    for pair in find_duplicates_across_sets(official, segmented, data.leakage_distance):
        excluded[pair.grading_split].add(pair.grading_image)
    return {name: exclude_images(selection, excluded[selection.split.name]) for name, selection in selections.items()}


def segmentation_strata(split: PreparedSplit) -> list[Hashable]:
    """The set that an image is from and the lesions that it has."""
    return [
        f"{name} {evidence_pattern(row.evidence_px)}" for (name, _), row in zip(split.origins, split.metadata, strict=True)
    ]


def exclude_images(selection: Selection, image_ids: set[str]) -> Selection:
    """The selection less some images."""
    kept = [i for i in selection.indices if selection.split.image_ids[i] not in image_ids]
    return Selection(selection.split, np.array(kept, int))


def keep_truly_graded(selection: Selection) -> Selection:
    """Those images whose true grade the set gives."""
    return _where(selection, lambda row: row.true_grade != UNKNOWN_GRADE)


def keep_graded(selection: Selection) -> Selection:
    """Those images that have a grade, of the graded set or given with the pixel-labelled one."""
    return _where(selection, lambda row: {row.grade, row.true_grade} != {UNKNOWN_GRADE})


def _where(selection: Selection, holds: Callable[[ImageMetadata], bool]) -> Selection:
    kept = [int(i) for i in selection.indices if holds(selection.split.metadata[i])]
    return Selection(selection.split, np.array(kept, int))


class NearDuplicate(NamedTuple):
    """An image of the graded set whose photograph, or another of the same eye, stands in the pixel-labelled set as well."""

    grading_split: str
    grading_image: str
    segmentation_image: str
    differing_bits: int  # of their hashes

    @property
    def same_photograph(self) -> bool:
        return self.differing_bits <= SAME_IMAGE_BITS


def find_duplicates_across_sets(
    official: Sequence[PreparedSplit], segmented: dict[str, Selection], distance: int
) -> list[NearDuplicate]:
    """Every photograph or eye that stands in the graded and in the pixel-labelled set, by official split of the graded."""
    others = [row for split in official_splits(segmented) for row in split.metadata]
    hashes = [row.dhash for row in others]
    return [
        NearDuplicate(split.name, split.image_ids[i], others[j].image_id, bits)
        for split in official
        for i, j, bits in find_near_duplicates([row.dhash for row in split.metadata], hashes, distance)
    ]


def find_duplicates_within_set(
    official: Sequence[PreparedSplit], distance: int, *, among_training: bool = True
) -> dict[str, set[str]]:
    """Images of each official split to leave out because the same photograph stands in the set more than once, or another
    photograph of the same eye in a split that is held out.

    One of each such group stays, of the test split if it has one, or else of the validation split; none stays where the
    grades of the same photograph contradict each other.

    Args:
        official: Splits of one set.
        distance: See `find_near_duplicates`.
        among_training: Also look inside the training split; folds keep such images together.
    """
    splits = sorted(official, key=lambda split: HELD_OUT_FIRST.index(split.name))
    rows = [(split.name, row) for split in splits for row in split.metadata]
    hashes = [row.dhash for _, row in rows]
    left_out: dict[str, set[str]] = {split.name: set() for split in splits}
    for i, j, bits in find_near_duplicates(hashes, hashes, distance):
        same_photograph, same_split = bits <= SAME_IMAGE_BITS, rows[i][0] == rows[j][0]
        if same_split and (not same_photograph or (rows[i][0] == "train" and not among_training)):
            continue
        contradict = same_photograph and rows[i][1].grade != rows[j][1].grade
        if i < j or (i != j and contradict):
            name, row = rows[j]
            left_out[name].add(row.image_id)
    return left_out


def held_out_split(splits: Collection[str]) -> str:
    """The split that figures are reported on: the test images, or the validation images where none are on disk."""
    return "test" if "test" in splits else "val"


def choose_splits(sets: Mapping[str, Collection[str]], name: str = "") -> dict[str, str]:
    """The split of each set that has it; without a name the one that is held out.

    Args:
        sets: The names of the splits of each set, by the set's name.
        name: Of the split, or ALL, which every set has.

    Raises:
        ConfigError: No set on disk has such a split.
    """
    chosen = {key: name or held_out_split(splits) for key, splits in sets.items()}
    chosen = {key: split for key, split in chosen.items() if split in sets[key] or (split == ALL and sets[key])}
    if not chosen:
        there = "; ".join(f"{', '.join(splits)} ({key})" for key, splits in sets.items())
        action = "choose one that is there; the official test images may not be on disk"
        raise ConfigError("--split", f"{name!r}", f"one of {there}", action)
    return chosen


def select_split(selections: dict[str, Selection], split: str) -> Selection:
    """The selection of a split; with ALL all images of the set, those that are left out of training included."""
    if split != ALL:
        return selections[split]
    return select_all(concatenate_splits({part.name: part for part in official_splits(selections)}, ALL))


def known_grades(segmented: dict[str, Selection], graded: dict[str, Selection]) -> dict[Path, int]:
    """True grades of pixel-labelled photographs, by file: to evaluate pseudo-labels, never to train on.

    They come with the set, or from the graded set where the same photograph stands in it, unless it does so twice with
    different grades.
    """
    found: dict[Path, set[int]] = defaultdict(set)
    given: dict[Path, int] = {}
    for split in official_splits(segmented):
        given |= {record.image: record.true_grade for record in split.records if record.true_grade != UNKNOWN_GRADE}
        hashes = [row.dhash for row in split.metadata]
        for other in official_splits(graded):
            for i, j, _ in find_near_duplicates(hashes, [row.dhash for row in other.metadata], SAME_IMAGE_BITS):
                found[split.records[i].image].add(other.metadata[j].grade)
    return {image: grades.pop() for image, grades in found.items() if len(grades) == 1} | given


def require_lesion_types(segmented: dict[str, Selection]) -> None:
    """For networks that tell lesions apart.

    Raises:
        DataError: Some masks do not say which lesion they show, and would be learnt as background.
    """
    untyped = EVIDENCE.index("untyped")
    found = [row.image_id for split in official_splits(segmented) for row in split.metadata if row.evidence_px[untyped] > 0]
    if found:
        what = f"{len(found)} images whose masks do not say which lesion they show, the first {found[0]}"
        raise DataError("loss.target", what, "masks of MA, HE, EX and SE", "take --config.loss.target=fused")


def official_splits(selections: dict[str, Selection]) -> list[PreparedSplit]:
    """The prepared splits that the selections are of, each once."""
    return list({id(selection.split): selection.split for selection in selections.values()}.values())


def _selections(
    prepared: dict[str, PreparedSplit],
    data: DataConfig,
    mode: str,
    strata_of: Callable[[PreparedSplit], list[Hashable]],
) -> dict[str, Selection]:
    """Images by their use: parts of the official training split, and the set's own val and test where it has them."""
    if mode == "all_folds":
        prepared = {"train": concatenate_splits(prepared, "train")}
    train = prepared["train"]
    strata, groups = strata_of(train), group_same_eyes(train, data)
    folds = None if mode == "official" else assign_folds(train, strata, groups, data)
    indices = split_indices(strata, data, groups, folds)
    selections = {name: Selection(train, chosen) for name, chosen in indices.items()}
    if "val" in prepared and mode == "official":
        selections |= {"train": select_all(train), "val": select_all(prepared["val"])}
    if "test" in prepared:
        official = select_all(prepared["test"])
        selections["official_test"] = official
        selections.setdefault("test", official)
    return selections


def group_same_eyes(split: PreparedSplit, data: DataConfig) -> Int[np.ndarray, "n"]:
    """See `group_near_duplicates`."""
    return group_near_duplicates([row.dhash for row in split.metadata], data.leakage_distance)


def assign_folds(
    split: PreparedSplit, strata: Sequence[Hashable], groups: Int[np.ndarray, "n"], data: DataConfig
) -> Int[np.ndarray, "n"]:
    """The fold of each image: our own, or those of `data.folds_file` where the set is the pixel-labelled one.

    Raises:
        UserError: See `read_folds`; or the same photograph is in two of the given folds.
    """
    if not data.folds_file or split.origins[0][0] not in parse_set_names(data.segmentation):
        return stratified_folds(strata, data.num_folds, data.split_seed, groups)
    folds = read_folds(Path(data.folds_file), split.origins, data.num_folds)
    torn = [i for i, first in enumerate(groups) if folds[i] != folds[first]]
    if torn and data.leakage == "exclude":
        pairs = ", ".join(f"{split.image_ids[i]} and {split.image_ids[int(groups[i])]}" for i in torn)
        action = "put them into one fold, or take them as they are by --config.data.leakage=as_paper"
        raise DataError(data.folds_file, f"the same photograph in two folds: {pairs}", "each photograph in one", action)
    return folds


def select_all(split: PreparedSplit) -> Selection:
    """Every image of a split."""
    return Selection(split, np.arange(len(split)))

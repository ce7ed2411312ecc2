"""Selects the images that a run trains on, validates on and tests on.

A `PreparedSplit` holds one official split of a data set, prepared and stored on disk. A `Selection` is the images of such a
split that a run uses for one purpose: a validation fold, for example, is a selection from the official training split.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.registry import parse_set_names
from pldmlt_jax.data.preprocessing.prepared_split import ImageMetadata, PreparedSplit, concatenate_splits
from pldmlt_jax.data.records import Listing
from pldmlt_jax.data.splits.folds import read_folds, split_indices, stratified_folds
from pldmlt_jax.data.splits.near_duplicates import (
    SAME_IMAGE_BITS,
    find_duplicates_across_sets,
    find_duplicates_within_set,
    find_near_duplicates,
    group_near_duplicates,
)
from pldmlt_jax.data.store import open_prepared
from pldmlt_jax.errors import ConfigError, DataError
from pldmlt_jax.types import EVIDENCE, UNKNOWN_GRADE

ALL = "all"
"""Instead of the name of a split: every image of a set, to score a network on a set that it was not trained on."""


class Selection(NamedTuple):
    """Some images of a prepared split.

    Attributes:
        split: The split.
        indices: int64 [n], the positions of the images in the split.
    """

    split: PreparedSplit
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def image_ids(self) -> list[str]:
        return [self.split.image_ids[i] for i in self.indices]


def evidence_pattern(evidence_px: np.ndarray) -> str:
    """Returns the names of the lesions of an image, joined by "+".

    They stratify the folds, because they are known before any pseudo-label.
    """
    return "+".join(lesion for lesion, pixels in zip(EVIDENCE, evidence_px, strict=True) if pixels > 0) or "none"


def select_segmented(
    data: DataConfig, *, size_px: int | None = None, listings: Mapping[str, Listing] | None = None
) -> dict[str, Selection]:
    """Selects the splits of the pixel-labelled set: train, val, test and, if it is on disk, official_test.

    Near duplicates are never in two folds, nor in a fold and in an official split that is held out.

    Args:
        data: The set, how to prepare it, and how to split it.
        size_px: Side of the prepared images; None: `data.size_px`.
        listings: The raw files of each set, if they are listed already.

    Raises:
        UserError: All bad files at once, or the folds file does not fit the set.
    """
    prepared = open_prepared(data.segmentation, data, size_px or data.size_px, listings)
    selections = _selections(prepared, data, data.split, segmentation_strata)
    if data.leakage == "as_paper":
        return selections
    repeated = find_duplicates_within_set(official_splits(selections), data.leakage_distance, among_training=False)
    return {
        name: exclude_images(selection, repeated[selection.split.name]) if name in ("train", "val") else selection
        for name, selection in selections.items()
    }


def select_graded(
    data: DataConfig, size_px: int, segmented: dict[str, Selection], listings: Mapping[str, Listing] | None = None
) -> dict[str, Selection]:
    """Selects the splits of the graded set, stratified by grade, without near duplicates of pixel-labelled images.

    Args:
        data: The set, how to prepare it, and how to split it.
        size_px: Side of the prepared images.
        segmented: The splits of the pixel-labelled set.
        listings: The raw files of each set, if they are listed already.

    Raises:
        UserError: All bad files at once.
    """
    prepared = open_prepared(data.grading, data, size_px, listings)
    selections = _selections(prepared, data, data.grading_split, lambda split: [row.grade for row in split.metadata])
    if data.leakage == "as_paper":
        return selections
    official = official_splits(selections)
    excluded = find_duplicates_within_set(official, data.leakage_distance)
    for pair in find_duplicates_across_sets(official, official_splits(segmented), data.leakage_distance):
        excluded[pair.grading_split].add(pair.grading_image)
    return {name: exclude_images(selection, excluded[selection.split.name]) for name, selection in selections.items()}


def segmentation_strata(split: PreparedSplit) -> list[Hashable]:
    """Returns the stratum of each image: its set and its lesions."""
    return [
        f"{name} {evidence_pattern(row.evidence_px)}" for (name, _), row in zip(split.origins, split.metadata, strict=True)
    ]


def exclude_images(selection: Selection, image_ids: set[str]) -> Selection:
    """Removes images from a selection."""
    kept = [i for i in selection.indices if selection.split.image_ids[i] not in image_ids]
    return Selection(selection.split, np.array(kept, int))


def keep_truly_graded(selection: Selection) -> Selection:
    """Keeps the images whose true grade the set gives."""
    return _where(selection, lambda row: row.true_grade != UNKNOWN_GRADE)


def keep_graded(selection: Selection) -> Selection:
    """Keeps the images that have a grade, to train on or true."""
    return _where(selection, lambda row: {row.grade, row.true_grade} != {UNKNOWN_GRADE})


def _where(selection: Selection, holds: Callable[[ImageMetadata], bool]) -> Selection:
    kept = [int(i) for i in selection.indices if holds(selection.split.metadata[i])]
    return Selection(selection.split, np.array(kept, int))


def held_out_split(splits: Collection[str]) -> str:
    """Returns the split that metrics are reported on: the test images or, if none are on disk, the validation images."""
    return "test" if "test" in splits else "val"


def choose_splits(sets: Mapping[str, Collection[str]], name: str = "") -> dict[str, str]:
    """Chooses the split of each set that is scored.

    Args:
        sets: The names of the splits of each set.
        name: The split, or ALL, which every set has; "": the held-out split of each set.

    Returns:
        The split of each set that has it.

    Raises:
        ConfigError: No set has such a split.
    """
    chosen = {key: name or held_out_split(splits) for key, splits in sets.items()}
    chosen = {key: split for key, split in chosen.items() if split in sets[key] or (split == ALL and sets[key])}
    if not chosen:
        there = "; ".join(f"{', '.join(splits)} ({key})" for key, splits in sets.items())
        action = "choose one of these; the official test images may not be on disk"
        raise ConfigError("--split", f"{name!r}", f"one of {there}", action)
    return chosen


def select_split(selections: dict[str, Selection], split: str) -> Selection:
    """Selects the images of a split; ALL: every image of the set, including those that are left out of training."""
    if split != ALL:
        return selections[split]
    return select_all(concatenate_splits({part.name: part for part in official_splits(selections)}, ALL))


def known_grades(segmented: dict[str, Selection], graded: dict[str, Selection]) -> dict[Path, int]:
    """Collects the true grades of pixel-labelled images by file, to evaluate pseudo-labels, never to train on.

    They come with the set, or from the graded set if the same photograph is in it, unless its grades there contradict each
    other.
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
    """Checks that a network that distinguishes lesions can be trained on the masks.

    Raises:
        DataError: Some masks do not say which lesion they show, and would count as background.
    """
    untyped = EVIDENCE.index("untyped")
    found = [row.image_id for split in official_splits(segmented) for row in split.metadata if row.evidence_px[untyped] > 0]
    if found:
        what = f"{len(found)} images whose masks do not say which lesion they show, the first {found[0]}"
        raise DataError("loss.target", what, "masks of MA, HE, EX and SE", "take --config.loss.target=fused")


def official_splits(selections: dict[str, Selection]) -> list[PreparedSplit]:
    """Returns the prepared splits that the selections are taken from, each once."""
    return list({id(selection.split): selection.split for selection in selections.values()}.values())


def _selections(
    prepared: dict[str, PreparedSplit],
    data: DataConfig,
    mode: str,
    strata_of: Callable[[PreparedSplit], list[Hashable]],
) -> dict[str, Selection]:
    """Selects parts of the official training split, and the set's own val and test if it has them."""
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
    """Groups the near duplicates of a split; see `group_near_duplicates`."""
    return group_near_duplicates([row.dhash for row in split.metadata], data.leakage_distance)


def assign_folds(
    split: PreparedSplit, strata: Sequence[Hashable], groups: Int[np.ndarray, "n"], data: DataConfig
) -> Int[np.ndarray, "n"]:
    """Assigns each image to a fold: that of `data.folds_file`, if it is given for this set, or a stratified one.

    Raises:
        UserError: See `read_folds`; or the file has near duplicates in two folds.
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
    """Selects every image of a split."""
    return Selection(split, np.arange(len(split)))

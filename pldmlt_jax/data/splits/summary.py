"""Summarizes the data of a run for `data.json`: splits, folds, near duplicates, and what was left out."""

from collections import Counter
from typing import Any

import numpy as np

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing.masks import Components
from pldmlt_jax.data.splits.near_duplicates import find_duplicates_across_sets, find_duplicates_within_set
from pldmlt_jax.data.splits.selection import (
    Selection,
    assign_folds,
    group_same_eyes,
    official_splits,
    segmentation_strata,
)
from pldmlt_jax.types import LESIONS


def dataset_summary(segmented: dict[str, Selection], graded: dict[str, Selection], data: DataConfig) -> dict[str, Any]:
    """Summarizes what `data.json` records.

    Args:
        segmented: The splits of the pixel-labelled set.
        graded: The splits of the graded set; empty: none is used.
        data: The config of the data.

    Returns:
        Images of each split, lesion pixels and components before and after the reduction, near duplicates, and bad files.
    """
    train = segmented["train"].split
    rows = [
        train.metadata[i]
        for name in ("train", "val", "test")
        if name in segmented
        for i in segmented[name].indices
        if segmented[name].split is train
    ]
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
            "lesions": {
                lesion: {
                    "area_px": int(sum(row.lesion_px[i] for row in rows)),
                    "area_px_reduced": round(sum(row.reduced_px[i] * row.geometry.area_scale for row in rows)),
                    "components": Components(*(int(sum(row.components[i, k] for row in rows)) for k in range(3)))._asdict(),
                }
                for i, lesion in enumerate(LESIONS)
            },
            "fused_px": {
                "before": int(sum(row.fused_px[0] for row in rows)),
                "after": int(sum(row.fused_px[1] for row in rows)),
            },
            **_left_out(segmented),
        },
        "grading": {
            "dataset": data.grading,
            "grades": {name: grade_counts(selection) for name, selection in graded.items()},
            **_left_out(graded),
        },
        "leakage": near_duplicate_summary(segmented, graded, data),
    }


def _left_out(selections: dict[str, Selection]) -> dict[str, Any]:
    official = official_splits(selections)
    return {
        "bad_files": list(dict.fromkeys(message for split in official for message in split.skipped)),
        "ungradable": {split.name: split.num_dropped for split in official},
    }


def near_duplicate_summary(
    segmented: dict[str, Selection], graded: dict[str, Selection], data: DataConfig
) -> dict[str, Any]:
    """Summarizes the near duplicates between the sets and within each of them."""
    official = official_splits(graded)
    pairs = find_duplicates_across_sets(official, official_splits(segmented), data.leakage_distance)
    leaking, same = ({pair[:2] for pair in pairs if pair.same_photograph or eyes} for eyes in (True, False))
    repeated = {
        "grading": find_duplicates_within_set(official, data.leakage_distance),
        "segmentation": find_duplicates_within_set(official_splits(segmented), data.leakage_distance, among_training=False),
    }
    return {
        "rule": data.leakage,
        "images": len(same),
        "same_eye": len(leaking) - len(same),
        "excluded": len(leaking) if data.leakage == "exclude" else 0,
        "pairs": [pair._asdict() for pair in pairs],
        "repeated": {key: {name: sorted(images) for name, images in found.items()} for key, found in repeated.items()},
    }


def grade_counts(selection: Selection) -> dict[str, int]:
    """Counts the images of each grade."""
    counts = Counter(selection.split.metadata[i].grade for i in selection.indices)
    return {str(grade): counts[grade] for grade in sorted(counts)}


def fold_rows(segmented: dict[str, Selection], data: DataConfig) -> list[tuple[str, str, str, int]]:
    """Returns set, name, stratum and fold of each image for `write_folds`; nothing if the splits are official."""
    if data.split == "official":
        return []
    split = segmented["train"].split
    strata = segmentation_strata(split)
    folds = assign_folds(split, strata, group_same_eyes(split, data), data)
    return [(*origin, str(stratum), int(fold)) for origin, stratum, fold in zip(split.origins, strata, folds, strict=True)]

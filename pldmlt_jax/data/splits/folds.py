"""Splits images into folds and validation sets: stratified, seeded, near duplicates together."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from pldmlt_jax.config import DataConfig
from pldmlt_jax.errors import DataError, UserError, raise_all
from pldmlt_jax.io.csv_files import read_rows, write_rows

FOLD_COLUMNS = ("set", "image", "stratum", "fold")


def stratified_folds(
    strata: Sequence[Hashable], num_folds: int, seed: int, groups: Int[np.ndarray, "n"] | None = None
) -> Int[np.ndarray, "n"]:
    """Assigns each item to a fold so that each stratum is spread evenly and no group is in two folds.

    Args:
        strata: The stratum of each item; a group has the stratum of its first item.
        num_folds: Number of folds; their sizes differ by at most one group.
        seed: Seed of the order within a stratum.
        groups: The position of the first item of each item's group; None: each item is a group.

    Returns:
        The fold of each item, 0 to `num_folds - 1`.
    """
    rng = np.random.default_rng(seed)
    own = np.arange(len(strata)) if groups is None else groups
    members = defaultdict(list)
    for i in np.unique(own):
        members[strata[int(i)]].append(int(i))
    dealt = [i for stratum in sorted(members, key=repr) for i in rng.permutation(members[stratum])]
    folds = np.empty(len(strata), np.int64)
    folds[dealt] = np.arange(len(dealt)) % num_folds  # dealt like cards, stratum after stratum
    return folds[own]


def split_indices(
    strata: Sequence[Hashable],
    data: DataConfig,
    groups: Int[np.ndarray, "n"] | None = None,
    folds: Int[np.ndarray, "n"] | None = None,
) -> dict[str, Int[np.ndarray, "m"]]:
    """Splits images into a stratified share for validation, `val`, and the others, `train`.

    Args:
        strata: The stratum of each image.
        data: The fold, the share for validation and the seed.
        groups: See `stratified_folds`.
        folds: The fold of each image; fold `data.fold` becomes `test`. None: no `test`.

    Returns:
        The positions of the images of each split.
    """
    everything = np.arange(len(strata))
    groups = everything if groups is None else groups
    result, rest = {}, everything
    if folds is not None:
        result["test"], rest = everything[folds == data.fold], everything[folds != data.fold]
    parts = max(round(1.0 / data.val_share), 2)
    _, first, member = np.unique(groups[rest], return_index=True, return_inverse=True)
    val = stratified_folds([strata[int(i)] for i in rest], parts, data.split_seed + 1, first[member]) == 0
    return {"train": rest[~val], "val": rest[val]} | result


def write_folds(path: Path, rows: Sequence[tuple[str, str, str, int]]) -> None:
    """Writes a CSV with a set, an image, its stratum and its fold in each row."""
    write_rows(path, [dict(zip(FOLD_COLUMNS, row, strict=True)) for row in rows])


def read_folds(path: Path, images: Sequence[tuple[str, str]], num_folds: int) -> Int[np.ndarray, "n"]:
    """Reads the fold of each image from a CSV with the columns image, fold and, for pooled sets, set.

    Args:
        path: The CSV; `write_folds` makes one.
        images: Set and name of each image.
        num_folds: Folds are 0 to `num_folds - 1`.

    Raises:
        UserError: The file or a column is missing, a fold is out of range, or an image has no row; all at once.
    """
    if not path.is_file():
        raise DataError(path, "no such file", "a CSV with the columns set, image, fold", "check --config.data.folds_file")
    errors: list[UserError] = []
    found: dict[tuple[str, str], int] = {}
    for line, row in read_rows(path, ("image", "fold")):
        fold = row["fold"].strip()
        if fold in map(str, range(num_folds)):
            found[row.get("set", ""), row["image"].strip()] = int(fold)
        else:
            expected = f"0 to {num_folds - 1}"
            errors.append(DataError(f"{path}, line {line}", f"fold {fold!r}", expected, "correct it, or data.num_folds"))
    folds = [found.get((name, image), found.get(("", image), -1)) for name, image in images]
    if lost := [f"{name} {image}" for (name, image), fold in zip(images, folds, strict=True) if fold < 0]:
        what = f"no fold for {len(lost)} of {len(images)} images, the first {lost[0]}"
        errors.append(DataError(path, what, "a row for each image", "add them, or take the folds of this set"))
    raise_all(errors)
    return np.array(folds, np.int64)

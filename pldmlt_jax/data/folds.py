"""Which training images validate and which are held out: stratified, seeded, each image in one place."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int

from pldmlt_jax.config import DataConfig


def stratified_folds(strata: Sequence[Hashable], num_folds: int, seed: int) -> Int[np.ndarray, "n"]:
    """Assigns each item to a fold, so that folds differ by at most one in size and each stratum is spread evenly.

    Args:
        strata: The stratum of each item.
        num_folds: Number of folds.
        seed: Of the order within a stratum.

    Returns:
        Fold of each item, 0 to `num_folds - 1`.
    """
    rng = np.random.default_rng(seed)
    members = defaultdict(list)
    for i, stratum in enumerate(strata):
        members[stratum].append(i)
    dealt = [i for stratum in sorted(members, key=repr) for i in rng.permutation(members[stratum])]
    folds = np.empty(len(strata), np.int64)
    folds[dealt] = np.arange(len(dealt)) % num_folds  # dealt like cards, stratum after stratum
    return folds


def split_indices(strata: Sequence[Hashable], data: DataConfig, *, mode: str) -> dict[str, Int[np.ndarray, "m"]]:
    """Positions of the official training images by their use.

    Args:
        strata: The stratum of each official training image.
        data: Gives the fold, the share for validation and the seed.
        mode: "folds": fold `data.fold` is `test`, and of the rest a stratified share is `val`; "official": there is no
            `test` among them.
    """
    everything = np.arange(len(strata))
    result, rest = {}, everything
    if mode == "folds":
        folds = stratified_folds(strata, data.num_folds, data.split_seed)
        result["test"], rest = everything[folds == data.fold], everything[folds != data.fold]
    parts = max(round(1.0 / data.val_share), 2)
    val = stratified_folds([strata[int(i)] for i in rest], parts, data.split_seed + 1) == 0
    return {"train": rest[~val], "val": rest[val]} | result

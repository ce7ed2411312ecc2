"""Prepares data sets, packs them into array_record files and opens them."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.base import FundusBuilder, FundusConfig
from pldmlt_jax.data.datasets.registry import RawListings, dataset_spec, parse_set_names
from pldmlt_jax.data.preprocessing.prepare import prepare_listing, prepare_records, prepared_paths
from pldmlt_jax.data.preprocessing.prepared_split import PreparedSplit, concatenate_splits
from pldmlt_jax.data.records import Listing, RawRecord
from pldmlt_jax.errors import DataError, UserError, collect_errors, raise_all
from pldmlt_jax.io.files import sync_tree
from pldmlt_jax.io.locks import locked
from pldmlt_jax.io.progress import show_progress


def open_prepared(
    name: str, data: DataConfig, size_px: int, listings: Mapping[str, Listing] | None = None
) -> dict[str, PreparedSplit]:
    """Opens a data set at a size; images that are not prepared yet are prepared first.

    Args:
        name: A key of DATASETS, or several joined by "+", which are pooled split by split.
        data: Where the raw files are, and how to prepare them.
        size_px: Side of the square.
        listings: The raw files of each set, if they are listed already.

    Returns:
        The official splits that have images.

    Raises:
        UserError: All bad files at once.
    """
    listings = RawListings(data) if listings is None else listings
    builders = prepare_set(name, data, size_px, listings)
    errors: list[UserError] = []
    sets: dict[str, dict[str, PreparedSplit]] = {}
    for part, builder in builders.items():
        with collect_errors(errors):
            sets[part] = _open_packed(part, builder, listings[part])
    raise_all(errors)
    if len(sets) == 1:
        return sets[name]
    splits = dict.fromkeys(split for found in sets.values() for split in found)
    return {
        split: concatenate_splits({part: found[split] for part, found in sets.items() if split in found}, split)
        for split in splits
    }


def prepare_set(
    name: str, data: DataConfig, size_px: int, listings: Mapping[str, Listing] | None = None
) -> dict[str, FundusBuilder]:
    """Prepares a data set at a size and packs it into array_record files, unless that has been done.

    Args:
        name: A key of DATASETS, or several joined by "+".
        data: Where the raw files are, and how to prepare them.
        size_px: Side of the square.
        listings: The raw files of each set, if they are listed already.

    Returns:
        The TFDS builder of each set.

    Raises:
        UserError: All bad files at once; what is prepared stays prepared.
    """
    listings = RawListings(data) if listings is None else listings
    errors: list[UserError] = []
    builders: dict[str, FundusBuilder] = {}
    for part in parse_set_names(name):
        with collect_errors(errors):
            builders[part] = _prepare_and_pack(part, data, size_px, listings[part])
    raise_all(errors)
    return builders


def _prepare_and_pack(name: str, data: DataConfig, size_px: int, listing: Listing) -> FundusBuilder:
    """Packs the set under a lock; prepared files, which an interrupted run resumes from, are removed afterwards."""
    paths = {split: prepared_paths(found, data, size_px) for split, found in listing.records.items() if found}
    keys = json.dumps({split: [path.stem for path in found] for split, found in paths.items()})
    config = FundusConfig(f"{size_px}-{hashlib.sha256(keys.encode()).hexdigest()[:12]}", size_px=size_px, data=data)
    make_builder = functools.partial(dataset_spec(name).builder, data_dir=Path(data.cache_dir) / "tfds")
    logging.getLogger("absl").setLevel(logging.ERROR)
    builder = make_builder(config=config)
    if not builder.is_prepared():
        folder = Path(builder.data_dir).parent
        with locked(folder / ".lock"):  # a process that waited here may find the set packed
            if not make_builder(config=config).is_prepared():
                for stale in folder.glob("*incomplete*"):
                    shutil.rmtree(stale)
                with show_progress(f"prepare {name} at {size_px} px") as task:
                    prepared = prepare_listing(listing, data, size_px, task)
                _pack(make_builder(config=dataclasses.replace(config, prepared=prepared)))
        builder = make_builder(config=config)
    if leftover := [path for path in itertools.chain(*paths.values()) if path.exists()]:
        sync_tree(Path(builder.data_dir))
        for path in leftover:
            path.unlink(missing_ok=True)  # another process may remove it at the same time
    return builder


def _pack(builder: FundusBuilder) -> None:
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # our own progress line has been printed
        builder.download_and_prepare(file_format="array_record")


def _open_packed(name: str, builder: Any, listing: Listing) -> dict[str, PreparedSplit]:
    """Opens the splits of a packed set; images that are not in it are reported as `data.on_bad_file` says.

    Raises:
        UserError: All bad files at once, unless they may be left out.
    """
    names = [split for split in listing.records if split in builder.info.splits]
    decoders = {"image": tfds.decode.SkipDecoding(), "mask_bits": tfds.decode.SkipDecoding()}
    sources = dict(zip(names, builder.as_data_source(split=names, decoders=decoders), strict=True))
    records, bad = {}, []
    for split, listed in listing.records.items():
        packed = sources.get(split, ())
        if len(packed) != len(listed):
            packed_ids = {packed[i]["image_id"].decode() for i in range(len(packed))}
            bad += [record for record in listed if record.image_id not in packed_ids]
            listed = [record for record in listed if record.image_id in packed_ids]
        records[split] = listed
    config = builder.builder_config
    errors = [*listing.errors, *_explain_missing(bad, config, builder.data_dir)]
    if config.data.on_bad_file == "stop":
        raise_all(errors)
    skipped = tuple(str(error) for error in errors)
    return {
        split: PreparedSplit(
            source,
            records[split],
            split,
            [(name, record.image_id) for record in records[split]],
            skipped,
            listing.dropped.get(split, 0),
        )
        for split, source in sources.items()
    }


def _explain_missing(records: Sequence[RawRecord], config: FundusConfig, folder: str) -> list[UserError]:
    """Reads images again that the packed set lacks, to say what is wrong with each."""
    errors: list[UserError] = []
    for record, outcome in zip(records, prepare_records(records, config.data, config.size_px), strict=True):
        if isinstance(outcome, Path):  # another version of a library can read it
            outcome.unlink(missing_ok=True)
            found = f"a set without {record.image}, which can be read now"
            action = "remove that folder, and run prepare again"
            outcome = DataError(folder, found, "every image that can be read", action)
        errors.append(outcome)
    return errors

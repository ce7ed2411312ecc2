"""Fingerprints: hashes of everything that the result of a stage depends on. A stage with an unchanged one is skipped."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pldmlt_jax.config import NO_SET, DataConfig, fields
from pldmlt_jax.data.datasets.registry import parse_set_names
from pldmlt_jax.data.preprocessing.hash_cache import hash_files
from pldmlt_jax.data.preprocessing.prepare import PREPARATION_VERSION
from pldmlt_jax.data.records import Listing
from pldmlt_jax.data.synthetic.dataset import DRAWING_VERSION
from pldmlt_jax.errors import UserError, collect_errors, raise_all
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.method_stages import Stage

IGNORED_FIELDS = (
    *("data.root", "data.idrid_root", "data.diaretdb1_root", "data.ddr_root", "data.folder_root"),
    *("data.folds_file", "data.cache_dir", "data.num_threads", "model.weights", "grader.weights", "train.init_from"),
    "train.save_every_minutes",
)
"""Fields that change no result: of raw files, folds and weights the content is hashed, not the path."""

LENGTH_FIELDS = ("train.max_rounds", "train.max_minutes", "train.patience_rounds", "train.on_nonfinite")
"""Fields that only say when training ends: longer training resumes, unless the learning rate follows a schedule."""


class Fingerprint(NamedTuple):
    """Hashes of everything that the result of a stage depends on: raw files, weights, config, files of earlier stages.

    Attributes:
        begun: Hash without LENGTH_FIELDS; a stage resumes what was begun with the same hash.
        complete: Hash with them; a stage that was completed with the same hash is skipped.
    """

    begun: str
    complete: str


def compute_fingerprint(stage: Stage, context: Context, raw: Mapping[str, str]) -> Fingerprint:
    """Computes the fingerprint of a stage.

    Args:
        stage: The stage.
        context: The run.
        raw: The fingerprints of the raw files, see `fingerprint_raw_sets`.
    """
    config, workdir = context.config, context.workdir
    read = sorted(path for pattern in stage.reads for path in workdir.glob(pattern))
    facts = [
        *(raw[name] for name in stage.dataset_fields(config)),
        *(hash_named_file(path, str(path.relative_to(workdir))) for path in read),
        *(hash_named_file(Path(name), "weights") if name else "no weights" for name in stage.weights(config)),
        context.options.split if stage.read_only else "",
        context.options.checkpoint if stage.read_only else "",
    ]
    ignored = IGNORED_FIELDS + stage.ignored_fields + stage.ignored_fields_for(config)
    read_fields = {name: value for name, value in fields(config) if name.startswith(stage.config_prefixes)}
    values = {name: value for name, value in read_fields.items() if name not in ignored}
    # A learning rate that follows a schedule depends on max_rounds, so that a change of it trains anew.
    length_fields = LENGTH_FIELDS if config.optim.schedule == "constant" else LENGTH_FIELDS[1:]
    begun = {name: value for name, value in values.items() if name not in length_fields}
    return Fingerprint(
        *(hashlib.sha256(json.dumps([facts, chosen]).encode()).hexdigest()[:16] for chosen in (begun, values))
    )


def fingerprint_raw_sets(
    data: DataConfig, listings: Mapping[str, Listing], errors: list[UserError], *, defer_errors: bool
) -> dict[str, str]:
    """Fingerprints the raw files of the pixel-labelled and of the graded sets.

    Args:
        data: Names the sets.
        listings: The raw files of each set.
        errors: Errors found before.
        defer_errors: Whether bad files are left to the stage `prepare`, which also finds errors inside the files.

    Returns:
        "segmentation" and "grading" -> a text that changes whenever the raw files change.

    Raises:
        UserError: A set is missing or has bad files; all errors at once, including those found before.
    """
    raw: dict[str, str] = {"grading": NO_SET}
    bad_files: list[UserError] = []
    for field in ("segmentation", "grading") if data.grading != NO_SET else ("segmentation",):
        for name in parse_set_names(getattr(data, field)):
            with collect_errors(errors):
                raw[field] = raw.get(field, "") + fingerprint_raw_files(name, data, listings, bad_files)
    if folds_file := data.folds_file:
        raw["segmentation"] = raw.get("segmentation", "") + hash_named_file(Path(folds_file), "folds")
    if errors or not defer_errors:
        errors += bad_files
    raise_all(errors)
    return raw


def fingerprint_raw_files(name: str, data: DataConfig, listings: Mapping[str, Listing], bad_files: list[UserError]) -> str:
    """Fingerprints the raw files of a set: relative path and hash of each file, split and grades of each image.

    Synthetic images are determined by the config and DRAWING_VERSION, so none of their files is hashed.

    Args:
        name: A key of DATASETS.
        data: Says whether bad files are left out (`on_bad_file`).
        listings: The raw files of each set.
        bad_files: Errors of single files are appended, unless bad files are left out.

    Raises:
        UserError: The set as a whole is missing or does not have its layout.
    """
    if name.startswith("synthetic"):
        return f"{name} drawn {DRAWING_VERSION}, prepared {PREPARATION_VERSION}"
    listing = listings[name]
    if not listing.records.get("train"):
        raise_all(listing.errors)
    wrong = listing.errors if data.on_bad_file == "stop" else ()
    bad_files += wrong
    records = [(split, record) for split, found in listing.records.items() for record in found]
    hashes = hash_files((path for _, record in records for path in record.files), data.cache_dir, data.num_threads)
    base = os.path.commonpath(list(hashes))
    contents = [f"{os.path.relpath(path, base)} {digest}" for path, digest in sorted(hashes.items())]
    grades = [f"{split} {record.image_id} {record.grade} {record.true_grade}" for split, record in records]
    return "\n".join([f"{name} prepared {PREPARATION_VERSION}", *contents, *grades, *map(str, wrong)])


def hash_named_file(path: Path, name: str) -> str:
    """Returns a name and the hash of the file's content."""
    if not path.is_file():
        return f"{name} absent"
    with open(path, "rb") as file:
        return f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}"

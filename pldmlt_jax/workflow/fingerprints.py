"""What the result of a stage depends on, in one hash: the same means that nothing need be done again."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pldmlt_jax.config import NO_SET, Config, DataConfig, fields
from pldmlt_jax.data.datasets.registry import dataset_spec, parse_set_names
from pldmlt_jax.data.preprocessing.hash_cache import hash_files
from pldmlt_jax.data.preprocessing.prepare import PREPARATION_VERSION
from pldmlt_jax.data.synthetic.dataset import DRAWING_VERSION
from pldmlt_jax.errors import UserError, collect_errors, raise_all
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.stage_table import Stage

IGNORED_FIELDS = (
    *("data.root", "data.idrid_root", "data.diaretdb1_root", "data.ddr_root", "data.folder_root"),
    *("data.folds_file", "data.cache_dir", "data.num_threads", "model.weights", "grader.weights", "train.init_from"),
    "train.save_every_minutes",
)
"""Fields that change no result: of raw files, folds and weights the content counts, not the place."""

LENGTH_FIELDS = ("train.max_rounds", "train.max_minutes", "train.patience_rounds", "train.on_nonfinite")
"""Fields that only say when training ends: with more of it, training goes on, unless its rate follows a plan."""


class Fingerprint(NamedTuple):
    """Hashes of all that a stage's result depends on: raw files, weights, config, files of the stages before it."""

    begun: str  # without LENGTH_FIELDS: what was begun under it can be gone on with
    complete: str


def compute_fingerprint(stage: Stage, context: Context, raw: Mapping[str, str]) -> Fingerprint:
    """The fingerprint of a stage, given the raw files of each set and what earlier stages have left."""
    config, workdir = context.config, context.workdir
    read = sorted(path for pattern in stage.reads for path in workdir.glob(pattern))
    facts = [
        *(raw[name] for name in stage.sets(config)),
        *(hash_named_file(path, str(path.relative_to(workdir))) for path in read),
        *(hash_named_file(Path(name), "weights") if name else "no weights" for name in stage.weights(config)),
        context.options.split if stage.describes else "",
        context.options.checkpoint if stage.describes else "",
    ]
    without = IGNORED_FIELDS + stage.without + stage.without_in(config)
    values = {name: value for name, value in fields(config) if name.startswith(stage.parts) and name not in without}
    length = (
        LENGTH_FIELDS if config.optim.schedule == "constant" else LENGTH_FIELDS[1:]
    )  # a planned rate depends on max_rounds
    begun = {name: value for name, value in values.items() if name not in length}
    return Fingerprint(
        *(hashlib.sha256(json.dumps([facts, chosen]).encode()).hexdigest()[:16] for chosen in (begun, values))
    )


def describe_raw_sets(config: Config, errors: list[UserError], *, defer_errors: bool) -> dict[str, str]:
    """What the raw files of the pixel-labelled and of the graded sets are.

    Args:
        config: Names the sets.
        errors: Found before.
        defer_errors: Whether bad files are left to the stage that tells them together with what is wrong inside the files.

    Raises:
        UserError: What is wrong with them, together with the errors found before.
    """
    raw: dict[str, str] = {"grading": NO_SET}
    bad_files: list[UserError] = []
    for field in ("segmentation", "grading") if config.data.grading != NO_SET else ("segmentation",):
        for name in parse_set_names(getattr(config.data, field)):
            with collect_errors(errors):
                raw[field] = raw.get(field, "") + describe_raw_files(name, config.data, bad_files)
    if folds_file := config.data.folds_file:
        raw["segmentation"] = raw.get("segmentation", "") + hash_named_file(Path(folds_file), "folds")
    if errors or not defer_errors:
        errors += bad_files
    raise_all(errors)
    return raw


def describe_raw_files(name: str, data: DataConfig, bad_files: list[UserError]) -> str:
    """What a set's raw files are: name, below what they have in common, and hash of each, and every split and grade.

    Drawn photographs follow from the config and the way they are drawn. What is wrong with single files is added to the
    list, unless these are left out.

    Raises:
        UserError: What is missing or wrong in the set's folders as a whole.
    """
    if name.startswith("synthetic"):
        return f"{name} drawn {DRAWING_VERSION}, prepared {PREPARATION_VERSION}"
    listing = dataset_spec(name).listing(data)
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
    """A file's name and the hash of its content: a mask that was redrawn often has the size that it had before."""
    if not path.is_file():
        return f"{name} absent"
    with open(path, "rb") as file:
        return f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}"

"""The whole method as a list of stages; a stage that is complete and whose inputs are unchanged is skipped."""

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pldmlt_jax.cli.context import Context, describe_run
from pldmlt_jax.cli.evaluate import evaluate
from pldmlt_jax.cli.flags import Arguments
from pldmlt_jax.cli.predict import predict_examples
from pldmlt_jax.cli.prepare import prepare
from pldmlt_jax.cli.pseudo_label import pseudo_label
from pldmlt_jax.cli.report import report
from pldmlt_jax.cli.train import train
from pldmlt_jax.cli.train_grader import train_graders
from pldmlt_jax.config import Config
from pldmlt_jax.data.specs import dataset_spec
from pldmlt_jax.errors import CheckpointError, UserError, gathered, raise_all


@dataclass(frozen=True)
class Stage:
    """One verb of the pipeline, and all that its result depends on besides the raw photographs.

    Attributes:
        name: The verb.
        run: Does it.
        parts: Parts of the config that it depends on.
        leaves: Files of the workdir that it makes, without which it is not complete.
        reads: Patterns of the files of the workdir that it depends on, which earlier stages make.
        stale: Patterns of what must be neither gone on from nor overwritten when what it depends on changes.
        trains: Whether it goes on from checkpoints, and reads weight files.
        describes: Whether it only describes what is there, and so leaves the workdir's `config.json`.
    """

    name: str
    run: Callable[[Context], None]
    parts: tuple[str, ...]
    leaves: tuple[str, ...]
    reads: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    trains: bool = False
    describes: bool = False


METHOD = ("data", "model", "loss", "meta", "optim", "train", "seed")
TABLES = ("data.json", "metrics.json", "per_image.csv", "pseudo_labels.*", "log.jsonl", "graders/*/metrics.json")
CHECKPOINTS = "checkpoints/*/_CHECKPOINT_METADATA"
"""Orbax' own file, with the time of saving: no two checkpoints share its content."""

STAGES = (
    Stage("prepare", prepare, parts=("data",), leaves=("data.json",)),
    Stage(
        "train-grader", train_graders, parts=("data", "grader", "seed"), leaves=("graders",),
        stale=("graders",), trains=True,
    ),
    Stage(
        "pseudo-label", pseudo_label, parts=("data", "grader", "pseudo"), leaves=("pseudo_labels.csv", "pseudo_labels.json"),
        reads=("graders/*/metrics.json", f"graders/*/{CHECKPOINTS}"),
        stale=("pseudo_labels.csv", "pseudo_labels.json", "cams"),
    ),
    Stage(
        "train", train, parts=METHOD, leaves=("checkpoints", "log.jsonl"), reads=("pseudo_labels.csv",),
        stale=("checkpoints", "log.jsonl", "events.*"), trains=True,
    ),
    Stage(
        "evaluate", evaluate, parts=(*METHOD, "evaluation"), leaves=("metrics.json",),
        reads=(CHECKPOINTS, "graders/*/metrics.json", "pseudo_labels.json"), describes=True,
    ),
    Stage(
        "predict", predict_examples, parts=(*METHOD, "evaluation"), leaves=("predictions/predictions.csv",),
        reads=(CHECKPOINTS,), describes=True,
    ),
    Stage("report", report, parts=(), leaves=("report.html",), reads=TABLES, describes=True),
)  # fmt: skip

WITHOUT_EFFECT = ("root", "idrid_root", "cache_dir", "num_threads")
"""Fields that change no result; what the raw files are is part of the fingerprint itself."""

LENGTH = ("max_rounds", "max_minutes", "patience_rounds")
"""Fields that only say how long training lasts: with more of it, training goes on."""

RECORD = "stages.json"
"""Stage -> the fingerprint that it was begun with, and the one that it was completed with."""

SET_ASIDE = "set_aside"


class Fingerprint(NamedTuple):
    """Hashes of all that a stage's result depends on: raw files, weights, config, files of the stages before it."""

    begun: str  # without LENGTH: what was begun under it can be gone on with
    complete: str


def main(arguments: Arguments) -> None:
    """Runs every stage, or the one that the verb names, and says what came out."""
    started = time.monotonic()
    context = Context(arguments)
    whole = arguments.verb == "run"
    stages = [stage for stage in STAGES if whole or stage.name == arguments.verb]
    raw, errors = raw_files(context.config)
    if any(stage.trains for stage in stages):
        errors += missing_weights(context.config)
    raise_all(errors)
    if whole:
        print(f"{context.config.name}: {context.workdir}", flush=True)
    for stage in stages:
        run_stage(stage, context, raw, may_skip=whole)
    if whole:
        print(closing_lines(context.workdir))
        print(f"done in {time.monotonic() - started:.0f} s; open {context.workdir / 'report.html'}")


def run_stage(stage: Stage, context: Context, raw: str, *, may_skip: bool) -> None:
    """Runs a stage, or says that it is skipped; a stage that was begun goes on from its checkpoints."""
    fingerprint = fingerprint_of(stage, context, raw)
    recorded = read_record(context.workdir).get(stage.name, {})
    there = all((context.workdir / name).exists() for name in stage.leaves)
    if may_skip and there and recorded.get("complete") == fingerprint.complete:
        print(f"{stage.name}: complete and unchanged, skipped", flush=True)
        return
    print(f"{stage.name}:", flush=True)
    if recorded.get("begun") != fingerprint.begun:
        set_aside(stage, context.workdir)
    if may_skip or not stage.describes:
        describe_run(context)
    write_record(context, stage, {"begun": fingerprint.begun})
    stage.run(context)
    write_record(context, stage, fingerprint._asdict())


def set_aside(stage: Stage, workdir: Path) -> None:
    """Moves what was made from another config, other data or other earlier stages out of the way: nothing is lost."""
    stale = [path for pattern in stage.stale for path in sorted(workdir.glob(pattern))]
    if not stale:
        return
    folder = next(f for n in itertools.count(1) if not (f := workdir / SET_ASIDE / f"{n:03d}").exists())
    folder.mkdir(parents=True)
    for path in stale:
        path.rename(folder / path.name)
    print(f"  what it depends on has changed: {', '.join(path.name for path in stale)} moved to {folder}", flush=True)


def fingerprint_of(stage: Stage, context: Context, raw: str) -> Fingerprint:
    """The fingerprint of a stage, given the raw files' and what earlier stages have left."""
    config, workdir = context.config, context.workdir
    found = sorted(path for pattern in stage.reads for path in workdir.glob(pattern))
    facts = [raw, *(described(path, str(path.relative_to(workdir))) for path in found)]
    if stage.trains:
        facts += [described(path, path.name) for path in weight_files(config)]
    if stage.describes:
        facts += [context.arguments.split, context.arguments.checkpoint]
    complete = [part_json(config, part, leave_out=WITHOUT_EFFECT) for part in stage.parts]
    begun = [part_json(config, part, leave_out=WITHOUT_EFFECT + LENGTH) for part in stage.parts]
    return Fingerprint(*(hashlib.sha256("\n".join(facts + parts).encode()).hexdigest()[:16] for parts in (begun, complete)))


def part_json(config: Config, part: str, leave_out: tuple[str, ...]) -> str:
    """One part of the config, or one field of its own, less some fields."""
    value = getattr(config, part)
    facts = {part: value} if isinstance(value, int) else asdict(value)
    return json.dumps({name: fact for name, fact in facts.items() if name not in leave_out}, sort_keys=True)


def raw_files(config: Config) -> tuple[str, list[UserError]]:
    """Name, below what they have in common, and hash of every raw file, and each photograph's split and grades.

    Drawn photographs follow from the config alone.

    Returns:
        That as text, and what is missing or wrong in the folders of both sets.
    """
    names = [name for name in (config.data.segmentation, config.data.grading) if not name.startswith("synthetic")]
    errors: list[UserError] = []
    records = []
    for name in names:
        with gathered(errors):
            found = dataset_spec(name).records(config.data)
            records += [(name, split, record) for split in found for record in found[split]]
    files = sorted({path for *_, record in records for path in record.files})
    base = os.path.commonpath(files) if files else ""
    contents = [described(path, os.path.relpath(path, base)) for path in files]
    grades = [f"{name} {split} {r.image_id} {r.grade} {r.true_grade}" for name, split, r in records]
    return "\n".join(contents + grades), errors


def weight_files(config: Config) -> list[Path]:
    names = (config.model.weights, *config.grader.weights)
    return [Path(name) for name in names if name not in ("", "encoder")]


def missing_weights(config: Config) -> list[UserError]:
    """Told before the first stage, not when a later one asks for them."""
    expected = "torchvision's weights, .pth or .safetensors"
    return [
        CheckpointError(path, "no such file", expected, "check --config.model.weights and --config.grader.weights")
        for path in weight_files(config)
        if not path.is_file()
    ]


def described(path: Path, name: str) -> str:
    """A file's name and the hash of its content: a mask that was redrawn often has the size that it had before."""
    if not path.is_file():
        return f"{name} absent"
    with open(path, "rb") as file:
        return f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def read_record(workdir: Path) -> dict[str, dict[str, str]]:
    path = workdir / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_record(context: Context, stage: Stage, prints: dict[str, str]) -> None:
    context.write_json(RECORD, read_record(context.workdir) | {stage.name: prints})


def closing_lines(workdir: Path) -> str:
    """The handful of figures that matter, each beside its baseline."""
    figures: dict[str, Any] = json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))

    def shown(name: str) -> str:
        value = figures.get(name)
        return "undefined" if value is None else f"{value:.3f}"

    scored = {
        name: figures[f"{key}/split"] for name, key in (("lesions", "seg"), ("grades", "grade")) if f"{key}/split" in figures
    }
    lines = [
        "scored: " + ", ".join(f"{name} on split {split}" for name, split in scored.items()),
        f"lesions, foreground Dice        {shown('seg/foreground/dice')}   "
        f"(best threshold on one colour channel: {shown('baseline/channel_threshold/dice')})",
        f"  at the images' own size       {shown('seg/foreground/dice_original_size')}",
        f"lesions, micro Dice + background {shown('seg/micro_bg/dice')}  "
        f"(all background: {shown('seg/micro_bg/dice_all_background')})",
        f"grades, accuracy                {shown('grade/accuracy')}   "
        f"(majority: {shown('grade/majority')}; n = {figures.get('grade/n')}), kappa {shown('grade/kappa')}",
    ]
    if "pseudo/accuracy_before" in figures:
        lines.append(
            f"pseudo-labels, accuracy         {shown('pseudo/accuracy_before')} -> {shown('pseudo/accuracy_after')} "
            f"by refinement (n = {figures['pseudo/n_known']}; majority {shown('pseudo/majority')})"
        )
    return "\n".join(lines)

"""The whole method as a list of stages; a stage that is complete and whose inputs are unchanged is skipped."""

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
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
from pldmlt_jax.errors import CheckpointError, UserError, raise_all


@dataclass(frozen=True)
class Stage:
    """One verb of the pipeline.

    Attributes:
        name: The verb.
        run: Does it.
        parts: Parts of the config that its result depends on, besides those of the stages before it.
        leaves: Files of the workdir that it makes, without which it is not complete.
        stale: Files and folders that must not be gone on from under another config.
    """

    name: str
    run: Callable[[Context], None]
    parts: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()


STAGES = (
    Stage("prepare", prepare, ("data",), ("data.json",)),
    Stage("train-grader", train_graders, ("seed", "grader"), ("graders",), ("graders",)),
    Stage("pseudo-label", pseudo_label, ("pseudo",), ("pseudo_labels.csv", "pseudo_labels.json"), ("cams",)),
    Stage(
        "train", train, ("model", "loss", "meta", "optim", "train"), ("checkpoints", "log.jsonl"),
        ("checkpoints", "log.jsonl"),
    ),
    Stage("evaluate", evaluate, ("evaluation",), ("metrics.json", "per_image.csv")),
    Stage("predict", predict_examples, (), ("predictions/predictions.csv",)),
    Stage("report", report, (), ("report.html",)),
)  # fmt: skip

WITHOUT_EFFECT = ("root", "idrid_root", "cache_dir", "num_threads")
"""Fields that change no result; what the raw files are is part of the fingerprint itself."""

LENGTH = ("max_rounds", "max_minutes", "patience_rounds")
"""Fields that only say how long training lasts: with more of it, training goes on."""

RECORD = "stages.json"
"""Stage -> the fingerprint that it was begun with, and the one that it was completed with."""

SET_ASIDE = "set_aside"

WEIGHTS_READ_BY = ("train-grader", "train")


class Fingerprint(NamedTuple):
    """Hashes of all that a stage's result depends on: raw files, weights, config parts, the stages before it."""

    begun: str  # without LENGTH: what was begun under it can be gone on with
    complete: str


def main(arguments: Arguments) -> None:
    """Runs every stage, or the one that the verb names, and says what came out."""
    started = time.monotonic()
    context = Context(arguments)
    whole = arguments.verb == "run"
    stages = [stage for stage in STAGES if whole or stage.name == arguments.verb]
    if any(stage.name in WEIGHTS_READ_BY for stage in stages):
        raise_all(missing_weights(context.config))
    prints = fingerprints(context)
    set_aside_stale(context, stages, prints)
    describe_run(context)
    if whole:
        print(f"{context.config.name}: {context.workdir}", flush=True)
    for stage in stages:
        run_stage(stage, context, prints[stage.name], may_skip=whole)
    if whole:
        print(closing_lines(context.workdir))
        print(f"done in {time.monotonic() - started:.0f} s; open {context.workdir / 'report.html'}")


def run_stage(stage: Stage, context: Context, fingerprint: Fingerprint, *, may_skip: bool) -> None:
    """Runs a stage, or says that it is skipped; a stage that was begun goes on from its checkpoints."""
    record = read_record(context.workdir)
    there = all((context.workdir / name).exists() for name in stage.leaves)
    if may_skip and there and record.get(stage.name, {}).get("complete") == fingerprint.complete:
        print(f"{stage.name}: complete and unchanged, skipped", flush=True)
        return
    print(f"{stage.name}:", flush=True)
    context.write_json(RECORD, record | {stage.name: {"begun": fingerprint.begun}})
    stage.run(context)
    context.write_json(RECORD, read_record(context.workdir) | {stage.name: fingerprint._asdict()})


def set_aside_stale(context: Context, stages: Sequence[Stage], prints: Mapping[str, Fingerprint]) -> None:
    """Moves what was begun under another config or other data out of the way, with its config: nothing is lost."""
    workdir, record = context.workdir, read_record(context.workdir)
    changed = [stage for stage in stages if record.get(stage.name, {}).get("begun") != prints[stage.name].begun]
    names = dict.fromkeys(name for stage in changed for name in stage.stale if (workdir / name).exists())
    if not names:
        return
    folder = next(f for n in itertools.count(1) if not (f := workdir / SET_ASIDE / f"{n:03d}").exists())
    folder.mkdir(parents=True)
    for name in names:
        (workdir / name).rename(folder / name)
    if (workdir / "config.json").exists():
        shutil.copy(workdir / "config.json", folder)
    print(f"  the config or the data changed: {', '.join(names)} moved to {folder}", flush=True)


def fingerprints(context: Context) -> dict[str, Fingerprint]:
    """The fingerprint of each stage."""
    config = context.config
    digest = hashlib.sha256(raw_files(config).encode())
    result = {}
    for stage in STAGES:
        if stage.name in WEIGHTS_READ_BY:
            digest.update("".join(described(path, path.name) for path in weight_files(config)).encode())
        if stage.name == "evaluate":
            digest.update(f"{context.arguments.split} {context.arguments.checkpoint}".encode())
        begun = digest.copy()
        for part in stage.parts:
            begun.update(part_json(config, part, leave_out=WITHOUT_EFFECT + LENGTH))
            digest.update(part_json(config, part, leave_out=WITHOUT_EFFECT))
        result[stage.name] = Fingerprint(begun.hexdigest()[:16], digest.hexdigest()[:16])
    return result


def part_json(config: Config, part: str, leave_out: tuple[str, ...]) -> bytes:
    """One part of the config, or one field of its own, less some fields."""
    value = getattr(config, part)
    facts = {part: value} if isinstance(value, int) else asdict(value)
    return json.dumps({name: fact for name, fact in facts.items() if name not in leave_out}, sort_keys=True).encode()


def raw_files(config: Config) -> str:
    """Name, below what they have in common, and hash of every raw file, and each photograph's split and grades.

    Drawn photographs follow from the config alone.
    """
    names = [name for name in (config.data.segmentation, config.data.grading) if not name.startswith("synthetic")]
    records = [
        (name, split, record)
        for name in names
        for split, found in dataset_spec(name).records(config.data).items()
        for record in found
    ]
    files = sorted({path for *_, record in records for path in record.files})
    base = os.path.commonpath(files) if files else ""
    contents = [described(path, os.path.relpath(path, base)) for path in files]
    grades = [f"{name} {split} {r.image_id} {r.grade} {r.true_grade}" for name, split, r in records]
    return "\n".join(contents + grades)


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


def closing_lines(workdir: Path) -> str:
    """The handful of figures that matter, each beside its baseline."""
    figures: dict[str, Any] = json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))

    def shown(name: str) -> str:
        value = figures.get(name)
        return "undefined" if value is None else f"{value:.3f}"

    lines = [
        f"scored: lesions on split {figures['seg/split']}, grades on split {figures['grade/split']}",
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

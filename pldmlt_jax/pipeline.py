"""The whole method as a list of stages; a stage that is complete and whose inputs are unchanged is skipped."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pldmlt_jax.cli.context import Context, start
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
        stale: Files and folders of an earlier config that must not be gone on from.
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
"""Fields that change no result; where the raw files are is hashed with the files themselves."""

RECORD = "stages.json"
"""Stage -> the fingerprint of the config and the raw data that it was completed, or begun, with."""


def main(arguments: Arguments) -> None:
    """Runs every stage and says what came out."""
    begun = time.monotonic()
    context = start(arguments)
    print(f"{context.config.name}: {context.workdir}", flush=True)
    raise_all(missing_weights(context.config))
    prints = fingerprints(context)
    for stage in STAGES:
        run_stage(stage, context, prints[stage.name])
    print(closing_lines(context.workdir))
    print(f"done in {time.monotonic() - begun:.0f} s; open {context.workdir / 'report.html'}")


def run_stage(stage: Stage, context: Context, fingerprint: str) -> None:
    """Runs a stage, or says that it is skipped; a stage begun with the same inputs goes on from its checkpoints."""
    record = read_record(context.workdir)
    complete = all((context.workdir / name).exists() for name in stage.leaves)
    if record.get(stage.name) == f"complete {fingerprint}" and complete:
        print(f"{stage.name}: complete and unchanged, skipped", flush=True)
        return
    print(f"{stage.name}:", flush=True)
    if record.get(stage.name) != f"begun {fingerprint}":
        for name in stage.stale:
            remove(context.workdir / name)
    context.write_json(RECORD, record | {stage.name: f"begun {fingerprint}"})
    stage.run(context)
    context.write_json(RECORD, read_record(context.workdir) | {stage.name: f"complete {fingerprint}"})


def fingerprints(context: Context) -> dict[str, str]:
    """A hash for each stage of all that its result depends on: raw files, config parts, the stages before it."""
    digest = hashlib.sha256(raw_files(context.config).encode())
    result = {}
    for stage in STAGES:
        for part in stage.parts:
            value = getattr(context.config, part)
            facts = {part: value} if isinstance(value, int) else asdict(value)
            relevant = {name: fact for name, fact in facts.items() if name not in WITHOUT_EFFECT}
            digest.update(json.dumps(relevant, sort_keys=True).encode())
        for path in weight_files(context.config) if stage.name in ("train-grader", "train") else ():
            digest.update(described(path).encode())
        result[stage.name] = digest.hexdigest()[:16]
    return result


def raw_files(config: Config) -> str:
    """Name, size and time of every raw file; drawn photographs follow from the config alone."""
    names = [name for name in (config.data.segmentation, config.data.grading) if not name.startswith("synthetic")]
    records = [dataset_spec(name).records(config.data) for name in names]
    files = sorted({path for splits in records for split in splits.values() for r in split for path in r.files})
    return "\n".join(described(path) for path in files)


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


def described(path: Path) -> str:
    stat = path.stat() if path.exists() else None
    return f"{path} {stat.st_size} {stat.st_mtime_ns}" if stat else f"{path} absent"


def read_record(workdir: Path) -> dict[str, str]:
    path = workdir / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def remove(path: Path) -> None:
    """Removes a file or a folder that an earlier config left."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def closing_lines(workdir: Path) -> str:
    """The handful of figures that matter, each beside its baseline."""
    figures: dict[str, Any] = json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))

    def shown(name: str) -> str:
        value = figures.get(name)
        return "undefined" if value is None else f"{value:.3f}"

    lines = [
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

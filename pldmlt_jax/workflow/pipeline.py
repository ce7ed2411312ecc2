"""The whole method, stage by stage; a stage that is complete and whose inputs are unchanged is skipped."""

import itertools
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from pldmlt_jax.config import Config, has_stage_1
from pldmlt_jax.errors import ConfigError, UserError, collect_errors
from pldmlt_jax.io.files import partial_path, read_json, read_json_if_present, remove_leftovers
from pldmlt_jax.io.processes import is_first_process, run_on_first
from pldmlt_jax.models.weights.download import RANDOM_START, fetch_weights
from pldmlt_jax.workflow.context import Context, describe_run
from pldmlt_jax.workflow.fingerprints import Fingerprint, compute_fingerprint, describe_raw_sets
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.stage_table import STAGES, Stage, stages_of
from pldmlt_jax.workflow.stages.train import list_initial_files
from pldmlt_jax.workflow.stages.train_graders import grader_weight_names

RECORD = "stages.json"
"""Stage -> the fingerprint that it was begun with, and the one that it was completed with."""

SET_ASIDE = "set_aside"


def main(options: RunOptions) -> None:
    """Runs every stage, or the one that the verb names, and says what came out."""
    started = time.monotonic()
    context = Context(options)
    whole = options.verb == "run"
    graders = has_stage_1(context.config)
    names = [stage.name for stage in STAGES]
    stages = stages_of(context.config, names) if whole else [stage for stage in STAGES if stage.name == options.verb]
    errors: list[UserError] = missing_weights(context.config, stages)
    if not whole and stages[0].of_stage_1 and not graders:
        found = f"no graded set, or pseudo.source = 'given', and so nothing to do for {options.verb}"
        errors.append(ConfigError("data.grading", found, "a graded set", "name one, or run another verb"))
    deferred = stages[0].name == "prepare"
    raw = run_on_first(lambda: describe_raw_sets(context.config.data, context.listings, errors, defer_errors=deferred))
    if whole:
        print(f"{context.config.name}: {context.workdir}", flush=True)
    for stage in stages:
        run_stage(stage, context, raw, may_skip=whole)
    if not is_first_process():
        return
    if whole or options.verb == "evaluate":
        print(closing_lines(context.workdir))
    if whole:
        print(f"done in {time.monotonic() - started:.0f} s; open {context.workdir / 'report.html'}")


def missing_weights(config: Config, stages: Sequence[Stage]) -> list[UserError]:
    """Fetches published files; what cannot be had is told before the first stage, not when a later one asks for it."""
    errors: list[UserError] = []
    names = {stage.name for stage in stages}
    named = [
        *(grader_weight_names(config) if "train-grader" in names else []),
        *([config.model.weights] if "train" in names else []),
    ]
    for name in sorted(set(named)):
        with collect_errors(errors):
            fetch_weights(name, config.data.cache_dir)
    if "train" in names:
        with collect_errors(errors):
            list_initial_files(config)
    if "encoder" in config.grader.weights and config.model.weights in RANDOM_START and "train-grader" in names:
        found = "'encoder', the file of model.weights, which is empty"
        action = "name torchvision's vgg16-397923af.pth, or start graders at random with --config.grader.weights='(\"\",)'"
        errors.append(
            ConfigError("grader.weights", found, "ImageNet weights of VGG16 in --config.model.weights=FILE", action)
        )
    return errors


def is_complete(context: Context, stages: Sequence[Stage], raw: Mapping[str, str]) -> bool:
    """Whether none of the stages has anything to do; opens no set and asks no device."""
    return all(has_completed(stage, context.workdir, compute_fingerprint(stage, context, raw)) for stage in stages)


class Begun(NamedTuple):
    """What is known when a stage begins."""

    fingerprint: Fingerprint
    recorded: dict[str, str]  # of the last time
    moved: dict[Path, Path]  # by `set_aside`


def run_stage(stage: Stage, context: Context, raw: Mapping[str, str], *, may_skip: bool) -> None:
    """Runs a stage, or says that it is skipped; one that was begun goes on from its checkpoints.

    What cannot be gone on from is set aside first, and put back where the stage finds its input wrong before it has made
    anything. Of several processes the first sees to that, and they share the work where the stage is `shared`.
    """
    begun = run_on_first(lambda: begin_stage(stage, context, raw, may_skip=may_skip))
    if begun is None:
        return
    try:
        if stage.shared:
            prepare_for_all(stage, context)
            stage.run(context)
        else:
            run_on_first(lambda: stage.run(context))
    except UserError:
        if is_first_process() and put_back(begun.moved):
            write_record(context, stage, begun.recorded)
        raise
    if may_skip or not stage.describes:
        describe_run(context)
    write_record(context, stage, begun.fingerprint._asdict())


def prepare_for_all(stage: Stage, context: Context) -> None:
    """The first of several processes prepares the sets, where they are not, before the others open them."""
    if jax.process_count() > 1:
        run_on_first(lambda: context.open_sets(stage.shared))


def begin_stage(stage: Stage, context: Context, raw: Mapping[str, str], *, may_skip: bool) -> Begun | None:
    """Records that a stage begins, with what it cannot go on from out of the way; None where it is skipped."""
    fingerprint = compute_fingerprint(stage, context, raw)
    recorded = read_record(context.workdir).get(stage.name, {})
    if may_skip and has_completed(stage, context.workdir, fingerprint):
        print(f"{stage.name}: complete and unchanged, skipped", flush=True)
        return None
    print(f"{stage.name}:", flush=True)
    goes_on = stage.goes_on and recorded.get("begun") == fingerprint.begun
    unfinished = recorded == {"begun": fingerprint.begun}  # by this very config: there is nothing else to keep
    moved = {} if goes_on or unfinished else set_aside(stage, context.workdir)
    write_record(context, stage, {"begun": fingerprint.begun})
    other = next((one for one in context.others if stage.of_stage_1 and has_completed(stage, one, fingerprint)), None)
    if other is not None:
        take_over(stage, other, context.workdir)
        write_record(context, stage, fingerprint._asdict())
        return None
    return Begun(fingerprint, recorded, moved)


def has_completed(stage: Stage, workdir: Path, fingerprint: Fingerprint) -> bool:
    """Whether a workdir has what the stage leaves, of these very inputs."""
    there = all((workdir / name).exists() for name in stage.leaves)
    return there and read_record(workdir).get(stage.name, {}).get("complete") == fingerprint.complete


def take_over(stage: Stage, other: Path, workdir: Path) -> None:
    """Links what a stage has left in another workdir, for the same inputs: a finished stage's files are never written to."""
    remove_leftovers(workdir)
    for name in (path.name for pattern in stage.stale for path in sorted(other.glob(pattern))):
        partial = partial_path(workdir / name)
        if (other / name).is_dir():
            shutil.copytree(other / name, partial, copy_function=link)
        else:
            link(other / name, partial)
        if (workdir / name).is_dir():  # of a process that was killed while it took this over
            shutil.rmtree(workdir / name)
        partial.rename(workdir / name)
    print(f"  of the same inputs as in {other}, and so taken from there", flush=True)


def link(source: str | Path, target: str | Path) -> None:
    """A second name of a file, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def set_aside(stage: Stage, workdir: Path) -> dict[Path, Path]:
    """Moves what was made from another config, other data or other earlier stages out of the way: nothing is lost.

    Returns:
        Where each file or folder was -> where it is now.
    """
    stale = [path for pattern in stage.stale for path in sorted(workdir.glob(pattern))]
    if not stale:
        return {}
    folder = next(f for n in itertools.count(1) if not (f := workdir / SET_ASIDE / f"{n:03d}").exists())
    folder.mkdir(parents=True)
    moved = {path: path.rename(folder / path.name) for path in stale}
    names = ", ".join(path.name for path in stale)
    print(f"  made from another config or other input, and so moved to {folder}: {names}", flush=True)
    return moved


def put_back(moved: Mapping[Path, Path]) -> bool:
    """Undoes `set_aside`, unless something new stands in the place already; says whether it did."""
    if not moved or any(path.exists() for path in moved):
        return False
    for path, aside in moved.items():
        aside.rename(path)
    for folder in {aside.parent for aside in moved.values()}:
        folder.rmdir()
        print(f"  put back from {folder}", flush=True)
    return True


def read_record(workdir: Path) -> dict[str, dict[str, str]]:
    return read_json_if_present(workdir / RECORD)


def write_record(context: Context, stage: Stage, prints: dict[str, str]) -> None:
    context.write_json(RECORD, read_record(context.workdir) | {stage.name: prints})


def closing_lines(workdir: Path) -> str:
    """The handful of figures that matter, each beside its baseline."""
    figures = read_json(workdir / "metrics.json")

    def shown(name: str) -> str:
        value = figures.get(name)
        return "undefined" if value is None else f"{value:.3f}"

    scored = {
        name: figures[f"{key}/split"] for name, key in (("lesions", "seg"), ("grades", "grade")) if f"{key}/split" in figures
    }
    lines = ["scored: " + (", ".join(f"{name} on split {split}" for name, split in scored.items()) or "nothing")]
    if "lesions" in scored:
        lines += [
            f"lesions, foreground Dice        {shown('seg/foreground/dice')}   "
            f"(best threshold on one colour channel: {shown('baseline/channel_threshold/dice')})",
            f"  at the images' own size       {shown('seg/foreground/dice_original_size')}",
            f"lesions, micro Dice + background {shown('seg/micro_bg/dice')}  "
            f"(all background: {shown('seg/micro_bg/dice_all_background')})",
        ]
    if "seg/mean/aupr_11_exclusive" in figures:
        lines.append(
            f"lesions, mean AUPR (11 points)  {shown('seg/mean/aupr_11_exclusive')}, at the images' own size "
            f"{shown('seg/mean/aupr_11_exclusive_original_size')}"
        )
    if "grade/accuracy" in figures:
        lines.append(
            f"grades, accuracy                {shown('grade/accuracy')}   "
            f"(majority: {shown('grade/majority')}; n = {figures['grade/n']}), kappa {shown('grade/kappa')}"
        )
    if "pseudo/accuracy_before" in figures:
        lines.append(
            f"pseudo-labels, accuracy         {shown('pseudo/accuracy_before')} -> {shown('pseudo/accuracy_after')} "
            f"by refinement (n = {figures['pseudo/n_known']}; majority {shown('pseudo/majority')})"
        )
    return "\n".join(lines)

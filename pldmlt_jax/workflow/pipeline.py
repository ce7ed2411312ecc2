"""Runs the stages of the method in order, and skips those that are complete and whose inputs are unchanged."""

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
from pldmlt_jax.workflow.context import Context, write_run_metadata
from pldmlt_jax.workflow.fingerprints import Fingerprint, compute_fingerprint, fingerprint_raw_sets
from pldmlt_jax.workflow.method_stages import STAGES, Stage, select_stages
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.stages.train import list_initial_files
from pldmlt_jax.workflow.stages.train_graders import grader_weight_names

RECORD = "stages.json"
"""File of the workdir: stage -> the fingerprints with which it was begun and completed."""

SET_ASIDE = "set_aside"
"""Folder of the workdir for results that no longer fit the config or the input."""


def main(options: RunOptions) -> None:
    """Runs all stages, or the one that the verb names, and prints the main results.

    Raises:
        UserError: The config, the data or the weights are wrong; all such errors at once.
    """
    started = time.monotonic()
    context = Context(options)
    run_all = options.verb == "run"
    if run_all:
        stages = select_stages(context.config, [stage.name for stage in STAGES])
    else:
        stages = [stage for stage in STAGES if stage.name == options.verb]
    errors = find_missing_weights(context.config, stages)
    if not run_all and stages[0].needs_graders and not has_stage_1(context.config):
        found = f"no graded set, or pseudo.source = 'given', so there is nothing to do for {options.verb}"
        errors.append(ConfigError("data.grading", found, "a graded set", "name one, or run another verb"))
    defer_errors = stages[0].name == "prepare"
    raw = run_on_first(
        lambda: fingerprint_raw_sets(context.config.data, context.listings, errors, defer_errors=defer_errors)
    )
    if run_all:
        print(f"{context.config.name}: {context.workdir}", flush=True)
    for stage in stages:
        run_stage(stage, context, raw, may_skip=run_all)
    if not is_first_process():
        return
    if run_all or options.verb == "evaluate":
        print(format_summary(context.workdir))
    if run_all:
        print(f"done in {time.monotonic() - started:.0f} s; open {context.workdir / 'report.html'}")


def find_missing_weights(config: Config, stages: Sequence[Stage]) -> list[UserError]:
    """Downloads the published weights that the stages need, and returns an error for each file that is not available.

    Called before the first stage, so that a missing file is reported at once and not hours later.
    """
    errors: list[UserError] = []
    verbs = {stage.name for stage in stages}
    weights = {
        *(grader_weight_names(config) if "train-grader" in verbs else []),
        *([config.model.weights] if "train" in verbs else []),
    }
    for name in sorted(weights):
        with collect_errors(errors):
            fetch_weights(name, config.data.cache_dir)
    if "train" in verbs:
        with collect_errors(errors):
            list_initial_files(config)
    if "encoder" in config.grader.weights and config.model.weights in RANDOM_START and "train-grader" in verbs:
        found = "'encoder', the file of model.weights, which is empty"
        action = "name torchvision's vgg16-397923af.pth, or start graders at random with --config.grader.weights='(\"\",)'"
        errors.append(
            ConfigError("grader.weights", found, "ImageNet weights of VGG16 in --config.model.weights=FILE", action)
        )
    return errors


def is_complete(context: Context, stages: Sequence[Stage], raw: Mapping[str, str]) -> bool:
    """Tells whether all stages are complete for their present inputs, without opening a data set or using a device."""
    return all(has_completed(stage, context.workdir, compute_fingerprint(stage, context, raw)) for stage in stages)


class StageStart(NamedTuple):
    """What is known about a stage when it starts.

    Attributes:
        fingerprint: The fingerprint of its present inputs.
        previous_record: Its entry in RECORD before this start.
        moved: Files that were set aside: original path -> present path.
    """

    fingerprint: Fingerprint
    previous_record: dict[str, str]
    moved: dict[Path, Path]


def run_stage(stage: Stage, context: Context, raw: Mapping[str, str], *, may_skip: bool) -> None:
    """Runs a stage, or resumes it from its checkpoints if it was interrupted.

    Results that do not fit the present inputs are set aside first. They are put back if the stage rejects its input before
    it has written anything. With several processes the first one does this, and all share the work of a stage that has
    `distributed_sets`.

    Args:
        stage: The stage.
        context: The run.
        raw: The fingerprints of the raw files, see `fingerprint_raw_sets`.
        may_skip: Whether the stage is skipped if it is complete.

    Raises:
        UserError: An input of the stage is wrong.
    """
    start = run_on_first(lambda: start_stage(stage, context, raw, may_skip=may_skip))
    if start is None:
        return
    try:
        if stage.distributed_sets:
            prepare_for_all(stage, context)
            stage.run(context)
        else:
            run_on_first(lambda: stage.run(context))
    except UserError:
        if is_first_process() and put_back(start.moved):
            write_record(context, stage, start.previous_record)
        raise
    if may_skip or not stage.read_only:
        write_run_metadata(context)
    write_record(context, stage, start.fingerprint._asdict())


def prepare_for_all(stage: Stage, context: Context) -> None:
    """Prepares a stage's data sets in the first of several processes, before the others open them."""
    if jax.process_count() > 1:
        run_on_first(lambda: context.open_sets(stage.distributed_sets))


def start_stage(stage: Stage, context: Context, raw: Mapping[str, str], *, may_skip: bool) -> StageStart | None:
    """Records that a stage starts, and sets aside results that it cannot resume from.

    Returns:
        What `run_stage` needs; None if there is nothing to run, because the stage is complete or its results are reused.
    """
    fingerprint = compute_fingerprint(stage, context, raw)
    previous_record = read_record(context.workdir).get(stage.name, {})
    if may_skip and has_completed(stage, context.workdir, fingerprint):
        print(f"{stage.name}: complete and unchanged, skipped", flush=True)
        return None
    print(f"{stage.name}:", flush=True)
    can_resume = stage.resumable and previous_record.get("begun") == fingerprint.begun
    is_unfinished = previous_record == {"begun": fingerprint.begun}  # nothing of another config is left to keep
    moved = {} if can_resume or is_unfinished else set_aside(stage, context.workdir)
    write_record(context, stage, {"begun": fingerprint.begun})
    workdirs = context.reusable_workdirs if stage.needs_graders else ()
    source = next((workdir for workdir in workdirs if has_completed(stage, workdir, fingerprint)), None)
    if source is not None:
        reuse_results(stage, source, context.workdir)
        write_record(context, stage, fingerprint._asdict())
        return None
    return StageStart(fingerprint, previous_record, moved)


def has_completed(stage: Stage, workdir: Path, fingerprint: Fingerprint) -> bool:
    """Tells whether a workdir has the outputs of a stage for exactly these inputs."""
    has_outputs = all((workdir / name).exists() for name in stage.outputs)
    return has_outputs and read_record(workdir).get(stage.name, {}).get("complete") == fingerprint.complete


def reuse_results(stage: Stage, source: Path, workdir: Path) -> None:
    """Links the results of a stage from another workdir with the same inputs.

    Links are safe, since nothing writes to the files of a complete stage.
    """
    remove_leftovers(workdir)
    for name in (path.name for pattern in stage.invalidated_files for path in sorted(source.glob(pattern))):
        partial = partial_path(workdir / name)
        if (source / name).is_dir():
            shutil.copytree(source / name, partial, copy_function=link_or_copy)
        else:
            link_or_copy(source / name, partial)
        if (workdir / name).is_dir():  # left by a process that was killed here
            shutil.rmtree(workdir / name)
        partial.rename(workdir / name)
    print(f"  reused from {source}, which has the same inputs", flush=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Makes a hard link to a file, or a copy if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def set_aside(stage: Stage, workdir: Path) -> dict[Path, Path]:
    """Moves the results of another config, other data or other earlier stages to a new folder, so that none is lost.

    Returns:
        Original path of each file or folder -> its new path.
    """
    outdated = [path for pattern in stage.invalidated_files for path in sorted(workdir.glob(pattern))]
    if not outdated:
        return {}
    folder = next(f for n in itertools.count(1) if not (f := workdir / SET_ASIDE / f"{n:03d}").exists())
    folder.mkdir(parents=True)
    moved = {path: path.rename(folder / path.name) for path in outdated}
    names = ", ".join(path.name for path in outdated)
    print(f"  made with another config or input, so moved to {folder}: {names}", flush=True)
    return moved


def put_back(moved: Mapping[Path, Path]) -> bool:
    """Undoes `set_aside`, unless something new is in one of the original places; returns whether it did."""
    if not moved or any(path.exists() for path in moved):
        return False
    for path, aside in moved.items():
        aside.rename(path)
    for folder in {aside.parent for aside in moved.values()}:
        folder.rmdir()
        print(f"  put back from {folder}", flush=True)
    return True


def read_record(workdir: Path) -> dict[str, dict[str, str]]:
    """Reads RECORD; empty if no stage has run."""
    return read_json_if_present(workdir / RECORD)


def write_record(context: Context, stage: Stage, fingerprints: dict[str, str]) -> None:
    """Replaces the entry of a stage in RECORD."""
    context.write_json(RECORD, read_record(context.workdir) | {stage.name: fingerprints})


def format_summary(workdir: Path) -> str:
    """Returns the main metrics of `metrics.json`, each next to its baseline, as lines for the terminal."""
    metrics = read_json(workdir / "metrics.json")

    def show(name: str) -> str:
        value = metrics.get(name)
        return "undefined" if value is None else f"{value:.3f}"

    scored = {
        name: metrics[f"{key}/split"] for name, key in (("lesions", "seg"), ("grades", "grade")) if f"{key}/split" in metrics
    }
    lines = ["scored: " + (", ".join(f"{name} on split {split}" for name, split in scored.items()) or "nothing")]
    if "lesions" in scored:
        lines += [
            f"lesions, foreground Dice        {show('seg/foreground/dice')}   "
            f"(best threshold on one colour channel: {show('baseline/channel_threshold/dice')})",
            f"  at the images' own size       {show('seg/foreground/dice_original_size')}",
            f"lesions, micro Dice + background {show('seg/micro_bg/dice')}  "
            f"(all background: {show('seg/micro_bg/dice_all_background')})",
        ]
    if "seg/mean/aupr_11_exclusive" in metrics:
        lines.append(
            f"lesions, mean AUPR (11 points)  {show('seg/mean/aupr_11_exclusive')}, at the images' own size "
            f"{show('seg/mean/aupr_11_exclusive_original_size')}"
        )
    if "grade/accuracy" in metrics:
        lines.append(
            f"grades, accuracy                {show('grade/accuracy')}   "
            f"(majority: {show('grade/majority')}; n = {metrics['grade/n']}), kappa {show('grade/kappa')}"
        )
    if "pseudo/accuracy_before" in metrics:
        lines.append(
            f"pseudo-labels, accuracy         {show('pseudo/accuracy_before')} -> {show('pseudo/accuracy_after')} "
            f"by refinement (n = {metrics['pseudo/n_known']}; majority {show('pseudo/majority')})"
        )
    return "\n".join(lines)

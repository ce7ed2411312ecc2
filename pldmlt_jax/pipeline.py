"""The whole method as a list of stages; a stage that is complete and whose inputs are unchanged is skipped."""

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax

from pldmlt_jax.cli.context import Context, describe_run
from pldmlt_jax.cli.evaluate import evaluate
from pldmlt_jax.cli.flags import Arguments
from pldmlt_jax.cli.predict import EXAMPLES, predict_examples
from pldmlt_jax.cli.prepare import prepare
from pldmlt_jax.cli.pseudo_label import pseudo_label
from pldmlt_jax.cli.report import report
from pldmlt_jax.cli.train import initial_files, train
from pldmlt_jax.cli.train_grader import named_weights, train_graders, weight_files
from pldmlt_jax.config import NO_SET, Config, DataConfig, fields, has_stage_1
from pldmlt_jax.data.contents import content_hashes
from pldmlt_jax.data.prepare import PREPARATION_VERSION
from pldmlt_jax.data.specs import dataset_spec, set_names
from pldmlt_jax.data.synthetic import DRAWING_VERSION
from pldmlt_jax.errors import ConfigError, UserError, gathered, raise_all
from pldmlt_jax.files import partial_path, read_json, remove_leftovers
from pldmlt_jax.method.virtual_step import uses_graded_images
from pldmlt_jax.models.published import NO_WEIGHTS, fetch_weights, weights_path
from pldmlt_jax.training.processes import is_first, on_first


@dataclass(frozen=True)
class Stage:
    """One verb of the pipeline, and all that its result depends on.

    Attributes:
        name: The verb.
        run: Does it.
        leaves: Files of the workdir that it makes, without which it is not complete.
        sets: Gives the fields of the config that name the sets whose raw files it depends on.
        parts: Beginnings of the names of the fields that it depends on.
        without: Fields among them that it does not depend on.
        without_in: Those that it does not depend on in a config like this one.
        weights: The weight files that it reads, "" for none, as the config names them.
        reads: Patterns of the files of the workdir that it depends on, which earlier stages make.
        stale: Patterns of what must be neither gone on from, overwritten nor shown when what it depends on changes.
        goes_on: Whether it goes on from what it has begun.
        describes: Whether it only describes what is there, and so leaves the workdir's `config.json`.
        of_stage_1: Whether it is one of stage 1's, which a run without graders leaves out.
        shared: The sets of the context that every one of several processes opens for it, each to do its share; none: the
            first process does it alone.
    """

    name: str
    run: Callable[[Context], None]
    leaves: tuple[str, ...]
    sets: Callable[[Config], tuple[str, ...]] = lambda config: ("segmentation", "grading")
    parts: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    without_in: Callable[[Config], tuple[str, ...]] = lambda config: ()
    weights: Callable[[Config], list[str]] = lambda config: []
    reads: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    goes_on: bool = False
    describes: bool = False
    of_stage_1: bool = False
    shared: tuple[str, ...] = ()


def sets_of_training(config: Config) -> tuple[str, ...]:
    """The graded set acts on stage 2 by the pseudo-labels alone, unless its images are trained on as well."""
    graded = uses_graded_images(config.meta, config.loss)
    return ("segmentation", "grading") if graded else ("segmentation",)


def weights_of_training(config: Config) -> list[str]:
    """The encoder's file, and what the network starts from."""
    files = [weights_path(config.model.weights, config.data.cache_dir)]
    return files + [str(path) for path in initial_files(config)]


def fold_of_segmentation(config: Config) -> tuple[str, ...]:
    """Graders never see a pixel-labelled photograph, of whatever fold, and label them all: one serves all folds."""
    return ("data.fold",) if config.data.grading_split == "official" else ()


METHOD = ("data.", "model.", "loss.", "meta.", "optim.", "train.", "seed")
CHECKPOINTS = "checkpoints/*/_CHECKPOINT_METADATA"
"""Orbax' own file, with the time of saving: no two checkpoints share its content."""

OPERATING_POINTS = "checkpoints/operating_points.json"

STAGES = (
    Stage("prepare", prepare, leaves=("data.json",), parts=("data.",)),
    Stage(
        "train-grader", train_graders, leaves=("graders",), parts=("data.", "grader.", "seed"),
        without=("data.size_px", "data.mask_reduction", "data.fusion", "data.fusion_px"),
        without_in=fold_of_segmentation, weights=weight_files, stale=("graders",), goes_on=True, of_stage_1=True,
        shared=("graded_for_graders",),
    ),
    Stage(
        "pseudo-label", pseudo_label, leaves=("pseudo_labels.csv", "pseudo_labels.json"),
        parts=("data.", "grader.", "pseudo."), without=("data.size_px", "data.mask_reduction"),
        without_in=fold_of_segmentation,
        reads=("graders/*/metrics.json", f"graders/*/{CHECKPOINTS}"),
        stale=("pseudo_labels.csv", "pseudo_labels.json", "cams"), of_stage_1=True,
    ),
    Stage(
        "train", train, leaves=("checkpoints", "log.jsonl"), sets=sets_of_training, parts=METHOD,
        weights=weights_of_training, reads=("pseudo_labels.csv",),
        stale=("checkpoints", "log.jsonl", "events.*", "weights.json", "metrics.json", "curves.json", "per_image.csv",
               "per_graded_image.csv", "examples", "predictions", "report.html"),
        goes_on=True, shared=("segmented", "graded_for_network"),
    ),
    Stage(
        "evaluate", evaluate, leaves=("metrics.json",), parts=(*METHOD, "evaluation.", "inference."),
        reads=(CHECKPOINTS, OPERATING_POINTS, "graders/*/metrics.json", "pseudo_labels.csv"), describes=True,
        shared=("segmented", "graded_for_network"),
    ),
    Stage(
        "predict", predict_examples, leaves=(f"{EXAMPLES}/predictions.csv",), parts=(*METHOD, "evaluation.", "inference."),
        reads=(CHECKPOINTS, OPERATING_POINTS), describes=True,
    ),
    Stage(
        "report", report, leaves=("report.html",),
        reads=("data.json", "metrics.json", "curves.json", "per_image.csv", "pseudo_labels.*", "log.jsonl", "weights.json",
               "contact_sheet.*", "graders/*/metrics.json", "graders/*/log.jsonl", "cams/*", "examples/*",
               "checkpoints/config.json", OPERATING_POINTS),
        describes=True,
    ),
)  # fmt: skip

WITHOUT_EFFECT = (
    *("data.root", "data.idrid_root", "data.diaretdb1_root", "data.ddr_root", "data.folder_root"),
    *("data.folds_file", "data.cache_dir", "data.num_threads", "model.weights", "grader.weights", "train.init_from"),
    "train.save_every_minutes",
)
"""Fields that change no result: of raw files, folds and weights the content counts, not the place."""

LENGTH = ("train.max_rounds", "train.max_minutes", "train.patience_rounds", "train.on_nonfinite")
"""Fields that only say when training ends: with more of it, training goes on, unless its rate follows a plan."""

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
    graders = has_stage_1(context.config)
    names = [stage.name for stage in STAGES]
    stages = stages_of(context.config, names) if whole else [stage for stage in STAGES if stage.name == arguments.verb]
    errors: list[UserError] = missing_weights(context.config, stages)
    if not whole and stages[0].of_stage_1 and not graders:
        found = f"no graded set, or pseudo.source = 'given', and so nothing to do for {arguments.verb}"
        errors.append(ConfigError("data.grading", found, "a graded set", "name one, or run another verb"))
    raw = on_first(lambda: raw_sets(context.config, errors, told_later=stages[0].name == "prepare"))
    if whole:
        print(f"{context.config.name}: {context.workdir}", flush=True)
    for stage in stages:
        run_stage(stage, context, raw, may_skip=whole)
    if whole and is_first():
        print(closing_lines(context.workdir))
        print(f"done in {time.monotonic() - started:.0f} s; open {context.workdir / 'report.html'}")


def stages_of(config: Config, names: Collection[str]) -> list[Stage]:
    """The named stages in their order, without stage 1's where the config has none."""
    return [stage for stage in STAGES if stage.name in names and (has_stage_1(config) or not stage.of_stage_1)]


def raw_sets(config: Config, errors: list[UserError], *, told_later: bool) -> dict[str, str]:
    """What the raw files of the pixel-labelled and of the graded sets are.

    Args:
        config: Names the sets.
        errors: Found before.
        told_later: Whether bad files are left to the stage that tells them together with what is wrong inside the files.

    Raises:
        UserError: What is wrong with them, together with the errors found before.
    """
    raw: dict[str, str] = {"grading": NO_SET}
    bad_files: list[UserError] = []
    for field in ("segmentation", "grading") if config.data.grading != NO_SET else ("segmentation",):
        for name in set_names(getattr(config.data, field)):
            with gathered(errors):
                raw[field] = raw.get(field, "") + raw_files(name, config.data, bad_files)
    if folds_file := config.data.folds_file:
        raw["segmentation"] = raw.get("segmentation", "") + described(Path(folds_file), "folds")
    if errors or not told_later:
        errors += bad_files
    raise_all(errors)
    return raw


def is_complete(context: Context, stages: Sequence[Stage], raw: Mapping[str, str]) -> bool:
    """Whether none of the stages has anything to do; opens no set and asks no device."""
    return all(has_completed(stage, context.workdir, fingerprint_of(stage, context, raw)) for stage in stages)


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
    begun = on_first(lambda: begin_stage(stage, context, raw, may_skip=may_skip))
    if begun is None:
        return
    try:
        if stage.shared:
            prepare_for_all(stage, context)
            stage.run(context)
        else:
            on_first(lambda: stage.run(context))
    except UserError:
        if is_first() and put_back(begun.moved):
            write_record(context, stage, begun.recorded)
        raise
    if may_skip or not stage.describes:
        describe_run(context)
    write_record(context, stage, begun.fingerprint._asdict())


def prepare_for_all(stage: Stage, context: Context) -> None:
    """The first of several processes prepares the sets, where they are not, before the others open them."""

    def prepare() -> None:
        for name in stage.shared:
            getattr(context, name)

    if jax.process_count() > 1:
        on_first(prepare)


def begin_stage(stage: Stage, context: Context, raw: Mapping[str, str], *, may_skip: bool) -> Begun | None:
    """Records that a stage begins, with what it cannot go on from out of the way; None where it is skipped."""
    fingerprint = fingerprint_of(stage, context, raw)
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


def fingerprint_of(stage: Stage, context: Context, raw: Mapping[str, str]) -> Fingerprint:
    """The fingerprint of a stage, given the raw files of each set and what earlier stages have left."""
    config, workdir = context.config, context.workdir
    read = sorted(path for pattern in stage.reads for path in workdir.glob(pattern))
    facts = [
        *(raw[name] for name in stage.sets(config)),
        *(described(path, str(path.relative_to(workdir))) for path in read),
        *(described(Path(name), "weights") if name else "no weights" for name in stage.weights(config)),
        context.arguments.split if stage.describes else "",
        context.arguments.checkpoint if stage.describes else "",
    ]
    without = WITHOUT_EFFECT + stage.without + stage.without_in(config)
    values = {name: value for name, value in fields(config) if name.startswith(stage.parts) and name not in without}
    length = LENGTH if config.optim.schedule == "constant" else LENGTH[1:]  # a planned rate depends on max_rounds
    begun = {name: value for name, value in values.items() if name not in length}
    return Fingerprint(
        *(hashlib.sha256(json.dumps([facts, chosen]).encode()).hexdigest()[:16] for chosen in (begun, values))
    )


def raw_files(name: str, data: DataConfig, bad_files: list[UserError]) -> str:
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
    hashes = content_hashes((path for _, record in records for path in record.files), data.cache_dir, data.num_threads)
    base = os.path.commonpath(list(hashes))
    contents = [f"{os.path.relpath(path, base)} {digest}" for path, digest in sorted(hashes.items())]
    grades = [f"{split} {record.image_id} {record.grade} {record.true_grade}" for split, record in records]
    return "\n".join([f"{name} prepared {PREPARATION_VERSION}", *contents, *grades, *map(str, wrong)])


def missing_weights(config: Config, stages: Sequence[Stage]) -> list[UserError]:
    """Fetches published files; what cannot be had is told before the first stage, not when a later one asks for it."""
    errors: list[UserError] = []
    names = {stage.name for stage in stages}
    named = [
        *(named_weights(config) if "train-grader" in names else []),
        *([config.model.weights] if "train" in names else []),
    ]
    for name in sorted(set(named)):
        with gathered(errors):
            fetch_weights(name, config.data.cache_dir)
    if "train" in names:
        with gathered(errors):
            initial_files(config)
    if "encoder" in config.grader.weights and config.model.weights in NO_WEIGHTS and "train-grader" in names:
        found = "'encoder', the file of model.weights, which is empty"
        action = "name torchvision's vgg16-397923af.pth, or start graders at random with --config.grader.weights='(\"\",)'"
        errors.append(
            ConfigError("grader.weights", found, "ImageNet weights of VGG16 in --config.model.weights=FILE", action)
        )
    return errors


def described(path: Path, name: str) -> str:
    """A file's name and the hash of its content: a mask that was redrawn often has the size that it had before."""
    if not path.is_file():
        return f"{name} absent"
    with open(path, "rb") as file:
        return f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def read_record(workdir: Path) -> dict[str, dict[str, str]]:
    path = workdir / RECORD
    return read_json(path) if path.exists() else {}


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
    lines = [
        "scored: " + ", ".join(f"{name} on split {split}" for name, split in scored.items()),
        f"lesions, foreground Dice        {shown('seg/foreground/dice')}   "
        f"(best threshold on one colour channel: {shown('baseline/channel_threshold/dice')})",
        f"  at the images' own size       {shown('seg/foreground/dice_original_size')}",
        f"lesions, micro Dice + background {shown('seg/micro_bg/dice')}  "
        f"(all background: {shown('seg/micro_bg/dice_all_background')})",
    ]
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

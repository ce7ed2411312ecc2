"""`evaluate`: scores a checkpoint on a split; leaves `metrics.json`, `curves.json`, `per_image.csv` and `examples/`."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pldmlt_jax.config import has_stage_1
from pldmlt_jax.data.loader import stacked, true_labels
from pldmlt_jax.data.splits.selection import ALL, Selection, choose_splits, selected, with_known_grade
from pldmlt_jax.data.splits.summary import leakage_report
from pldmlt_jax.evaluation.inference import TrainedNetwork
from pldmlt_jax.evaluation.metrics.baselines import (
    best_threshold,
    channel_histograms,
    format_threshold,
    threshold_metrics,
)
from pldmlt_jax.evaluation.metrics.curves import CURVES_FILE
from pldmlt_jax.evaluation.metrics.grading import grade_rows, grading_metrics
from pldmlt_jax.evaluation.metrics.labels import label_quality_metrics, label_training_metrics
from pldmlt_jax.evaluation.original_size import restore_original_size
from pldmlt_jax.evaluation.predictor import Predictor
from pldmlt_jax.evaluation.scoring import ScoredImage, SegmentationScores
from pldmlt_jax.io.files import read_json, write_rows
from pldmlt_jax.io.processes import is_first, merged, own_share
from pldmlt_jax.io.progress import Task, progress
from pldmlt_jax.method.setup import make_method
from pldmlt_jax.method.steps import read_labels
from pldmlt_jax.models.label_update import HIERARCHIES
from pldmlt_jax.training.log import read_log
from pldmlt_jax.types import UNKNOWN_GRADE
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.load_checkpoint import load_predictor
from pldmlt_jax.workflow.stages.examples import Examples
from pldmlt_jax.workflow.stages.pseudo_label import read_label_table, summarise_labels
from pldmlt_jax.workflow.stages.train import training_labels
from pldmlt_jax.workflow.stages.train_graders import GRADED_IMAGES, majority_grade


def evaluate(context: Context) -> None:
    """Scores the best checkpoint, and every baseline, on a split of the pixel-labelled and of the graded set."""
    predictor = load_predictor(context)
    sets = {"seg": context.segmented, "grade": context.graded_for_network}
    chosen = choose_splits(sets, context.arguments.split)
    if ALL in chosen.values():
        print("  all images of the set are scored, including any that the network was trained on")
    selections = {key: selected(sets[key], split) for key, split in chosen.items()}
    if "grade" in selections:
        selections["grade"] = with_known_grade(selections["grade"])
    selections = {key: selection for key, selection in selections.items() if len(selection)}
    print_unscored(sets, chosen, selections, context.arguments.split)
    # The baselines are chosen on training images; if all images are scored, on these, which favours the baselines.
    references = {key: found if chosen[key] == ALL else sets[key]["train"] for key, found in selections.items()}
    steps = [network.step for network in predictor.networks]
    metrics: dict[str, Any] = {f"{key}/split": chosen[key] for key in selections}
    metrics["step"] = steps[0] if len(steps) == 1 else steps
    metrics |= {f"parameters/{name}": count for name, count in parameter_counts(context, predictor).items()}
    scored = ScoredSegmentation({}, [], {})
    graded: list[dict[str, Any]] = []
    if "seg" in selections:
        with progress("evaluate segmentation", len(selections["seg"])) as task:
            scored = score_segmentation(context, predictor, selections["seg"], references["seg"], task)
        metrics |= scored.metrics
    if "grade" in selections:
        same_split = "seg" in selections and selections["seg"].split is selections["grade"].split
        known = scored.grade_probabilities if same_split else {}
        with progress("evaluate grading", len(selections["grade"])) as task:
            grading, graded = score_grading(predictor, selections["grade"], references["grade"], known, task)
        metrics |= grading
    network = predictor.networks[0]
    if len(predictor.networks) == 1 and context.config.loss.grading:
        metrics |= score_labels(context, network)
    metrics |= label_training_metrics(read_log(network.directory.parent / "log.jsonl"))
    metrics |= stage_1_metrics(context.workdir) | leakage_metrics(context)
    context.write_json("metrics.json", metrics)
    if is_first():
        write_tables(context.workdir, scored.rows, graded)


def print_unscored(
    sets: dict[str, dict[str, Selection]], chosen: dict[str, str], selections: dict[str, Selection], split: str
) -> None:
    """Prints what is not scored, and why."""
    for key, what in (("seg", "lesions"), ("grade", "grades")):
        if key in chosen and key not in selections:
            print(f"  {what} are not scored: no image of split {chosen[key]!r} is left")
        elif key not in chosen and sets[key]:
            print(f"  {what} are not scored: their set has no split {split!r} on disk")
        elif key not in chosen:
            print(f"  {what} are not scored: the network was not trained on them")


def write_tables(workdir: Path, rows: list[dict[str, Any]], graded: list[dict[str, Any]]) -> None:
    """Writes the rows of the images, and removes tables and curves of an earlier split that have none now."""
    for name, lines in (("per_image.csv", rows), (GRADED_IMAGES, graded)):
        table = workdir / name
        table.unlink(missing_ok=True)
        if lines:
            write_rows(table, lines)
    if not rows:
        (workdir / CURVES_FILE).unlink(missing_ok=True)


def leakage_metrics(context: Context) -> dict[str, Any]:
    """Counts photographs that are in both sets, or in one of them more than once, and those that were left out for it."""
    graded = {} if context.config.pseudo.source == "given" else context.graded_for_network
    report = leakage_report(context.segmented, graded, context.config.data)
    repeated = {
        f"leakage/repeated_in_{key}": sum(len(images) for images in found.values())
        for key, found in report["repeated"].items()
    }
    counts = {f"leakage/{name}": report[name] for name in ("rule", "images", "same_eye", "excluded")}
    return counts | repeated


def parameter_counts(context: Context, predictor: Predictor) -> dict[str, int]:
    """Counts the parameters of every network of the run."""
    states = [network.state for network in predictor.networks]
    counts = {
        name: sum(leaf.size for part in parts for leaf in jax.tree.leaves(part.params))
        for name, parts in {
            "network": [state.network for state in states],
            "label_network": [state.label for state in states],
        }.items()
    }
    for path in sorted((context.workdir / "graders").glob("*/metrics.json")):
        counts[path.parent.name] = read_json(path)["parameters"]
    return counts


class ScoredSegmentation(NamedTuple):
    """What `score_segmentation` returns.

    Attributes:
        metrics: Pooled over the images, at both sizes.
        rows: Of `per_image.csv`.
        grade_probabilities: [5] of each image of this process, by its position in the split.
    """

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    grade_probabilities: dict[int, np.ndarray]


def score_segmentation(
    context: Context, predictor: Predictor, selection: Selection, reference: Selection, task: Task
) -> ScoredSegmentation:
    """Scores the lesions at both sizes, writes the curves, and saves pictures of some images to `examples/`.

    Each process predicts its share of the images; metrics and rows are of all of them.

    Args:
        context: The run.
        predictor: The networks.
        selection: The images.
        reference: The images that the baseline's threshold is chosen on.
        task: Shown progress.
    """
    config, target = context.config.evaluation, predictor.target
    places = own_share(range(len(selection)))
    scores = SegmentationScores(target, context.config, predictor.points, original_size=config.original_size)
    examples = Examples(config.num_examples)
    rows: dict[int, dict[str, Any]] = {}
    grades: dict[int, np.ndarray] = {}
    images = predict_images(context, predictor, selection, places)
    for place, (image, row) in zip(places, scores.score(selection.split, images), strict=True):
        rows[place] = row
        if image.grade_probabilities is not None:
            grades[image.position] = image.grade_probabilities
        if image.probabilities is not None:
            examples.add(place, row["dice"], image.probabilities)
        task.advance(row["image"])
    table = merged(rows)
    scores.sum_processes()
    curves = {"network_size": scores.network.counts.curves(), "original_size": scores.original.counts.curves()}
    context.write_json(CURVES_FILE, curves)
    examples.save(context, selection, target)
    train_pixels = channel_histograms(reference)
    baseline = best_threshold(train_pixels)
    about = {"seg/threshold": config.threshold, "baseline/channel_threshold/rule": format_threshold(baseline)}
    metrics = scores.compute(baseline) | threshold_metrics(baseline, train_pixels, "_train") | about
    return ScoredSegmentation(metrics, table, grades)


def predict_images(
    context: Context, predictor: Predictor, selection: Selection, places: Sequence[int]
) -> Iterator[ScoredImage]:
    """Predicts images of a selection, one by one, to be scored."""
    indices = [int(selection.indices[place]) for place in places]
    predictions = predictor.predict_prepared(selection.split, indices)
    for index, (sample, probabilities, grades) in zip(indices, predictions, strict=True):
        yield ScoredImage(
            index,
            partial(restore_original_size, probabilities, sample, predictor.target),
            sample,
            probabilities,
            grades if context.config.loss.grading else None,
            context.known_grades.get(selection.split.records[index].image),
        )


def score_grading(
    predictor: Predictor, selection: Selection, reference: Selection, known: dict[int, np.ndarray], task: Task
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores the grades of truly graded images that nothing was trained on.

    Args:
        predictor: The networks.
        selection: The images.
        reference: The images whose most frequent grade is the baseline.
        known: Grade probabilities that have been predicted already, by position in the split.
        task: Shown progress.

    Returns:
        The metrics, and a row for each image.
    """
    places = {place: int(selection.indices[place]) for place in own_share(range(len(selection)))}
    found = {place: known[index] for place, index in places.items() if index in known}
    task.update(task.done + len(found))
    unknown = {place: index for place, index in places.items() if index not in known}
    predictions = predictor.predict_prepared(selection.split, list(unknown.values()))
    for place, (_, _, grade_probabilities) in zip(unknown, predictions, strict=True):
        found[place] = grade_probabilities
        task.update(task.done + 1)
    probabilities, truth = np.stack(merged(found)), true_labels(selection.split).grade[selection.indices]
    rows = grade_rows(selection.image_ids, probabilities, truth)
    return grading_metrics(probabilities, truth, majority_grade(reference)), rows


def score_labels(context: Context, network: TrainedNetwork) -> dict[str, Any]:
    """Scores the updated labels of the training images whose true grade is known.

    In batches of the training's size, since the encoder's norms see the whole batch: running statistics give other features,
    and so other labels than training had. The last batch is filled up with images of the first one.
    """
    config, train = context.config, context.segmented["train"]
    table = context.workdir / "pseudo_labels.csv"
    if config.pseudo.source == "none" or (has_stage_1(config) and not table.exists()):
        return {}
    labels = training_labels(train.split, config, table)
    true = {int(i): context.known_grades.get(train.split.records[i].image, UNKNOWN_GRADE) for i in train.indices}
    known = [i for i, grade in sorted(true.items()) if UNKNOWN_GRADE not in (grade, labels.grade[i])]
    read = network.devices.evaluation(read_labels, method=make_method(network.config, total_steps=1))
    batch_size = network.devices.own_batch_size(config.train.batch_size)
    soft: dict[int, np.ndarray] = {}
    own = own_share(known)
    filled = np.resize(own, -(-len(own) // batch_size) * batch_size).tolist()
    for start in range(0, len(filled), batch_size):
        chunk = filled[start : start + batch_size]
        batch = stacked([(i, train.split[i]) for i in chunk], labels, batch_size)
        soft = dict(zip(chunk, read(network.state, network.devices.put_batch(batch)), strict=True)) | soft
    if not known:
        return {}
    given = labels.grade[known]
    hierarchy = HIERARCHIES[config.meta.hierarchy if config.meta.enabled else "full"]
    allowed = np.asarray(hierarchy(jnp.asarray(given), jnp.asarray(labels.admissible[known])))
    return label_quality_metrics(np.stack(merged(soft)), given, np.array([true[i] for i in known]), allowed)


def stage_1_metrics(workdir: Path) -> dict[str, Any]:
    """Metrics of the graders and of the pseudo-labels, if those stages have run."""
    metrics: dict[str, Any] = {}
    for path in sorted((workdir / "graders").glob("*/metrics.json")):
        found = read_json(path)
        names = ("grade/accuracy", "grade/kappa", "grade/majority", "grade/n")
        metrics |= {f"grader/{path.parent.name}/{name.removeprefix('grade/')}": found[name] for name in names}
    table = workdir / "pseudo_labels.csv"
    return metrics | (summarise_labels(list(read_label_table(table).values())) if table.exists() else {})

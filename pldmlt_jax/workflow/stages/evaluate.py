"""`evaluate`: scores a checkpoint on a split; writes `metrics.json`, `curves.json`, `per_image.csv` and `examples/`."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pldmlt_jax.config import has_stage_1
from pldmlt_jax.data.loader import stack_batch, true_labels
from pldmlt_jax.data.splits.selection import ALL, Selection, choose_splits, keep_graded, select_split
from pldmlt_jax.data.splits.summary import near_duplicate_summary
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
from pldmlt_jax.evaluation.scoring import SegmentationScores
from pldmlt_jax.io.csv_files import write_rows
from pldmlt_jax.io.files import read_json
from pldmlt_jax.io.processes import is_first_process, merge_rows, take_own_share
from pldmlt_jax.io.progress import ProgressTask, show_progress
from pldmlt_jax.method.state import make_method
from pldmlt_jax.method.steps import read_labels
from pldmlt_jax.models.label_update import HIERARCHIES
from pldmlt_jax.training.log import read_log
from pldmlt_jax.types import UNKNOWN_GRADE
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.load_checkpoint import load_predictor
from pldmlt_jax.workflow.stages.calibrate import predict_grades
from pldmlt_jax.workflow.stages.examples import Examples
from pldmlt_jax.workflow.stages.pseudo_label import read_label_table, summarise_labels
from pldmlt_jax.workflow.stages.train import read_training_labels
from pldmlt_jax.workflow.stages.train_graders import GRADED_IMAGES, find_majority_grade


def evaluate(context: Context) -> None:
    """Scores the best checkpoint and all baselines on a split of the pixel-labelled and of the graded set."""
    predictor = load_predictor(context)
    sets = {"seg": context.segmented, "grade": context.graded_for_network}
    chosen = choose_splits(sets, context.options.split)
    if ALL in chosen.values():
        print("  all images of the set are scored, including any that the network was trained on")
    selections = {key: select_split(sets[key], split) for key, split in chosen.items()}
    if "grade" in selections:
        selections["grade"] = keep_graded(selections["grade"])
    selections = {key: selection for key, selection in selections.items() if len(selection)}
    print_unscored(sets, chosen, selections, context.options.split)
    # Baselines are chosen on the training images, or on the scored ones if all are scored, which favours the baselines.
    references = {key: found if chosen[key] == ALL else sets[key]["train"] for key, found in selections.items()}
    steps = [network.step for network in predictor.networks]
    metrics: dict[str, Any] = {f"{key}/split": chosen[key] for key in selections}
    metrics["step"] = steps[0] if len(steps) == 1 else steps
    metrics |= {f"parameters/{name}": count for name, count in count_parameters(context, predictor).items()}
    rows, graded, known = [], [], {}
    if "seg" in selections:
        with show_progress("evaluate segmentation", len(selections["seg"])) as task:
            found, rows, known = score_segmentation(context, predictor, selections["seg"], references["seg"], task)
        metrics |= found
    if "grade" in selections:
        if "seg" in selections and selections["seg"].split is not selections["grade"].split:
            known = {}
        with show_progress("evaluate grading", len(selections["grade"])) as task:
            found, graded = score_grading(predictor, selections["grade"], references["grade"], known, task)
        metrics |= found
    network = predictor.networks[0]
    if len(predictor.networks) == 1 and context.config.loss.grading:
        metrics |= score_labels(context, network)
    metrics |= label_training_metrics(read_log(network.directory.parent / "log.jsonl"))
    metrics |= read_stage_1_metrics(context.workdir) | count_leakage(context)
    context.write_json("metrics.json", metrics)
    if is_first_process():
        write_tables(context.workdir, rows, graded)


def print_unscored(
    sets: dict[str, dict[str, Selection]], chosen: dict[str, str], selections: dict[str, Selection], split: str
) -> None:
    """Prints which of lesions and grades are not scored, and why."""
    for key, what in (("seg", "lesions"), ("grade", "grades")):
        if key in chosen and key not in selections:
            print(f"  {what} are not scored: no image of split {chosen[key]!r} is left")
        elif key not in chosen and sets[key]:
            print(f"  {what} are not scored: their set has no split {split!r} on disk")
        elif key not in chosen:
            print(f"  {what} are not scored: the network was not trained on them")


def write_tables(workdir: Path, rows: list[dict[str, Any]], graded: list[dict[str, Any]]) -> None:
    """Writes a row for each image, and removes an earlier split's tables and curves that do not apply now."""
    for name, lines in (("per_image.csv", rows), (GRADED_IMAGES, graded)):
        table = workdir / name
        table.unlink(missing_ok=True)
        if lines:
            write_rows(table, lines)
    if not rows:
        (workdir / CURVES_FILE).unlink(missing_ok=True)


def count_leakage(context: Context) -> dict[str, Any]:
    """Counts photographs that are in both sets or repeated in one, and those that were excluded for that reason."""
    graded = {} if context.config.pseudo.source == "given" else context.graded_for_network
    report = near_duplicate_summary(context.segmented, graded, context.config.data)
    repeated = {
        f"leakage/repeated_in_{key}": sum(len(images) for images in found.values())
        for key, found in report["repeated"].items()
    }
    counts = {f"leakage/{name}": report[name] for name in ("rule", "images", "same_eye", "excluded")}
    return counts | repeated


def count_parameters(context: Context, predictor: Predictor) -> dict[str, int]:
    """Counts the parameters of all networks of the run."""
    states = [network.state for network in predictor.networks]
    params = {"network": [s.network.params for s in states], "label_network": [s.label.params for s in states]}
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    for path in sorted((context.workdir / "graders").glob("*/metrics.json")):
        counts[path.parent.name] = read_json(path)["parameters"]
    return counts


def score_segmentation(
    context: Context, predictor: Predictor, selection: Selection, reference: Selection, task: ProgressTask
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[int, np.ndarray]]:
    """Scores the lesions at both sizes, writes the curves, and saves pictures of some images to `examples/`.

    Each process predicts its share of the images; the metrics and rows cover all images.

    Args:
        context: The run.
        predictor: The networks.
        selection: The images.
        reference: The images on which the baseline's threshold is chosen.
        task: Shown progress.

    Returns:
        The metrics, the rows of `per_image.csv`, and the grade probabilities of this process's images by their index in the
        split.
    """
    config, split, target = context.config.evaluation, selection.split, predictor.target
    scores, examples = SegmentationScores(target, context.config, predictor.points), Examples(config.num_examples)
    indices = {position: int(selection.indices[position]) for position in take_own_share(range(len(selection)))}
    rows: dict[int, dict[str, Any]] = {}
    grades: dict[int, np.ndarray] = {}
    predictions = predictor.predict_prepared(split, list(indices.values()))
    for (position, index), (sample, p, grade_probabilities) in zip(indices.items(), predictions, strict=True):
        grades[index] = grade_probabilities
        record, graded = split.records[index], grade_probabilities if context.config.loss.grading else None
        rows[position] = scores.add_prepared(sample, p, graded, context.known_grades.get(record.image))
        if config.original_size:
            enlarged = restore_original_size(p, sample, target)
            rows[position] |= scores.add_original(record, enlarged, sample.geometry.area_scale)
        examples.add(position, rows[position]["dice"], p)
        task.advance(sample.image_id)
    table = merge_rows(rows)
    scores.sum_processes()
    curves = {"network_size": scores.network.counts.curves(), "original_size": scores.original.counts.curves()}
    context.write_json(CURVES_FILE, curves)
    examples.save(context, selection, target)
    train_pixels = channel_histograms(reference)
    baseline = best_threshold(train_pixels)
    metrics = scores.compute(baseline) | threshold_metrics(baseline, train_pixels, "_train")
    metrics |= {"seg/threshold": config.threshold, "baseline/channel_threshold/rule": format_threshold(baseline)}
    return metrics, table, grades


def score_grading(
    predictor: Predictor, selection: Selection, reference: Selection, known: dict[int, np.ndarray], task: ProgressTask
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores the grades of truly graded held-out images.

    Args:
        predictor: The networks.
        selection: The images.
        reference: The images whose most frequent grade is the baseline.
        known: Grade probabilities that have been predicted already, by index in the split.
        task: Shown progress.

    Returns:
        The metrics, and a row for each image.
    """
    indices = {position: int(selection.indices[position]) for position in take_own_share(range(len(selection)))}
    found = predict_grades(predictor, selection.split, list(indices.values()), known, task)
    probabilities = np.stack(merge_rows({position: found[index] for position, index in indices.items()}))
    truth = true_labels(selection.split).grade[selection.indices]
    rows = grade_rows(selection.image_ids, probabilities, truth)
    return grading_metrics(probabilities, truth, find_majority_grade(reference)), rows


def score_labels(context: Context, network: TrainedNetwork) -> dict[str, Any]:
    """Scores the updated labels of the training images whose true grade is known.

    The batches have the training's size because batch normalisation uses the whole batch: running statistics would give
    other features, and so other labels than in training. The last batch is filled up with images of the first.
    """
    config, train = context.config, context.segmented["train"]
    table = context.workdir / "pseudo_labels.csv"
    if config.pseudo.source == "none" or (has_stage_1(config) and not table.exists()):
        return {}
    labels = read_training_labels(train.split, config, table)
    true = {int(i): context.known_grades.get(train.split.records[i].image, UNKNOWN_GRADE) for i in train.indices}
    known = [i for i, grade in sorted(true.items()) if UNKNOWN_GRADE not in (grade, labels.grade[i])]
    read = network.devices.make_evaluation(read_labels, method=make_method(network.config, total_steps=1))
    batch_size = network.devices.batch_size_per_process(config.train.batch_size)
    soft: dict[int, np.ndarray] = {}
    own = take_own_share(known)
    filled = np.resize(own, -(-len(own) // batch_size) * batch_size).tolist()
    for start in range(0, len(filled), batch_size):
        chunk = filled[start : start + batch_size]
        batch = stack_batch([(i, train.split[i]) for i in chunk], labels, batch_size)
        soft = dict(zip(chunk, read(network.state, network.devices.put_batch(batch)), strict=True)) | soft
    if not known:
        return {}
    given = labels.grade[known]
    hierarchy = HIERARCHIES[config.meta.hierarchy if config.meta.enabled else "full"]
    allowed = np.asarray(hierarchy(jnp.asarray(given), jnp.asarray(labels.admissible[known])))
    return label_quality_metrics(np.stack(merge_rows(soft)), given, np.array([true[i] for i in known]), allowed)


def read_stage_1_metrics(workdir: Path) -> dict[str, Any]:
    """Returns the metrics of the graders and of the pseudo-labels, if those stages have run."""
    metrics: dict[str, Any] = {}
    for path in sorted((workdir / "graders").glob("*/metrics.json")):
        found = read_json(path)
        names = ("grade/accuracy", "grade/kappa", "grade/majority", "grade/n")
        metrics |= {f"grader/{path.parent.name}/{name.removeprefix('grade/')}": found[name] for name in names}
    table = workdir / "pseudo_labels.csv"
    return metrics | (summarise_labels(list(read_label_table(table).values())) if table.exists() else {})

"""`evaluate`: a checkpoint on a split; leaves `metrics.json`, `curves.json`, `per_image.csv` and pictures of some images."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from pldmlt_jax.data.splits.selection import ALL, Selection, choose_splits, keep_graded, select_split
from pldmlt_jax.data.splits.summary import near_duplicate_summary
from pldmlt_jax.evaluation.metrics.baselines import (
    EMPTY_HISTOGRAMS,
    best_threshold,
    channel_histograms,
    format_threshold,
    pixel_histograms,
    threshold_metrics,
)
from pldmlt_jax.evaluation.metrics.curves import CURVES_FILE
from pldmlt_jax.evaluation.metrics.grading import grade_rows, grading_metrics
from pldmlt_jax.evaluation.metrics.labels import label_training_metrics
from pldmlt_jax.evaluation.metrics.segmentation import SegmentationCounts
from pldmlt_jax.evaluation.operating_points import PointCounts
from pldmlt_jax.evaluation.original_size import (
    ORIGINAL,
    compute_area_columns,
    compute_image_row,
    count_image,
    inflation_metrics,
    read_original,
    restore_original_size,
)
from pldmlt_jax.evaluation.predictor import Predictor
from pldmlt_jax.io.files import read_json, write_rows
from pldmlt_jax.io.processes import is_first, merged, own_share, summed
from pldmlt_jax.io.progress import Task, progress
from pldmlt_jax.training.log import read_log
from pldmlt_jax.types import LESIONS
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.stages.examples import chunks, save_examples
from pldmlt_jax.workflow.stages.label_scores import score_labels
from pldmlt_jax.workflow.stages.load_checkpoint import load_predictor
from pldmlt_jax.workflow.stages.pseudo_label import read_label_table, summarise_labels
from pldmlt_jax.workflow.stages.train_graders import GRADED_IMAGES, majority_grade, true_grades


def evaluate(context: Context) -> None:
    """Scores the best checkpoint on a split of both sets, or of the one that has it, with every baseline beside it."""
    network = load_predictor(context)
    sets = {"seg": context.segmented, "grade": context.graded_for_network}
    chosen = choose_splits(sets, context.options.split)
    if ALL in chosen.values():
        print("  all images of the set: those that the network has learnt from, if it has, are among them")
    selections = {key: select_split(sets[key], split) for key, split in chosen.items()}
    if "grade" in selections:
        selections["grade"] = keep_graded(selections["grade"])
    selections = {key: selection for key, selection in selections.items() if len(selection)}
    # The baselines are chosen on training images; where all are scored on these, which is in their favour.
    references = {key: found if chosen[key] == ALL else sets[key]["train"] for key, found in selections.items()}
    steps = [member.step for member in network.networks]
    figures: dict[str, Any] = {f"{key}/split": chosen[key] for key in selections}
    figures["step"] = steps[0] if len(steps) == 1 else steps
    figures |= {f"parameters/{name}": count for name, count in parameter_counts(context, network).items()}
    rows, graded = [], []
    if "seg" in selections:
        with progress("evaluate segmentation", len(selections["seg"])) as task:
            segmentation, rows = score_segmentation(context, network, selections["seg"], references["seg"], task)
        figures |= segmentation
    if "grade" in selections:
        with progress("evaluate grading", len(selections["grade"])) as task:
            grading, graded = score_grading(context, network, selections["grade"], references["grade"], task)
        figures |= grading
    for key, what in (("seg", "lesions"), ("grade", "grades")):
        if key in chosen and key not in selections:
            print(f"  {what} are not scored: no image of split {chosen[key]!r} is left")
        elif key not in chosen and sets[key]:
            print(f"  {what} are not scored: their set has no split {context.options.split!r} on disk")
        elif key not in chosen:
            print(f"  {what} are not scored: the network has not learnt them")
    member = network.networks[0]
    if len(network.networks) == 1 and context.config.loss.grading:
        figures |= score_labels(context, member)
    figures |= label_training_metrics(read_log(member.directory.parent / "log.jsonl"))
    figures |= stage_1_metrics(context.workdir) | leakage_metrics(context)
    context.write_json("metrics.json", figures)
    if is_first():
        for name, lines in (("per_image.csv", rows), (GRADED_IMAGES, graded)):
            table = context.workdir / name
            table.unlink(missing_ok=True)
            if lines:
                write_rows(table, lines)
        if "seg" not in selections:  # what is there is of another split
            (context.workdir / CURVES_FILE).unlink(missing_ok=True)


def leakage_metrics(context: Context) -> dict[str, Any]:
    """How many photographs stand in both sets or in one more than once, and how many of the former were left out."""
    graded = {} if context.config.pseudo.source == "given" else context.graded_for_network
    report = near_duplicate_summary(context.segmented, graded, context.config.data)
    repeated = {
        f"leakage/repeated_in_{key}": sum(len(images) for images in found.values())
        for key, found in report["repeated"].items()
    }
    counts = {f"leakage/{name}": report[name] for name in ("rule", "images", "same_eye", "excluded")}
    return counts | repeated


def parameter_counts(context: Context, network: Predictor) -> dict[str, int]:
    """Parameters of every network of the run."""
    counts = {
        name: sum(leaf.size for member in network.networks for leaf in jax.tree.leaves(part(member.state).params))
        for name, part in (("network", lambda state: state.network), ("label_network", lambda state: state.label))
    }
    for path in sorted((context.workdir / "graders").glob("*/metrics.json")):
        counts[path.parent.name] = read_json(path)["parameters"]
    return counts


def score_segmentation(
    context: Context, network: Predictor, selection: Selection, reference: Selection, task: Task
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Pooled figures at both sizes, and a row for each image; pictures of some go to `examples/`.

    The baseline's threshold is chosen on the `reference`.

    Of all processes together, each of which predicts its share of the images.
    """
    config, target = context.config, network.target
    threshold = config.evaluation.threshold
    train_pixels = channel_histograms(reference)
    baseline = best_threshold(train_pixels)
    at_network, at_original = SegmentationCounts.empty(target), SegmentationCounts.empty(target)
    points, points_original = PointCounts(target, network.points), PointCounts(target, network.points)
    original_pixels, reduced_px = EMPTY_HISTOGRAMS, np.zeros(1 + len(LESIONS))
    rows: dict[int, dict[str, Any]] = {}
    for chunk in chunks(own_share(range(len(selection))), config.evaluation.batch_size):
        indices = [int(selection.indices[place]) for place in chunk]
        samples = [selection.split[index] for index in indices]
        probabilities, grades, _ = network(np.stack([sample.image for sample in samples]), config.evaluation.batch_size)
        for row, (index, sample) in enumerate(zip(indices, samples, strict=True)):
            p, record = probabilities[row], selection.split.records[index]
            counted = count_image(p, sample.mask_bits, target, threshold)
            at_network = at_network.merge(counted)
            points.add(p, sample.mask_bits)
            graded = grades[row] if config.loss.grading else None
            values = compute_image_row(sample, counted, graded, context.known_grades.get(record.image))
            if config.evaluation.original_size:
                reduced_px += counted.target_px * sample.geometry.area_scale
                image, bits = read_original(record, config.data)
                enlarged = restore_original_size(p, sample, target)
                counted = count_image(enlarged, bits, target, threshold)
                at_original = at_original.merge(counted)
                points_original.add(enlarged, bits, sample.geometry.area_scale)
                original_pixels = original_pixels + pixel_histograms(image, bits)
                values |= {f"{name}{ORIGINAL}": value for name, value in compute_area_columns(counted).items()}
            rows[chunk[row]] = values
            task.advance(sample.image_id)
    at_network, at_original, original_pixels, reduced_px = summed((at_network, at_original, original_pixels, reduced_px))
    table = merged(rows)
    context.write_json(CURVES_FILE, {"network_size": at_network.curves(), "original_size": at_original.curves()})
    if is_first():
        save_examples(context, network, selection, table)
    points.counts, points_original.counts = summed((points.counts, points_original.counts))
    figures = at_network.compute() | points.compute()
    figures |= {"seg/threshold": threshold, "baseline/channel_threshold/rule": format_threshold(baseline)}
    figures |= threshold_metrics(baseline, channel_histograms(selection))
    figures |= threshold_metrics(baseline, train_pixels, "_train")
    if config.evaluation.original_size:
        figures |= {
            f"{name}{ORIGINAL}": value for name, value in (at_original.compute() | points_original.compute()).items()
        }
        figures |= threshold_metrics(baseline, original_pixels, ORIGINAL)
        figures |= inflation_metrics(reduced_px, at_original.target_px)
    return figures, table


def score_grading(
    context: Context, network: Predictor, selection: Selection, reference: Selection, task: Task
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The multi-task network's grades on truly graded images that neither stage has trained on, and a row for each."""
    probabilities: dict[int, np.ndarray] = {}
    batch_size = context.config.evaluation.batch_size
    for chunk in chunks(own_share(range(len(selection))), batch_size):
        samples = [selection.split[int(selection.indices[place])] for place in chunk]
        answers = network(np.stack([sample.image for sample in samples]), batch_size).grade_probabilities
        probabilities |= zip(chunk, answers, strict=True)
        task.update(task.done + len(samples))
    answers, truth = np.stack(merged(probabilities)), true_grades(selection)
    return grading_metrics(answers, truth, majority_grade(reference)), grade_rows(selection.image_ids, answers, truth)


def stage_1_metrics(workdir: Path) -> dict[str, Any]:
    """Figures of the graders and the pseudo-labels, where those stages have run."""
    figures: dict[str, Any] = {}
    for path in sorted((workdir / "graders").glob("*/metrics.json")):
        found = read_json(path)
        names = ("grade/accuracy", "grade/kappa", "grade/majority", "grade/n")
        figures |= {f"grader/{path.parent.name}/{name.removeprefix('grade/')}": found[name] for name in names}
    table = workdir / "pseudo_labels.csv"
    return figures | (summarise_labels(list(read_label_table(table).values())) if table.exists() else {})

"""`evaluate`: a checkpoint on a split; leaves `metrics.json`, `per_image.csv` and the pictures of some images."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pldmlt_jax.cli.context import Context, write_rows
from pldmlt_jax.cli.train import make_method, make_rounds
from pldmlt_jax.cli.train_grader import majority_grade, true_grades
from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.fundus import field_of_view, fuse, read_image, read_mask
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.data.selection import Selection, choose_split
from pldmlt_jax.evaluation.baselines import (
    NO_PIXELS,
    best_threshold,
    channel_histograms,
    pixel_histograms,
    rule,
    threshold_figures,
)
from pldmlt_jax.evaluation.figures import overlay, write_picture
from pldmlt_jax.evaluation.grading_metrics import grading_figures
from pldmlt_jax.evaluation.inference import (
    TrainedNetwork,
    at_original_size,
    checkpoint_directory,
    load_network,
)
from pldmlt_jax.evaluation.segmentation_metrics import (
    SegmentationCounts,
    dice,
    foreground_score,
    iou,
    segmentation_counts,
)
from pldmlt_jax.progress import Task, progress
from pldmlt_jax.types import LESIONS, MASK_BITS, Sample

ORIGINAL = "_original_size"
"""Suffix of the figures that are computed at the image's own size against its own masks."""

PICTURE_PX = 480
"""Longer side of the pictures that the report shows."""


def evaluate(context: Context) -> None:
    """Scores the best checkpoint on a split of both sets, with every baseline beside it."""
    network = load_trained(context)
    segmented_name, segmented = choose_split(context.segmented, context.arguments.split)
    graded_name, graded = choose_split(context.graded_for_network, context.arguments.split)
    figures: dict[str, Any] = {"seg/split": segmented_name, "grade/split": graded_name, "step": network.step}
    figures |= {f"parameters/{name}": count for name, count in parameter_counts(context, network).items()}
    with progress("evaluate segmentation", len(segmented)) as task:
        segmentation, rows = score_segmentation(context, network, segmented, task)
    figures |= segmentation
    with progress("evaluate grading", len(graded)) as task:
        figures |= score_grading(context, network, graded, context.graded_for_network["train"], task)
    figures |= stage_1_figures(context.workdir)
    context.write_json("metrics.json", figures)
    write_rows(context.workdir / "per_image.csv", rows)


def load_trained(context: Context) -> TrainedNetwork:
    """The best checkpoint that the command line names, else the workdir's."""
    config = context.config
    directory = checkpoint_directory(Path(context.arguments.checkpoint or context.workdir))
    method = make_method(config, make_rounds(config, len(context.segmented["train"])).phase_steps("theta"))
    return load_network(directory, config, method)


def parameter_counts(context: Context, network: TrainedNetwork) -> dict[str, int]:
    """Parameters of every network of the run."""
    counts = {
        "network": sum(leaf.size for leaf in jax.tree.leaves(network.state.network.params)),
        "label_network": sum(leaf.size for leaf in jax.tree.leaves(network.state.label.params)),
    }
    for path in sorted((context.workdir / "graders").glob("*/metrics.json")):
        counts[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))["parameters"]
    return counts


def score_segmentation(
    context: Context, network: TrainedNetwork, selection: Selection, task: Task
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Pooled figures at both sizes, and a row for each image; pictures of the worst and the best go to `examples/`."""
    config, target = context.config, network.method.loss.target
    threshold = config.evaluation.threshold
    train_pixels = channel_histograms(context.segmented["train"])
    baseline = best_threshold(train_pixels)
    at_network, at_original = SegmentationCounts.empty(target), SegmentationCounts.empty(target)
    original_pixels, reduced_px = NO_PIXELS, np.zeros(1 + len(LESIONS))
    rows, pictures = [], {}
    for chunk in chunks(list(selection.indices), config.evaluation.batch_size):
        samples = [selection.split[int(i)] for i in chunk]
        probabilities, grades = network(padded_images(samples, config.evaluation.batch_size))
        for row, (index, sample) in enumerate(zip(chunk, samples, strict=True)):
            p, record = probabilities[row], selection.split.records[int(index)]
            counted = count_one(p, sample.mask_bits, target, threshold)
            at_network = at_network.merge(counted)
            values = image_row(sample, counted, grades[row], context.known_grades.get(record.image))
            if config.evaluation.original_size:
                reduced_px += counted.marked_px * sample.geometry.area_scale
                image, bits = read_original(record, config.data)
                counted = count_one(to_original_pixels(p, sample, target), bits, target, threshold)
                at_original = at_original.merge(counted)
                original_pixels = original_pixels + pixel_histograms(image, bits)
                values |= {f"{name}{ORIGINAL}": value for name, value in area_columns(counted).items()}
            rows.append(values)
            valid = sample.mask_bits & MASK_BITS["valid"] != 0
            pictures[sample.image_id] = (sample, valid & (foreground_score(p, target) > threshold))
            task.advance(sample.image_id)
    save_examples(context.workdir / "examples", rows, pictures, config.evaluation.num_examples)
    figures = at_network.compute() | {"baseline/channel_threshold/rule": rule(baseline)}
    figures |= threshold_figures(baseline, channel_histograms(selection))
    figures |= threshold_figures(baseline, train_pixels, "_train")
    if config.evaluation.original_size:
        figures |= {f"{name}{ORIGINAL}": value for name, value in at_original.compute().items()}
        figures |= threshold_figures(baseline, original_pixels, ORIGINAL)
        figures |= inflation_figures(reduced_px, at_original.marked_px)
    return figures, rows


def inflation_figures(reduced_px: np.ndarray, original_px: np.ndarray) -> dict[str, float | None]:
    """How much larger the masks are at the network's size, in pixels of the original: fused, then each lesion."""
    names = ("seg/inflation", *(f"seg/{lesion}/inflation" for lesion in LESIONS))
    pairs = zip(reduced_px, original_px, strict=True)
    return {name: float(reduced / px) if px else None for name, (reduced, px) in zip(names, pairs, strict=True)}


def chunks(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def padded_images(samples: list[Sample], batch_size: int) -> np.ndarray:
    """Images [batch_size, s, s, 3]: always of one shape, so that the network compiles once."""
    images = np.stack([sample.image for sample in samples])
    missing = batch_size - len(samples)
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)]) if missing else images


def count_one(probabilities: np.ndarray, mask_bits: np.ndarray, target: str, threshold: float) -> SegmentationCounts:
    return segmentation_counts(probabilities[None], mask_bits[None], np.ones(1), target=target, threshold=threshold)


def to_original_pixels(probabilities: np.ndarray, sample: Sample, target: str) -> np.ndarray:
    """A prediction written back to the image's own pixels; outside the field of view all is background."""
    valid = sample.mask_bits & MASK_BITS["valid"] != 0
    enlarged = at_original_size(probabilities, valid, sample.geometry)
    if target != "lesions":
        enlarged[..., 0] = 1.0 - enlarged[..., 1:].sum(axis=-1)
    return enlarged


def read_original(record: RawRecord, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and its mask bits at their own size; the fused mask after the same morphology as in training."""
    image = read_image(record.image)
    shape = image.shape[:2]
    masks = {lesion: read_mask(path, shape) for lesion, path in (record.masks or {}).items()}
    planes = masks | {"valid": field_of_view(image), "fused": fuse(masks, shape, data)[0]}
    bits = np.zeros(shape, np.uint8)
    for name, plane in planes.items():
        bits[plane] |= MASK_BITS[name]
    return image, bits


def image_row(
    sample: Sample, counts: SegmentationCounts, grade_probabilities: np.ndarray, true_grade: int | None
) -> dict[str, Any]:
    """One line of `per_image.csv`."""
    return {
        "image": sample.image_id,
        **area_columns(counts),
        **{f"{lesion}_truth_px": int(counts.lesions[i, 2]) for i, lesion in enumerate(LESIONS)},
        "predicted_grade": int(grade_probabilities.argmax()),
        "confidence": round(float(grade_probabilities.max()), 4),
        "true_grade": "" if true_grade is None else true_grade,
    }


def area_columns(counts: SegmentationCounts) -> dict[str, Any]:
    """Foreground Dice, IoU and areas; empty where undefined."""
    tp, predicted, marked, valid = (int(v) for v in counts.foreground)
    values = {"dice": dice(tp, predicted, marked), "iou": iou(tp, predicted, marked)}
    rounded = {name: "" if value is None else round(value, 4) for name, value in values.items()}
    return rounded | {"truth_px": marked, "predicted_px": predicted, "valid_px": valid}


def save_examples(folder: Path, rows: list[dict], pictures: dict, num: int) -> None:
    """Photograph, truth, prediction and both outlined, of the worst and the best images by Dice."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    ranked = sorted((row for row in rows if row["dice"] != ""), key=lambda row: row["dice"])
    half = (num + 1) // 2
    for row in {row["image"]: row for row in [*ranked[:half], *ranked[::-1][: num - half]]}.values():
        sample, predicted = pictures[row["image"]]
        truth = sample.mask_bits & MASK_BITS["fused"] != 0
        views = {
            "image": sample.image,
            "truth": overlay(sample.image, {"lesion": truth}),
            "prediction": overlay(sample.image, {"lesion": predicted}),
        }
        for name, picture in views.items():
            write_picture(folder / f"{row['image']}_{name}", picture, PICTURE_PX)


def score_grading(
    context: Context, network: TrainedNetwork, selection: Selection, train: Selection, task: Task
) -> dict[str, Any]:
    """The multi-task network's grades on truly graded images that neither stage has trained on."""
    probabilities = []
    batch_size = context.config.evaluation.batch_size
    for chunk in chunks(list(selection.indices), batch_size):
        samples = [selection.split[int(i)] for i in chunk]
        probabilities.append(network(padded_images(samples, batch_size))[1][: len(samples)])
        task.update(task.done + len(samples))
    return grading_figures(np.concatenate(probabilities), true_grades(selection), majority_grade(train))


def stage_1_figures(workdir: Path) -> dict[str, Any]:
    """Figures of the graders and the pseudo-labels, where those stages have run."""
    figures: dict[str, Any] = {}
    for path in sorted((workdir / "graders").glob("*/metrics.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        names = ("grade/accuracy", "grade/kappa", "grade/majority", "grade/n")
        figures |= {f"grader/{path.parent.name}/{name.removeprefix('grade/')}": found[name] for name in names}
    summary = workdir / "pseudo_labels.json"
    return figures | (json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {})

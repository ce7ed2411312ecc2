"""The last part of `train`: chooses operating points and fits the grades' temperature on validation images."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pldmlt_jax.data.loader import given_labels
from pldmlt_jax.data.preprocessing.prepared_split import PreparedSplit
from pldmlt_jax.evaluation.operating_points import OperatingPoints, PointSearch, write_points
from pldmlt_jax.evaluation.predictor import Predictor
from pldmlt_jax.evaluation.temperature import fit_temperature
from pldmlt_jax.io.progress import ProgressTask, show_progress
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.load_checkpoint import load_predictor


def calibrate(context: Context) -> None:
    """Predicts the validation images with the best checkpoint, and writes `checkpoints/operating_points.json`.

    Operating points are chosen at the network's size. The temperature is fitted on truly graded images, with test-time
    augmentation on the mean probabilities of the views.
    """
    predictor = dataclasses.replace(load_predictor(context), temperatures=(1.0,))
    (network,) = predictor.networks
    validation, graded = context.segmented["val"], context.graded_for_network.get("val")
    search, num_graded = PointSearch(predictor.target), len(graded) if graded else 0
    with show_progress("operating points", len(validation) + num_graded) as task:
        grades: dict[int, np.ndarray] = {}
        predictions = predictor.predict_prepared(validation.split, validation.indices)
        for index, (sample, probabilities, grade_probabilities) in zip(validation.indices, predictions, strict=True):
            search.add(probabilities, sample.mask_bits)
            grades[int(index)] = grade_probabilities
            task.advance(sample.image_id)
        known = grades if graded and graded.split is validation.split else {}
        temperature = None
        if graded:
            indices = [int(index) for index in graded.indices]
            found = predict_grades(predictor, graded.split, indices, known, task)
            logits = np.log(np.stack([found[index] for index in indices]) + 1e-12)
            temperature = fit_temperature(logits, given_labels(graded.split).grade[indices])
    geometries = [context.segmented["train"].split.metadata[int(i)].geometry for i in context.segmented["train"].indices]
    longer_px = [max(geometry.crop_height_px, geometry.crop_width_px) for geometry in geometries]
    inference = {name: getattr(context.config.inference, name) for name in ("mode", "tile_px", "overlap", "tta")}
    field_px = (min(longer_px), max(longer_px))
    points = OperatingPoints(search.choose(), temperature, num_graded, network.step, inference, field_px)
    write_points(network.directory, points)
    print(f"  {format_points(points)}")


def predict_grades(
    predictor: Predictor, split: PreparedSplit, indices: Sequence[int], known: Mapping[int, np.ndarray], task: ProgressTask
) -> dict[int, np.ndarray]:
    """Predicts the grades of prepared images; skips those that have been predicted already.

    Args:
        predictor: The networks.
        split: The prepared images.
        indices: Indices in the split.
        known: Grade probabilities [5] that have been predicted already, by index.
        task: Shown progress.

    Returns:
        Grade probabilities [5] by index.
    """
    unknown = [index for index in indices if index not in known]
    found = {index: known[index] for index in indices if index in known}
    task.update(task.done + len(found))
    for index, (_, _, probabilities) in zip(unknown, predictor.predict_prepared(split, unknown), strict=True):
        found[index] = probabilities
        task.update(task.done + 1)
    return found


def format_points(points: OperatingPoints) -> str:
    """Returns the operating points and the temperature as one line for the terminal."""
    parts = [
        f"{name} > {point.threshold:g}" + (f", from {point.min_area_px:g} px" if point.min_area_px else "")
        for name, point in points.lesions.items()
    ]
    grades = f"grades: temperature {points.temperature:.2f}" if points.temperature else "grades: uncalibrated"
    return f"operating points: {'; '.join(parts)}; {grades}"

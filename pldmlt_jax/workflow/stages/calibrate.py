"""The end of `train`: chooses operating points and the grades' temperature on validation images."""

import dataclasses

import numpy as np

from pldmlt_jax.data.loader import given_labels
from pldmlt_jax.data.splits.selection import Selection
from pldmlt_jax.evaluation.operating_points import OperatingPoints, PointSearch, write_points
from pldmlt_jax.evaluation.predictor import Predictor
from pldmlt_jax.evaluation.temperature import fit_temperature
from pldmlt_jax.io.progress import Task, progress
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.load_checkpoint import load_predictor


def calibrate(context: Context) -> None:
    """Predicts the validation images with the best checkpoint, and writes `checkpoints/operating_points.json`.

    Operating points are chosen at the network's size. The temperature is fitted on truly graded images; with test-time
    augmentation, on the mean of the views' probabilities.
    """
    predictor = dataclasses.replace(load_predictor(context), temperatures=(1.0,))
    (network,) = predictor.networks
    validation, graded = context.segmented["val"], context.graded_for_network.get("val")
    search, num_graded = PointSearch(predictor.target), len(graded) if graded else 0
    with progress("operating points", len(validation) + num_graded) as task:
        grades: dict[int, np.ndarray] = {}
        predictions = predictor.predict_prepared(validation.split, validation.indices)
        for index, (sample, probabilities, grade_probabilities) in zip(validation.indices, predictions, strict=True):
            search.add(probabilities, sample.mask_bits)
            grades[int(index)] = grade_probabilities
            task.advance(sample.image_id)
        known = grades if graded and graded.split is validation.split else {}
        temperature = choose_temperature(predictor, graded, known, task) if graded else None
    geometries = [context.segmented["train"].split.metadata[int(i)].geometry for i in context.segmented["train"].indices]
    longer_px = [max(geometry.crop_height_px, geometry.crop_width_px) for geometry in geometries]
    inference = {name: getattr(context.config.inference, name) for name in ("mode", "tile_px", "overlap", "tta")}
    field_px = (min(longer_px), max(longer_px))
    points = OperatingPoints(search.choose(), temperature, num_graded, network.step, inference, field_px)
    write_points(network.directory, points)
    print(f"  {format_points(points)}")


def choose_temperature(predictor: Predictor, graded: Selection, known: dict[int, np.ndarray], task: Task) -> float:
    """Fits the temperature on truly graded images.

    Args:
        predictor: The network, with a temperature of 1.
        graded: The images.
        known: Grade probabilities that have been predicted already, by position in the split.
        task: Shown progress.
    """
    unknown = [int(index) for index in graded.indices if int(index) not in known]
    found = dict(known)
    for index, (_, _, grade_probabilities) in zip(unknown, predictor.predict_prepared(graded.split, unknown), strict=True):
        found[index] = grade_probabilities
        task.update(task.done + 1)
    logits = np.log(np.stack([found[int(index)] for index in graded.indices]) + 1e-12)
    return fit_temperature(logits, given_labels(graded.split).grade[graded.indices])


def format_points(points: OperatingPoints) -> str:
    """One line for the terminal."""
    parts = [
        f"{name} > {point.threshold:g}" + (f", from {point.min_area_px:g} px" if point.min_area_px else "")
        for name, point in points.lesions.items()
    ]
    grades = f"grades: temperature {points.temperature:.2f}" if points.temperature else "grades: uncalibrated"
    return f"operating points: {'; '.join(parts)}; {grades}"

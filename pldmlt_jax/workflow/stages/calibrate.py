"""The end of `train`: operating points and the grades' temperature, chosen on validation images and kept beside the
checkpoints.
"""

import dataclasses

import numpy as np

from pldmlt_jax.data.splits.selection import Selection
from pldmlt_jax.evaluation.operating_points import OperatingPoints, PointSearch, write_points
from pldmlt_jax.evaluation.predictor import Predictor
from pldmlt_jax.io.progress import Task, progress
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.stages.load_checkpoint import load_predictor
from pldmlt_jax.workflow.stages.train_graders import fit_temperature, given_grades


def calibrate(context: Context) -> None:
    """Asks the best checkpoint about the validation images, and writes `checkpoints/operating_points.json`."""
    predictor = load_predictor(context)
    (network,) = predictor.networks
    validation = context.segmented["val"]
    graded = context.graded_for_network.get("val")
    with progress("operating points", len(validation) + (len(graded) if graded else 0)) as task:
        lesions = choose_points(predictor, validation, task)
        temperature = choose_temperature(predictor, graded, task) if graded else None
    longer = [max(row.crop_height_px, row.crop_width_px) for row in _geometries(context.segmented["train"])]
    inference = {name: getattr(context.config.inference, name) for name in ("mode", "tile_px", "overlap", "tta")}
    points = OperatingPoints(
        lesions, temperature, len(graded) if graded else 0, network.step, inference, (min(longer), max(longer))
    )
    write_points(network.directory, points)
    print(f"  {summarise_points(points)}")


def _geometries(selection: Selection) -> list:
    return [selection.split.metadata[int(i)].geometry for i in selection.indices]


def choose_points(predictor: Predictor, validation: Selection, task: Task) -> dict:
    """Each lesion's point, by the Dice pooled over the validation images at the network's size."""
    search, batch_size = PointSearch(predictor.target), predictor.config.evaluation.batch_size
    for start in range(0, len(validation), batch_size):
        samples = [validation.split[int(i)] for i in validation.indices[start : start + batch_size]]
        probabilities = predictor(np.stack([sample.image for sample in samples]), batch_size).probabilities
        for sample, p in zip(samples, probabilities, strict=True):
            search.add(p, sample.mask_bits)
            task.advance(sample.image_id)
    return search.choose()


def choose_temperature(predictor: Predictor, graded: Selection, task: Task) -> float:
    """The temperature of truly graded validation images; with views it is fitted on the mean of their probabilities."""
    uncalibrated = dataclasses.replace(predictor, temperatures=(1.0,))
    batch_size, probabilities = predictor.config.evaluation.batch_size, []
    for start in range(0, len(graded), batch_size):
        samples = [graded.split[int(i)] for i in graded.indices[start : start + batch_size]]
        answer = uncalibrated(np.stack([sample.image for sample in samples]), batch_size)
        probabilities.append(answer.grade_probabilities)
        task.update(task.done + len(samples))
    logits = np.log(np.concatenate(probabilities) + 1e-12)
    return fit_temperature(logits, given_grades(graded))


def summarise_points(points: OperatingPoints) -> str:
    """One line for the terminal."""
    parts = [
        f"{name} > {point.threshold:g}" + (f", from {point.min_area_px:g} px" if point.min_area_px else "")
        for name, point in points.lesions.items()
    ]
    grades = f"grades: temperature {points.temperature:.2f}" if points.temperature else "grades: uncalibrated"
    return f"operating points: {'; '.join(parts)}; {grades}"

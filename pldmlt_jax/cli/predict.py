"""`predict`: mask, overlay and grade of any image files, at their own size."""

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pldmlt_jax.cli.context import Context
from pldmlt_jax.cli.flags import Arguments
from pldmlt_jax.cli.train import load_trained
from pldmlt_jax.data.fundus import IMAGE_SUFFIXES, PHOTOGRAPH_SUFFIXES, read_image
from pldmlt_jax.data.selection import choose_splits
from pldmlt_jax.errors import ConfigError, DataError
from pldmlt_jax.evaluation.figures import overlay
from pldmlt_jax.evaluation.inference import (
    Prediction,
    TrainedNetwork,
    predict_images,
)
from pldmlt_jax.evaluation.segmentation_metrics import foreground_score, lesion_scores
from pldmlt_jax.files import visible, write_rows
from pldmlt_jax.method.losses import EXCLUSIVE_ORDER
from pldmlt_jax.progress import Task, progress
from pldmlt_jax.types import LESIONS

EXAMPLES = "predictions/examples"


def main(arguments: Arguments) -> None:
    context = Context(arguments)
    if not arguments.input:
        raise ConfigError("--input", "nothing given", "an image file or a folder", "add --input=PATH")
    paths = find_images(Path(arguments.input))
    output = Path(arguments.output or context.workdir / "predictions")
    network = load_trained(context)
    with progress("predict", len(paths)) as task:
        unreadable = predict_files(network, paths, output, context.config.evaluation.batch_size, task)
    if len(unreadable) < len(paths):
        print(f"  {len(paths) - len(unreadable)} predicted, see {output / 'predictions.csv'}")
    for error in unreadable:
        print(f"  not read: {error}")
    if unreadable:
        raise DataError(arguments.input, f"{len(unreadable)} of {len(paths)} images not read", "whole images",
                        "see the list above; the others are done")  # fmt: skip


def predict_examples(context: Context) -> None:
    """The pipeline's stage: predicts raw photographs of the evaluated split, as a user would.

    They have a folder of their own, for a user's predictions are in `predictions` unless the command line says where.
    """
    sets = {"segmentation": context.segmented, "grading": context.graded_for_network}
    key, split = next(iter(choose_splits(sets, context.arguments.split).items()))
    selection = sets[key][split]
    paths = [selection.split.records[int(i)].image for i in selection.indices][: context.config.evaluation.num_examples]
    with progress("predict", len(paths)) as task:
        predict_files(
            load_trained(context),
            paths,
            context.workdir / EXAMPLES,
            context.config.evaluation.batch_size,
            task,
        )


def find_images(path: Path) -> list[Path]:
    """The image file, or every image in the folder and below.

    Raises:
        DataError: There is none.
    """
    if path.is_file():
        return [path]
    found = visible(p for p in path.rglob("*") if p.suffix.lower() in PHOTOGRAPH_SUFFIXES) if path.is_dir() else []
    if not found:
        what = "no images in it" if path.is_dir() else "no such file or folder"
        raise DataError(path, what, "images named *" + ", *".join(IMAGE_SUFFIXES), "check --input")
    return found


def predict_files(network: TrainedNetwork, paths: list[Path], output: Path, batch_size: int, task: Task) -> list[DataError]:
    """Predicts files batch by batch; those that cannot be read are returned, and the rest is done."""
    output.mkdir(parents=True, exist_ok=True)
    unreadable: list[DataError] = []
    rows = []
    names = unique_names(paths)
    for start in range(0, len(paths), batch_size):
        chunk = []
        for path in paths[start : start + batch_size]:
            try:
                chunk.append((path, read_image(path)))
            except DataError as error:
                unreadable.append(error)
        for (path, image), prediction in zip(
            chunk, predict_images(network, [image for _, image in chunk], batch_size), strict=True
        ):
            rows.append(write_prediction(network, path, names[path], image, prediction, output))
        task.update(min(start + batch_size, len(paths)))
    if rows:
        write_rows(output / "predictions.csv", rows)
    return unreadable


def unique_names(paths: list[Path]) -> dict[Path, str]:
    """A name for the outputs of each image: its stem, with a number where two would be the same."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        candidates = itertools.chain([path.stem], (f"{path.stem}_{count}" for count in itertools.count(2)))
        names[path] = next(name for name in candidates if name not in taken)
        taken.add(names[path])
    return names


def predicted_masks(network: TrainedNetwork, prediction: Prediction) -> dict[str, np.ndarray]:
    """Thresholded masks by name: `lesion`, or each lesion where the network tells them apart, in order of precedence."""
    target, threshold = network.method.loss.target, network.config.evaluation.threshold
    if target == "fused":
        return {"lesion": foreground_score(prediction.probabilities, target) > threshold}
    scores = lesion_scores(prediction.probabilities, target)
    return {lesion: scores[..., LESIONS.index(lesion)] > threshold for lesion in EXCLUSIVE_ORDER}


def write_prediction(
    network: TrainedNetwork, path: Path, name: str, image: np.ndarray, prediction: Prediction, output: Path
) -> dict[str, Any]:
    """Writes the mask (0 background; 1 lesion, or 1 to 4 for MA HE EX SE) and the overlay; returns the row."""
    masks = predicted_masks(network, prediction)
    label = np.zeros(image.shape[:2], np.uint8)
    for lesion, mask in masks.items():
        label[mask] = 1 + LESIONS.index(lesion) if lesion in LESIONS else 1
    cv2.imwrite(str(output / f"{name}_mask.png"), label)
    cv2.imwrite(str(output / f"{name}_overlay.jpg"), cv2.cvtColor(overlay(image, masks), cv2.COLOR_RGB2BGR))
    grades: dict[str, Any] = {}
    if network.config.loss.grading:
        p = prediction.grade_probabilities
        grades = {"grade": int(p.argmax())} | {f"grade_{i}": round(float(value), 4) for i, value in enumerate(p)}
    return {
        "image": str(path),
        **grades,
        **{f"{mask_name}_px": int(mask.sum()) for mask_name, mask in masks.items()},
        "height_px": image.shape[0],
        "width_px": image.shape[1],
        "mask": f"{name}_mask.png",
        "overlay": f"{name}_overlay.jpg",
    }

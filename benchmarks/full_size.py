"""Dice of single IDRiD images at their own size, with the masks that `predict` makes.

    python -m benchmarks.full_size --checkpoint=runs/shipped --root=IDRiD --root=OTHER --images=IDRiD_03,IDRiD_43

Prints pooled Dice by lesion for every root. A root holds `A. Segmentation` in the official layout. Name only held-out
images. The bundled model has none: it was trained on all of them.
"""

import argparse
from pathlib import Path

import numpy as np

import pldmlt_jax as pj
from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.idrid import list_segmentation
from pldmlt_jax.data.preprocessing.masks import read_annotation
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.errors import raise_all
from pldmlt_jax.evaluation.metrics.segmentation import dice
from pldmlt_jax.evaluation.tta import VIEWS
from pldmlt_jax.types import LESIONS


def counts(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the numbers of true positive, predicted and marked pixels."""
    return np.array([np.count_nonzero(mask) for mask in (predicted & truth, predicted, truth)])


def score(answer: pj.Prediction, record: RawRecord) -> dict[str, np.ndarray]:
    """Counts pixels by lesion and for any lesion, at the size of the prediction."""
    size = answer.masks[LESIONS[0]].shape
    marked = read_annotation(record, size, DataConfig()).masks
    truth = {lesion: marked.get(lesion, np.zeros(size, bool)) for lesion in LESIONS}
    found = {lesion: counts(answer.masks[lesion], truth[lesion]) for lesion in LESIONS}
    any_lesion = (np.logical_or.reduce([masks[lesion] for lesion in LESIONS]) for masks in (answer.masks, truth))
    return found | {"any": counts(*any_lesion)}


def pooled_line(rows: list[dict[str, np.ndarray]]) -> str:
    """Formats the Dice of each lesion and of any lesion, pooled over images."""
    pooled = {key: np.sum([row[key] for row in rows], axis=0) for key in rows[0]}
    return "  ".join(f"{key} {number(dice(*three))}" for key, three in pooled.items())


def number(value: float | None) -> str:
    """Formats a number with three decimals, or as "undefined"."""
    return "undefined" if value is None else f"{value:.3f}"


def training_records(root: Path, images: str) -> list[RawRecord]:
    """Returns the named images (comma-separated) of IDRiD's official training set."""
    listing = list_segmentation(root)
    raise_all(listing.errors)
    records = {record.image_id: record for record in listing.records["train"]}
    return [records[name] for name in images.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", action="append", required=True, type=Path)
    parser.add_argument("--images", required=True)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--tta", default="none", choices=tuple(VIEWS))
    arguments = parser.parse_args()
    predictor = pj.load(arguments.checkpoint, inference=pj.InferenceConfig(tta=arguments.tta))
    for root in arguments.root:
        rows = []
        for record in training_records(root, arguments.images):
            image = pj.read_image(record.image)
            answer = predictor.predict(image)
            size = "x".join(map(str, image.shape[1::-1]))
            print(f"{root.name} {record.image_id}: {size}, grade {answer.grade}", *answer.warnings, sep="; ")
            rows.append(score(answer, record))
        print(f"{root.name}, Dice pooled over {len(rows)}: {pooled_line(rows)}")


if __name__ == "__main__":
    main()

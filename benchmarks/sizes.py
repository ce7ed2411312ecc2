"""Evaluates a network on held-out IDRiD images at sizes that it was not trained at, and the mean of their probabilities.

    python -m benchmarks.sizes --checkpoint=runs/shipped --root=IDRiD --images=IDRiD_03,IDRiD_43 --sizes=640,832 --tta=flips

Prints the metrics of `evaluate` at the images' own size, for each size and for the mean over sizes. Name only held-out
images. The bundled model has none: it was trained on all of them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

import pldmlt_jax as pj
from benchmarks.full_size import number, training_records
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.evaluation.metrics.segmentation import SegmentationCounts
from pldmlt_jax.evaluation.original_size import count_image, read_original
from pldmlt_jax.evaluation.tta import VIEWS
from pldmlt_jax.types import LESIONS

METRICS = {"mean AUPR": "mean/aupr_11_exclusive", "mean ap": "mean/ap", "Dice": "foreground/dice"} | {
    f"ap of {lesion}": f"{lesion}/ap" for lesion in LESIONS
}
"""What is printed: name -> key after `seg/`."""

THRESHOLD = 0.5


def at_size(predictor: pj.Predictor, size_px: int) -> pj.Predictor:
    """Returns the same networks with images prepared at another size."""
    config = predictor.config
    return replace(predictor, config=replace(config, data=replace(config.data, size_px=size_px)))


def predict_at_own_size(predictor: pj.Predictor, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 4"]:
    """Returns the probabilities of the four lesions at the image's own size."""
    probabilities = predictor.predict(image).probabilities
    return np.stack([probabilities[lesion] for lesion in LESIONS], axis=-1)


def count_sizes(predictors: Sequence[pj.Predictor], records: Sequence[RawRecord]) -> list[SegmentationCounts]:
    """Returns the counts of each predictor, and last those of their mean."""
    totals = [SegmentationCounts.empty("lesions") for _ in range(len(predictors) + 1)]
    for record in records:
        image, bits = read_original(record, predictors[0].config.data)
        predictions = [predict_at_own_size(predictor, image) for predictor in predictors]
        predictions.append(np.mean(predictions, axis=0))
        counts = [count_image(p, bits, "lesions", THRESHOLD) for p in predictions]
        totals = [total.merge(each) for total, each in zip(totals, counts, strict=True)]
    return totals


def line(counts: SegmentationCounts) -> str:
    """Formats METRICS in one line."""
    metrics = counts.compute()
    return "  ".join(f"{name} {number(metrics[f'seg/{key}'])}" for name, key in METRICS.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--images", required=True)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--sizes", required=True, help="px, multiples of 32, comma-separated")
    parser.add_argument("--tta", default="none", choices=tuple(VIEWS))
    arguments = parser.parse_args()
    predictor = pj.load(arguments.checkpoint, inference=pj.InferenceConfig(tta=arguments.tta))
    predictors = [at_size(predictor, int(size)) for size in arguments.sizes.split(",")]
    totals = count_sizes(predictors, training_records(arguments.root, arguments.images))
    for name, total in zip([*arguments.sizes.split(","), "mean"], totals, strict=True):
        print(f"{name}: {line(total)}")


if __name__ == "__main__":
    main()

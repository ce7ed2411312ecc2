"""A network asked about held-out IDRiD photographs at sizes that it was not trained at, and the mean of their probabilities.

    python -m benchmarks.sizes --checkpoint=runs/shipped --root=IDRiD --images=IDRiD_03,IDRiD_43 --sizes=640,832 --tta=flips

Prints the figures of `evaluate` at the photographs' own size, of each size and of all sizes together. Name only photographs
that the network has not learnt from: none, of the one that ships.
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

FIGURES = {"mean AUPR": "mean/aupr_11_exclusive", "mean ap": "mean/ap", "Dice": "foreground/dice"} | {
    f"ap of {lesion}": f"{lesion}/ap" for lesion in LESIONS
}
"""What is printed: name -> key after `seg/`."""

THRESHOLD = 0.5


def at_size(predictor: pj.Predictor, size_px: int) -> pj.Predictor:
    """The same networks, for which photographs are prepared at another size."""
    config = predictor.config
    return replace(predictor, config=replace(config, data=replace(config.data, size_px=size_px)))


def asked(predictor: pj.Predictor, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 4"]:
    """Probabilities of the four lesions on the photograph's own pixels."""
    found = predictor.predict(image).probabilities
    return np.stack([found[lesion] for lesion in LESIONS], axis=-1)


def count_sizes(predictors: Sequence[pj.Predictor], records: Sequence[RawRecord]) -> list[SegmentationCounts]:
    """Counts of every predictor, and in the end of the mean of all."""
    totals = [SegmentationCounts.empty("lesions") for _ in range(len(predictors) + 1)]
    for record in records:
        image, bits = read_original(record, predictors[0].config.data)
        answers = [asked(predictor, image) for predictor in predictors]
        answers.append(np.mean(answers, axis=0))
        totals = [total.merge(count_image(p, bits, "lesions", THRESHOLD)) for total, p in zip(totals, answers, strict=True)]
    return totals


def line(counts: SegmentationCounts) -> str:
    """The figures of FIGURES in words."""
    found = counts.compute()
    return "  ".join(f"{name} {number(found[f'seg/{key}'])}" for name, key in FIGURES.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--images", required=True)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--sizes", required=True, help="px, multiples of 32, with commas between")
    parser.add_argument("--tta", default="none", choices=tuple(VIEWS))
    arguments = parser.parse_args()
    predictor = pj.load(arguments.checkpoint, inference=pj.InferenceConfig(tta=arguments.tta))
    predictors = [at_size(predictor, int(size)) for size in arguments.sizes.split(",")]
    totals = count_sizes(predictors, training_records(arguments.root, arguments.images))
    for name, total in zip([*arguments.sizes.split(","), "mean"], totals, strict=True):
        print(f"{name}: {line(total)}")


if __name__ == "__main__":
    main()

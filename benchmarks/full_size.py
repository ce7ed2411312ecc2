"""Masks of single IDRiD photographs against the masks of their own size, whatever it is, as `predict` makes them.

    python -m benchmarks.full_size --root=IDRiD --root=IDRiD_original_files --images=IDRiD_03,IDRiD_43

Prints pooled Dice by lesion of every root; a root holds `A. Segmentation` in the official layout. Name only photographs that
the network has not learnt from.
"""

import argparse
from pathlib import Path

import numpy as np

import pldmlt_jax as pj
from pldmlt_jax.data.masks import read_mask
from pldmlt_jax.types import LESIONS

FOLDERS = {"MA": "1. Microaneurysms", "HE": "2. Haemorrhages", "EX": "3. Hard Exudates", "SE": "4. Soft Exudates"}
PART = "a. Training Set"


def counts(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """True positives, predicted and marked pixels."""
    return np.array([np.count_nonzero(mask) for mask in (predicted & truth, predicted, truth)])


def score(predictor: pj.Predictor, root: Path, name: str) -> dict[str, np.ndarray]:
    """Counts by lesion and of all together."""
    part = root / "A. Segmentation"
    image = pj.read_image(part / "1. Original Images" / PART / f"{name}.jpg")
    answer = predictor.predict(image)
    truth = {}
    for lesion in LESIONS:
        path = part / "2. All Segmentation Groundtruths" / PART / FOLDERS[lesion] / f"{name}_{lesion}.tif"
        shape = (image.shape[0], image.shape[1])
        truth[lesion] = read_mask(path, shape) if path.exists() else np.zeros(shape, bool)
    found = {lesion: counts(answer.masks[lesion], truth[lesion]) for lesion in LESIONS}
    any_lesion = (np.logical_or.reduce([masks[lesion] for lesion in LESIONS]) for masks in (answer.masks, truth))
    print(f"{root.name} {name}: {image.shape[1]}x{image.shape[0]}, grade {answer.grade}", *answer.warnings, sep="; ")
    return found | {"any": counts(*any_lesion)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", action="append", required=True, type=Path)
    parser.add_argument("--images", required=True)
    parser.add_argument("--checkpoint", type=Path, help="default: the network that ships")
    arguments = parser.parse_args()
    predictor = pj.load(arguments.checkpoint) if arguments.checkpoint else pj.load()
    for root in arguments.root:
        rows = [score(predictor, root, name) for name in arguments.images.split(",")]
        pooled = {key: np.sum([row[key] for row in rows], axis=0) for key in rows[0]}
        line = "  ".join(f"{key} {2 * hit / max(one + two, 1):.3f}" for key, (hit, one, two) in pooled.items())
        print(f"{root.name}, Dice pooled over {len(rows)}: {line}")


if __name__ == "__main__":
    main()

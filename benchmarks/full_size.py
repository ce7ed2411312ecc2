"""Masks of single IDRiD photographs against the masks of their own size, whatever it is, as `predict` makes them.

    python -m benchmarks.full_size --root=IDRiD --root=IDRiD_original_files --images=IDRiD_03,IDRiD_43

Prints pooled Dice by lesion of every root; a root holds `A. Segmentation` in the official layout. Name only photographs that
the network has not learnt from.
"""

import argparse
from pathlib import Path

import numpy as np

import pldmlt_jax as pj
from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.annotation import read_annotation
from pldmlt_jax.data.idrid import list_segmentation
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.evaluation.segmentation_metrics import dice
from pldmlt_jax.types import LESIONS


def counts(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """True positives, predicted and marked pixels."""
    return np.array([np.count_nonzero(mask) for mask in (predicted & truth, predicted, truth)])


def score(predictor: pj.Predictor, root: Path, record: RawRecord) -> dict[str, np.ndarray]:
    """Counts by lesion and of all together."""
    image = pj.read_image(record.image)
    height, width = image.shape[:2]
    answer = predictor.predict(image)
    marked = read_annotation(record, (height, width), DataConfig()).masks
    truth = {lesion: marked.get(lesion, np.zeros((height, width), bool)) for lesion in LESIONS}
    found = {lesion: counts(answer.masks[lesion], truth[lesion]) for lesion in LESIONS}
    any_lesion = (np.logical_or.reduce([masks[lesion] for lesion in LESIONS]) for masks in (answer.masks, truth))
    print(f"{root.name} {record.image_id}: {width}x{height}, grade {answer.grade}", *answer.warnings, sep="; ")
    return found | {"any": counts(*any_lesion)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", action="append", required=True, type=Path)
    parser.add_argument("--images", required=True)
    parser.add_argument("--checkpoint", type=Path, help="default: the network that ships")
    arguments = parser.parse_args()
    predictor = pj.load(arguments.checkpoint) if arguments.checkpoint else pj.load()
    for root in arguments.root:
        records = {record.image_id: record for record in list_segmentation(root).checked()["train"]}
        rows = [score(predictor, root, records[name]) for name in arguments.images.split(",")]
        pooled = {key: np.sum([row[key] for row in rows], axis=0) for key in rows[0]}
        line = "  ".join(f"{key} {dice(*three) or 0.0:.3f}" for key, three in pooled.items())
        print(f"{root.name}, Dice pooled over {len(rows)}: {line}")


if __name__ == "__main__":
    main()

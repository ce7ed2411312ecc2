"""Pictures of some scored images for the report: photograph, truth and prediction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.data.datasets.records import RawRecord
from pldmlt_jax.data.splits.selection import Selection
from pldmlt_jax.evaluation.operating_points import lesion_masks
from pldmlt_jax.evaluation.original_size import read_original, restore_original_size
from pldmlt_jax.evaluation.predictor import Predictor
from pldmlt_jax.reporting.overlays import overlay_at_size, write_picture
from pldmlt_jax.types import Sample
from pldmlt_jax.workflow.context import Context

PICTURE_PX = 960
"""Longer side of the pictures that the report shows: sharp at half a page, also where a screen has two pixels to one."""


def chunks(items: Sequence, size: int) -> list[Sequence]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def save_examples(context: Context, network: Predictor, selection: Selection, rows: list[dict[str, Any]]) -> None:
    """Photograph, truth and prediction, both outlined, of the worst and the best images by Dice.

    They are predicted once more: keeping every picture until the ranking is known would take all the memory of a big set.
    """
    config, folder = context.config.evaluation, context.workdir / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    ranked = sorted((place for place, row in enumerate(rows) if row["dice"] != ""), key=lambda place: rows[place]["dice"])
    half = (config.num_examples + 1) // 2
    shown = dict.fromkeys([*ranked[:half], *ranked[::-1][: config.num_examples - half]])
    for chunk in chunks(list(shown), config.batch_size):
        indices = [int(selection.indices[place]) for place in chunk]
        samples = [selection.split[index] for index in indices]
        probabilities = network(np.stack([sample.image for sample in samples]), config.batch_size).probabilities
        for index, sample, p in zip(indices, samples, probabilities, strict=True):
            image, bits, p = _seen(context, selection.split.records[index], sample, p, network.target)
            truth, predicted = lesion_masks(bits, p, network.target, config.threshold)
            save_example(folder, sample.image_id, image, truth, predicted)


def _seen(
    context: Context, record: RawRecord, sample: Sample, probabilities: Float[np.ndarray, "s s k"], target: str
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"], Float[np.ndarray, "h w k"]]:
    """Photograph, mask bits and prediction at the image's own size where the run scores that, else at the network's."""
    if not context.config.evaluation.original_size:
        return sample.image, sample.mask_bits, probabilities
    image, bits = read_original(record, context.config.data)
    return image, bits, restore_original_size(probabilities, sample, target)


def save_example(
    folder: Path,
    name: str,
    image: UInt8[np.ndarray, "h w 3"],
    truth: Mapping[str, Bool[np.ndarray, "h w"]],
    predicted: Mapping[str, Bool[np.ndarray, "h w"]],
) -> None:
    """One image's pictures: as it is, with the truth, and with the prediction."""
    for view, masks in {"image": {}, "truth": truth, "prediction": predicted}.items():
        write_picture(folder / f"{name}_{view}", overlay_at_size(image, masks, PICTURE_PX))

"""Pictures of some scored images for the report: image, truth and prediction."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.data.splits.selection import Selection
from pldmlt_jax.evaluation.operating_points import lesion_masks
from pldmlt_jax.evaluation.original_size import read_original, restore_original_size
from pldmlt_jax.io.processes import all_gather, is_first_process
from pldmlt_jax.reporting.overlays import overlay_at_size, write_picture
from pldmlt_jax.types import Sample
from pldmlt_jax.workflow.context import Context

PICTURE_PX = 960
"""Longer side of the pictures in the report: sharp at half a page, also on screens with two pixels per CSS pixel."""


def choose_examples(dices: Mapping[int, float], number: int) -> list[int]:
    """Returns the positions of the images with the lowest and the highest Dice, half of the number each."""
    ranked = sorted(dices, key=lambda position: (dices[position], position))
    num_worst = (number + 1) // 2
    return list(dict.fromkeys([*ranked[:num_worst], *ranked[::-1][: number - num_worst]]))


class Examples:
    """Keeps the predictions of the worst and the best images while a set is scored, and no others.

    Args:
        number: Number of images to keep.
    """

    def __init__(self, number: int):
        self.number = number
        self.kept: dict[int, tuple[float, np.ndarray]] = {}

    def add(self, position: int, dice: float | str, probabilities: Float[np.ndarray, "s s k"]) -> None:
        """Keeps an image if it is among the worst or the best.

        Args:
            position: Position of the image in the selection.
            dice: Its Dice; "" if that is undefined.
            probabilities: Its prediction.
        """
        if isinstance(dice, str):
            return
        dices = {other: found for other, (found, _) in self.kept.items()} | {position: dice}
        chosen = choose_examples(dices, self.number)
        if position in chosen:
            self.kept[position] = dice, np.array(probabilities)  # a copy: a view would hold its whole batch
        self.kept = {other: found for other, found in self.kept.items() if other in chosen}

    def save(self, context: Context, selection: Selection, target: str) -> None:
        """Writes pictures of the worst and the best images of all processes to `examples/`."""
        kept = {position: found for part in all_gather(self.kept) for position, found in part.items()}
        if not is_first_process():
            return
        folder = context.workdir / "examples"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for position in choose_examples({position: dice for position, (dice, _) in kept.items()}, self.number):
            index = int(selection.indices[position])
            sample, record = selection.split[index], selection.split.records[index]
            image, mask_bits, p = _at_shown_size(context, record, sample, kept[position][1], target)
            truth, predicted = lesion_masks(mask_bits, p, target, context.config.evaluation.threshold)
            save_example(folder, sample.image_id, image, truth, predicted)


def _at_shown_size(
    context: Context, record: RawRecord, sample: Sample, probabilities: Float[np.ndarray, "s s k"], target: str
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"], Float[np.ndarray, "h w k"]]:
    """Returns image, mask bits and prediction at the image's own size if the run scores it, else at the network's size."""
    if not context.config.evaluation.original_size:
        return sample.image, sample.mask_bits, probabilities
    image, mask_bits = read_original(record, context.config.data)
    return image, mask_bits, restore_original_size(probabilities, sample, target)


def save_example(
    folder: Path,
    name: str,
    image: UInt8[np.ndarray, "h w 3"],
    truth: Mapping[str, Bool[np.ndarray, "h w"]],
    predicted: Mapping[str, Bool[np.ndarray, "h w"]],
) -> None:
    """Writes three pictures of an image: without masks, and with the true and the predicted masks outlined."""
    for view, masks in {"image": {}, "truth": truth, "prediction": predicted}.items():
        write_picture(folder / f"{name}_{view}", overlay_at_size(image, masks, PICTURE_PX))

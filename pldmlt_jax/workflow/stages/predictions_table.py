"""What `predict` leaves of one photograph: pictures at its own size, and its row of `predictions.csv`."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pldmlt_jax.data.preprocessing.geometry import write_image
from pldmlt_jax.evaluation.predictor import Prediction
from pldmlt_jax.io.files import writing
from pldmlt_jax.method.losses import EXCLUSIVE_ORDER
from pldmlt_jax.reporting.overlays import HEAT_OPACITY, LESION_COLOURS, add_legend, colour_heatmap, overlay, write_picture
from pldmlt_jax.types import LESIONS

TABLE = "predictions.csv"

ENDINGS = ("_mask.png", "_overlay.jpg", "_grade_map.jpg", "_probability.png")
"""Of the pictures beside the table."""

LABELS = {"lesion": 1} | {lesion: 1 + i for i, lesion in enumerate(LESIONS)}
"""Value in the mask: 0 background; 1 lesion, or 1 to 4 for MA, HE, EX, SE."""

PROBABILITY_ONE = 65535
"""The value of a probability of 1 in its 16-bit picture."""


def write_prediction(path: Path, name: str, image: UInt8[np.ndarray, "h w 3"], p: Prediction, output: Path,
                     probabilities: bool = False) -> dict[str, Any]:  # fmt: skip
    """Writes mask, overlay, the grade's map and, where asked for, probabilities; returns the row.

    Args:
        path: Of the photograph.
        name: Of the files, without what tells them apart.
        image: RGB.
        p: The answer.
        output: The folder.
        probabilities: Whether each lesion's probability is written as well.
    """
    files = {"mask": f"{name}_mask.png", "overlay": f"{name}_overlay.jpg"}
    write_mask(output / files["mask"], p)
    write_picture(output / f"{name}_overlay", captioned_overlay(image, p))
    if p.grade_map is not None:
        files["grade_map"] = f"{name}_grade_map.jpg"
        write_picture(output / f"{name}_grade_map", heated(image, p))
    for lesion, values in p.probabilities.items() if probabilities else ():
        files[f"{lesion}_probability"] = f"{name}_{lesion}_probability.png"
        scaled = np.round(values * PROBABILITY_ONE).astype(np.uint16)
        write_image(output / files[f"{lesion}_probability"], scaled, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return {"image": str(path), "warning": "; ".join(p.warnings)} | _figures(p) | files


def _figures(p: Prediction) -> dict[str, Any]:
    grades: dict[str, Any] = {}
    if p.grade_probabilities is not None:
        grades = {"grade": p.grade, "confidence": round(float(p.grade_probabilities.max()), 4)}
        grades |= {f"grade_{i}": round(float(value), 4) for i, value in enumerate(p.grade_probabilities)}
        grades["calibrated"] = int(p.calibrated)
    areas: dict[str, Any] = {}
    for lesion, area in p.areas.items():
        areas |= {f"{lesion}_count": area.components, f"{lesion}_px": area.area_px}
        areas[f"{lesion}_percent_of_field"] = round(area.percent_of_field, 4)
    height, width = p.field_of_view.shape
    return grades | areas | {"field_px": int(p.field_of_view.sum()), "height_px": height, "width_px": width}


def write_mask(path: Path, p: Prediction) -> None:
    """One indexed PNG, coloured as the overlay is; where lesions overlap the later of EXCLUSIVE_ORDER is shown."""
    label = np.zeros(p.field_of_view.shape, np.uint8)
    for lesion in sorted(p.masks, key=lambda name: EXCLUSIVE_ORDER.index(name) if name in EXCLUSIVE_ORDER else 0):
        label[p.masks[lesion]] = LABELS[lesion]
    picture = Image.fromarray(label)
    colours = {LABELS[lesion]: LESION_COLOURS[lesion] for lesion in p.masks}
    picture.putpalette([part for value in range(max(colours) + 1) for part in colours.get(value, (0, 0, 0))])
    with writing(path, "wb") as file:
        picture.save(file, "PNG", compress_level=1)


def captioned_overlay(image: UInt8[np.ndarray, "h w 3"], p: Prediction) -> UInt8[np.ndarray, "h w 3"]:
    """The lesions over the photograph, with what the colours are and the grade."""
    counts = {name: f"{name} {area.components}" for name, area in p.areas.items()}
    caption = [f"grade {p.grade} ({p.grade_probabilities.max():.2f})"] if p.grade_probabilities is not None else []
    return add_legend(overlay(image, p.masks), counts, caption)


def heated(image: UInt8[np.ndarray, "h w 3"], p: Prediction) -> UInt8[np.ndarray, "h w 3"]:
    """Grad-CAM of the predicted grade over the photograph, scaled to its own range."""
    assert p.grade_map is not None
    colours = colour_heatmap(p.grade_map, image.shape[:2])
    mixed = cv2.addWeighted(image, 1.0 - HEAT_OPACITY, colours, HEAT_OPACITY, 0.0)
    picture = np.where(p.field_of_view[..., None], mixed, image)
    empty = "" if p.grade_map.max() > 0 else ", empty"
    return add_legend(picture, {}, [f"Grad-CAM of grade {p.grade}{empty}"])

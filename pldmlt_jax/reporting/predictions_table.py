"""What `predict` writes for one photograph: pictures at its own size, and its row of `predictions.csv`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pldmlt_jax.data.preprocessing.geometry import write_image
from pldmlt_jax.evaluation.predictor import Prediction
from pldmlt_jax.io.files import atomic_write
from pldmlt_jax.method.losses import EXCLUSIVE_ORDER
from pldmlt_jax.reporting.overlays import HEAT_OPACITY, LESION_COLOURS, add_legend, colour_heatmap, overlay, write_picture
from pldmlt_jax.types import LESIONS

TABLE = "predictions.csv"

ENDINGS = ("_mask.png", "_overlay.jpg", "_grade_map.jpg", "_probability.png")
"""Endings of the names of the pictures beside the table."""

LABELS = {"lesion": 1} | {lesion: 1 + i for i, lesion in enumerate(LESIONS)}
"""Values in the mask: 0 is background; 1 any lesion, or 1 to 4 MA, HE, EX, SE."""

PROBABILITY_ONE = 65535
"""Value of a probability of 1 in a 16-bit picture."""


def exclude_predictions(paths: Sequence[Path]) -> list[Path]:
    """The images that `predict` has not written itself: its folder may be inside the photographs' folder."""
    return [path for path in paths if not (path.name.endswith(ENDINGS) and (path.parent / TABLE).is_file())]


def write_prediction(path: Path, name: str, image: UInt8[np.ndarray, "h w 3"], p: Prediction, output: Path,
                     probabilities: bool = False) -> dict[str, Any]:  # fmt: skip
    """Writes mask, overlay, grade map and, if requested, probabilities of one photograph.

    Args:
        path: The photograph's file.
        name: Beginning of the names of the written files.
        image: RGB.
        p: The prediction.
        output: The folder.
        probabilities: Whether each lesion's probabilities are written as well.

    Returns:
        The row of the table.
    """
    files = {"mask": f"{name}_mask.png", "overlay": f"{name}_overlay.jpg"}
    write_mask(output / files["mask"], p)
    write_picture(output / f"{name}_overlay", draw_overlay(image, p))
    if p.grade_map is not None:
        files["grade_map"] = f"{name}_grade_map.jpg"
        write_picture(output / f"{name}_grade_map", draw_grade_map(image, p))
    for lesion, values in p.probabilities.items() if probabilities else ():
        files[f"{lesion}_probability"] = f"{name}_{lesion}_probability.png"
        scaled = np.round(values * PROBABILITY_ONE).astype(np.uint16)
        write_image(output / files[f"{lesion}_probability"], scaled, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return {"image": str(path), "warning": "; ".join(p.warnings)} | _prediction_columns(p) | files


def _prediction_columns(p: Prediction) -> dict[str, Any]:
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
    """Writes one indexed PNG in the overlay's colours; where lesions overlap, the later of EXCLUSIVE_ORDER wins."""
    label = np.zeros(p.field_of_view.shape, np.uint8)
    for lesion in sorted(p.masks, key=lambda name: EXCLUSIVE_ORDER.index(name) if name in EXCLUSIVE_ORDER else 0):
        label[p.masks[lesion]] = LABELS[lesion]
    picture = Image.fromarray(label)
    colours = {LABELS[lesion]: LESION_COLOURS[lesion] for lesion in p.masks}
    picture.putpalette([part for value in range(max(colours) + 1) for part in colours.get(value, (0, 0, 0))])
    with atomic_write(path, "wb") as file:
        picture.save(file, "PNG", compress_level=1)


def draw_overlay(image: UInt8[np.ndarray, "h w 3"], p: Prediction) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the lesions over the photograph, with a legend and the grade."""
    counts = {name: f"{name} {area.components}" for name, area in p.areas.items()}
    caption = [f"grade {p.grade} ({p.grade_probabilities.max():.2f})"] if p.grade_probabilities is not None else []
    return add_legend(overlay(image, p.masks), counts, caption)


def draw_grade_map(image: UInt8[np.ndarray, "h w 3"], p: Prediction) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the Grad-CAM of the predicted grade over the photograph, scaled to its own range."""
    assert p.grade_map is not None
    colours = colour_heatmap(p.grade_map, image.shape[:2])
    mixed = cv2.addWeighted(image, 1.0 - HEAT_OPACITY, colours, HEAT_OPACITY, 0.0)
    picture = np.where(p.field_of_view[..., None], mixed, image)
    empty = "" if p.grade_map.max() > 0 else ", empty"
    return add_legend(picture, {}, [f"Grad-CAM of grade {p.grade}{empty}"])

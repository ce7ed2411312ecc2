"""Pictures as pixel arrays: lesion overlays, legends and Grad-CAM maps, in a palette for colour-blind readers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.data.preprocessing.geometry import write_image
from pldmlt_jax.evaluation.operating_points import lesion_masks
from pldmlt_jax.types import NUM_GRADES

LESION_COLOURS: dict[str, tuple[int, int, int]] = {
    "MA": (0, 158, 115),
    "HE": (86, 180, 233),
    "EX": (240, 228, 66),
    "SE": (204, 121, 167),
    "OD": (230, 159, 0),
    "lesion": (0, 114, 178),
}
"""RGB colours of Okabe and Ito's palette, the same in every picture."""

FILL_OPACITY = 0.35
HEAT_OPACITY = 0.45
OUTLINE = 2.0
"""Outline width of `overlay_at_size`, whose pictures are shown scaled down."""

CAPTION_PX, CAPTIONED_PX = 22, 200
"""Height of a caption, and the picture width that it is meant for."""

STRIP_PANEL_PX = 240
"""Minimum side of a panel of `cam_strip`; smaller panels are enlarged to keep captions readable."""

VALIDATION_IMAGES = 3
"""Number of validation images that TensorBoard shows."""

VALIDATION_PANEL_PX = 192
"""Side of each panel of `validation_panel`."""

PICTURE_SUFFIX = ".jpg"
PICTURE_QUALITY = 88


def overlay(
    image: UInt8[np.ndarray, "h w 3"], masks: Mapping[str, Bool[np.ndarray, "h w"]], outline: float = 1.0
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws each mask as a translucent fill with a solid outline.

    Args:
        image: RGB, uint8 [h, w, 3] in 0..255; it is not changed.
        masks: Masks, bool [h, w], by name; the names are keys of LESION_COLOURS: MA, HE, EX, SE, OD or lesion.
        outline: Width of the outlines, in thousandths of the longer side.

    Returns:
        The picture, uint8 [h, w, 3].

    Example:
        >>> image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), bool)
        >>> mask[5:15, 5:25] = True
        >>> picture = overlay(image, {"HE": mask})
        >>> picture[0, 0].tolist(), picture[5, 5].tolist(), picture[10, 10].tolist()
        ([0, 0, 0], [86, 180, 233], [30, 62, 81])
    """
    picture = image.copy()
    thickness = max(round(outline * max(image.shape) / 1000), 1)
    for name, mask in masks.items():
        colour = LESION_COLOURS[name]
        picture[mask] = ((1.0 - FILL_OPACITY) * picture[mask] + FILL_OPACITY * np.array(colour)).astype(np.uint8)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, colour, thickness)
    return picture


def overlay_at_size(
    image: UInt8[np.ndarray, "h w 3"], masks: Mapping[str, Bool[np.ndarray, "h w"]], longer_side_px: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Draws an overlay with a given longer side; outlines stay fine in small images and smooth in large ones."""
    scale = longer_side_px / max(image.shape[:2])
    if scale <= 1:
        return cv2.resize(overlay(image, masks, OUTLINE), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    enlarged = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    size = enlarged.shape[1::-1]
    smooth = {
        name: cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) for name, mask in masks.items()
    }
    return overlay(enlarged, {name: mask > 0.5 for name, mask in smooth.items()}, OUTLINE)


def add_legend(
    picture: UInt8[np.ndarray, "h w 3"], entries: Mapping[str, str], lines: Sequence[str]
) -> UInt8[np.ndarray, "h w 3"]:
    """Adds a legend in the upper left corner, which is empty in fundus photographs.

    Args:
        picture: RGB, of any size; the legend scales with it.
        entries: Key of LESION_COLOURS -> text next to its colour.
        lines: Lines of text above the entries.
    """
    scale = max(picture.shape[:2]) / 1000
    pitch, size = max(round(24 * scale), 8), max(0.6 * scale, 0.2)
    thickness = max(round(1.5 * scale), 1)
    texts = [*((text, None) for text in lines), *((text, LESION_COLOURS[name]) for name, text in entries.items())]
    widths = [cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thickness)[0][0] for text, _ in texts]
    box = picture.copy()
    height, width = pitch * len(texts) + pitch // 2, max(widths, default=0) + 2 * pitch
    box[:height, :width] = (0.25 * box[:height, :width]).astype(np.uint8)
    for i, (text, colour) in enumerate(texts):
        top, left = pitch * i + pitch // 4, pitch // 4
        if colour is not None:
            cv2.rectangle(box, (left, top + pitch // 6), (left + 2 * pitch // 3, top + 5 * pitch // 6), colour, cv2.FILLED)
            left += pitch
        origin = (left, top + 3 * pitch // 4)
        cv2.putText(box, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), thickness, cv2.LINE_AA)
    return box


def write_picture(path: Path, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes an RGB picture as JPEG.

    Args:
        path: Path without the suffix, which is added.
        picture: RGB.
    """
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    write_image(path.with_name(path.name + PICTURE_SUFFIX), bgr, [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])


def colour_heatmap(coarse: Float[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """Renders a map in viridis, enlarged bilinearly and scaled to its own range, so maps are not comparable by colour.

    Args:
        coarse: The map.
        size: Height and width of the picture, in px.
    """
    enlarged = cv2.resize(np.asarray(coarse, np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    low, high = float(enlarged.min()), float(enlarged.max())
    scaled = (255.0 * (enlarged - low) / (high - low)).astype(np.uint8) if high > low else np.zeros(size, np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def add_caption(picture: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "h2 w 3"]:
    """Adds a line of text above a picture; it grows with the picture."""
    scale = max(picture.shape[1] / CAPTIONED_PX, 1.0)
    bar = np.full((round(CAPTION_PX * scale), picture.shape[1], 3), 24, np.uint8)
    origin, thickness = (round(6 * scale), round((CAPTION_PX - 7) * scale)), max(round(scale), 1)
    cv2.putText(bar, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * scale, (235, 235, 235), thickness, cv2.LINE_AA)
    return np.concatenate([bar, picture])


def cam_strip(
    image: UInt8[np.ndarray, "s s 3"], lesion: Bool[np.ndarray, "s s"], maps: Float[np.ndarray, "5 h w"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws Fig. 6 of the paper as one row: photograph, lesion mask, and the map of each grade over the photograph."""
    scale = max(STRIP_PANEL_PX / max(image.shape[:2]), 1.0)
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    grey = cv2.resize(np.where(lesion, 255, 0).astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    mask = np.repeat(grey[..., None], 3, axis=-1)
    panels = [add_caption(image, "photograph"), add_caption(mask, "lesion mask")]
    for grade in range(NUM_GRADES):
        heated = cv2.addWeighted(image, 1.0 - HEAT_OPACITY, colour_heatmap(maps[grade], image.shape[:2]), HEAT_OPACITY, 0.0)
        empty = "" if maps[grade].max() > 0 else " (empty)"
        panels.append(add_caption(heated, f"grade {grade}{empty}"))
    return np.concatenate(panels, axis=1)


def validation_panel(
    image: UInt8[np.ndarray, "s s 3"],
    mask_bits: UInt8[np.ndarray, "s s"],
    probabilities: Float[np.ndarray, "s s k"],
    target: str,
    threshold: float,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws photograph, truth and prediction of a validation image side by side, for TensorBoard.

    Args:
        image: RGB.
        mask_bits: Target masks, see MASK_BITS.
        probabilities: Channels of `target`.
        target: A key of `losses.TARGETS`.
        threshold: A pixel is predicted if its lesion probability is above it.
    """
    truth, predicted = lesion_masks(mask_bits, probabilities, target, threshold)
    panels = []
    for title, masks in {"photograph": {}, "truth": truth, "prediction": predicted}.items():
        interpolation = cv2.INTER_NEAREST if image.shape[0] < VALIDATION_PANEL_PX else cv2.INTER_AREA
        size = (VALIDATION_PANEL_PX, VALIDATION_PANEL_PX)
        panels.append(add_caption(cv2.resize(overlay(image, masks), size, interpolation=interpolation), title))
    return np.concatenate(panels, axis=1)

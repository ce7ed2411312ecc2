"""Pictures as pixels: lesion overlays and class activation maps, in colours that a colour-blind person can tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.data.preprocessing.geometry import write_image
from pldmlt_jax.types import NUM_GRADES

LESION_COLOURS: dict[str, tuple[int, int, int]] = {
    "MA": (0, 158, 115),
    "HE": (86, 180, 233),
    "EX": (240, 228, 66),
    "SE": (204, 121, 167),
    "OD": (230, 159, 0),
    "lesion": (0, 114, 178),
}
"""RGB of Okabe and Ito's palette, the same in every picture."""

FILL_OPACITY = 0.35
HEAT_OPACITY = 0.45
OUTLINE = 2.0
"""Of `outlined`, whose pictures are shown smaller than they are."""

CAPTION_PX, CAPTIONED_PX = 22, 200
"""Height of a line of text, and width of the picture that it is for."""

PANEL_PX = 240
"""Least side of a panel of `cam_strip`: a smaller one is enlarged, so that its caption can be read."""

PICTURE_SUFFIX = ".jpg"
PICTURE_QUALITY = 88


def overlay(
    image: UInt8[np.ndarray, "h w 3"], masks: Mapping[str, Bool[np.ndarray, "h w"]], outline: float = 1.0
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws each mask as a translucent fill with a solid outline.

    Args:
        image: RGB, uint8 [h, w, 3] in 0..255; it stays as it is.
        masks: bool [h, w] each, by a name that LESION_COLOURS has: MA, HE, EX, SE, OD or lesion.
        outline: Its width in thousandths of the longer side.
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
    """The overlay with a given longer side: outlines stay fine in a small image and smooth in a large one."""
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
    """The picture with a small box in its upper left corner, which photographs of a fundus leave empty.

    Args:
        picture: RGB, of any size: the box grows with it.
        entries: Key of LESION_COLOURS -> what stands beside its colour.
        lines: Text without a colour, above.
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
        place = (left, top + 3 * pitch // 4)
        cv2.putText(box, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), thickness, cv2.LINE_AA)
    return box


def write_picture(path: Path, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes an RGB picture for people, as JPEG.

    Args:
        path: Without the suffix, which is added.
        picture: RGB.
    """
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    write_image(path.with_name(path.name + PICTURE_SUFFIX), bgr, [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])


def colour_heatmap(coarse: Float[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """A map, bilinearly enlarged and min-max scaled, in viridis: for the eye only, maps are no longer comparable."""
    enlarged = cv2.resize(np.asarray(coarse, np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    low, high = float(enlarged.min()), float(enlarged.max())
    scaled = (255.0 * (enlarged - low) / (high - low)).astype(np.uint8) if high > low else np.zeros(size, np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def add_caption(picture: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "h2 w 3"]:
    """The picture under a line of text, which is larger over a larger picture."""
    scale = max(picture.shape[1] / CAPTIONED_PX, 1.0)
    bar = np.full((round(CAPTION_PX * scale), picture.shape[1], 3), 24, np.uint8)
    place, thickness = (round(6 * scale), round((CAPTION_PX - 7) * scale)), max(round(scale), 1)
    cv2.putText(bar, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * scale, (235, 235, 235), thickness, cv2.LINE_AA)
    return np.concatenate([bar, picture])


def cam_strip(
    image: UInt8[np.ndarray, "s s 3"], lesion: Bool[np.ndarray, "s s"], maps: Float[np.ndarray, "5 h w"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The paper's Fig. 6 in one row: photograph, mask, and the map of each grade over the photograph."""
    scale = max(PANEL_PX / max(image.shape[:2]), 1.0)
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    grey = cv2.resize(np.where(lesion, 255, 0).astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    mask = np.repeat(grey[..., None], 3, axis=-1)
    panels = [add_caption(image, "photograph"), add_caption(mask, "lesion mask")]
    for grade in range(NUM_GRADES):
        heated = cv2.addWeighted(image, 1.0 - HEAT_OPACITY, colour_heatmap(maps[grade], image.shape[:2]), HEAT_OPACITY, 0.0)
        empty = "" if maps[grade].max() > 0 else " (empty)"
        panels.append(add_caption(heated, f"grade {grade}{empty}"))
    return np.concatenate(panels, axis=1)

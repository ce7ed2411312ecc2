"""Pictures as pixels: lesion overlays and class activation maps, in colours that a colour-blind person can tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.data.fundus import write_image
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
CAPTION_PX = 22
PICTURE_SUFFIX = ".jpg"
PICTURE_QUALITY = 88


def overlay(image: UInt8[np.ndarray, "h w 3"], masks: Mapping[str, Bool[np.ndarray, "h w"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Draws each mask as a translucent fill with a solid outline.

    Args:
        image: RGB, uint8 [h, w, 3] in 0..255; it stays as it is.
        masks: bool [h, w] each, by a name that LESION_COLOURS has: MA, HE, EX, SE, OD or lesion.
    """
    picture = image.copy()
    thickness = max(round(max(image.shape) / 1000), 1)
    for name, mask in masks.items():
        colour = LESION_COLOURS[name]
        picture[mask] = ((1.0 - FILL_OPACITY) * picture[mask] + FILL_OPACITY * np.array(colour)).astype(np.uint8)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, colour, thickness)
    return picture


def with_legend(
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


def write_picture(path: Path, picture: UInt8[np.ndarray, "h w 3"], longer_side_px: int = 0) -> None:
    """Writes an RGB picture for people, as JPEG.

    Args:
        path: Without the suffix, which is added.
        picture: RGB.
        longer_side_px: A smaller picture is enlarged to this.
    """
    scale = longer_side_px / max(picture.shape[:2])
    if scale > 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    write_image(path.with_name(path.name + PICTURE_SUFFIX), bgr, [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])


def heat(coarse: Float[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """A map, bilinearly enlarged and min-max scaled, in viridis: for the eye only, maps are no longer comparable."""
    enlarged = cv2.resize(np.asarray(coarse, np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    low, high = float(enlarged.min()), float(enlarged.max())
    scaled = (255.0 * (enlarged - low) / (high - low)).astype(np.uint8) if high > low else np.zeros(size, np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def captioned(picture: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "h2 w 3"]:
    """The picture under a line of text."""
    bar = np.full((CAPTION_PX, picture.shape[1], 3), 24, np.uint8)
    cv2.putText(bar, text, (6, CAPTION_PX - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate([bar, picture])


def cam_strip(
    image: UInt8[np.ndarray, "s s 3"], lesion: Bool[np.ndarray, "s s"], maps: Float[np.ndarray, "5 h w"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The paper's Fig. 6 in one row: photograph, mask, and the map of each grade over the photograph."""
    mask = np.repeat(np.where(lesion, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)
    panels = [captioned(image, "photograph"), captioned(mask, "lesion mask")]
    for grade in range(NUM_GRADES):
        heated = cv2.addWeighted(image, 1.0 - HEAT_OPACITY, heat(maps[grade], image.shape[:2]), HEAT_OPACITY, 0.0)
        empty = "" if maps[grade].max() > 0 else " (empty)"
        panels.append(captioned(heated, f"grade {grade}{empty}"))
    return np.concatenate(panels, axis=1)

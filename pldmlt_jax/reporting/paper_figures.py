"""Figures 1, 6 and 7 of the paper for print: vector text and outlines, the lesion colours of every other picture.

Lesions are drawn as outlines of a fixed width over a dimmed photograph, so that a microaneurysm of three pixels is seen too.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline

from pldmlt_jax.io.files import atomic_write
from pldmlt_jax.reporting.overlays import HEAT_OPACITY, LESION_COLOURS

FORMATS = ("pdf", "svg", "png")

STYLE: Any = {"font.family": "sans-serif", "font.size": 8, "text.parse_math": False, "pdf.fonttype": 42,
              "svg.fonttype": "none", "svg.hashsalt": "pldmlt", "savefig.dpi": 140}  # fmt: skip
"""Text stays text in PDF and SVG, and the same input gives the same file; PNG is for the web."""

NAMES = {
    "MA": "microaneurysms (MA)",
    "HE": "haemorrhages (HE)",
    "EX": "hard exudates (EX)",
    "SE": "soft exudates (SE)",
    "lesion": "any lesion",
}

WIDTH_IN = 7.2
"""Of both columns of a journal's page."""

PANEL_PX = 900
"""Longer side of a photograph in a panel."""

DIMMED = 0.45
OUTLINE_PT = 0.6
TITLE_IN = 0.2

Masks = Mapping[str, Bool[np.ndarray, "h w"]]
"""Key of LESION_COLOURS -> mask."""


class NetworkMask(NamedTuple):
    """What a network, or the truth, says of a lesion in a photograph."""

    title: str
    masks: Masks  # one of the lesion itself, or of any lesion where the network does not tell them apart
    dice: float | None = None  # None: it is the truth, or undefined


class MaskRow(NamedTuple):
    """A row of Fig. 7."""

    title: str
    image: UInt8[np.ndarray, "h w 3"]
    answers: Sequence[NetworkMask]


def write_figure(folder: Path, name: str, figure: Figure) -> list[Path]:
    """Writes a figure in every format."""
    written = []
    with matplotlib.rc_context(STYLE):
        for kind in FORMATS:
            undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
            with atomic_write(folder / f"{name}.{kind}", "wb") as file:
                figure.savefig(file, format=kind, metadata=undated)
            written.append(folder / f"{name}.{kind}")
    return written


def plot_single_lesions(image: UInt8[np.ndarray, "h w 3"], masks: Masks) -> Figure:
    """Fig. 1: one photograph, and each of its lesions by itself over it."""
    aspect, rows = image.shape[0] / image.shape[1], (len(masks) + 1) // 2
    panel_in = (WIDTH_IN * aspect - (rows - 1) * TITLE_IN) / (rows + 2)
    large_in = rows * panel_in + (rows - 1) * TITLE_IN
    figure, axes = _grid(rows, 4, panel_in, legend=False, width_ratios=[large_in / 2, large_in / 2, panel_in, panel_in])
    large = figure.add_subplot(axes[0, 0].get_gridspec()[:, :2], anchor="N")
    for place in [*axes[:, :2].ravel(), *axes[:, 2:].ravel()[len(masks) :]]:
        place.remove()
    _photograph(large, image, "photograph")
    for place, (name, mask) in zip(axes[:, 2:].ravel()[: len(masks)], masks.items(), strict=True):
        _photograph(place, _dimmed(image), NAMES[name])
        _draw(place, {name: mask}, image.shape)
    return figure


def plot_grade_maps(
    image: UInt8[np.ndarray, "s s 3"],
    lesion: Bool[np.ndarray, "s s"],
    maps: Float[np.ndarray, "c h w"],
    probabilities: Float[np.ndarray, "c"],
) -> Figure:
    """Fig. 6: photograph and mask, then the raw Grad-CAM map of each grade over its overlay.

    Args:
        image: As the grader sees it.
        lesion: Of any kind.
        maps: Raw: they share one scale, so that grades can be compared. Each overlay is scaled by itself, for the eye.
        probabilities: Of the grades.
    """
    grades = len(maps)
    figure, axes = _grid(2, grades + 1, WIDTH_IN / (grades + 1.6), right=0.93, legend=False)
    _photograph(axes[0, 0], image, "(a) photograph")
    _photograph(axes[1, 0], _dimmed(image), "(b) lesions")
    _draw(axes[1, 0], {"lesion": lesion}, image.shape)
    top = max(float(maps.max()), 1e-12)
    letters = iter("cdefghijklmnop")
    for grade, one in enumerate(maps):
        raw, shown = axes[0, grade + 1], axes[1, grade + 1]
        _photograph(raw, one, f"({next(letters)}) grade {grade}, p = {probabilities[grade]:.2f}", vmin=0.0, vmax=top)
        empty = "" if one.max() > 0 else ", empty"
        _photograph(shown, image, f"({next(letters)}) overlay{empty}")
        shown.imshow(one, cmap="viridis", alpha=HEAT_OPACITY, extent=_extent(image.shape), interpolation="bilinear")
    place = axes[0, -1].get_position()
    bar = figure.add_axes((place.x1 + 0.008, place.y0, 0.01, place.height))
    figure.colorbar(axes[0, 1].images[0], cax=bar).ax.tick_params(labelsize=6, length=2)
    return figure


def plot_mask_rows(rows: Sequence[MaskRow]) -> Figure:
    """Fig. 7: a row for each photograph and lesion; photograph, what each network answers, the truth."""
    columns = 1 + len(rows[0].answers)
    aspect = max(row.image.shape[0] / row.image.shape[1] for row in rows)
    figure, axes = _grid(len(rows), columns, (WIDTH_IN - TITLE_IN) / columns * aspect, left=TITLE_IN / WIDTH_IN)
    for line, row in zip(axes, rows, strict=True):
        _photograph(line[0], row.image, "photograph")
        line[0].set_ylabel(row.title, labelpad=3)
        for place, answer in zip(line[1:], row.answers, strict=True):
            scored = "" if answer.dice is None else f", Dice {answer.dice:.2f}"
            _photograph(place, _dimmed(row.image), f"{answer.title}{scored}")
            _draw(place, answer.masks, row.image.shape)
    used = dict.fromkeys(name for row in rows for answer in row.answers for name in answer.masks)
    _legend(figure, list(used))
    return figure


def plot_overview(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Masks,
    field: Bool[np.ndarray, "h w"],
    heat: Float[np.ndarray, "h w"] | None,
    graded: str,
) -> Figure:
    """What comes out of a photograph: itself, the lesions that were found, and where the grade is seen.

    Args:
        image: RGB.
        masks: As predicted.
        field: Of view.
        heat: The grade's map; None where the network has not learnt grades.
        graded: What stands over it.
    """
    columns = 2 if heat is None else 3
    figure, axes = _grid(1, columns, WIDTH_IN / columns * image.shape[0] / image.shape[1])
    _photograph(axes[0, 0], image, "photograph")
    _photograph(axes[0, 1], image, "lesions found")
    _draw(axes[0, 1], masks, image.shape, opacity=0.3)
    if heat is not None:
        _photograph(axes[0, 2], image, graded)
        axes[0, 2].imshow(heat, cmap="viridis", alpha=HEAT_OPACITY * field, extent=_extent(image.shape))
    _legend(figure, list(masks))
    return figure


def _grid(
    rows: int,
    columns: int,
    panel_in: float,
    *,
    left: float = 0.005,
    right: float = 0.995,
    legend: bool = True,
    width_ratios: Sequence[float] | None = None,
) -> tuple[Figure, np.ndarray]:
    """Panels of a given height, each under its title, over a line for a legend where there is one."""
    line_in = TITLE_IN if legend else 0.03
    height = rows * (panel_in + TITLE_IN) + line_in
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, height))
        axes = figure.subplots(rows, columns, squeeze=False, width_ratios=width_ratios)
    top, bottom = 1 - TITLE_IN / height, line_in / height
    figure.subplots_adjust(left, bottom, right, top, wspace=0.03, hspace=TITLE_IN / panel_in)
    return figure, axes


def _extent(shape: Sequence[int]) -> tuple[float, float, float, float]:
    """Of a picture whose pixels count from its upper left corner, whatever resolution it is drawn at."""
    return (0.0, float(shape[1]), float(shape[0]), 0.0)


def _photograph(axes: Axes, image: np.ndarray, title: str, **scale: Any) -> None:
    """A picture with its title; one that is larger than print can show is reduced."""
    factor = min(PANEL_PX / max(image.shape[:2]), 1.0)
    seen = image if factor == 1 else cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    raw: Any = {"interpolation": "nearest", "cmap": "viridis"} | scale if scale else {}
    axes.imshow(seen, extent=_extent(image.shape), **raw)
    axes.set_title(title, fontsize=7, pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _dimmed(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """In grey and dark, so that colours over it stand out."""
    grey = (DIMMED * cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _draw(axes: Axes, masks: Masks, shape: Sequence[int], *, opacity: float = 0.75) -> None:
    """Masks as filled outlines, which stay vectors."""
    for name, mask in masks.items():
        colour = _colour(name)
        parts = list(_outlines(mask, tolerance_px=max(shape) / (4 * PANEL_PX)))
        if parts:
            outline = Outline.make_compound_path(*parts)
            axes.add_patch(PathPatch(outline, facecolor=(*colour, opacity), edgecolor=colour, linewidth=OUTLINE_PT))


def _outlines(mask: Bool[np.ndarray, "h w"], tolerance_px: float) -> Iterator[Outline]:
    """Closed outlines of components and of holes in them, simplified by less than print can show."""
    # Twice as large, a pixel is an area even where it is alone: outlines run through the centres of pixels.
    doubled = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for contour in contours:
        points = cv2.approxPolyDP(contour, 2 * tolerance_px, closed=True)[:, 0]
        if len(points) > 1:
            closed = (np.concatenate([points, points[:1]]) + 0.5) / 2
            yield Outline(closed, closed=True)


def _colour(name: str) -> tuple[float, float, float]:
    red, green, blue = LESION_COLOURS[name]
    return red / 255, green / 255, blue / 255


def _legend(figure: Figure, names: Sequence[str]) -> None:
    patches = [Patch(color=_colour(name), label=NAMES[name]) for name in names]
    place: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, -0.005)}
    figure.legend(handles=patches, ncols=len(names), frameon=False, fontsize=7, handlelength=1.0, handleheight=1.0, **place)

"""Figures 1, 6 and 7 of the paper and an overview, for print: vector text and outlines, colours as in every overlay.

Lesions are outlines of a fixed width over a dimmed photograph, so that a microaneurysm of three pixels stays visible.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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

STYLE: Any = {"font.family": "sans-serif", "font.size": 8, "axes.titlesize": 7, "axes.titlepad": 3,
              "axes.labelpad": 3, "legend.fontsize": 7, "legend.frameon": False, "ytick.labelsize": 6,
              "text.parse_math": False, "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "pldmlt",
              "savefig.dpi": 140, "figure.constrained_layout.w_pad": 0.015, "figure.constrained_layout.h_pad": 0.015,
              "figure.constrained_layout.wspace": 0.02, "figure.constrained_layout.hspace": 0.02}  # fmt: skip
"""Text stays text in PDF and SVG, and the same input gives the same file; PNG is for the web."""

NAMES = {
    "MA": "microaneurysms (MA)",
    "HE": "haemorrhages (HE)",
    "EX": "hard exudates (EX)",
    "SE": "soft exudates (SE)",
    "lesion": "any lesion",
}

WIDTH_IN = 7.2
"""Width of both columns of a journal page."""

TITLE_IN = 0.2
"""Height of a line of text."""

PANEL_PX = 900
"""Maximum longer side of a photograph in a panel."""

DIMMED = 0.45
OUTLINE_PT = 0.6

Masks = Mapping[str, Bool[np.ndarray, "h w"]]
"""Key of LESION_COLOURS -> mask."""


class NetworkMask(NamedTuple):
    """A panel of Fig. 7: the mask of a lesion from a network, or the true one."""

    title: str
    masks: Masks  # one mask: of the lesion, or of any lesion if the network does not separate them
    dice: float | None = None  # None for the truth, or if undefined


class MaskRow(NamedTuple):
    """A row of Fig. 7: a photograph and the masks of a lesion in it."""

    title: str
    image: UInt8[np.ndarray, "h w 3"]
    panels: Sequence[NetworkMask]


@matplotlib.rc_context(STYLE)
def write_figure(folder: Path, name: str, figure: Figure) -> list[Path]:
    """Writes a figure as PDF, SVG and PNG and returns the paths."""
    written = []
    for kind in FORMATS:
        no_date = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        with atomic_write(folder / f"{name}.{kind}", "wb") as file:
            figure.savefig(file, format=kind, metadata=no_date)
        written.append(folder / f"{name}.{kind}")
    return written


@matplotlib.rc_context(STYLE)
def plot_single_lesions(image: UInt8[np.ndarray, "h w 3"], masks: Masks) -> Figure:
    """Plots Fig. 1: the photograph, and each of its lesions alone over it."""
    rows = (len(masks) + 1) // 2
    aspect, names = image.shape[0] / image.shape[1], [*masks, "."][: 2 * rows]
    panel_in = (WIDTH_IN * aspect - (rows - 1) * TITLE_IN) / (rows + 2)
    photo_in = rows * panel_in + (rows - 1) * TITLE_IN  # as high as the panels beside it with the titles between them
    figure = Figure(figsize=(WIDTH_IN, photo_in + TITLE_IN), layout="constrained")
    layout: Any = [["photograph", *names[2 * row : 2 * row + 2]] for row in range(rows)]
    axes = figure.subplot_mosaic(layout, width_ratios=[photo_in, panel_in, panel_in])
    _show(axes["photograph"], image, "photograph")
    for name, mask in masks.items():
        _show(axes[name], _dim(image), NAMES[name])
        _draw_masks(axes[name], {name: mask}, image.shape)
    return figure


@matplotlib.rc_context(STYLE)
def plot_grade_maps(
    image: UInt8[np.ndarray, "s s 3"],
    lesion: Bool[np.ndarray, "s s"],
    maps: Float[np.ndarray, "c h w"],
    probabilities: Float[np.ndarray, "c"],
) -> Figure:
    """Plots Fig. 6: photograph and lesions, then the raw Grad-CAM map of each grade above its overlay.

    Args:
        image: Photograph as the grader sees it.
        lesion: Mask of any lesion.
        maps: Raw map of each grade. They share one colour scale and can be compared; each overlay has a scale of its own.
        probabilities: Probability of each grade.
    """
    grades = len(maps)
    figure, axes = _subplots(2, grades + 1, WIDTH_IN / (grades + 1.6))
    _show(axes[0, 0], image, "(a) photograph")
    _show(axes[1, 0], _dim(image), "(b) lesions")
    _draw_masks(axes[1, 0], {"lesion": lesion}, image.shape)
    top = max(float(maps.max()), 1e-12)
    letters = iter("cdefghijklmnop")
    for grade, grade_map in enumerate(maps):
        raw, overlay = axes[:, grade + 1]
        _show(raw, grade_map, f"({next(letters)}) grade {grade}, p = {probabilities[grade]:.2f}", vmin=0.0, vmax=top)
        empty = "" if grade_map.max() > 0 else ", empty"
        _show(overlay, image, f"({next(letters)}) overlay{empty}")
        overlay.imshow(grade_map, cmap="viridis", alpha=HEAT_OPACITY, extent=_extent(image.shape), interpolation="bilinear")
    figure.colorbar(axes[0, 1].images[0], ax=axes[0, -1], fraction=0.05, pad=0.03)
    return figure


@matplotlib.rc_context(STYLE)
def plot_mask_rows(rows: Sequence[MaskRow]) -> Figure:
    """Plots Fig. 7: one row for each photograph and lesion, with the photograph and the masks of its panels."""
    columns = 1 + len(rows[0].panels)
    aspect = max(row.image.shape[0] / row.image.shape[1] for row in rows)
    figure, axes = _subplots(len(rows), columns, (WIDTH_IN - TITLE_IN) / columns * aspect)
    for line, row in zip(axes, rows, strict=True):
        _show(line[0], row.image, "photograph")
        line[0].set_ylabel(row.title)
        for place, panel in zip(line[1:], row.panels, strict=True):
            score = "" if panel.dice is None else f", Dice {panel.dice:.2f}"
            _show(place, _dim(row.image), f"{panel.title}{score}")
            _draw_masks(place, panel.masks, row.image.shape)
    _add_legend(figure, (name for row in rows for panel in row.panels for name in panel.masks))
    return figure


@matplotlib.rc_context(STYLE)
def plot_overview(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Masks,
    field: Bool[np.ndarray, "h w"],
    heat: Float[np.ndarray, "h w"] | None,
    grade_title: str,
) -> Figure:
    """Plots what a network predicts for a photograph: the lesions, and the regions behind the grade.

    Args:
        image: RGB.
        masks: Predicted masks.
        field: Field of view.
        heat: Grad-CAM map of the grade; None if the network was not trained on grades.
        grade_title: Title above the map.
    """
    columns = 2 if heat is None else 3
    figure, axes = _subplots(1, columns, WIDTH_IN / columns * image.shape[0] / image.shape[1])
    _show(axes[0, 0], image, "photograph")
    _show(axes[0, 1], image, "lesions found")
    _draw_masks(axes[0, 1], masks, image.shape, opacity=0.3)
    if heat is not None:
        _show(axes[0, 2], image, grade_title)
        axes[0, 2].imshow(heat, cmap="viridis", alpha=HEAT_OPACITY * field, extent=_extent(image.shape))
    _add_legend(figure, masks)
    return figure


def _subplots(rows: int, columns: int, panel_in: float) -> tuple[Figure, np.ndarray]:
    """Panels of a given height, each below its title, above a line for a legend."""
    height_in = rows * (panel_in + TITLE_IN) + TITLE_IN
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _extent(shape: Sequence[int]) -> tuple[float, float, float, float]:
    """Extent of a picture in pixels from its upper left corner, whatever resolution it is drawn at."""
    return (0.0, float(shape[1]), float(shape[0]), 0.0)


def _show(axes: Axes, image: np.ndarray, title: str, **scale: Any) -> None:
    """Shows a picture below its title; one that is larger than print needs is reduced."""
    factor = min(PANEL_PX / max(image.shape[:2]), 1.0)
    reduced = image if factor == 1 else cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    raw: Any = {"interpolation": "nearest", "cmap": "viridis"} | scale if scale else {}
    axes.imshow(reduced, extent=_extent(image.shape), **raw)
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _dim(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Makes a photograph grey and dark, so that colours stand out on it."""
    grey = (DIMMED * cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _draw_masks(axes: Axes, masks: Masks, shape: Sequence[int], *, opacity: float = 0.75) -> None:
    """Draws masks as filled vector outlines."""
    for name, mask in masks.items():
        parts = list(_outlines(mask, tolerance_px=max(shape) / (4 * PANEL_PX)))
        if parts:
            outline, colour = Outline.make_compound_path(*parts), _colour(name)
            axes.add_patch(PathPatch(outline, facecolor=(*colour, opacity), edgecolor=colour, linewidth=OUTLINE_PT))


def _outlines(mask: Bool[np.ndarray, "h w"], tolerance_px: float) -> Iterator[Outline]:
    """Closed outlines of components and of their holes, simplified by less than print can show."""
    # OpenCV's outlines run through pixel centres; on the doubled mask even a single pixel has an area.
    doubled = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for contour in contours:
        points = cv2.approxPolyDP(contour, 2 * tolerance_px, closed=True)[:, 0]
        if len(points) > 1:
            yield Outline((np.concatenate([points, points[:1]]) + 0.5) / 2, closed=True)


def _colour(name: str) -> tuple[float, float, float]:
    red, green, blue = LESION_COLOURS[name]
    return red / 255, green / 255, blue / 255


def _add_legend(figure: Figure, names: Iterable[str]) -> None:
    """Adds the colours of lesions below the panels."""
    patches = [Patch(color=_colour(name), label=NAMES[name]) for name in dict.fromkeys(names)]
    figure.legend(handles=patches, ncols=len(patches), loc="outside lower center", handlelength=1.0, handleheight=1.0)

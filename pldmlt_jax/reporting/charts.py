"""Charts as inline SVG: text stays text, and lines take the text colour of the page, light or dark."""

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from pldmlt_jax.reporting.overlays import LESION_COLOURS

SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, colours with contrast to white and black first; a page may override the first by `--series`."""

GRADE_COLOURS = tuple(to_hex(matplotlib.colormaps["cividis"](share)) for share in np.linspace(0.05, 1.0, 5))
"""Colours of the grades 0 to 4, from dark to light."""

INK = "#808081"
"""Placeholder for the text colour of the page, used for all text, axes and grids; see `_svg`."""

MARKED_POINTS = 12
"""Lines with fewer points get markers."""

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Name -> (x, y)."""

STYLE = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "text.parse_math": False}


def _figure(title: str, description: str, draw: Any, size: tuple[float, float]) -> str:
    """Renders a chart below its title; `description` is its text alternative for readers who cannot see it."""
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": title}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size)  # not pyplot's, which would interfere with the figures of a notebook
        axes = figure.add_subplot()
        axes.tick_params(colors=INK, labelsize=9, length=3)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
        axes.grid(color=INK, alpha=0.2, linewidth=0.6)
        axes.set_axisbelow(True)
        draw(axes)
        svg = _svg(figure, description)
    return f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption>{svg}</figure>'


def _svg(figure: Figure, description: str) -> str:
    """Converts a figure to inline SVG, without group ids (they would repeat on a page) or global styles."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace(SERIES_COLOURS[0].lower(), "var(--series)").strip()
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)


def _legend(axes: Axes, columns: int = 4) -> None:
    """Adds a legend above the axes, where it covers no data."""
    position: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.2}
    axes.legend(fontsize=9, frameon=False, labelcolor=INK, ncols=columns, columnspacing=1.2, handlelength=1.6, **position)


def _describe_series(series: Series) -> str:
    """Describes each series by its first and last value, minimum and maximum."""
    parts = [f"{name} from {y[0]:.3g} to {y[-1]:.3g}, range {min(y):.3g} to {max(y):.3g}" for name, (_, y) in series.items()]
    return "; ".join(parts)


def line_chart(title: str, series: Series, x_label: str = "step", *, log: bool = False) -> str:
    """Plots lines over a shared x axis; series without points are left out, and "" is returned if none is left."""
    series = {name: points for name, points in series.items() if len(points[0])}
    if not series:
        return ""

    def draw(axes: Axes) -> None:
        for (name, (x, y)), colour in zip(series.items(), SERIES_COLOURS * 3, strict=False):
            marker = "o" if len(x) < MARKED_POINTS else ""
            axes.plot(x, y, color=colour, linewidth=1.5, label=name, marker=marker, markersize=3)
        if log and min(min(y) for _, y in series.values()) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        axes.set_xlabel(x_label, color=INK)
        _legend(axes)

    return _figure(title, f"{title} over {x_label}: {_describe_series(series)}", draw, (5.2, 2.7))


def stacked_chart(title: str, x: Sequence[float], shares: Sequence[Sequence[float]]) -> str:
    """Plots the share of each grade over training steps, stacked to 1."""
    columns = np.array(shares).T

    def draw(axes: Axes) -> None:
        axes.stackplot(x, columns, labels=[str(grade) for grade in range(len(columns))], colors=GRADE_COLOURS, linewidth=0)
        axes.margins(0)
        axes.set_xlabel("step", color=INK)
        _legend(axes, len(columns))

    description = ", ".join(f"grade {grade} {share:.0%}" for grade, share in enumerate(columns[:, -1]))
    return _figure(title, f"{title} over step; final shares: {description}", draw, (5.2, 2.7))


def confusion_chart(title: str, confusion: Sequence[Sequence[int]]) -> str:
    """Plots a confusion matrix: true grades in rows, predicted grades in columns, shaded by the share of the row."""
    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
        axes.set_xlabel("predicted grade", color=INK)
        axes.set_ylabel("true grade", color=INK)
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row, column in np.ndindex(*counts.shape):
            colour = "black" if shares[row, column] > 0.6 else "white"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=10)

    rows = "; ".join(f"true grade {grade}: {', '.join(map(str, row))}" for grade, row in enumerate(counts))
    description = f"{title}, confusion matrix, images by predicted grade 0 to {len(counts) - 1}; {rows}"
    return _figure(title, description, draw, (3.4, 3.2))


def reliability_chart(title: str, bins: Sequence[Sequence[float]]) -> str:
    """Plots accuracy over confidence, with the diagonal of perfect calibration; dots grow with the number of images.

    Args:
        title: Title of the chart.
        bins: Number of images, mean confidence and accuracy of each bin; empty bins are left out.
    """
    images, confidence, accuracy = np.array([row for row in bins if row[0]]).reshape(-1, 3).T

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.vlines(confidence, confidence, accuracy, color=SERIES_COLOURS[1], linewidth=1.5)
        axes.scatter(confidence, accuracy, s=20 + 280 * images / images.sum(), color=SERIES_COLOURS[0], zorder=3)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal")
        axes.set_xlabel("mean confidence", color=INK)
        axes.set_ylabel("accuracy", color=INK)

    points = [
        f"{n:.0f} images, confidence {c:.2f}, accuracy {a:.2f}" for n, c, a in np.stack([images, confidence, accuracy]).T
    ]
    return _figure(title, f"{title}: {'; '.join(points)}", draw, (3.4, 3.2))


def recall_chart(title: str, curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Plots precision over recall by lesion, in the colours of the overlays; dots mark the threshold 0.5.

    Args:
        title: Title of the chart.
        curves: Key of LESION_COLOURS -> result of `metrics.curves.precision_recall`.
    """

    def draw(axes: Axes) -> None:
        cased = [patheffects.Stroke(linewidth=3.2, foreground=INK), patheffects.Normal()]  # so that yellow stands out, too
        for name, curve in curves.items():
            colour = np.array(LESION_COLOURS[name]) / 255
            _, recall, precision = np.array(curve["points"]).T
            label = f"{name} (AP {curve['ap']:.2f})"
            dashes = (0, (4, 1.5)) if name == "lesion" and len(curves) > 1 else "-"  # its blue resembles that of HE
            axes.plot(recall, precision, color=colour, linewidth=1.8, linestyle=dashes, label=label, path_effects=cased)
            _, recall, precision = curve["at_half"]
            axes.plot(recall, precision, "o", color=colour, markersize=6, markeredgecolor=INK)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.03))
        axes.set_xlabel("recall", color=INK)
        axes.set_ylabel("precision", color=INK)
        _legend(axes, 3)

    description = "; ".join(
        f"{name}: average precision {curve['ap']:.3f}, at random {curve['prevalence']:.3f}, at threshold 0.5 "
        f"recall {curve['at_half'][1]:.3f} and precision {curve['at_half'][2]:.3f}"
        for name, curve in curves.items()
    )
    return _figure(title, f"{title}: {description}", draw, (5.2, 3.6)) if curves else ""


def whisker_chart(title: str, rows: Mapping[str, tuple[float, float, float]], x_label: str) -> str:
    """Plots one row per name: a dot with its interval, and a line at zero.

    Args:
        title: Title of the chart.
        rows: Name -> estimate, lower and upper end of its interval.
        x_label: What is estimated.
    """

    def draw(axes: Axes) -> None:
        for position, (estimate, low, high) in enumerate(rows.values()):
            colour = INK if low <= 0 <= high else SERIES_COLOURS[0 if estimate > 0 else 1]
            axes.plot([low, high], [position, position], color=colour, linewidth=1.8, solid_capstyle="butt")
            axes.plot(estimate, position, "o", color=colour, markersize=6)
        axes.axvline(0, color=INK, linewidth=1)
        axes.grid(visible=False, axis="y")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=6)  # few ticks, because the labels of small differences are long
        axes.set_xlabel(x_label, color=INK)

    description = "; ".join(f"{name} {value:+.4f} ({low:+.4f} to {high:+.4f})" for name, (value, low, high) in rows.items())
    return _figure(title, f"{title}: {description}", draw, (5.2, 0.7 + 0.34 * len(rows))) if rows else ""

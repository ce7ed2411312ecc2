"""Charts as inline SVG whose text is text, and whose ink is the page's: light or dark as the page is."""

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
"""Okabe and Ito's palette, those first that stand out from white and from black; a page may set the first, `--series`."""

GRADE_COLOURS = tuple(to_hex(matplotlib.colormaps["cividis"](share)) for share in np.linspace(0.05, 1.0, 5))
"""Grades are an order, and so is their lightness."""

INK = "#808081"
"""Of all text and lines that are no data; it stands for the page's own colour, see `_svg`."""

MARKED_POINTS = 12
"""Lines of fewer points show them."""

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Name -> (x, y)."""

STYLE = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "text.parse_math": False}


def _figure(title: str, description: str, draw: Any, size: tuple[float, float]) -> str:
    """A chart under its title; `description` is what stands in for it where it cannot be seen."""
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": title}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size)  # not pyplot's, which would change where a notebook shows its own
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
    """Inline SVG: no ids of groups, which would repeat on a page, no style that reaches beyond it, the page's ink."""
    buffer = io.StringIO()
    unknown = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata=unknown)
    svg = buffer.getvalue()
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace(SERIES_COLOURS[0].lower(), "var(--series)").strip()
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)


def _legend(axes: Axes, columns: int = 4) -> None:
    """Names over the axes, where they cover no data."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.2}
    axes.legend(fontsize=9, frameon=False, labelcolor=INK, ncols=columns, columnspacing=1.2, handlelength=1.6, **place)


def _told(series: Series) -> str:
    """The series in words: where each begins, ends, is least and greatest."""
    parts = [
        f"{name} from {y[0]:.3g} to {y[-1]:.3g}, between {min(y):.3g} and {max(y):.3g}" for name, (_, y) in series.items()
    ]
    return "; ".join(parts)


def line_chart(title: str, series: Series, x_label: str = "step", *, log: bool = False) -> str:
    """Lines over a shared x axis; series without points are left out, and so is a chart without any."""
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

    return _figure(title, f"{title} over {x_label}: {_told(series)}", draw, (5.2, 2.7))


def stacked_chart(title: str, x: Sequence[float], shares: Sequence[Sequence[float]]) -> str:
    """Shares of the grades over time, stacked to 1."""
    columns = np.array(shares).T

    def draw(axes: Axes) -> None:
        axes.stackplot(x, columns, labels=[str(grade) for grade in range(len(columns))], colors=GRADE_COLOURS, linewidth=0)
        axes.margins(0)
        axes.set_xlabel("step", color=INK)
        _legend(axes, len(columns))

    told = ", ".join(f"grade {grade} {share:.0%}" for grade, share in enumerate(columns[:, -1]))
    return _figure(title, f"{title} over step; at the end {told}", draw, (5.2, 2.7))


def confusion_chart(title: str, confusion: Sequence[Sequence[int]]) -> str:
    """Counts of true grades (rows) by answer (columns), shaded by share of the row."""
    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
        axes.set_xlabel("answer", color=INK)
        axes.set_ylabel("true grade", color=INK)
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row, column in np.ndindex(*counts.shape):
            colour = "black" if shares[row, column] > 0.6 else "white"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=10)

    told = "; ".join(f"of grade {g} {', '.join(map(str, row))} answered 0 to {len(row) - 1}" for g, row in enumerate(counts))
    return _figure(title, f"{title}, confusion matrix: {told}", draw, (3.4, 3.2))


def reliability_chart(title: str, bins: Sequence[Sequence[float]]) -> str:
    """Accuracy over confidence, against the diagonal of perfect calibration; dots grow with the number of images.

    Args:
        title: Above it.
        bins: Images, mean confidence and accuracy of each bin; empty ones are left out.
    """
    images, confidence, accuracy = np.array([row for row in bins if row[0]]).reshape(-1, 3).T

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.vlines(confidence, confidence, accuracy, color=SERIES_COLOURS[1], linewidth=1.5)
        axes.scatter(confidence, accuracy, s=20 + 280 * images / images.sum(), color=SERIES_COLOURS[0], zorder=3)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal")
        axes.set_xlabel("mean confidence", color=INK)
        axes.set_ylabel("accuracy", color=INK)

    told = "; ".join(f"{n:.0f} images, {c:.2f} confident, {a:.2f} right" for n, c, a in zip(images, confidence, accuracy))  # noqa: B905
    return _figure(title, f"{title}: {told}", draw, (3.4, 3.2))


def recall_chart(title: str, curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Precision over recall by lesion in the colours of the pictures; a dot stands at the threshold 0.5.

    Args:
        title: Above it.
        curves: Key of LESION_COLOURS -> see `score_curves.precision_recall`.
    """

    def draw(axes: Axes) -> None:
        cased = [patheffects.Stroke(linewidth=3.2, foreground=INK), patheffects.Normal()]  # yellow, too, stands out
        for name, curve in curves.items():
            colour = np.array(LESION_COLOURS[name]) / 255
            _, recall, precision = np.array(curve["points"]).T
            label = f"{name} (AP {curve['ap']:.2f})"
            dashes = (0, (4, 1.5)) if name == "lesion" and len(curves) > 1 else "-"  # its blue is near that of HE
            axes.plot(recall, precision, color=colour, linewidth=1.8, linestyle=dashes, label=label, path_effects=cased)
            _, recall, precision = curve["at_half"]
            axes.plot(recall, precision, "o", color=colour, markersize=6, markeredgecolor=INK)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.03))
        axes.set_xlabel("recall", color=INK)
        axes.set_ylabel("precision", color=INK)
        _legend(axes, 3)

    told = "; ".join(
        f"{name}: average precision {curve['ap']:.3f}, answers at random {curve['prevalence']:.3f}, at the threshold 0.5 "
        f"recall {curve['at_half'][1]:.3f} and precision {curve['at_half'][2]:.3f}"
        for name, curve in curves.items()
    )
    return _figure(title, f"{title}: {told}", draw, (5.2, 3.6)) if curves else ""


def whisker_chart(title: str, rows: Mapping[str, tuple[float, float, float]], x_label: str) -> str:
    """A dot with its interval for each name, one under the other, against a line at zero.

    Args:
        title: Above it.
        rows: Name -> estimate, lower and upper end.
        x_label: What the estimates are of.
    """

    def draw(axes: Axes) -> None:
        for place, (estimate, low, high) in enumerate(rows.values()):
            colour = INK if low <= 0 <= high else SERIES_COLOURS[0 if estimate > 0 else 1]
            axes.plot([low, high], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt")
            axes.plot(estimate, place, "o", color=colour, markersize=6)
        axes.axvline(0, color=INK, linewidth=1)
        axes.grid(visible=False, axis="y")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=6)  # so that small differences, whose labels are long, stand apart
        axes.set_xlabel(x_label, color=INK)

    told = "; ".join(f"{name} {value:+.4f} ({low:+.4f} to {high:+.4f})" for name, (value, low, high) in rows.items())
    return _figure(title, f"{title}: {told}", draw, (5.2, 0.7 + 0.34 * len(rows))) if rows else ""

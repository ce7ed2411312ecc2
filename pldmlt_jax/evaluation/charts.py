"""Charts of a run as inline SVG that takes the page's own colours."""

import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette."""

INK = "#808080"
"""Mid grey reads on white and on black."""

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Name -> (x, y)."""


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
    return svg


def _axes(title: str, x_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 2.9))  # not pyplot's, which would change where a notebook shows its own
    axes = figure.add_subplot()
    axes.set_title(title, color=INK, fontsize=10, parse_math=False)
    axes.set_xlabel(x_label, color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    axes.grid(color=INK, alpha=0.2, linewidth=0.6)
    return figure, axes


def line_chart(title: str, series: Series, x_label: str = "step", *, log: bool = False) -> str:
    """Lines over a shared x axis; series without points are left out."""
    figure, axes = _axes(title, x_label)
    for (name, (x, y)), colour in zip(series.items(), SERIES_COLOURS * 3, strict=False):
        if len(x):
            axes.plot(x, y, color=colour, linewidth=1.5, label=name, marker="o" if len(x) < 12 else "", markersize=3)
    if log:
        axes.set_yscale("log")
    if axes.lines:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return _svg(figure, title)


def stacked_chart(title: str, x: Sequence[float], shares: Sequence[Sequence[float]]) -> str:
    """Shares of the grades over time, stacked to 1."""
    figure, axes = _axes(title, "step")
    columns = np.array(shares).T
    axes.stackplot(x, columns, labels=[f"grade {g}" for g in range(len(columns))], colors=SERIES_COLOURS, alpha=0.85)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure, title)


def confusion_chart(title: str, confusion: Sequence[Sequence[int]]) -> str:
    """Counts of true grades (rows) by answer (columns), shaded by share of the row."""
    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _axes(title, "answer")
    figure.set_size_inches(3.6, 3.2)
    axes.grid(visible=False)
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    axes.set_ylabel("true grade", color=INK, fontsize=9)
    axes.set_xticks(range(len(counts)))
    axes.set_yticks(range(len(counts)))
    for row, column in np.ndindex(*counts.shape):
        colour = "black" if shares[row, column] > 0.6 else "white"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9)
    return _svg(figure, title)

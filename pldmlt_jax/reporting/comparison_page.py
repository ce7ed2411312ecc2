"""`compare.html`: the comparison of several runs as a page that opens offline, made from the content of `table.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pldmlt_jax.evaluation.original_size import ORIGINAL
from pldmlt_jax.reporting.charts import whisker_chart
from pldmlt_jax.reporting.comparison_tables import (
    COST,
    COST_NOTE,
    format_costs,
    format_difference,
    format_metric,
    headline_metrics,
)
from pldmlt_jax.reporting.html import chart_grid, collapsible_json, escape, html_table, write_page

TITLES = {
    "seg/foreground/dice": "lesion Dice",
    "seg/mean/aupr_11_exclusive": "mean lesion AUPR",
    "seg/micro_bg/dice": "Dice over all pixels (micro_bg)",
    "seg/micro_bg/iou": "IoU over all pixels (micro_bg)",
    "grade/accuracy": "grading accuracy",
    "grade/kappa": "grading kappa",
}
"""Headline metric -> title."""


def write_comparison(target: Path, table: Mapping[str, Any]) -> Path:
    """Writes the page and returns its path.

    Args:
        target: File to write.
        table: Content of `table.json`.
    """
    costs = html_table(("row", *COST), [(row["name"], *format_costs(row)) for row in table["rows"]])
    versions = collapsible_json("versions", table["environment"])
    sections = [
        ("Results", _render_results(table)),
        ("Differences", _render_differences(table)),
        ("Runs", _render_runs(table)),
        ("Cost", f"<p>{escape(COST_NOTE)}</p>{costs}"),
        ("All metrics", _render_all_metrics(table)),
        ("Environment", f"<p><code>{escape(table['command'])}</code></p>{versions}"),
    ]
    return write_page(target, "PLDMLT comparison", table["title"], sections)


def _title(name: str) -> str:
    size = " at original image size" if name.endswith(ORIGINAL) else ""
    return f"{TITLES[name.removesuffix(ORIGINAL)]}{size}"


def _render_results(table: Mapping[str, Any]) -> str:
    """Mean and standard deviation of each row; the paper's numbers follow in rows of their own, set apart."""
    names = headline_metrics(table)
    rows: list[Sequence[Any]] = []
    published = []
    for row in table["rows"]:
        done = sum(run["state"] == "complete" for run in row["cells"])
        title = ": ".join(part for part in (row["name"], row["what"]) if part)
        rows.append((title, f"{done} of {len(row['cells'])}", *(format_metric(row, name) for name in names)))
        if row["published"]:
            published.append(len(rows))
            printed = {table["published_as"][name]: f"{value} % ({name})" for name, value in row["published"].items()}
            rows.append((f"published: {row['name']}", "", *(printed.get(name.removesuffix(ORIGINAL), "") for name in names)))
    note = "Mean ± standard deviation over folds and seeds; baseline in brackets."
    if published:
        note += (
            f" Rows in italics are the paper's numbers as printed ({table['published_in']}). They are from other images, "
            "and the paper does not define its Dice; reading it as micro_bg, which counts correct background, is our "
            "assumption."
        )
    return f"<p>{escape(note)}</p>{html_table(('row', 'runs', *map(_title, names)), rows, highlighted=published)}"


def _render_differences(table: Mapping[str, Any]) -> str:
    """Difference of every row to the reference, with intervals."""
    names, rows = headline_metrics(table), [row for row in table["rows"] if row["differences"]]
    reference = escape(table["reference"])
    if not rows:
        return f'<p class="missing">None: no other row has complete runs in common with the reference, {reference}.</p>'
    charts = []
    for name in names:
        given = {row["name"]: row["differences"][name] for row in rows if name in row["differences"]}
        intervals = {row: (d["difference"], d["low"], d["high"]) for row, d in given.items()}
        charts.append(whisker_chart(_title(name), intervals, f"difference to {table['reference']}"))
    text = (
        f"<p>Difference to <b>{reference}</b> on the same images, pooled over folds and seeds. Lines are 95 % intervals of "
        "a bootstrap over images: they show how much a difference depends on the images, not on the training. Grey: the "
        "interval contains zero.</p>"
    )
    lines = [(row["name"], *(format_difference(row["differences"].get(name)) for name in names)) for row in rows]
    return f"{text}{chart_grid(charts)}{html_table(('row', *map(_title, names)), lines)}"


def _render_runs(table: Mapping[str, Any]) -> str:
    """Number of complete runs, and why the others are not."""
    every = [(row, run) for row in table["rows"] for run in row["cells"]]
    incomplete = [(row, run) for row, run in every if run["state"] != "complete"]
    over = ", ".join(f"{name} {' '.join(map(str, table[name]))}" for name in ("folds", "seeds"))
    text = f"<p>{len(every) - len(incomplete)} of {len(every)} runs are complete ({escape(over)}).</p>"
    lines = [(row["name"], str(run["fold"]), str(run["seed"]), run["state"], run["why"]) for row, run in incomplete]
    return text + (html_table(("row", "fold", "seed", "state", "reason"), lines, tall=True) if lines else "")


def _render_all_metrics(table: Mapping[str, Any]) -> str:
    """Every defined metric that some row has."""
    rows = table["rows"]
    lines = [
        (metric["name"], metric["what"], *(format_metric(row, metric["name"]) for row in rows))
        for metric in table["figures"]
        if any(metric["name"] in row["figures"] for row in rows)
    ]
    return html_table(("metric", "definition", *(row["name"] for row in rows)), lines, tall=True) if lines else ""

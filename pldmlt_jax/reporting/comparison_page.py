"""`compare.html`: a table of runs as a page that opens offline, from what `table.json` holds."""

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
from pldmlt_jax.reporting.html import charts, collapsible_json, escape, table, write_page

TITLES = {
    "seg/foreground/dice": "lesion Dice",
    "seg/mean/aupr_11_exclusive": "mean lesion AUPR",
    "seg/micro_bg/dice": "Dice over all pixels (micro_bg)",
    "seg/micro_bg/iou": "IoU over all pixels (micro_bg)",
    "grade/accuracy": "grading accuracy",
    "grade/kappa": "grading kappa",
}
"""What the page calls the figures of its first table."""


def write_comparison(target: Path, found: Mapping[str, Any]) -> Path:
    """Writes the page.

    Args:
        target: The file.
        found: What `table.json` holds.

    Returns:
        The file.
    """
    sections = [
        ("Results", results(found)),
        ("Differences", differences(found)),
        ("Runs", runs(found)),
        (
            "Cost",
            f"<p>{escape(COST_NOTE)}</p>"
            + table(("row", *COST), [(row["name"], *format_costs(row)) for row in found["rows"]]),
        ),
        ("Every convention", conventions(found)),
        (
            "Environment",
            f"<p><code>{escape(found['command'])}</code></p>" + collapsible_json("versions", found["environment"]),
        ),
    ]
    return write_page(target, "PLDMLT comparison", found["title"], sections)


def title_of(name: str) -> str:
    own_size = " at the images' own size" if name.endswith(ORIGINAL) else ""
    return f"{TITLES[name.removesuffix(ORIGINAL)]}{own_size}"


def results(found: Mapping[str, Any]) -> str:
    """Mean and standard deviation of each row, the paper's figures under ours and set apart."""
    names = headline_metrics(found)
    rows: list[Sequence[Any]] = []
    published = []
    for row in found["rows"]:
        done = sum(cell["state"] == "complete" for cell in row["cells"])
        title = ": ".join(part for part in (row["name"], row["what"]) if part)
        rows.append((title, f"{done} of {len(row['cells'])}", *(format_metric(row, name) for name in names)))
        if row["published"]:
            published.append(len(rows))
            stands = {found["published_as"][name]: f"{value} % ({name})" for name, value in row["published"].items()}
            rows.append((f"published: {row['name']}", "", *(stands.get(name.removesuffix(ORIGINAL), "") for name in names)))
    note = "Mean ± standard deviation over folds and seeds; in brackets the baseline."
    if published:
        note += (
            f" Lines in italics are the paper's, as printed ({found['published_in']}): other images, and a Dice whose "
            "definition it does not give. That it is micro_bg, which counts background as right, is a reading."
        )
    shown = table(("row", "runs", *map(title_of, names)), rows, marked=published)
    return f"<p>{escape(note)}</p>{shown}"


def differences(found: Mapping[str, Any]) -> str:
    """Every row against the reference, with intervals."""
    names, rows = headline_metrics(found), [row for row in found["rows"] if row["differences"]]
    reference = escape(found["reference"])
    if not rows:
        return f'<p class="missing">None: no other row shares complete runs with the reference, {reference}.</p>'
    shown = []
    for name in names:
        given = {row["name"]: row["differences"][name] for row in rows if name in row["differences"]}
        ends = {row: (d["difference"], d["low"], d["high"]) for row, d in given.items()}
        shown.append(whisker_chart(title_of(name), ends, f"difference to {found['reference']}"))
    text = (
        f"<p>Against <b>{reference}</b>, on the same images, pooled over folds and seeds; the lines are 95 % intervals of a "
        "bootstrap over images (how much a difference depends on the images, not on the training). Grey: the interval "
        "holds zero.</p>"
    )
    lines = [(row["name"], *(format_difference(row["differences"].get(name)) for name in names)) for row in rows]
    return f"{text}{charts(shown)}{table(('row', *map(title_of, names)), lines)}"


def runs(found: Mapping[str, Any]) -> str:
    """Which runs are in the figures, and why others are not."""
    every = [(row, cell) for row in found["rows"] for cell in row["cells"]]
    lacking = [(row, cell) for row, cell in every if cell["state"] != "complete"]
    over = ", ".join(f"{what} {' '.join(map(str, found[what]))}" for what in ("folds", "seeds"))
    text = f"<p>{len(every) - len(lacking)} of {len(every)} runs are complete ({escape(over)}).</p>"
    lines = [(row["name"], str(cell["fold"]), str(cell["seed"]), cell["state"], cell["why"]) for row, cell in lacking]
    return text + (table(("row", "fold", "seed", "state", "why"), lines, tall=True) if lines else "")


def conventions(found: Mapping[str, Any]) -> str:
    """Every figure that some row has."""
    rows = found["rows"]
    lines = [
        (figure["name"], figure["what"], *(format_metric(row, figure["name"]) for row in rows))
        for figure in found["figures"]
        if any(figure["name"] in row["figures"] for row in rows)
    ]
    return table(("figure", "what it is", *(row["name"] for row in rows)), lines, tall=True) if lines else ""

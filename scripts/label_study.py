"""Makes results/label_study.json and the tables and plots of docs/label_update.md from configs/tables/label_study.py.

python -m scripts.label_study --table=runs/label_study/table.json    copies the metrics of these rows to results/ and plots
python -m scripts.label_study                                        plots again from results/
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from configs.tables.label_study import LOSSES, get_table
from pldmlt_jax.evaluation.metrics.labels import FIRST_STEP_METRICS, LOGGED_METRICS
from pldmlt_jax.reporting.charts import INK, SERIES_COLOURS

RESULTS = Path("results/label_study.json")
DOCS = Path("docs")
KEPT = (
    *("labels/n", "labels/n_wrong", "labels/repaired", "labels/spoilt", "labels/accuracy_before", "labels/accuracy_after"),
    *("labels/repaired_by_hierarchy", "labels/spoilt_by_hierarchy", "labels/true_weight_of_wrong"),
    *("labels/true_weight_of_right", "grade/n", "grade/accuracy", "grade/kappa", "grade/majority", "grade/confusion"),
    *("seg/foreground/dice", "baseline/channel_threshold/dice"),
    *(f"train/{name}" for name in LOGGED_METRICS),
    *(f"train/{name}_at_start" for name in FIRST_STEP_METRICS),
)
"""Metrics of a run that results/ keeps."""

COLUMNS = {
    "repaired": "labels/repaired",
    "spoilt": "labels/spoilt",
    "right after": "labels/accuracy_after",
    "grades, accuracy": "grade/accuracy",
    "kappa": "grade/kappa",
    "lesion Dice": "seg/foreground/dice",
}
"""Column of the table -> metric."""

StudyRow = Mapping[str, Any]
"""A row of results/label_study.json."""


def select_results(table: Mapping[str, Any]) -> dict[str, Any]:
    """Selects what results/ keeps of a `table.json`: the metrics of every complete run and the paired differences."""
    rows = [
        {
            "name": row["name"],
            "what": row["what"],
            "missing": sum(cell["state"] != "complete" for cell in row["cells"]),
            "seeds": [cell["seed"] for cell in row["cells"] if cell["state"] == "complete"],
            "runs": [
                {name: round_value(cell["metrics"].get(name)) for name in KEPT if name in cell["metrics"]}
                for cell in row["cells"]
                if cell["state"] == "complete"
            ],
            "differences": {
                name: row["differences"][name] for name in COLUMNS.values() if name in row.get("differences", {})
            },
        }
        for row in table["rows"]
    ]
    kept = {name: table[name] for name in ("command", "environment", "reference", "interval")}
    return kept | {"rows": [row for row in rows if row["runs"]]}


def merge_results(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces rows that were run again, keeps the other old rows, and sorts them in the order of the table."""
    order = [row.name for row in get_table().rows]
    rows = {row["name"]: row for row in [*old["rows"], *new["rows"]]}
    return {**new, "command": old["command"], "rows": sorted(rows.values(), key=lambda row: order.index(row["name"]))}


def read_results(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def round_value(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def values(row: StudyRow, name: str) -> np.ndarray:
    """Returns a metric of each run of a row; runs without it are left out."""
    return np.array([run[name] for run in row["runs"] if run.get(name) is not None], float)


def format_metric(row: StudyRow, name: str) -> str:
    """Formats a metric of a row as mean ± standard deviation over the seeds; a dash if no run has it."""
    found = values(row, name)
    if not len(found):
        return "–"
    return f"{found.mean():.3f}" + (f" ± {found.std(ddof=1):.3f}" if len(found) > 1 else "")


def metrics_table(rows: Sequence[StudyRow]) -> str:
    """Makes the table of metrics as Markdown."""
    lines = ["| row | runs | " + " | ".join(COLUMNS) + " |", "| --- " * (len(COLUMNS) + 2) + "|"]
    for row in rows:
        cells = [format_metric(row, name) for name in COLUMNS.values()]
        lines.append(f"| `{row['name']}` | {len(row['runs'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gradient_table(rows: Sequence[StudyRow]) -> str:
    """Makes a table, as Markdown, of the gradients on the encoder in the second half of training and the first meta step."""
    lines = [
        "| row | beta L_C / L_S, as trained | given labels | cosine | given labels | direct / indirect, first meta step |",
        "| --- " * 6 + "|",
    ]
    for row in rows:
        ratios = [
            f"{(values(row, f'train/grad_norm/grade_encoder{end}') / values(row, 'train/grad_norm/seg_encoder')).mean():.2f}"
            if len(values(row, f"train/grad_norm/grade_encoder{end}"))
            else "–"
            for end in ("", "_fixed")
        ]
        cosines = [format_metric(row, f"train/grad_cosine_encoder{end}") for end in ("", "_fixed")]
        direct, indirect = (values(row, f"train/{name}_at_start") for name in FIRST_STEP_METRICS)
        paths = f"{(direct / indirect).mean():.3g}" if len(indirect) else "–"
        cells = [ratios[0], ratios[1], cosines[0], cosines[1], paths]
        lines.append(f"| `{row['name']}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot_labels(rows: Sequence[StudyRow], path: Path) -> None:
    """Plots repaired and spoilt labels of each row: a dot per seed, and a mark for psi alone."""
    figure, axes = plt.subplots(figsize=(7.2, 0.28 * len(rows) + 1.2))
    for place, row in enumerate(rows):
        for kind, colour in (("repaired", SERIES_COLOURS[0]), ("spoilt", SERIES_COLOURS[1])):
            found = values(row, f"labels/{kind}")
            label = kind if place == 0 else None
            y = place + (-0.15 if kind == "repaired" else 0.15)
            axes.plot(found, [y] * len(found), "o", color=colour, markersize=4, label=label)
            alone = values(row, f"labels/{kind}_by_hierarchy")
            label = f"{kind} by psi alone" if place == 0 else None
            axes.plot(alone[:1], [y] * len(alone[:1]), "|", color=colour, markersize=9, label=label)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    save_plot(figure, axes, "share of the wrong labels repaired, of the right ones spoilt", path)


def plot_balance(rows: Sequence[StudyRow], path: Path) -> None:
    """Plots the gradient norm of beta L_C on the encoder relative to L_S, as trained and with the given labels instead."""
    figure, axes = plt.subplots(figsize=(7.2, 0.28 * len(rows) + 1.2))
    kinds = (("", "as trained", SERIES_COLOURS[0]), ("_fixed", "given labels, same theta and batch", SERIES_COLOURS[4]))
    for end, name, colour in kinds:
        points = [
            (ratio, place)
            for place, row in enumerate(rows)
            if len(values(row, f"train/grad_norm/grade_encoder{end}"))
            for ratio in values(row, f"train/grad_norm/grade_encoder{end}") / values(row, "train/grad_norm/seg_encoder")
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=4, label=name)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    save_plot(figure, axes, "gradient of beta L_C on the encoder, relative to that of L_S", path)


def save_plot(figure: Any, axes: Any, x_label: str, path: Path) -> None:
    """Styles the axes and writes the figure."""
    axes.set_xlabel(x_label, color=INK)
    axes.tick_params(colors=INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    axes.grid(color=INK, alpha=0.2, linewidth=0.6)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    plt.rcParams["svg.hashsalt"] = path.stem  # the same input gives the same file
    figure.savefig(path, bbox_inches="tight", transparent=True, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Updates results/ if a table is given, prints the tables and makes the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="table.json written by compare")
    arguments = parser.parse_args()
    if arguments.table:
        kept = merge_results(select_results(read_results(arguments.table)), read_results(RESULTS))
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    rows = read_results(RESULTS)["rows"]
    print(metrics_table(rows), gradient_table(rows), sep="\n\n")
    plotted = [row for row in rows if re.search(r"_40$", row["name"])]
    plotted.sort(key=lambda row: [*("none", "literal"), *LOSSES].index(row["name"].split("_")[0]))
    plot_labels(plotted, DOCS / "label_update_labels.svg")
    plot_balance(plotted, DOCS / "label_update_balance.svg")


if __name__ == "__main__":
    main()

"""Report sections about the evaluated split: lesions, operating points, grades, and pictures of single images."""

from pathlib import Path
from typing import Any

from pldmlt_jax.evaluation.metrics.curves import CURVES_FILE
from pldmlt_jax.evaluation.metrics.definitions import SEGMENTATION_METRICS
from pldmlt_jax.evaluation.operating_points import OPERATING_POINTS_FILE as POINTS
from pldmlt_jax.evaluation.operating_points import lesion_names
from pldmlt_jax.evaluation.original_size import ORIGINAL
from pldmlt_jax.io.csv_files import read_rows
from pldmlt_jax.io.files import read_json, read_json_if_present
from pldmlt_jax.reporting.charts import confusion_chart, recall_chart, reliability_chart
from pldmlt_jax.reporting.html import (
    chart_grid,
    colour_legend,
    embed_picture,
    escape,
    format_number,
    html_table,
    missing_stage_note,
)
from pldmlt_jax.reporting.overlays import PICTURE_SUFFIX
from pldmlt_jax.types import LESIONS

NOT_SCORED = '<p class="missing">Nothing to show: the evaluated split has no such images.</p>'

GRADE_COLUMNS = {
    "accuracy": "accuracy", "accuracy_low": "95 % from", "accuracy_high": "to", "majority": "majority grade",
    "kappa": "kappa", "macro_f1": "macro F1", "auc_ovr": "AUC, one vs. rest", "ece": "ECE", "n": "images",
}  # fmt: skip
"""Metric -> column title."""

LESION_COLUMNS = ("recall", "dice", "dice_at_operating_point", "iou", "ap", "aupr_11_exclusive", "inflation")

CURVE_TITLES = {"network_size": "at the network's size", "original_size": "at original image size"}

VIEWS = {"image": "photograph", "truth": "truth", "prediction": "prediction"}


def render_lesions(workdir: Path) -> str:
    """Renders every segmentation metric with its baseline, then a table of single lesions, at both sizes."""
    m = read_json_if_present(workdir / "metrics.json")
    if not m:
        return missing_stage_note("evaluate")
    rows = [
        (
            name.removeprefix("seg/"), m.get(name, ""), m.get(baseline or "", ""),
            m.get(f"{name}{ORIGINAL}", ""), m.get(f"{baseline}{ORIGINAL}", ""), definition,
        )
        for name, baseline, definition in SEGMENTATION_METRICS
        if (m.get(name), m.get(f"{name}{ORIGINAL}")) != (None, None) and name.split("/")[1] not in (*LESIONS, "mean")
    ]  # fmt: skip
    header = ("any lesion", "network's size", "baseline", "original size", "baseline", "definition")
    tables = html_table(header, rows) + _lesion_table(m, "", "network's size") + _lesion_table(m, ORIGINAL, "original size")
    parameters = [(name.removeprefix("parameters/"), n) for name, n in m.items() if name.startswith("parameters/")]
    counts = "<h3>Parameters</h3>" + html_table(("network", "parameters"), parameters) if parameters else ""
    return (tables if "seg/split" in m else NOT_SCORED) + counts


def _lesion_table(m: dict[str, Any], suffix: str, title: str) -> str:
    """Lesions by metric; metrics that no lesion has are left out."""
    rows = {lesion: [m.get(f"seg/{lesion}/{name}{suffix}") for name in LESION_COLUMNS] for lesion in (*LESIONS, "mean")}
    columns = [i for i in range(len(LESION_COLUMNS)) if any(row[i] is not None for row in rows.values())]
    if not columns:
        return ""
    shown = [
        (lesion, *("" if row[i] is None and lesion == "mean" else row[i] for i in columns))
        for lesion, row in rows.items()
        if any(value is not None for value in row)
    ]
    names = [LESION_COLUMNS[i].replace("_", " ") for i in columns]
    return f"<h3>By lesion, {title}</h3>" + html_table(("lesion", *names), shown)


def render_precision_recall(workdir: Path) -> str:
    """Renders the precision-recall curves at both sizes."""
    path = workdir / CURVES_FILE
    if not path.exists():
        scored = "seg/split" in read_json_if_present(workdir / "metrics.json")
        return missing_stage_note("evaluate") if scored else ""
    curves = read_json(path)
    charts = [recall_chart(f"precision and recall, {title}", curves.get(key) or {}) for key, title in CURVE_TITLES.items()]
    fused = not any(lesion in curves["original_size"] | curves["network_size"] for lesion in LESIONS)
    note = (
        " This network predicts a single mask of any lesion, so curves of single lesions are not defined." if fused else ""
    )
    return f"<p>Over all pixels of the split; dots mark the threshold 0.5.{note}</p>{chart_grid(charts)}"


def render_operating_points(workdir: Path) -> str:
    """Renders the thresholds that `predict` and `export` use, with their Dice on validation and evaluated images."""
    path, m = workdir / "checkpoints" / POINTS, read_json_if_present(workdir / "metrics.json")
    if not path.exists():
        return ""
    points, rows = read_json(path), []
    for name, point in points["lesions"].items():
        key = f"seg/{'foreground' if name == 'lesion' else name}/dice"
        area_px = int(point["min_area_px"]) if point["min_area_px"] == int(point["min_area_px"]) else point["min_area_px"]
        fields = (point["threshold"], area_px, point["images"], point["dice"], point["dice_at_half"])
        rows.append((name, *fields, m.get(f"{key}_at_operating_point", ""), m.get(key, "")))
    header = ("lesion", "threshold", "min. component, px", "validation images", "validation Dice", "at 0.5",
              "Dice on the evaluated split", "at 0.5")  # fmt: skip
    grades = (
        f"calibrated with temperature {format_number(points['temperature'])} on {points['graded_images']} validation images "
        "with a true grade"
        if points["temperature"]
        else "uncalibrated, because no validation image has a true grade"
    )
    return (
        "<p>Threshold and minimum component size (at the network's size) that <code>predict</code> and <code>export</code> "
        "use. Of the choices within one standard error of the best Dice on the validation images, this is the one nearest "
        f"to a threshold of 0.5 and to keeping every component. Grades are {grades}.</p>{html_table(header, rows)}"
    )


def render_grades(workdir: Path) -> str:
    """Renders the grading metrics of the network and its graders, confusion matrix and calibration."""
    m = read_json_if_present(workdir / "metrics.json")
    if "grade/confusion" not in m:
        return NOT_SCORED if m else missing_stage_note("evaluate")
    rows = [("multi-task network", *(m.get(f"grade/{name}") for name in GRADE_COLUMNS))]
    for path in sorted(workdir.glob("graders/*/metrics.json")):
        grader = read_json(path)
        rows.append((f"grader {path.parent.name}", *(grader.get(f"grade/{name}") for name in GRADE_COLUMNS)))
    charts = [confusion_chart("predictions of the multi-task network", m["grade/confusion"])]
    if m.get("grade/reliability"):
        charts.append(reliability_chart(f"calibration, ECE {format_number(m['grade/ece'], 3)}", m["grade/reliability"]))
    return (
        html_table(("on held-out images with a true grade", *GRADE_COLUMNS.values()), rows)
        + chart_grid(charts)
        + "<p>On the dashed line, confidence equals accuracy; larger dots stand for more images. ECE is the mean distance "
        "from that line over ten bins, weighted by their number of images.</p>"
    )


def render_examples(workdir: Path) -> str:
    """Renders photograph, truth and prediction of the worst and best images, with buttons to choose the views."""
    path, folder = workdir / "per_image.csv", workdir / "examples"
    rows = [row for _, row in read_rows(path, ("image", "dice"))] if path.exists() else []
    rows = sorted((row for row in rows if row["dice"]), key=lambda row: float(row["dice"]))
    shown = [row for row in rows if (folder / f"{row['image']}_truth{PICTURE_SUFFIX}").exists()]
    m = read_json_if_present(workdir / "metrics.json")
    if not shown:
        return NOT_SCORED if m else missing_stage_note("evaluate")
    half = (len(shown) + 1) // 2
    groups = {"Worst": shown[:half], "Best": shown[half:][::-1]}
    pictures = "".join(
        f"<h3>{title} of {len(rows)} by Dice</h3>{''.join(_render_example(folder, row) for row in group)}"
        for title, group in groups.items()
        if group
    )
    lesions = lesion_names("lesions" if "seg/mean/dice" in m else "fused")
    return f'{_view_buttons()}{colour_legend(lesions)}<div id="examples">{pictures}</div>'


def _view_buttons() -> str:
    kinds = {"pair": "truth and prediction", "all": "all three", **VIEWS}
    buttons = "".join(
        f'<label><input type="radio" name="shown" value="{value}"{" checked" if value == "pair" else ""}>{text}</label>'
        for value, text in kinds.items()
    )
    return f'<fieldset data-for="examples" hidden><legend>Show (arrow keys)</legend>{buttons}</fieldset>'


def _render_example(folder: Path, row: dict[str, str]) -> str:
    name = row["image"]
    views = "".join(
        f'<div class="view {view}"><span>{text}</span>{embed_picture(folder / f"{name}_{view}", f"{name}, {text}")}</div>'
        for view, text in VIEWS.items()
    )
    return f'<figure class="example"><div class="views">{views}</div><figcaption>{_caption(row)}</figcaption></figure>'


def _caption(row: dict[str, str]) -> str:
    parts = [f"Dice {row['dice']}"]
    if row.get("dice_original_size"):
        parts.append(f"at original size {row['dice_original_size']}")
    if row.get("predicted_grade"):
        true_grade = f" (true grade {row['true_grade']})" if row.get("true_grade") else ""
        parts.append(f"predicted grade {row['predicted_grade']}{true_grade}")
    return escape(f"{row['image']}: {', '.join(parts)}")

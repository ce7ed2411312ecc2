"""Sections of the report on what was scored: lesions, grades, and pictures of single images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pldmlt_jax.evaluation.metrics.curves import CURVES_FILE
from pldmlt_jax.evaluation.metrics.definitions import SEGMENTATION_METRICS
from pldmlt_jax.evaluation.operating_points import FILE as POINTS
from pldmlt_jax.evaluation.operating_points import lesion_names
from pldmlt_jax.evaluation.original_size import ORIGINAL
from pldmlt_jax.io.files import read_json, read_json_if_present, read_rows
from pldmlt_jax.reporting.charts import confusion_chart, recall_chart, reliability_chart
from pldmlt_jax.reporting.html import charts, escape, format_number, legend, missing_stage_note, picture, table
from pldmlt_jax.reporting.overlays import PICTURE_SUFFIX
from pldmlt_jax.types import LESIONS

NOT_SCORED = '<p class="missing">Nothing to show: the split that was evaluated has no such images.</p>'

GRADE_METRICS = {
    "accuracy": "accuracy", "accuracy_low": "95 % from", "accuracy_high": "to", "majority": "majority grade",
    "kappa": "kappa", "macro_f1": "macro F1", "auc_ovr": "AUC, one against rest", "ece": "ECE", "n": "images",
}  # fmt: skip

LESION_METRICS = ("recall", "dice", "dice_at_operating_point", "iou", "ap", "aupr_11_exclusive", "inflation")

CURVE_TITLES = {"network_size": "at the network's size", "original_size": "at the images' own size"}

VIEWS = {"image": "photograph", "truth": "truth", "prediction": "prediction"}


def optional_metrics(workdir: Path) -> dict[str, Any]:
    return read_json_if_present(workdir / "metrics.json")


def lesions(workdir: Path) -> str:
    """Every convention with its baseline, then each lesion for itself, at both sizes."""
    m = optional_metrics(workdir)
    if not m:
        return missing_stage_note("evaluate")
    rows = [
        (
            name.removeprefix("seg/"), m.get(name, ""), m.get(baseline or "", ""),
            m.get(f"{name}{ORIGINAL}", ""), m.get(f"{baseline}{ORIGINAL}", ""), text,
        )
        for name, baseline, text in SEGMENTATION_METRICS
        if (m.get(name), m.get(f"{name}{ORIGINAL}")) != (None, None) and name.split("/")[1] not in (*LESIONS, "mean")
    ]  # fmt: skip
    header = ("any lesion", "network's size", "baseline", "own size", "baseline", "what it is")
    shown = table(header, rows) + lesion_table(m, "", "network's size") + lesion_table(m, ORIGINAL, "own size")
    parameters = [(k.removeprefix("parameters/"), v) for k, v in m.items() if k.startswith("parameters/")]
    counts = "<h3>Parameters</h3>" + table(("network", "parameters"), parameters) if parameters else ""
    return (shown if "seg/split" in m else NOT_SCORED) + counts


def lesion_table(m: dict[str, Any], suffix: str, title: str) -> str:
    """Lesions by figure, those figures that any of them has."""
    rows = {lesion: [m.get(f"seg/{lesion}/{name}{suffix}") for name in LESION_METRICS] for lesion in (*LESIONS, "mean")}
    columns = [i for i in range(len(LESION_METRICS)) if any(row[i] is not None for row in rows.values())]
    if not columns:
        return ""
    found = [
        (lesion, *("" if row[i] is None and lesion == "mean" else row[i] for i in columns))
        for lesion, row in rows.items()
        if any(value is not None for value in row)
    ]
    names = [LESION_METRICS[i].replace("_", " ") for i in columns]
    return f"<h3>Each lesion, {title}</h3>" + table(("lesion", *names), found)


def precision_recall(workdir: Path) -> str:
    path = workdir / CURVES_FILE
    if not path.exists():
        return missing_stage_note("evaluate") if "seg/split" in optional_metrics(workdir) else ""
    found = read_json(path)
    shown = [recall_chart(f"precision over recall, {title}", found.get(key) or {}) for key, title in CURVE_TITLES.items()]
    told = "" if any(lesion in found["original_size"] | found["network_size"] for lesion in LESIONS) else (
        " This network answers one mask of any lesion: curves of single lesions are not defined for it."
    )  # fmt: skip
    return f"<p>Over all pixels of the split; a dot stands at the threshold 0.5.{told}</p>{charts(shown)}"


def operating_points(workdir: Path) -> str:
    """What `predict` and `export` use: chosen on the validation images, and what it does on the evaluated split."""
    path, m = workdir / "checkpoints" / POINTS, optional_metrics(workdir)
    if not path.exists():
        return ""
    points, rows = read_json(path), []
    for name, point in points["lesions"].items():
        key = f"seg/{'foreground' if name == 'lesion' else name}/dice"
        chosen = [point[field] for field in ("threshold", "min_area_px", "images", "dice", "dice_at_half")]
        chosen[1] = int(chosen[1]) if chosen[1] == int(chosen[1]) else chosen[1]  # the mean of several networks' is none
        rows.append((name, *chosen, m.get(f"{key}_at_operating_point", ""), m.get(key, "")))
    header = ("lesion", "threshold", "smallest component, px", "validation images", "Dice there", "at 0.5",
              "Dice on the evaluated split", "at 0.5")  # fmt: skip
    grades = f"temperature {format_number(points['temperature'])}, from {points['graded_images']} truly graded images"
    grades = grades if points["temperature"] else "uncalibrated, for there are no truly graded validation images"
    return (
        "<p>Threshold and smallest component (at the network's size), for <code>predict</code> and <code>export</code>: of "
        "those within one standard error of the best Dice on the validation images, the nearest to 0.5 and to dropping "
        f"nothing. Grades: {grades}.</p>{table(header, rows)}"
    )


def grades(workdir: Path) -> str:
    m = optional_metrics(workdir)
    if "grade/confusion" not in m:
        return NOT_SCORED if m else missing_stage_note("evaluate")
    rows = [("multi-task network", *(m.get(f"grade/{name}") for name in GRADE_METRICS))]
    for path in sorted(workdir.glob("graders/*/metrics.json")):
        grader = read_json(path)
        rows.append((f"grader {path.parent.name}", *(grader.get(f"grade/{name}") for name in GRADE_METRICS)))
    shown = [confusion_chart("answers of the multi-task network", m["grade/confusion"])]
    if m.get("grade/reliability"):
        title = f"calibration, ECE {format_number(m['grade/ece'], 3)}"
        shown.append(reliability_chart(title, m["grade/reliability"]))
    return (
        table(("on truly graded, held-out images", *GRADE_METRICS.values()), rows)
        + charts(shown)
        + "<p>On the dashed line a confidence is right as often as it says; dots grow with the number of images. ECE is the "
        "mean distance from it over ten bins, weighted by their images.</p>"
    )


def examples(workdir: Path) -> str:
    """Photograph, truth and prediction; a choice says which are seen side by side."""
    path, folder = workdir / "per_image.csv", workdir / "examples"
    rows = [row for _, row in read_rows(path, ("image", "dice"))] if path.exists() else []
    rows = sorted((row for row in rows if row["dice"]), key=lambda row: float(row["dice"]))
    shown = [row for row in rows if (folder / f"{row['image']}_truth{PICTURE_SUFFIX}").exists()]
    if not shown:
        return NOT_SCORED if optional_metrics(workdir) else missing_stage_note("evaluate")
    half = (len(shown) + 1) // 2
    groups = {"Worst": shown[:half], "Best": shown[half:][::-1]}
    figures = "".join(
        f"<h3>{title} of {len(rows)} by Dice</h3>{''.join(_example(folder, row) for row in group)}"
        for title, group in groups.items()
        if group
    )
    target = "fused" if "seg/mean/dice" not in optional_metrics(workdir) else "lesions"
    return f'{_choice()}{legend(lesion_names(target))}<div id="examples">{figures}</div>'


def _choice() -> str:
    kinds = {"pair": "truth beside prediction", "all": "all three", **VIEWS}
    buttons = "".join(
        f'<label><input type="radio" name="shown" value="{value}"{" checked" if value == "pair" else ""}>{text}</label>'
        for value, text in kinds.items()
    )
    return f'<fieldset data-for="examples" hidden><legend>Show (arrow keys)</legend>{buttons}</fieldset>'


def _example(folder: Path, row: dict[str, str]) -> str:
    name = row["image"]
    views = "".join(
        f'<div class="view {view}"><span>{text}</span>{picture(folder / f"{name}_{view}", f"{name}, {text}")}</div>'
        for view, text in VIEWS.items()
    )
    return f'<figure class="example"><div class="views">{views}</div><figcaption>{_caption(row)}</figcaption></figure>'


def _caption(row: dict[str, str]) -> str:
    parts: Sequence[str] = [f"Dice {row['dice']}"]
    if row.get("dice_original_size"):
        parts = [*parts, f"at its own size {row['dice_original_size']}"]
    if row.get("predicted_grade"):
        known = f" (true grade {row['true_grade']})" if row.get("true_grade") else ""
        parts = [*parts, f"predicted grade {row['predicted_grade']}{known}"]
    return escape(f"{row['image']}: {', '.join(parts)}")

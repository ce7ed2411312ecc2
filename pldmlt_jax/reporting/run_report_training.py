"""Sections of the report on how the networks came about: stage 1's labels, the losses, gradients and label updates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pldmlt_jax.io.files import read_json_if_present, read_rows
from pldmlt_jax.reporting.charts import Series, line_chart, stacked_chart
from pldmlt_jax.reporting.html import charts, escape, format_number, missing_stage_note, picture, table
from pldmlt_jax.training.log import read_log

MAX_STRIPS = 8
"""Grad-CAM strips shown: changed labels first."""


def series(lines: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Series:
    """Steps and values of each name that the log has, under what the chart calls it."""
    found = {name: [line for line in lines if line.get(name) is not None] for name in names}
    return {label: ([x["step"] for x in found[name]], [x[name] for x in found[name]]) for name, label in names.items()}


def curves(workdir: Path) -> str:
    lines = read_log(workdir / "log.jsonl")
    if not lines:
        return missing_stage_note("train")
    losses = {"loss": "L", "seg_loss": "L_S", "grade_loss": "L_C"}
    validation = {"val/loss": "L, fixed pseudo-labels", "val/loss_updated": "L, updated labels"}
    shown = [
        line_chart("training losses", series(lines, losses)),
        line_chart("validation losses", series(lines, validation)),
        line_chart("validation lesion Dice", series(lines, {"val/dice": "foreground Dice"})),
    ]
    for folder in sorted(workdir.glob("graders/*")):
        log = read_log(folder / "log.jsonl")
        names = {"val/accuracy": "accuracy", "val/kappa": "kappa"}
        shown.append(line_chart(f"grader {folder.name}, validation", series(log, names)))
    return charts(shown)


def gradient_balance(workdir: Path) -> str:
    """The paper's claim is that the label network balances the two tasks' gradients."""
    lines = read_log(workdir / "log.jsonl")
    balance = {"grad_norm/seg_encoder": "L_S", "grad_norm/grade_encoder": "β L_C"}
    shown = [
        line_chart("gradient norms on the shared encoder", series(lines, balance), log=True),
        line_chart("their cosine", series(lines, {"grad_cosine_encoder": "cosine"})),
    ]
    text = (
        "<p>What each task asks of the encoder that they share: alike norms are balanced, a negative cosine is conflict.</p>"
    )
    return text + charts(shown) if any(shown) else ""


def label_update(workdir: Path) -> str:
    lines = read_log(workdir / "log.jsonl")
    labels = [line for line in lines if "label_histogram" in line]
    if not labels:
        return ""
    paths = {"direct_norm": "direct", "indirect_norm": "through θ*"}
    agreements = {"agreement/pseudo_label": "with the pseudo-label", "agreement/head": "with the head"}
    text = "<p>Each point is of one batch: of few labels, where batches are small.</p>"
    return text + charts(
        [
            line_chart("entropy of the updated labels, nats", series(lines, {"label_entropy": "entropy"})),
            stacked_chart("updated labels by grade", [x["step"] for x in labels], [x["label_histogram"] for x in labels]),
            line_chart("agreement of the updated labels", series(lines, agreements)),
            line_chart("meta-gradient norms", series(lines, paths)),
        ]
    )


def pseudo_labels(workdir: Path) -> str:
    path = workdir / "pseudo_labels.csv"
    rows = [row for _, row in read_rows(path, ("image",))] if path.exists() else []
    if not rows:
        return missing_stage_note("pseudo-label")
    changed = [row for row in rows if row["changed"] == "1"]
    shown = (changed + [row for row in rows if row["changed"] != "1"])[:MAX_STRIPS]
    return (
        f"<p>{len(changed)} of {len(rows)} labels changed by the lesion masks and maps{_accuracy_change(workdir)}.</p>"
        f"{_changes(changed, rows[0])}"
        f"<h3>Grad-CAM of every grade</h3><p>The first {len(shown)}, changed ones before others. Each map is scaled by "
        "itself; decisions use the raw maps.</p>"
        f'<div class="strips">{"".join(_strip(workdir / "cams", row) for row in shown)}</div>'
    )


def _changes(changed: Sequence[Mapping[str, str]], columns: Mapping[str, str]) -> str:
    if not changed:
        return ""
    graders = [name.removesuffix("/grade") for name in columns if name.endswith("/grade")]
    rows = [
        (
            *(row[name] for name in ("image", "before", "after", "true_grade", "why", "admissible")),
            *(f"{row[f'{name}/grade']} ({row[f'{name}/confidence']})" for name in graders),
        )
        for row in changed
    ]
    header = ("image", "before", "after", "true grade", "why", "admissible", *(f"{name} (confidence)" for name in graders))
    return table(header, rows, tall=True)


def _strip(folder: Path, row: Mapping[str, str]) -> str:
    name = row["image"]
    shown = picture(folder / name, f"{name}: photograph, lesion mask, and Grad-CAM of grades 0 to 4 over the photograph")
    text = escape(f"{name}: {row['before']} → {row['after']}, {row['why']}")
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="maps of {escape(name)}">{shown}</div>'
    return f"<figure>{box}<figcaption>{text}</figcaption></figure>"


def _accuracy_change(workdir: Path) -> str:
    m: dict[str, Any] = {}
    for name in ("pseudo_labels.json", "metrics.json"):  # the latter counts what was edited by hand since
        m |= read_json_if_present(workdir / name)
    if "pseudo/accuracy_before" not in m:
        return "; no true grade is known"
    before, after = (
        f"accuracy {format_number(m[f'pseudo/accuracy_{when}'], 3)}, kappa {format_number(m[f'pseudo/kappa_{when}'], 3)}"
        for when in ("before", "after")
    )
    n, majority = m["pseudo/n_known"], format_number(m["pseudo/majority"], 3)
    return f"; on the {n} images whose true grade is known: {before} before, {after} after (majority grade: {majority})"

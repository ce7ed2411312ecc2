"""Report sections about training: losses, pseudo-labels, gradient balance and label updates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pldmlt_jax.io.csv_files import read_rows
from pldmlt_jax.io.files import read_json_if_present
from pldmlt_jax.reporting.charts import Series, line_chart, stacked_chart
from pldmlt_jax.reporting.html import chart_grid, embed_picture, escape, format_number, html_table, missing_stage_note
from pldmlt_jax.training.log import read_log

MAX_STRIPS = 8
"""Maximum number of Grad-CAM strips; changed labels come first."""


def render_losses(workdir: Path) -> str:
    """Renders the training and validation losses of the network and the validation metrics of the graders."""
    log = read_log(workdir / "log.jsonl")
    if not log:
        return missing_stage_note("train")
    losses = {"loss": "L", "seg_loss": "L_S", "grade_loss": "L_C"}
    validation = {"val/loss": "L, fixed pseudo-labels", "val/loss_updated": "L, updated labels"}
    charts = [
        line_chart("training losses", _series(log, losses)),
        line_chart("validation losses", _series(log, validation)),
        line_chart("validation lesion Dice", _series(log, {"val/dice": "foreground Dice"})),
    ]
    for folder in sorted(workdir.glob("graders/*")):
        names = {"val/accuracy": "accuracy", "val/kappa": "kappa"}
        charts.append(line_chart(f"grader {folder.name}, validation", _series(read_log(folder / "log.jsonl"), names)))
    return chart_grid(charts)


def _series(log: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Series:
    """Steps and values of each logged metric, by its label in the chart."""
    lines = {name: [line for line in log if line.get(name) is not None] for name in names}
    return {label: ([x["step"] for x in lines[name]], [x[name] for x in lines[name]]) for name, label in names.items()}


def render_gradient_balance(workdir: Path) -> str:
    """Renders the gradients of both tasks on the encoder; the paper claims that the label network balances them."""
    log = read_log(workdir / "log.jsonl")
    norms = {"grad_norm/seg_encoder": "L_S", "grad_norm/grade_encoder": "β L_C"}
    charts = [
        line_chart("gradient norms on the shared encoder", _series(log, norms), log=True),
        line_chart("cosine between the gradients", _series(log, {"grad_cosine_encoder": "cosine"})),
    ]
    text = "<p>Gradients of the two tasks on the shared encoder. Similar norms mean balance, a negative cosine conflict.</p>"
    return text + chart_grid(charts) if any(charts) else ""


def render_label_update(workdir: Path) -> str:
    """Renders entropy, grades and agreement of the updated labels, and the norms of the meta-gradient."""
    log = read_log(workdir / "log.jsonl")
    updates = [line for line in log if "label_histogram" in line]
    if not updates:
        return ""
    norms = {"direct_norm": "direct", "indirect_norm": "through θ*"}
    agreements = {"agreement/pseudo_label": "with the pseudo-label", "agreement/head": "with the head"}
    steps, shares = [line["step"] for line in updates], [line["label_histogram"] for line in updates]
    charts = [
        line_chart("entropy of the updated labels, nats", _series(log, {"label_entropy": "entropy"})),
        stacked_chart("updated labels by grade", steps, shares),
        line_chart("agreement of the updated labels", _series(log, agreements)),
        line_chart("meta-gradient norms", _series(log, norms)),
    ]
    return "<p>Each point is one batch, so with small batches it covers few labels.</p>" + chart_grid(charts)


def render_pseudo_labels(workdir: Path) -> str:
    """Renders the pseudo-labels that refinement changed, and Grad-CAM strips of some images."""
    path = workdir / "pseudo_labels.csv"
    rows = [row for _, row in read_rows(path, ("image",))] if path.exists() else []
    if not rows:
        return missing_stage_note("pseudo-label")
    changed = [row for row in rows if row["changed"] == "1"]
    shown = (changed + [row for row in rows if row["changed"] != "1"])[:MAX_STRIPS]
    return (
        f"<p>Lesion masks and Grad-CAM maps changed {len(changed)} of {len(rows)} labels{_accuracy_change(workdir)}.</p>"
        f"{_changes_table(changed, rows[0])}"
        f"<h3>Grad-CAM of every grade</h3><p>The first {len(shown)} images, changed labels first. Each map is scaled to its "
        "own range for display; decisions use the raw maps.</p>"
        f'<div class="strips">{"".join(_render_strip(workdir / "cams", row) for row in shown)}</div>'
    )


def _changes_table(changed: Sequence[Mapping[str, str]], columns: Mapping[str, str]) -> str:
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
    confidences = (f"{name} (confidence)" for name in graders)
    return html_table(("image", "before", "after", "true grade", "reason", "admissible", *confidences), rows, tall=True)


def _render_strip(folder: Path, row: Mapping[str, str]) -> str:
    name = row["image"]
    alt = f"{name}: photograph, lesion mask, and Grad-CAM of grades 0 to 4 over the photograph"
    text = escape(f"{name}: {row['before']} → {row['after']}, {row['why']}")
    strip = embed_picture(folder / name, alt)
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="maps of {escape(name)}">{strip}</div>'
    return f"<figure>{box}<figcaption>{text}</figcaption></figure>"


def _accuracy_change(workdir: Path) -> str:
    # `metrics.json` comes second: it includes later edits of the labels by hand.
    m = read_json_if_present(workdir / "pseudo_labels.json") | read_json_if_present(workdir / "metrics.json")
    if "pseudo/accuracy_before" not in m:
        return "; no true grade is known"
    before, after = (
        f"accuracy {format_number(m[f'pseudo/accuracy_{when}'], 3)}, kappa {format_number(m[f'pseudo/kappa_{when}'], 3)}"
        for when in ("before", "after")
    )
    n, majority = m["pseudo/n_known"], format_number(m["pseudo/majority"], 3)
    return f"; on the {n} images with a known true grade: {before} before, {after} after (majority grade: {majority})"

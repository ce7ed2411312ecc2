"""`report.html`: one self-contained page, readable offline, with all results that a run left in its workdir."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pldmlt_jax.config import Config, to_dict
from pldmlt_jax.evaluation.original_size import ORIGINAL
from pldmlt_jax.io.files import read_json_if_present
from pldmlt_jax.reporting import run_report_evaluation as evaluation
from pldmlt_jax.reporting import run_report_training as training
from pldmlt_jax.reporting.html import (
    collapsible_json,
    embed_picture,
    escape,
    format_number,
    html_table,
    metric_card,
    missing_stage_note,
    write_page,
)
from pldmlt_jax.training.checkpoint import CONFIG


def write_report(workdir: Path) -> Path:
    """Writes `report.html` from the files in a workdir; a section whose stage has not run says which command to run.

    Args:
        workdir: Workdir of a run, or the output of `evaluate --predictions`.

    Returns:
        Path of the page.
    """
    sections: tuple[tuple[str, Callable[[Path], str]], ...] = (
        ("Summary", render_summary),
        ("Training", training.render_losses),
        ("Lesions", evaluation.render_lesions),
        ("Precision and recall", evaluation.render_precision_recall),
        ("Operating points", evaluation.render_operating_points),
        ("Grades", evaluation.render_grades),
        ("Pseudo-labels", training.render_pseudo_labels),
        ("Gradient balance", training.render_gradient_balance),
        ("Label update", training.render_label_update),
        ("Worst and best images", evaluation.render_examples),
        ("Synthetic images", render_synthetic_images),
        ("Data and splits", render_data),
        ("Config", render_config),
        ("Environment", render_environment),
    )
    name = read_json_if_present(workdir / "config.json").get("name", workdir.name)
    masks_only = "predictions" in read_json_if_present(workdir / "metrics.json")  # written by `evaluate --predictions`
    shown = [(title, render(workdir)) for title, render in sections if render in MASK_SECTIONS or not masks_only]
    return write_page(workdir / "report.html", "PLDMLT report", name, shown)


def render_summary(workdir: Path) -> str:
    """Renders the main metrics, each next to its baseline."""
    m = read_json_if_present(workdir / "metrics.json")
    if not m:
        return missing_stage_note("evaluate")
    scored = [
        f"{task} on split <b>{escape(m[key])}</b>"
        for task, key in (("lesions", "seg/split"), ("grades", "grade/split"))
        if key in m
    ]
    source = (
        f"masks of {escape(m['predictions'])}" if "predictions" in m else f"best checkpoint, step {escape(m.get('step'))}"
    )
    return (
        f"<p>Scored: {' and '.join(scored)} ({source}). Each metric is shown with its baseline, which is also marked on the "
        f'bar.</p><div class="cards">{"".join([*_lesion_cards(m), *_grade_cards(m)])}</div>'
    )


def _lesion_cards(m: dict[str, Any]) -> list[str]:
    """Cards for each size that was scored; Dice with the background for the first of them."""
    sizes = {"": "pooled", ORIGINAL: "at original image size"}
    scored = [suffix for suffix in sizes if f"seg/foreground/dice{suffix}" in m]
    cards = []
    for suffix in scored:
        threshold = m.get(f"baseline/channel_threshold/dice{suffix}")
        note = f"{format_number(threshold, 3)}: best threshold on one colour channel"
        cards.append(
            metric_card(f"lesion Dice (foreground), {sizes[suffix]}", m[f"seg/foreground/dice{suffix}"], note, threshold)
        )
    for suffix in scored[:1]:
        background = m[f"seg/micro_bg/dice_all_background{suffix}"]
        note = f"{format_number(background, 3)}: predicting background everywhere"
        cards.append(
            metric_card("Dice over all pixels, including background", m[f"seg/micro_bg/dice{suffix}"], note, background)
        )
    return cards


def _grade_cards(m: dict[str, Any]) -> list[str]:
    cards = []
    if "grade/split" in m:
        interval = " to ".join(format_number(m[f"grade/accuracy_{end}"], 3) for end in ("low", "high"))
        note = f"{format_number(m['grade/majority'], 3)}: majority grade; 95 % interval {interval}"
        cards += [
            metric_card(f"grading accuracy, n = {m['grade/n']}", m["grade/accuracy"], note, m["grade/majority"]),
            metric_card("quadratic weighted kappa", m["grade/kappa"], "0: majority grade", 0.0),
        ]
    if "pseudo/accuracy_after" in m:
        before, majority = m["pseudo/accuracy_before"], m["pseudo/majority"]
        title = f"pseudo-label accuracy after refinement, n = {m['pseudo/n_known']}"
        note = f"{format_number(majority, 3)}: majority grade; {format_number(before, 3)}: before refinement"
        cards.append(metric_card(title, m["pseudo/accuracy_after"], note, majority))
    return cards


MASK_SECTIONS = (render_summary, evaluation.render_lesions, evaluation.render_precision_recall)
"""Sections that make sense for masks alone, whatever method made them."""


def render_synthetic_images(workdir: Path) -> str:
    """Renders the contact sheet of synthetic images; "" if there is none."""
    sheet = embed_picture(workdir / "contact_sheet", "synthetic images, one row per grade, each next to its lesions")
    return f'<p>One row per grade, each image next to its lesions.</p><div class="sheet">{sheet}</div>' if sheet else ""


def render_data(workdir: Path) -> str:
    """Renders the size of each split and the images in it."""
    data = read_json_if_present(workdir / "data.json")
    if not data:
        return missing_stage_note("prepare")
    splits = data["segmentation"].pop("splits", {})
    counts = html_table(("pixel-labelled split", "images"), [(name, len(ids)) for name, ids in splits.items()])
    names = "".join(
        f"<details><summary>images of {escape(name)}</summary><p>{escape(', '.join(ids))}</p></details>"
        for name, ids in splits.items()
        if ids
    )
    return counts + names + collapsible_json("full summary of the data sets", data)


def render_config(workdir: Path) -> str:
    """Renders the fields that differ from the defaults, and the full config behind a click."""
    saved = read_json_if_present(workdir / "checkpoints" / CONFIG) or read_json_if_present(workdir / "config.json")
    if not saved:
        return missing_stage_note("train")
    defaults = dict(_flatten(to_dict(Config())))
    rows = [
        (name, _field_text(value), _field_text(defaults.get(name)))
        for name, value in _flatten(saved)
        if defaults.get(name) != value
    ]
    text = (
        "<p>Fields that differ from the defaults. The defaults are the paper's settings wherever the paper states them.</p>"
    )
    return text + html_table(("field", "this run", "default"), rows, tall=True) + collapsible_json("full config", saved)


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Fields with dotted names; tuples become lists, as in JSON."""
    fields: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            fields += _flatten(value, f"{prefix}{name}.")
        else:
            fields.append((prefix + name, list(value) if isinstance(value, tuple) else value))
    return fields


def _field_text(value: Any) -> str:
    return '""' if value == "" else str(value)


def render_environment(workdir: Path) -> str:
    """Renders the versions, the machine and the pretrained weights of the run; "" if nothing was recorded."""
    recorded = read_json_if_present(workdir / "environment.json") | read_json_if_present(workdir / "weights.json")
    rows = [(name, str(value)) for name, value in recorded.items()]
    return html_table(("item", "value"), rows, tall=True) if rows else ""

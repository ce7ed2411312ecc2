"""`report.html`: one self-contained page of everything that a run left in its workdir; it opens offline."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pldmlt_jax.config import Config, to_dict
from pldmlt_jax.evaluation.original_size import ORIGINAL
from pldmlt_jax.io.files import read_json_if_present
from pldmlt_jax.reporting import run_report_results as results
from pldmlt_jax.reporting import run_report_training as training
from pldmlt_jax.reporting.html import (
    collapsible_json,
    escape,
    format_number,
    metric_card,
    missing_stage_note,
    picture,
    table,
    write_page,
)
from pldmlt_jax.training.checkpoint import CONFIG


def write_report(workdir: Path) -> Path:
    """Writes `report.html` from the files in a workdir; what is missing leaves its section out, with a line that says so.

    Args:
        workdir: Of a run.

    Returns:
        The page.
    """
    sections: tuple[tuple[str, Callable[[Path], str]], ...] = (
        ("Summary", summary),
        ("Training", training.curves),
        ("Lesions", results.lesions),
        ("Precision and recall", results.precision_recall),
        ("Operating points", results.operating_points),
        ("Grades", results.grades),
        ("Pseudo-labels", training.pseudo_labels),
        ("Gradient balance", training.gradient_balance),
        ("Label update", training.label_update),
        ("Worst and best images", results.examples),
        ("Drawn photographs", synthetic_images),
        ("Data and splits", data),
        ("Config", config),
        ("Environment", environment),
    )
    name = read_json_if_present(workdir / "config.json").get("name", workdir.name)
    masks_alone = "predictions" in read_json_if_present(workdir / "metrics.json")  # what `evaluate --predictions` leaves
    shown = [(title, make(workdir)) for title, make in sections if make in OF_MASKS or not masks_alone]
    return write_page(workdir / "report.html", "PLDMLT report", name, shown)


def summary(workdir: Path) -> str:
    """The handful of figures that matter, each beside what it has to beat."""
    m = read_json_if_present(workdir / "metrics.json")
    if not m:
        return missing_stage_note("evaluate")
    scored = [
        f"{what} on split <b>{escape(m[key])}</b>"
        for what, key in (("lesions", "seg/split"), ("grades", "grade/split"))
        if key in m
    ]
    of = f"masks of {escape(m['predictions'])}" if "predictions" in m else f"best checkpoint (step {escape(m.get('step'))})"
    return (
        f"<p>Scored: {' and '.join(scored)}, {of}. Every figure stands beside what it has to beat, the mark on its bar.</p>"
        f'<div class="cards">{"".join([*_lesion_cards(m), *_grade_cards(m)])}</div>'
    )


def _lesion_cards(m: dict[str, Any]) -> list[str]:
    """Of the sizes that were scored; pixels with the background at the first of them."""
    sizes = {"": "pooled", ORIGINAL: "at the images' own size"}
    scored = [suffix for suffix in sizes if f"seg/foreground/dice{suffix}" in m]
    cards = []
    for suffix in scored:
        threshold = m.get(f"baseline/channel_threshold/dice{suffix}")
        beside = f"{format_number(threshold, 3)}: best threshold on one colour channel"
        title = f"lesion Dice (foreground), {sizes[suffix]}"
        cards.append(metric_card(title, m[f"seg/foreground/dice{suffix}"], beside, threshold))
    for suffix in scored[:1]:
        background = m[f"seg/micro_bg/dice_all_background{suffix}"]
        cards.append(metric_card("Dice over all pixels, background included", m[f"seg/micro_bg/dice{suffix}"],
                          f"{format_number(background, 3)}: answering background everywhere", background))  # fmt: skip
    return cards


def _grade_cards(m: dict[str, Any]) -> list[str]:
    cards = []
    if "grade/split" in m:
        interval = " to ".join(format_number(m[f"grade/accuracy_{end}"], 3) for end in ("low", "high"))
        cards += [
            metric_card(f"grading accuracy, n = {m['grade/n']}", m["grade/accuracy"],
                 f"{format_number(m['grade/majority'], 3)}: majority grade; 95 % interval {interval}", m["grade/majority"]),
            metric_card("quadratic weighted kappa", m["grade/kappa"], "0: majority grade", 0.0),
        ]  # fmt: skip
    if "pseudo/accuracy_after" in m:
        before, majority = m["pseudo/accuracy_before"], m["pseudo/majority"]
        title = f"pseudo-labels right after refinement, n = {m['pseudo/n_known']}"
        cards.append(metric_card(title, m["pseudo/accuracy_after"],
                          f"{format_number(majority, 3)}: majority grade; {format_number(before, 3)}: before refinement",
                          majority))  # fmt: skip
    return cards


OF_MASKS = (summary, results.lesions, results.precision_recall)
"""Sections that masks alone have, of whatever method they are."""


def synthetic_images(workdir: Path) -> str:
    shown = picture(workdir / "contact_sheet", "drawn photographs, a row for each grade, each beside its lesions")
    return (
        f'<p>A row for each grade; the lesions beside each photograph.</p><div class="sheet">{shown}</div>' if shown else ""
    )


def data(workdir: Path) -> str:
    found = read_json_if_present(workdir / "data.json")
    if not found:
        return missing_stage_note("prepare")
    splits = found["segmentation"].pop("splits", {})
    rows = [(name, len(ids), ", ".join(ids)) for name, ids in splits.items()]
    names = "".join(
        f"<details><summary>which are {escape(name)}</summary><p>{escape(ids)}</p></details>" for name, _, ids in rows if ids
    )
    counts = table(("pixel-labelled split", "images"), [row[:2] for row in rows])
    return counts + names + collapsible_json("all that was found out about the sets", found)


def config(workdir: Path) -> str:
    """What differs from the defaults, which are the paper's, and all of it behind a line."""
    saved = read_json_if_present(workdir / "checkpoints" / CONFIG) or read_json_if_present(workdir / "config.json")
    if not saved:
        return missing_stage_note("train")
    defaults = dict(_flat(to_dict(Config())))
    rows = [(name, _value(value), _value(defaults.get(name))) for name, value in _flat(saved) if defaults.get(name) != value]
    text = "<p>Fields that differ from the defaults, which are the paper's setting where the paper gives one.</p>"
    return text + table(("field", "here", "default"), rows, tall=True) + collapsible_json("the whole config", saved)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Fields with dotted names; tuples are lists, as in JSON."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, list(value) if isinstance(value, tuple) else value))
    return found


def _value(value: Any) -> str:
    return '""' if value == "" else str(value)


def environment(workdir: Path) -> str:
    found = read_json_if_present(workdir / "environment.json") | read_json_if_present(workdir / "weights.json")
    return table(("what", "which"), [(name, str(value)) for name, value in found.items()], tall=True) if found else ""

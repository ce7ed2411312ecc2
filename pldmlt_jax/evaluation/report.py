"""One self-contained page of everything that a run left in its workdir; it opens offline."""

import base64
import html
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pldmlt_jax.evaluation.charts import confusion_chart, line_chart, stacked_chart
from pldmlt_jax.evaluation.conventions import CONVENTIONS
from pldmlt_jax.evaluation.figures import PICTURE_SUFFIX
from pldmlt_jax.evaluation.operating_points import FILE as POINTS
from pldmlt_jax.evaluation.scoring import ORIGINAL
from pldmlt_jax.files import read_json, read_rows, writing
from pldmlt_jax.training.checkpoint import CONFIG
from pldmlt_jax.training.log import read_log

MAX_STRIPS = 8
"""Grad-CAM strips shown: changed labels first."""

NOT_SCORED = "<p class=missing>Nothing to show: the split that was evaluated has no such images.</p>"


def write_report(workdir: Path) -> Path:
    """Writes `report.html` from the files in a workdir; what is missing leaves its section out, with a line that says so.

    Args:
        workdir: Of a run.

    Returns:
        The page.
    """
    sections = [
        ("Summary", _summary(workdir)),
        ("Training", _training(workdir)),
        ("Metrics by convention", _metrics(workdir)),
        ("Operating points", _operating_points(workdir)),
        ("Grades", _grades(workdir)),
        ("Pseudo-labels", _pseudo_labels(workdir)),
        ("Label update and gradient balance", _label_update(workdir)),
        ("Predictions beside the truth", _examples(workdir)),
        ("Synthetic photographs", _picture(workdir / "contact_sheet", "drawn photographs, a row for each grade")),
        ("Data and splits", _data(workdir)),
        ("Config", _tree(_json(workdir / "checkpoints" / CONFIG) or _json(workdir / "config.json"))),
        ("Environment", _tree(_json(workdir / "environment.json") | _json(workdir / "weights.json"))),
    ]
    name = _json(workdir / "config.json").get("name", workdir.name)
    shown = [(title, body) for title, body in sections if body]
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title, _ in shown)
    body = "".join(f'<section id="{_anchor(title)}"><h2>{title}</h2>{text}</section>' for title, text in shown)
    page = resources.files("pldmlt_jax.evaluation").joinpath("report_template.html").read_text(encoding="utf-8")
    for mark, text in {"TITLE": _escape(f"PLDMLT: {name}"), "LINKS": links, "BODY": body}.items():
        page = page.replace(f"<!--{mark}-->", text)
    target = workdir / "report.html"
    with writing(target) as file:
        file.write(page)
    return target


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _escape(text: Any) -> str:
    return html.escape(str(text))


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _rows(path: Path) -> list[dict[str, str]]:
    return [row for _, row in read_rows(path, ("image",))] if path.exists() else []


def _missing(stage: str) -> str:
    return f"<p class=missing>Not there yet: <code>python main.py {stage}</code> makes it.</p>"


def _number(value: Any) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else _escape(value)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, scrolls: bool = False) -> str:
    head = "".join(f"<th>{_escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{_number(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    size = "scroll tall" if scrolls else "scroll"
    return f'<div class="{size}" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _picture(path: Path, text: str) -> str:
    path = path.with_name(path.name + PICTURE_SUFFIX)
    if not path.exists():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img loading="lazy" alt="{_escape(text)}" src="data:image/jpeg;base64,{content}">'


def _card(title: str, value: Any, beside: str) -> str:
    return f'<div class="card"><b>{_number(value)}</b><span>{_escape(title)}</span><small>{_escape(beside)}</small></div>'


def _summary(workdir: Path) -> str:
    m = _json(workdir / "metrics.json")
    if not m:
        return _missing("evaluate")
    cards = []
    if "seg/split" in m:
        cards.append(_card("lesion Dice (foreground, pooled)", m["seg/foreground/dice"],
                           "one colour channel's best threshold: "
                           f"{_number(m.get('baseline/channel_threshold/dice'))}"))  # fmt: skip
        if "seg/foreground/dice_original_size" in m:
            cards.append(_card("lesion Dice at the images' own size", m["seg/foreground/dice_original_size"],
                               "against the masks at their own size"))  # fmt: skip
        cards.append(_card("Dice over all pixels, background included", m["seg/micro_bg/dice"],
                           "answering background everywhere: "
                           f"{_number(m['seg/micro_bg/dice_all_background'])}"))  # fmt: skip
    if "grade/split" in m:
        cards += [
            _card(f"grading accuracy, n = {m['grade/n']}", m["grade/accuracy"],
                  f"95 % interval {_number(m['grade/accuracy_low'])} to {_number(m['grade/accuracy_high'])}; "
                  f"majority grade: {_number(m['grade/majority'])}"),
            _card("quadratic weighted kappa", m["grade/kappa"], "the majority grade has 0"),
        ]  # fmt: skip
    if "pseudo/accuracy_after" in m:
        cards.append(_card("pseudo-labels right after refinement", m["pseudo/accuracy_after"],
                           f"before: {_number(m['pseudo/accuracy_before'])}; majority: {_number(m['pseudo/majority'])}; "
                           f"n = {m['pseudo/n_known']}"))  # fmt: skip
    scored = [
        f"{what} on split <b>{_escape(m[key])}</b>"
        for what, key in (("lesions", "seg/split"), ("grades", "grade/split"))
        if key in m
    ]
    return (
        f"<p>Scored: {' and '.join(scored)}, best checkpoint (step {_escape(m.get('step'))}). Every figure stands "
        "beside what it has to beat.</p>"
        f'<div class="cards">{"".join(cards)}</div>'
    )


def _series(lines: list[dict], names: dict[str, str]) -> dict[str, tuple[list, list]]:
    found = {name: [line for line in lines if line.get(name) is not None] for name in names}
    return {label: ([x["step"] for x in found[name]], [x[name] for x in found[name]]) for name, label in names.items()}


def _training(workdir: Path) -> str:
    lines = read_log(workdir / "log.jsonl")
    if not lines:
        return _missing("train")
    losses = _series(lines, {"loss": "L", "seg_loss": "L_S", "grade_loss": "L_C"})
    validation = _series(lines, {"val/loss": "L, fixed pseudo-labels", "val/loss_updated": "L, updated labels"})
    charts = [
        line_chart("training losses", losses),
        line_chart("validation losses", validation),
        line_chart("validation lesion Dice", _series(lines, {"val/dice": "foreground Dice"})),
    ]
    for folder in sorted(workdir.glob("graders/*")):
        log = read_log(folder / "log.jsonl")
        names = {"val/accuracy": "accuracy", "val/kappa": "kappa"}
        charts.append(line_chart(f"grader {folder.name}, validation", _series(log, names)))
    return f'<div class="charts">{"".join(charts)}</div>'


def _metrics(workdir: Path) -> str:
    m = _json(workdir / "metrics.json")
    if not m:
        return _missing("evaluate")
    rows = [
        (name, m[name], m.get(baseline or "", ""), m.get(f"{name}{ORIGINAL}", ""), m.get(f"{baseline}{ORIGINAL}", ""), text)
        for name, baseline, text in CONVENTIONS
        if m.get(name) is not None
    ]
    parameters = [(k.removeprefix("parameters/"), v) for k, v in m.items() if k.startswith("parameters/")]
    return (
        _table(("figure", "network's size", "baseline", "original size", "baseline", "what it is"), rows)
        + "<h3>Parameters</h3>"
        + _table(("network", "parameters"), parameters)
    )


def _operating_points(workdir: Path) -> str:
    """What `predict` and `export` use: chosen on the validation images, and what it does on the evaluated split."""
    points, m = _json(workdir / "checkpoints" / POINTS), _json(workdir / "metrics.json")
    if not points:
        return ""
    rows = []
    for name, point in points["lesions"].items():
        key = f"seg/{'foreground' if name == 'lesion' else name}/dice"
        chosen = [point[field] for field in ("threshold", "min_area_px", "images", "dice", "dice_at_half")]
        rows.append((name, *chosen, m.get(f"{key}_at_operating_point", ""), m.get(key, "")))
    header = ("lesion", "threshold", "smallest component, px", "validation images", "Dice there", "at 0.5",
              "Dice on the evaluated split", "at 0.5")  # fmt: skip
    grades = f"temperature {_number(points['temperature'])}, from {points['graded_images']} truly graded images"
    grades = grades if points["temperature"] else "uncalibrated, for there are no truly graded validation images"
    return (
        "<p>Threshold and smallest component (at the network's size) of the highest Dice on the validation images, which "
        f"<code>predict</code> and <code>export</code> use. Grades: {grades}.</p>{_table(header, rows)}"
    )


def _grades(workdir: Path) -> str:
    m = _json(workdir / "metrics.json")
    if "grade/confusion" not in m:
        return NOT_SCORED if m else _missing("evaluate")
    names = ("accuracy", "accuracy_low", "accuracy_high", "majority", "kappa", "macro_f1", "auc_ovr", "ece", "n")
    rows = [("multi-task network", *(m.get(f"grade/{name}") for name in names))]
    for path in sorted(workdir.glob("graders/*/metrics.json")):
        grader = _json(path)
        rows.append((f"grader {path.parent.name}", *(grader.get(f"grade/{name}") for name in names)))
    table = _table(("on truly graded, held-out images", *names), rows)
    chart = confusion_chart("multi-task network", m["grade/confusion"])
    return f'{table}<div class="charts">{chart}</div>'


def _pseudo_labels(workdir: Path) -> str:
    rows = _rows(workdir / "pseudo_labels.csv")
    if not rows:
        return _missing("pseudo-label")
    graders = [name.removesuffix("/grade") for name in rows[0] if name.endswith("/grade")]
    columns = ["image", "true_grade", "before", "after", "admissible"]
    changed = [row for row in rows if row["changed"] == "1"]
    table = _table(
        [*(name.replace("_", " ") for name in columns), *(f"{name} (confidence)" for name in graders), "why"],
        (
            [
                *(row[name] for name in columns),
                *(f"{row[f'{name}/grade']} ({row[f'{name}/confidence']})" for name in graders),
                row["why"],
            ]
            for row in changed
        ),
        scrolls=True,
    )
    shown = (changed + [row for row in rows if row["changed"] != "1"])[:MAX_STRIPS]
    strips = "".join(
        f"<figure>{_picture(workdir / 'cams' / row['image'], 'Grad-CAM of grades 0 to 4 of ' + row['image'])}"
        f"<figcaption>{_escape(row['image'])}: {_escape(row['before'])} &rarr; {_escape(row['after'])}, "
        f"{_escape(row['why'])}</figcaption></figure>"
        for row in shown
    )
    return (
        f"<p>{len(changed)} of {len(rows)} labels changed by the lesion masks and maps"
        f"{_accuracy_change(workdir)}.</p>{table}"
        "<h3>Grad-CAM of every grade</h3><p>Each map is scaled by itself; decisions use the raw maps.</p>"
        f'<div class="strips">{strips}</div>'
    )


def _accuracy_change(workdir: Path) -> str:
    m = _json(workdir / "pseudo_labels.json") | _json(workdir / "metrics.json")  # evaluated after edits by hand
    if "pseudo/accuracy_before" not in m:
        return "; no true grade is known"
    before, after = (
        f"accuracy {_number(m[f'pseudo/accuracy_{when}'])}, kappa {_number(m[f'pseudo/kappa_{when}'])}"
        for when in ("before", "after")
    )
    n, majority = m["pseudo/n_known"], _number(m["pseudo/majority"])
    return f"; on the {n} images whose true grade is known: {before} before, {after} after (majority grade: {majority})"


def _label_update(workdir: Path) -> str:
    lines = read_log(workdir / "log.jsonl")
    labels = [line for line in lines if "label_histogram" in line]
    balance = {"grad_norm/seg_encoder": "L_S", "grad_norm/grade_encoder": "beta L_C"}
    charts = [
        line_chart("gradient norms on the shared encoder", _series(lines, balance), log=True),
        line_chart("their cosine", _series(lines, {"grad_cosine_encoder": "cosine"})),
    ]
    if labels:
        paths = {"direct_norm": "direct", "indirect_norm": "through theta*"}
        agreements = {"agreement/pseudo_label": "with the pseudo-label", "agreement/head": "with the head"}
        charts += [
            line_chart("meta-gradient norms", _series(lines, paths)),
            line_chart("agreement of the updated labels", _series(lines, agreements)),
            line_chart("entropy of the updated labels (nats)", _series(lines, {"label_entropy": "entropy"})),
            stacked_chart("updated labels", [x["step"] for x in labels], [x["label_histogram"] for x in labels]),
        ]
    return f'<div class="charts">{"".join(charts)}</div>' if lines else _missing("train")


def _examples(workdir: Path) -> str:
    figures = []
    for row in _rows(workdir / "per_image.csv"):
        name, folder = row["image"], workdir / "examples"
        if not (folder / f"{name}_truth{PICTURE_SUFFIX}").exists():
            continue
        views = "".join(
            f'<div class="view {view}">{_picture(folder / f"{name}_{view}", f"{name}, {view}")}</div>'
            for view in ("image", "truth", "prediction")
        )
        grade = f", predicted grade {_escape(row['predicted_grade'])}" if row["predicted_grade"] else ""
        caption = f"{_escape(name)}: Dice {_escape(row['dice'])}{grade}"
        figures.append((float(row["dice"] or 0), f"<figure>{views}<figcaption>{caption}</figcaption></figure>"))
    if not figures:
        return NOT_SCORED if (workdir / "metrics.json").exists() else _missing("evaluate")
    buttons = "".join(f'<button data-view="{view}">{view}</button>' for view in ("image", "truth", "prediction"))
    ordered = "".join(text for _, text in sorted(figures))
    return f'<p class="toggle">Show {buttons} (worst first)</p><div class="examples" data-view="prediction">{ordered}</div>'


def _data(workdir: Path) -> str:
    data = _json(workdir / "data.json")
    if not data:
        return _missing("prepare")
    splits = data["segmentation"].pop("splits", {})
    rows = [(name, len(ids), ", ".join(ids)) for name, ids in splits.items()]
    return _table(("split", "images", "which"), rows, scrolls=True) + _tree(data)


def _tree(values: dict[str, Any]) -> str:
    text = json.dumps(values, indent=2)
    return f"<details><summary>show</summary><pre>{_escape(text)}</pre></details>" if values else ""

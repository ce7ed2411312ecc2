"""A table of runs for people: Markdown, and a CSV of every figure. Both from what `table.json` holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pldmlt_jax.evaluation.metrics.definitions import SEGMENTATION_METRICS
from pldmlt_jax.evaluation.original_size import ORIGINAL

GRADING = (
    ("grade/accuracy", "grade/majority", "Share of right grades. Baseline: the training images' most frequent grade."),
    ("grade/accuracy_low", None, "Lower end of the 95 % interval (Wilson) of a run's accuracy."),
    ("grade/accuracy_high", None, "Upper end of it."),
    ("grade/kappa", None, "Quadratic weighted kappa; any constant answer has 0."),
    ("grade/macro_f1", None, "Mean F1 over the grades."),
    ("grade/auc_ovr", None, "Mean area under the ROC curve, one grade against the rest; chance has 0.5."),
    ("grade/ece", None, "Expected calibration error."),
    ("pseudo/accuracy_before", "pseudo/majority", "Pseudo-labels before refinement, where the true grade is known."),
    ("pseudo/accuracy_after", "pseudo/majority", "The same after refinement."),
)
"""Figures of grades, as SEGMENTATION_METRICS."""

LABELS = (
    ("labels/repaired", "labels/repaired_by_hierarchy", "Share of the wrong labels that the update makes right, where the "
     "true grade is known. Baseline: what psi does by itself."),
    ("labels/spoilt", "labels/spoilt_by_hierarchy", "Share of the right labels that it makes wrong; the same baseline."),
    ("labels/accuracy_after", "labels/accuracy_before", "Share of right labels after the update. Baseline: before it."),
    ("train/grad_norm/seg_encoder", None, "Norm of L_S's gradient on the encoder, median of the second half of training."),
    ("train/grad_norm/grade_encoder", "train/grad_norm/grade_encoder_fixed", "The same of beta L_C. Baseline: with the "
     "labels before the update, at the same network and batch."),
    ("train/grad_cosine_encoder", "train/grad_cosine_encoder_fixed", "Cosine of the two; the same baseline."),
)  # fmt: skip
"""What the label network does, to labels and to the balance of the tasks' gradients, as SEGMENTATION_METRICS."""

METRIC_DEFINITIONS = (
    *(
        figure
        for name, base, what in SEGMENTATION_METRICS
        for figure in ((name, base, what), (f"{name}{ORIGINAL}", base, what))
    ),
    *GRADING,
    *LABELS,
)
"""Every figure that a table explains, its baseline (of the same size) and what it is."""

HEADLINE = (
    *("seg/foreground/dice", "seg/mean/aupr_11_exclusive", "seg/micro_bg/dice", "seg/micro_bg/iou"),
    *("grade/accuracy", "grade/kappa"),
)
"""Figures of the first table, at the images' own size where that was scored."""

COST = (
    *("parameters", "images trained on", "validated on", "scored", "graded images trained on", "graded images scored"),
    *("training, min", "stage 1, min", "peak memory, GiB"),
)
IMAGES = ("train", "val", "scored", "graded_train", "graded_scored")
"""Numbers of images of a row, in COST's order."""

COST_NOTE = (
    "Times and memory are of this machine. Graders that several runs share are trained once, and their time stands in each. "
    "Images are those of the first complete run; graded ones that are trained on include those of stage 1."
)

MINUS, NOTHING = "−", "–"


def baseline_of(name: str) -> str | None:
    """The name of a figure's baseline in `metrics.json`."""
    base = {figure: base for figure, base, _ in METRIC_DEFINITIONS}.get(name)
    return f"{base}{ORIGINAL}" if base and name.endswith(ORIGINAL) else base


def headline_metrics(table: Mapping[str, Any]) -> list[str]:
    """The figures of the first table that some row has."""
    measured = {name for row in table["rows"] for name in row["figures"]}
    names = (f"{name}{ORIGINAL}" if f"{name}{ORIGINAL}" in measured else name for name in HEADLINE)
    return [name for name in names if name in measured]


def to_markdown(table: Mapping[str, Any]) -> str:
    """The whole of `table.md`."""
    parts = [
        f"# {table['title']}",
        f"`{table['command']}`",
        _state(table),
        "\n".join(_headline_lines(table)),
        _notes(table),
        "## Differences\n\n" + "\n".join(_difference_lines(table)),
        "## Cost\n\n" + "\n".join(_cost_lines(table)),
        "## Every convention\n\n" + "\n".join(_figure_lines(table)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _state(table: Mapping[str, Any]) -> str:
    """Which cells are not in the figures, and why."""
    lacking = [(row, cell) for row in table["rows"] for cell in row["cells"] if cell["state"] != "complete"]
    number = sum(len(row["cells"]) for row in table["rows"])
    over = f"folds {_listed(table['folds'])}, seeds {_listed(table['seeds'])}"
    lines = [f"{number - len(lacking)} of {number} runs are complete ({over})."]
    for row, cell in lacking:
        why = f": {_text(cell['why'].splitlines()[0])}" if cell["why"] else ""
        lines.append(f"- **{cell['state']}**: {row['name']}, fold {cell['fold']}, seed {cell['seed']}{why}")
    return "\n".join(lines)


def _headline_lines(table: Mapping[str, Any]) -> Iterator[str]:
    names = headline_metrics(table)
    yield _line(["", "runs", *(f"`{name}`" for name in names)])
    yield _line(["---"] * (len(names) + 2))
    for row in table["rows"]:
        done = sum(cell["state"] == "complete" for cell in row["cells"])
        title = ": ".join(_text(part) for part in (row["name"], row["what"]) if part)
        yield _line([title, f"{done} of {len(row['cells'])}", *(format_metric(row, name) for name in names)])
        if row["published"]:
            stands = {table["published_as"][name]: f"*{name} {value} %*" for name, value in row["published"].items()}
            cells = [stands.get(name.removesuffix(ORIGINAL), "") for name in names]
            yield _line([f"*published: {row['name']}*", "", *cells])


def _notes(table: Mapping[str, Any]) -> str:
    lines = ["Mean ± standard deviation over folds and seeds; in brackets the baseline. `_original_size`: at the images' "
             "own size, against their own masks."]  # fmt: skip
    if any(row["published"] for row in table["rows"]):
        lines.append(
            f"Lines in italics are the paper's, as printed ({table['published_in']}): other images, and a Dice whose "
            "definition it does not give. That it is `micro_bg`, which counts background as right, is a reading."
        )
    return "\n\n".join(lines)


def _difference_lines(table: Mapping[str, Any]) -> Iterator[str]:
    names = headline_metrics(table)
    rows = [row for row in table["rows"] if row["differences"]]
    if not rows:
        yield f"None: no other row shares complete runs with the reference, {table['reference']}."
        return
    yield (
        f"Against {table['reference']}, on the same images, pooled over folds and seeds; in brackets the 95 % interval of a "
        "bootstrap over images (how much it depends on the images, not on the training)."
    )
    yield ""
    yield _line(["", *(f"`{name}`" for name in names), "images"])
    yield _line(["---"] * (len(names) + 2))
    for row in rows:
        shown = [row["differences"].get(name) for name in names]
        images = " / ".join(str(number) for number in sorted({d["images"] for d in shown if d}, reverse=True))
        yield _line([row["name"], *(format_difference(d) for d in shown), images])


def format_difference(d: Mapping[str, Any] | None) -> str:
    """A difference and its interval."""
    if d is None:
        return NOTHING
    return f"{_signed(d['difference'])} [{_signed(d['low'])}, {_signed(d['high'])}]"


def _cost_lines(table: Mapping[str, Any]) -> Iterator[str]:
    yield _line(["", *COST])
    yield _line(["---"] * (len(COST) + 1))
    for row in table["rows"]:
        yield _line([row["name"], *format_costs(row)])
    yield ""
    yield COST_NOTE


def format_costs(row: Mapping[str, Any]) -> list[str]:
    """What a row has taken, by COST."""
    cost, images = row["cost"], row["images"]
    return [
        str(row["parameters"] or NOTHING),
        *(str(images.get(name, NOTHING)) for name in IMAGES),
        *(_mean(cost.get(name), 1 / 60, 1) for name in ("training_s", "graders_s")),
        _memory(cost),
    ]


def _memory(cost: Mapping[str, Any]) -> str:
    """Of the process and, where the device says it, of the device."""
    device = cost.get("peak_device_bytes")
    return _mean(cost.get("peak_memory_bytes"), 2.0**-30, 2) + (f" (device {_mean(device, 2.0**-30, 2)})" if device else "")


def _figure_lines(table: Mapping[str, Any]) -> Iterator[str]:
    rows = table["rows"]
    yield _line(["", *(row["name"] for row in rows), "what"])
    yield _line(["---"] * (len(rows) + 2))
    for name, _, what in METRIC_DEFINITIONS:
        if any(name in row["figures"] for row in rows):
            yield _line([f"`{name}`", *(format_metric(row, name) for row in rows), what])


def to_rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of `table.csv`: one for each row and figure, those of the paper too."""
    lines = []
    for row in table["rows"]:
        for name, figure in row["figures"].items():
            difference = row["differences"].get(name, {})
            base = row["figures"].get(baseline_of(name) or "", {})
            lines.append(
                {"row": row["name"], "source": "measured", "figure": name}
                | {key: _empty(figure[key]) for key in ("mean", "sd", "n")}
                | {"baseline": _empty(base.get("mean"))}
                | {key: _empty(difference.get(key)) for key in ("difference", "low", "high", "images")}
            )
        for name, value in row["published"].items():
            line = dict.fromkeys(("mean", "sd", "n", "baseline", "difference", "low", "high", "images"), "")
            published = {"row": row["name"], "source": f"published, {table['published_in']}", "figure": f"{name} (%)"}
            lines.append(published | line | {"mean": value})
    return lines


def _empty(value: Any) -> Any:
    return "" if value is None else value


def format_metric(row: Mapping[str, Any], name: str) -> str:
    """Mean ± standard deviation, and the baseline in brackets."""
    figure, base = row["figures"].get(name), row["figures"].get(baseline_of(name) or "")
    if figure is None:
        return NOTHING
    return _mean(figure, 1.0, 4) + (f" ({base['mean']:.4f})" if base else "")


def _mean(figure: Mapping[str, Any] | None, factor: float, digits: int) -> str:
    if figure is None:
        return NOTHING
    shown = f"{figure['mean'] * factor:.{digits}f}"
    return shown if figure["sd"] is None else f"{shown} ± {figure['sd'] * factor:.{digits}f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", MINUS)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(text: str) -> str:
    """Text that cannot end a cell, nor begin a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

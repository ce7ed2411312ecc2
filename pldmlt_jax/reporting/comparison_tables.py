"""A comparison of several runs as Markdown and as a CSV of every metric, made from the content of `table.json`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pldmlt_jax.evaluation.metrics.definitions import GRADING_METRICS, LABEL_METRICS, SEGMENTATION_METRICS
from pldmlt_jax.evaluation.original_size import ORIGINAL

METRIC_DEFINITIONS = (
    *((f"{name}{suffix}", base, text) for name, base, text in SEGMENTATION_METRICS for suffix in ("", ORIGINAL)),
    *GRADING_METRICS,
    *LABEL_METRICS,
)
"""Every metric that a table explains, its baseline (at the network's size) and its definition."""

HEADLINE = (
    *("seg/foreground/dice", "seg/mean/aupr_11_exclusive", "seg/micro_bg/dice", "seg/micro_bg/iou"),
    *("grade/accuracy", "grade/kappa"),
)
"""Metrics of the first table, at original image size where that was scored."""

COST = (
    *("parameters", "images trained on", "validated on", "scored", "graded images trained on", "graded images scored"),
    *("training, min", "stage 1, min", "peak memory, GiB"),
)
IMAGES = ("train", "val", "scored", "graded_train", "graded_scored")
"""Keys of the numbers of images in a row, in the order of COST."""

COST_NOTE = (
    "Times and memory were measured on this machine. Graders shared by several runs are trained once, and their time is "
    "included in each of these runs. Images are those of the first complete run; the graded training images include those "
    "of stage 1."
)

MINUS, NOTHING = "−", "–"


def baseline_of(name: str) -> str | None:
    """Returns the name of a metric's baseline in `metrics.json`; None if it has none."""
    base = {metric: base for metric, base, _ in METRIC_DEFINITIONS}.get(name)
    return f"{base}{ORIGINAL}" if base and name.endswith(ORIGINAL) else base


def headline_metrics(table: Mapping[str, Any]) -> list[str]:
    """Lists the metrics of the first table that at least one row has."""
    measured = {name for row in table["rows"] for name in row["figures"]}
    names = (f"{name}{ORIGINAL}" if f"{name}{ORIGINAL}" in measured else name for name in HEADLINE)
    return [name for name in names if name in measured]


def to_markdown(table: Mapping[str, Any]) -> str:
    """Renders the content of `table.json` as Markdown, for `table.md`."""
    parts = [
        f"# {table['title']}",
        f"`{table['command']}`",
        _run_states(table),
        "\n".join(_headline_lines(table)),
        _notes(table),
        "## Differences\n\n" + "\n".join(_difference_lines(table)),
        "## Cost\n\n" + "\n".join(_cost_lines(table)),
        "## All metrics\n\n" + "\n".join(_metric_lines(table)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _run_states(table: Mapping[str, Any]) -> str:
    """Number of complete runs, and why the others are not."""
    incomplete = [(row, run) for row in table["rows"] for run in row["cells"] if run["state"] != "complete"]
    number = sum(len(row["cells"]) for row in table["rows"])
    over = f"folds {_join(table['folds'])}, seeds {_join(table['seeds'])}"
    lines = [f"{number - len(incomplete)} of {number} runs are complete ({over})."]
    for row, run in incomplete:
        why = f": {_escape(run['why'].splitlines()[0])}" if run["why"] else ""
        lines.append(f"- **{run['state']}**: {row['name']}, fold {run['fold']}, seed {run['seed']}{why}")
    return "\n".join(lines)


def _headline_lines(table: Mapping[str, Any]) -> Iterator[str]:
    names = headline_metrics(table)
    yield _line(["", "runs", *(f"`{name}`" for name in names)])
    yield _line(["---"] * (len(names) + 2))
    for row in table["rows"]:
        done = sum(run["state"] == "complete" for run in row["cells"])
        title = ": ".join(_escape(part) for part in (row["name"], row["what"]) if part)
        yield _line([title, f"{done} of {len(row['cells'])}", *(format_metric(row, name) for name in names)])
        if row["published"]:
            printed = {table["published_as"][name]: f"*{name} {value} %*" for name, value in row["published"].items()}
            values = [printed.get(name.removesuffix(ORIGINAL), "") for name in names]
            yield _line([f"*published: {row['name']}*", "", *values])


def _notes(table: Mapping[str, Any]) -> str:
    lines = ["Mean ± standard deviation over folds and seeds; baseline in brackets. `_original_size`: at original image "
             "size, against the original masks."]  # fmt: skip
    if any(row["published"] for row in table["rows"]):
        lines.append(
            f"Rows in italics are the paper's numbers as printed ({table['published_in']}). They are from other images, "
            "and the paper does not define its Dice; reading it as `micro_bg`, which counts correct background, is our "
            "assumption."
        )
    return "\n\n".join(lines)


def _difference_lines(table: Mapping[str, Any]) -> Iterator[str]:
    names = headline_metrics(table)
    rows = [row for row in table["rows"] if row["differences"]]
    if not rows:
        yield f"None: no other row has complete runs in common with the reference, {table['reference']}."
        return
    yield (
        f"Difference to {table['reference']} on the same images, pooled over folds and seeds. In brackets: the 95 % "
        "interval of a bootstrap over images, which shows how much a difference depends on the images, not on the training."
    )
    yield ""
    yield _line(["", *(f"`{name}`" for name in names), "images"])
    yield _line(["---"] * (len(names) + 2))
    for row in rows:
        shown = [row["differences"].get(name) for name in names]
        images = " / ".join(str(number) for number in sorted({d["images"] for d in shown if d}, reverse=True))
        yield _line([row["name"], *(format_difference(d) for d in shown), images])


def format_difference(d: Mapping[str, Any] | None) -> str:
    """Formats a difference with its interval; a dash for None."""
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
    """Formats images, time and memory of a row, in the order of COST."""
    cost, images = row["cost"], row["images"]
    return [
        str(row["parameters"] or NOTHING),
        *(str(images.get(name, NOTHING)) for name in IMAGES),
        *(_mean(cost.get(name), 1 / 60, 1) for name in ("training_s", "graders_s")),
        _memory(cost),
    ]


def _memory(cost: Mapping[str, Any]) -> str:
    """Peak memory of the process and, if the device reports it, of the device."""
    device = cost.get("peak_device_bytes")
    return _mean(cost.get("peak_memory_bytes"), 2.0**-30, 2) + (f" (device {_mean(device, 2.0**-30, 2)})" if device else "")


def _metric_lines(table: Mapping[str, Any]) -> Iterator[str]:
    rows = table["rows"]
    yield _line(["", *(row["name"] for row in rows), "definition"])
    yield _line(["---"] * (len(rows) + 2))
    for name, _, definition in METRIC_DEFINITIONS:
        if any(name in row["figures"] for row in rows):
            yield _line([f"`{name}`", *(format_metric(row, name) for row in rows), definition])


def to_rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Makes the lines of `table.csv`, one for each row and metric, including those that the paper printed."""
    lines = []
    for row in table["rows"]:
        for name, metric in row["figures"].items():
            difference = row["differences"].get(name, {})
            base = row["figures"].get(baseline_of(name) or "", {})
            lines.append(
                {"row": row["name"], "source": "measured", "figure": name}
                | {key: _empty(metric[key]) for key in ("mean", "sd", "n")}
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
    """Formats a metric of a row as mean ± standard deviation, with the baseline in brackets."""
    metric, base = row["figures"].get(name), row["figures"].get(baseline_of(name) or "")
    if metric is None:
        return NOTHING
    return _mean(metric, 1.0, 4) + (f" ({base['mean']:.4f})" if base else "")


def _mean(metric: Mapping[str, Any] | None, factor: float, digits: int) -> str:
    if metric is None:
        return NOTHING
    shown = f"{metric['mean'] * factor:.{digits}f}"
    return shown if metric["sd"] is None else f"{shown} ± {metric['sd'] * factor:.{digits}f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", MINUS)


def _join(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    """Escapes what would end a table cell or begin an HTML tag."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

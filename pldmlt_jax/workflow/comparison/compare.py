"""`compare`: every run of a table that is not complete; `table.md`, `.csv`, `.json` and `compare.html` of those that are."""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from pldmlt_jax.errors import ConfigError, ErrorGroup, UserError, collect_errors, raise_all
from pldmlt_jax.io.files import atomic_write, read_json, read_json_if_present, read_rows, write_json, write_rows
from pldmlt_jax.reporting.comparison_page import write_comparison
from pldmlt_jax.reporting.comparison_tables import METRIC_DEFINITIONS, baseline_of, to_markdown, to_rows
from pldmlt_jax.table_config import PUBLISHED, Run, Table, list_runs
from pldmlt_jax.workflow.comparison import statistics as comparison
from pldmlt_jax.workflow.comparison.runs import COST, FAILURE, RawSets, cell_is_complete, cell_stages, run_cell
from pldmlt_jax.workflow.comparison.statistics import aggregate_runs, paired_differences
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.pipeline import missing_weights
from pldmlt_jax.workflow.run_metadata import describe_versions
from pldmlt_jax.workflow.stages.train_graders import GRADED_IMAGES

FOLDERS = re.compile(r"""(?<=[=,('"])/(?:[^/,]+/)*""")
"""What leads to a file by an absolute path, one of several as well."""

SAVE_INTERVAL_S = 60.0
"""The table is written anew this often while runs are missing: of hundreds it takes some seconds."""


def main(options: RunOptions) -> int:
    """Runs what is missing, one run after the other; the table is written as it goes, and says what it lacks.

    Returns:
        The exit status: 1 where a run has failed.
    """
    table = options.table
    assert table is not None
    every, raw = list_runs(table, options.workdir), RawSets()
    wanted = [cell for cell in every if cell.row.name in options.rows]
    require_inputs(wanted, raw)
    print(f"{table.name}: {len(wanted)} runs in {options.workdir}", flush=True)
    failed: dict[Path, str] = {}
    written = time.monotonic()
    for number, cell in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {cell.label}", end="", flush=True)
        if cell_is_complete(cell, raw, options.split):
            print(": complete and unchanged, skipped", flush=True)
            continue
        print(flush=True)
        if cell.starts_from in failed:
            failed[cell.workdir] = f"{cell.row.starts_from}, which it starts from, has failed"
            write_json(cell.workdir / FAILURE, {"message": failed[cell.workdir]})
            continue
        others = tuple(other.workdir for other in every if other.workdir != cell.workdir and other.workdir.is_dir())
        if message := run_cell(cell, others, options.split, debug=options.debug):
            failed[cell.workdir] = message
        if time.monotonic() - written > SAVE_INTERVAL_S:
            write_table(options, every, raw)
            written = time.monotonic()
    write_table(options, every, raw)
    print((options.workdir / "table.md").read_text(encoding="utf-8").partition("## Cost")[0].rstrip())
    print(f"\nall of it: {options.workdir / 'table.md'}, table.csv, table.json and compare.html beside it")
    if failed:
        print(f"failed: {len(failed)} of {len(wanted)} runs; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def require_inputs(wanted: list[Run], raw: RawSets) -> None:
    """What is missing for any of the runs, before the first one.

    Raises:
        UserError: Sets or weights are missing; all rows' at once.
    """
    errors: list[UserError] = []
    for cell in {cell.row.name: cell for cell in wanted}.values():
        found: list[UserError] = []
        with collect_errors(found):
            raw.of(cell.row.config, [*missing_weights(cell.row.config, cell_stages(cell))])
        errors += (
            ConfigError(f"{error.where} (row {cell.row.name})", error.found, error.expected, error.action)
            for group in found
            for error in (group.errors if isinstance(group, ErrorGroup) else (group,))
            if not any(error.where == other.where.partition(" (row")[0] and error.found == other.found for other in errors)
        )
    raise_all(errors)


def write_table(options: RunOptions, every: list[Run], raw: RawSets) -> None:
    """Gathers what the runs have left, and writes the three files and the page."""
    assert options.table is not None
    gathered_table = gather(options.table, every, raw, options)
    write_json(options.workdir / "table.json", gathered_table)
    with atomic_write(options.workdir / "table.md") as file:
        file.write(to_markdown(gathered_table))
    write_comparison(options.workdir / "compare.html", gathered_table)
    lines = to_rows(gathered_table)
    if lines:
        write_rows(options.workdir / "table.csv", lines)
    else:
        (options.workdir / "table.csv").unlink(missing_ok=True)


def gather(table: Table, every: list[Run], raw: RawSets, options: RunOptions) -> dict[str, Any]:
    """What `table.json` holds; see docs/compare.md."""
    complete = [cell for cell in every if cell_is_complete(cell, raw, options.split)]
    images = {row.name: [per_image(cell) for cell in complete if cell.row is row] for row in table.rows}
    rows = []
    for row in table.rows:
        runs = [describe(cell, cell in complete, options.workdir) for cell in every if cell.row is row]
        done = [run for run in runs if run["state"] == "complete"]
        against = row.name != table.reference_row
        rows.append(
            {
                "name": row.name,
                "what": row.what,
                "part": row.part,
                "published": dict(row.published),
                "cells": runs,
                "figures": aggregate_runs(run["metrics"] for run in done),
                "differences": paired_differences(images[row.name], images[table.reference_row]) if against else {},
                "parameters": done[0]["parameters"] if done else None,
                "images": done[0]["images"] if done else {},
                "cost": aggregate_runs(run["cost"] for run in done),
            }
        )
    return {
        "name": table.name,
        "title": table.title,
        "command": command(options),
        "environment": describe_versions(),
        "folds": list(table.folds),
        "seeds": list(table.seeds),
        "reference": table.reference_row,
        "published_in": table.published_in,
        "published_as": PUBLISHED,
        "interval": {"percentiles": list(comparison.INTERVAL), "resamples": comparison.RESAMPLES, "over": "images"},
        "figures": [{"name": name, "baseline": baseline_of(name), "what": what} for name, _, what in METRIC_DEFINITIONS],
        "rows": rows,
    }


def command(options: RunOptions) -> str:
    """The command line that makes the table, without what only names places of this machine; of files their names stay."""
    local = ("--workdir", "--config.data.root", "--config.data.cache_dir", "--debug")
    words = [FOLDERS.sub("", word) for word in options.words if word.split("=")[0] not in local]
    return " ".join(["python main.py", *words])


def describe(cell: Run, is_complete: bool, root: Path) -> dict[str, Any]:
    """One run of `table.json`."""
    failure = cell.workdir / FAILURE
    why = str(read_json(failure)["message"]) if failure.is_file() and not is_complete else ""
    state = "complete" if is_complete else "failed" if why else "missing"
    facts = {"fold": cell.fold, "seed": cell.seed, "state": state, "why": why}
    facts |= {"workdir": str(cell.workdir.relative_to(root)), "metrics": {}, "cost": {}, "images": {}, "parameters": None}
    if not is_complete:
        return facts
    metrics = read_json(metrics_file(cell))
    return facts | {
        "metrics": metrics,
        "cost": cost(cell),
        "images": numbers_of_images(cell, metrics),
        "parameters": metrics.get("parameters/network", metrics.get("parameters")),
    }


def grader_folder(cell: Run) -> Path:
    return cell.workdir / "graders" / cell.row.config.grader.architectures[0]


def metrics_file(cell: Run) -> Path:
    """The figures of what the row trains."""
    return (grader_folder(cell) if cell.row.part == "graders" else cell.workdir) / "metrics.json"


def per_image(cell: Run) -> comparison.PerImageResults:
    """What a complete run says of each image."""
    folder = grader_folder(cell) if cell.row.part == "graders" else cell.workdir

    def lines(name: str) -> list[dict[str, str]]:
        return [row for _, row in read_rows(folder / name, ("image",))] if (folder / name).is_file() else []

    return comparison.PerImageResults(cell.fold, cell.seed, lines("per_image.csv"), lines(GRADED_IMAGES))


def cost(cell: Run) -> dict[str, float]:
    """Seconds of training, all sessions together, and the peak of memory."""
    found = read_json_if_present(cell.workdir / COST)
    graders = [trained_s(folder) for folder in sorted((cell.workdir / "graders").glob("*/checkpoints"))]
    seconds = {"training_s": [trained_s(cell.workdir / "checkpoints")], "graders_s": graders}
    return found | {name: sum(s for s in parts if s is not None) for name, parts in seconds.items() if any(parts)}


def trained_s(checkpoints: Path) -> float | None:
    """The time that a training has taken, as its latest checkpoint says."""
    steps = [int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()]
    path = checkpoints / str(max(steps, default=0)) / "progress" / "metadata"
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.is_file() else None


def numbers_of_images(cell: Run, metrics: dict[str, Any]) -> dict[str, int]:
    """Pixel-labelled images that the row has trained on, has chosen its checkpoint by, and is scored on; and truly graded
    ones that it has trained on, stage 1 included, and that its grades are scored on.
    """
    facts = read_json(cell.workdir / "data.json")
    numbers: dict[str, int] = {}
    if cell.row.part == "network":
        splits = {split: len(names) for split, names in facts["segmentation"]["splits"].items()}
        numbers = {"train": splits["train"], "val": splits["val"]}
        numbers |= {"scored": splits[metrics["seg/split"]]} if "seg/split" in metrics else {}
    if grades := facts["grading"]["grades"].get("train"):
        numbers["graded_train"] = sum(grades.values())
    return numbers | ({"graded_scored": metrics["grade/n"]} if "grade/n" in metrics else {})

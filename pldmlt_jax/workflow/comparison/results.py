"""Collects the results of a table's runs for `table.json`, whose format docs/compare.md describes."""

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pldmlt_jax.io.csv_files import read_rows
from pldmlt_jax.io.files import read_json, read_json_if_present
from pldmlt_jax.reporting.comparison_tables import METRIC_DEFINITIONS, baseline_of
from pldmlt_jax.table_config import PUBLISHED, Run
from pldmlt_jax.workflow.comparison.runs import COST, FAILURE
from pldmlt_jax.workflow.comparison.statistics import (
    INTERVAL,
    RESAMPLES,
    PerImageResults,
    aggregate_runs,
    paired_differences,
)
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.run_metadata import collect_versions
from pldmlt_jax.workflow.stages.train_graders import GRADED_IMAGES

FOLDERS = re.compile(r"""(?<=[=,('"])/(?:[^/,]+/)*""")
"""The folders of an absolute path, also of several paths in one word."""

LOCAL_FLAGS = ("--workdir", "--config.data.root", "--config.data.cache_dir", "--debug")
"""Flags that only name paths of this machine, or change nothing in the table."""


def collect_results(options: RunOptions, runs: Sequence[Run], complete: Collection[Run]) -> dict[str, Any]:
    """Collects the results of a table's runs.

    Args:
        options: The options of `compare`.
        runs: All runs of the table.
        complete: Those that are complete.

    Returns:
        The content of `table.json`.
    """
    table = options.table
    assert table is not None
    images = {row.name: [read_per_image(run) for run in complete if run.row is row] for row in table.rows}
    rows = []
    for row in table.rows:
        found = [summarise_run(run, run in complete, options.workdir) for run in runs if run.row is row]
        done = [run for run in found if run["state"] == "complete"]
        is_compared = row.name != table.reference_row
        rows.append(
            {
                "name": row.name,
                "what": row.what,
                "part": row.part,
                "published": dict(row.published),
                "cells": found,
                "figures": aggregate_runs(run["metrics"] for run in done),
                "differences": paired_differences(images[row.name], images[table.reference_row]) if is_compared else {},
                "parameters": done[0]["parameters"] if done else None,
                "images": done[0]["images"] if done else {},
                "cost": aggregate_runs(run["cost"] for run in done),
            }
        )
    # The keys "figures", here and in each row, are part of the file format.
    return {
        "name": table.name,
        "title": table.title,
        "command": portable_command(options.words),
        "environment": collect_versions(),
        "folds": list(table.folds),
        "seeds": list(table.seeds),
        "reference": table.reference_row,
        "published_in": table.published_in,
        "published_as": PUBLISHED,
        "interval": {"percentiles": list(INTERVAL), "resamples": RESAMPLES, "over": "images"},
        "figures": [{"name": name, "baseline": baseline_of(name), "what": what} for name, _, what in METRIC_DEFINITIONS],
        "rows": rows,
    }


def portable_command(words: Sequence[str]) -> str:
    """Returns the command line that makes a table, without the paths of this machine; files keep their names."""
    kept = [FOLDERS.sub("", word) for word in words if word.split("=")[0] not in LOCAL_FLAGS]
    return " ".join(["python main.py", *kept])


def summarise_run(run: Run, is_complete: bool, folder: Path) -> dict[str, Any]:
    """Returns the state and the results of one run.

    Args:
        run: A run of the table.
        is_complete: Whether it is complete.
        folder: The workdir of the table.
    """
    failure = run.workdir / FAILURE
    why = str(read_json(failure)["message"]) if failure.is_file() and not is_complete else ""
    state = "complete" if is_complete else "failed" if why else "missing"
    facts = {"fold": run.fold, "seed": run.seed, "state": state, "why": why}
    facts |= {"workdir": str(run.workdir.relative_to(folder)), "metrics": {}, "cost": {}, "images": {}, "parameters": None}
    if not is_complete:
        return facts
    metrics = read_json(choose_results_folder(run) / "metrics.json")
    return facts | {
        "metrics": metrics,
        "cost": read_cost(run),
        "images": count_images(run, metrics),
        "parameters": metrics.get("parameters/network", metrics.get("parameters")),
    }


def choose_results_folder(run: Run) -> Path:
    """Returns the folder with a run's metrics: that of its grader if its row trains only a grader, else the workdir."""
    grader = run.workdir / "graders" / run.row.config.grader.architectures[0]
    return grader if run.row.part == "graders" else run.workdir


def read_per_image(run: Run) -> PerImageResults:
    """Reads the results of a complete run for each image."""

    def read(name: str) -> list[dict[str, str]]:
        path = choose_results_folder(run) / name
        return [row for _, row in read_rows(path, ("image",))] if path.is_file() else []

    return PerImageResults(run.fold, run.seed, read("per_image.csv"), read(GRADED_IMAGES))


def read_cost(run: Run) -> dict[str, float]:
    """Reads the seconds of training in all sessions, and the peak memory in bytes."""
    cost: dict[str, float] = read_json_if_present(run.workdir / COST)
    graders = [read_training_s(folder) for folder in sorted((run.workdir / "graders").glob("*/checkpoints"))]
    seconds = {"training_s": [read_training_s(run.workdir / "checkpoints")], "graders_s": graders}
    return cost | {name: sum(s for s in parts if s is not None) for name, parts in seconds.items() if any(parts)}


def read_training_s(checkpoints: Path) -> float | None:
    """Reads the seconds of a training up to its latest checkpoint; returns None without one."""
    steps = [int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()]
    path = checkpoints / str(max(steps, default=0)) / "progress" / "metadata"
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.is_file() else None


def count_images(run: Run, metrics: dict[str, Any]) -> dict[str, int]:
    """Counts the images of a run.

    Returns:
        "train", "val" and "scored" count the pixel-labelled images for training, for the choice of the checkpoint and
        for scoring; "graded_train" and "graded_scored" the truly graded images for training, stage 1 included, and scoring.
    """
    facts = read_json(run.workdir / "data.json")
    numbers: dict[str, int] = {}
    if run.row.part == "network":
        splits = {split: len(names) for split, names in facts["segmentation"]["splits"].items()}
        numbers = {"train": splits["train"], "val": splits["val"]}
        numbers |= {"scored": splits[metrics["seg/split"]]} if "seg/split" in metrics else {}
    if grades := facts["grading"]["grades"].get("train"):
        numbers["graded_train"] = sum(grades.values())
    return numbers | ({"graded_scored": metrics["grade/n"]} if "grade/n" in metrics else {})

"""Executes the incomplete runs of a table, and writes a table of the complete ones."""

import sys
import time
from pathlib import Path

from pldmlt_jax.errors import ConfigError, ErrorGroup, UserError, collect_errors, raise_all
from pldmlt_jax.io.csv_files import write_rows
from pldmlt_jax.io.files import atomic_write, write_json
from pldmlt_jax.reporting.comparison_page import write_comparison
from pldmlt_jax.reporting.comparison_tables import to_markdown, to_rows
from pldmlt_jax.table_config import Run, list_runs
from pldmlt_jax.workflow.comparison.results import collect_results
from pldmlt_jax.workflow.comparison.runs import (
    RawSets,
    execute_in_subprocess,
    is_run_complete,
    select_run_stages,
    write_failure,
)
from pldmlt_jax.workflow.comparison.table_checks import add_starting_rows
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.pipeline import find_missing_weights

SAVE_INTERVAL_S = 60.0
"""Shortest time between two updates of the table while runs are executed; a table of hundreds of runs takes seconds."""


def compare(options: RunOptions) -> int:
    """Executes the incomplete runs of a table one after the other, and writes the table.

    Args:
        options: The options of the run, with a table.

    Returns:
        The exit status: 1 if a run has failed.

    Raises:
        UserError: Data sets or weights are missing; those of all rows at once.
    """
    assert options.table is not None
    runs, raw = list_runs(options.table, options.workdir), RawSets()
    names = set(add_starting_rows(options.table, options.rows))
    selected = [run for run in runs if run.row.name in names]
    require_inputs(selected, raw)
    print(f"{options.table.name}: {len(selected)} runs in {options.workdir}", flush=True)
    failed: set[Path] = set()
    written = time.monotonic()
    for number, run in enumerate(selected, 1):
        print(f"[{number}/{len(selected)}] {run.label}", end="", flush=True)
        if is_run_complete(run, raw, options.split):
            print(": complete and unchanged, skipped", flush=True)
            continue
        print(flush=True)
        if run.starts_from in failed:
            write_failure(run, f"{run.row.starts_from}, from which it starts, has failed")
            failed.add(run.workdir)
        elif execute_in_subprocess(run, options):
            failed.add(run.workdir)
        if time.monotonic() - written > SAVE_INTERVAL_S:
            write_table(options, runs, raw)
            written = time.monotonic()
    write_table(options, runs, raw)
    print((options.workdir / "table.md").read_text(encoding="utf-8").partition("## Cost")[0].rstrip())
    print(f"\nthe whole table: {options.workdir / 'table.md'}, with table.csv, table.json and compare.html next to it")
    if failed:
        print(f"failed: {len(failed)} of {len(selected)} runs; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def require_inputs(runs: list[Run], raw: RawSets) -> None:
    """Checks that the data sets and weights of all runs exist, before the first run.

    Raises:
        UserError: Some are missing; those of all rows at once.
    """
    errors: list[UserError] = []
    for run in {run.row.name: run for run in runs}.values():
        found: list[UserError] = []
        with collect_errors(found):
            raw.fingerprint(run.row.config, [*find_missing_weights(run.row.config, select_run_stages(run))])
        errors += (
            ConfigError(f"{error.where} (row {run.row.name})", error.found, error.expected, error.action)
            for group in found
            for error in (group.errors if isinstance(group, ErrorGroup) else (group,))
            if not any(error.where == other.where.partition(" (row")[0] and error.found == other.found for other in errors)
        )
    raise_all(errors)


def write_table(options: RunOptions, runs: list[Run], raw: RawSets) -> None:
    """Writes the results of the complete runs as `table.json`, `table.md`, `table.csv` and `compare.html`."""
    complete = [run for run in runs if is_run_complete(run, raw, options.split)]
    results = collect_results(options, runs, complete)
    write_json(options.workdir / "table.json", results)
    with atomic_write(options.workdir / "table.md") as file:
        file.write(to_markdown(results))
    write_comparison(options.workdir / "compare.html", results)
    lines = to_rows(results)
    if lines:
        write_rows(options.workdir / "table.csv", lines)
    else:
        (options.workdir / "table.csv").unlink(missing_ok=True)

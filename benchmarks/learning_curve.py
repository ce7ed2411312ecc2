"""Draws the learning curve of a run, or of several that continue each other, as SVG.

    python -m benchmarks.learning_curve runs/shipped_start runs/shipped_middle runs/shipped --output=docs/learning_curve.svg

Training losses are of single batches, as logged. Validation loss and Dice are of all validation images.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

TRAINING = {"seg_loss": "L_S, one training batch", "graded_loss": "L_C on graded images, one batch"}
VALIDATION = {"val/seg_loss": "L_S, validation images", "val/dice": "lesion Dice, validation images"}


def read_logs(workdirs: list[Path]) -> tuple[dict[str, list[tuple[int, float]]], list[int]]:
    """Returns steps and values of every metric, and the steps at which later runs start. Steps count through all runs."""
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in (*TRAINING, *VALIDATION)}
    starts, before = [], 0
    for workdir in workdirs:
        rows: list[dict[str, Any]] = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
        starts.append(before)
        for row in rows:
            for name in curves.keys() & row.keys():
                curves[name].append((before + row["step"], row[name]))
        before += max(row["step"] for row in rows)
    return curves, starts[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()
    curves, starts = read_logs(arguments.workdirs)
    mpl.rcParams["svg.hashsalt"] = "learning_curve"  # the same bytes each time
    figure, axes = pyplot.subplots(figsize=(7.5, 4), layout="constrained")
    for name, label in {**TRAINING, **VALIDATION}.items():
        steps, values = zip(*curves[name], strict=True) if curves[name] else ((), ())
        whole = name in VALIDATION
        axes.plot(steps, values, label=label, marker="o" if whole else "", alpha=1.0 if whole else 0.5)
    for start in starts:
        axes.axvline(start, color="grey", linestyle=":")
    axes.set(xlabel="step", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(arguments.output, metadata={"Date": None})


if __name__ == "__main__":
    main()

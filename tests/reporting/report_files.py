"""A small workdir with every file that a run leaves."""

import csv
import json
from pathlib import Path

import numpy as np

from pldmlt_jax.evaluation.metrics.curves import SCORE_BINS, precision_recall
from pldmlt_jax.evaluation.metrics.grading import grading_metrics
from pldmlt_jax.reporting.overlays import cam_strip, write_picture
from pldmlt_jax.workflow.stages.examples import save_example

NAMES = ("eye", "an <i>odd</i> & 'quoted' \"name\" of a photograph.that is long")

METRICS = {
    "seg/split": "test", "grade/split": "val", "step": 7, "seg/foreground/dice": 0.61234,
    "baseline/channel_threshold/dice": 0.2345, "seg/foreground/dice_original_size": 0.5877,
    "baseline/channel_threshold/dice_original_size": 0.2211, "seg/micro_bg/dice": 0.95,
    "seg/micro_bg/dice_all_background": 0.9402, "pseudo/accuracy_before": 0.6, "pseudo/accuracy_after": 0.7,
    "pseudo/kappa_before": 0.5, "pseudo/kappa_after": 0.55, "pseudo/majority": 0.64, "pseudo/n_known": 42,
    "parameters/network": 23_750_951, "seg/MA/recall": 0.1357, "seg/MA/inflation": None, "seg/EX/recall": 0.8,
}  # fmt: skip

LOG = [
    {"step": 1, "phase": "theta", "round": 1, "loss": 2.0, "seg_loss": 1.0, "grade_loss": 1.0,
     "grad_norm/seg_encoder": 0.5, "grad_norm/grade_encoder": 0.1, "grad_cosine_encoder": -0.1},
    {"step": 2, "phase": "label", "round": 1, "direct_norm": 0.0, "indirect_norm": 0.1, "label_entropy": 0.3,
     "label_histogram": [0.2] * 5, "agreement/pseudo_label": 1.0, "agreement/head": 0.4},
    {"step": 2, "phase": "val", "round": 1, "val/loss": 1.5, "val/loss_updated": 1.4, "val/dice": 0.3},
]  # fmt: skip


def write_run(folder: Path) -> Path:
    """Writes the files and returns the folder."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 3)
    grading = grading_metrics(np.eye(5)[[0, 0, 2, 1, 2, 0, 2, 2, 1]] * 0.6 + 0.08, truth, 0)
    curve = precision_recall(*rng.integers(0, 9, (2, SCORE_BINS)))
    values = {
        "metrics.json": METRICS | grading | {"grade/accuracy": 0.5, "grade/majority": 0.3333, "grade/kappa": None},
        "pseudo_labels.json": {name: value for name, value in METRICS.items() if "pseudo" in name},
        "curves.json": {"network_size": dict.fromkeys(("lesion", "MA", "HE", "EX", "SE"), curve), "original_size": {}},
        "config.json": {"name": "<b>bold & brash</b>"},
        "data.json": {"segmentation": {"splits": {"train": ["a"], "val": []}}},
        "environment.json": {"command": "main.py --config=" + "long" * 40},
    }
    for name, value in values.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, LOG)) + "\n")
    scored = [
        {"image": name, "dice": dice, "predicted_grade": "2"} for name, dice in zip(NAMES, ("0.6123", "0.2"), strict=True)
    ]
    _write_table(folder / "per_image.csv", scored)
    label = {"resnext50_32x4d/grade": "0", "resnext50_32x4d/confidence": "0.51", "admissible": "2 3 4", "before": "0",
             "after": "2", "changed": "1", "why": "masks > maps", "true_grade": "2"}  # fmt: skip
    _write_table(folder / "pseudo_labels.csv", [{"image": name, **label} for name in NAMES])
    _write_pictures(folder, rng)
    return folder


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def _write_pictures(folder: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (16, 24, 3), np.uint8)
    lesion = np.zeros((16, 24), bool)
    lesion[4:8, 6:12] = True
    for name in NAMES:
        save_example(folder / "examples", name, image, {"EX": lesion}, {"EX": ~lesion})
        write_picture(folder / "cams" / name, cam_strip(image[:, :16], lesion[:, :16], rng.random((5, 2, 2), np.float32)))
    write_picture(folder / "contact_sheet", image)

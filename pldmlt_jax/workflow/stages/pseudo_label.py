"""`pseudo-label`: ensemble, Grad-CAM and refinement; writes `pseudo_labels.csv`, `pseudo_labels.json` and `cams/`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pldmlt_jax.data.preprocessing.prepared_split import PreparedSplit
from pldmlt_jax.data.splits.selection import Selection, official_splits
from pldmlt_jax.errors import DataError, raise_all
from pldmlt_jax.evaluation.metrics.grading import grading_metrics
from pldmlt_jax.evaluation.temperature import softmax
from pldmlt_jax.io.csv_files import read_rows, write_rows
from pldmlt_jax.io.files import read_json
from pldmlt_jax.io.progress import show_progress
from pldmlt_jax.method.gradcam import grad_cam
from pldmlt_jax.method.pseudo_labels import ENSEMBLES, EnsembleChoice, admissible_grades, map_agreement, refine
from pldmlt_jax.reporting.overlays import cam_strip, write_picture
from pldmlt_jax.types import MASK_BITS, NUM_GRADES, Sample
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.stages.train_graders import make_grader, restore_best

AGREEMENTS = ("share", "coverage", "disc_share")


def pseudo_label(context: Context) -> None:
    """Labels all pixel-labelled images; writes the labels, and their accuracy on images whose true grade is known."""
    images = _all_images(context.segmented_for_graders)
    graders = load_graders(context)
    folder = context.workdir / "cams"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with show_progress("pseudo-labels", len(images)) as task:
        for split, index in images:
            row, strip = label_image(context, graders, split[index])
            true_grade = context.known_grades.get(split.records[index].image, "")
            rows.append(row | {"true_grade": true_grade})
            write_picture(folder / row["image"], strip)
            task.advance(row["image"])
    write_rows(context.workdir / "pseudo_labels.csv", rows)
    context.write_json("pseudo_labels.json", summarise_labels(rows))


def _all_images(selections: dict[str, Selection]) -> list[tuple[PreparedSplit, int]]:
    """Lists every image of the set once, by official split and index."""
    return [(split, i) for split in official_splits(selections) for i in range(len(split))]


def load_graders(context: Context) -> list[tuple[str, Any, dict, float]]:
    """Loads the trained graders; returns name, network, variables and temperature of each."""
    config, loaded = context.config, []
    for name in config.grader.architectures:
        grader = make_grader(config, name, context.graded_for_graders["train"])
        state = restore_best(context, grader, name)
        metrics = read_json(context.workdir / "graders" / name / "metrics.json")
        temperature = metrics["temperature"] if config.pseudo.temperature else 1.0
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        loaded.append((name, grader.network, variables, temperature))
    return loaded


def grade_with_graders(
    context: Context, graders: list, sample: Sample
) -> tuple[Float[np.ndarray, "g c"], EnsembleChoice, Float[np.ndarray, "c h w"]]:
    """Grades an image; returns the graders' probabilities, the ensemble's choice, and the Grad-CAM of the chosen grader."""
    cams = [grad_cam(variables, sample.image[None], classifier=network) for _, network, variables, _ in graders]
    temperatures = [temperature for *_, temperature in graders]
    probabilities = np.stack([softmax(np.asarray(cam.logits[0]), t) for cam, t in zip(cams, temperatures, strict=True)])
    choice = ENSEMBLES[context.config.pseudo.ensemble](probabilities)
    return probabilities, choice, np.asarray(cams[choice.grader].maps[0])


def label_image(context: Context, graders: list, sample: Sample) -> tuple[dict[str, Any], np.ndarray]:
    """Labels one image; returns its row of the table, and a strip of pictures that shows the reason."""
    config = context.config.pseudo
    probabilities, choice, maps = grade_with_graders(context, graders, sample)
    masks = {name: (sample.mask_bits & bit) > 0 for name, bit in MASK_BITS.items()}
    agreement = map_agreement(maps, masks["fused"], masks["OD"], masks["valid"], config)
    admissible = admissible_grades(sample.evidence_px, sample.least_grade)
    refined = refine(choice, admissible, agreement, config)
    after, why = (refined.grade, refined.reason) if config.refine else (choice.grade, "refinement is off")
    row: dict[str, Any] = {"image": sample.image_id}
    for (name, *_), p in zip(graders, probabilities, strict=True):
        row |= {f"{name}/grade": int(p.argmax()), f"{name}/confidence": round(float(p.max()), 4)}
    row |= {
        "admissible": " ".join(map(str, np.flatnonzero(admissible))),
        "before": choice.grade,
        "after": after,
        "changed": int(after != choice.grade),
        "why": why,
    }
    for kind in AGREEMENTS:
        values = getattr(agreement, kind)
        row |= {f"{kind}_{grade}": round(float(values[grade]), 4) for grade in range(NUM_GRADES)}
    return row, cam_strip(sample.image, masks["fused"], maps)


def read_label_table(path: Path) -> dict[str, dict[str, str]]:
    """Reads the rows of `pseudo_labels.csv` by image; the table may have been edited by hand.

    Raises:
        DataError: The stage has not run, a column is missing, or grades are outside 0..4; all errors at once.
    """
    if not path.is_file():
        raise DataError(path, "no pseudo-labels", "the table of stage 1", "run `python main.py pseudo-label` first")
    rows = read_rows(path, ("image", "before", "after", "true_grade"))
    known = [str(grade) for grade in range(NUM_GRADES)]
    allowed = {"before": known, "after": known, "true_grade": [*known, ""]}
    raise_all(
        [
            DataError(f"{path}, line {line}", f"{name} = {row[name]!r}", "0, 1, 2, 3 or 4", "correct the row")
            for line, row in rows
            for name, grades in allowed.items()
            if row[name] not in grades
        ]
    )
    return {row["image"]: row for _, row in rows}


def summarise_labels(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns accuracy and kappa of the pseudo-labels before and after refinement, on images with a known true grade."""
    known = [row for row in rows if row["true_grade"] != ""]
    metrics: dict[str, Any] = {
        "pseudo/n": len(rows),
        "pseudo/n_known": len(known),
        "pseudo/changed": sum(str(row["before"]) != str(row["after"]) for row in rows),
    }
    if not known:
        return metrics
    truth = np.array([int(row["true_grade"]) for row in known])
    majority = int(np.bincount(truth, minlength=NUM_GRADES).argmax())
    for when in ("before", "after"):
        one_hot = np.eye(NUM_GRADES)[[int(row[when]) for row in known]]
        measured = grading_metrics(one_hot, truth, majority)
        metrics[f"pseudo/accuracy_{when}"] = measured["grade/accuracy"]
        metrics[f"pseudo/kappa_{when}"] = measured["grade/kappa"]
        metrics["pseudo/majority"] = measured["grade/majority"]
    return metrics

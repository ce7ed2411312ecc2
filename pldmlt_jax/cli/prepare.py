"""`prepare`: raw files -> prepared sets, and `data.json` with who is in which split."""

import numpy as np

from pldmlt_jax.cli.context import Context
from pldmlt_jax.config import NO_SET, SyntheticConfig
from pldmlt_jax.data.description import describe, fold_rows
from pldmlt_jax.data.folds import write_folds
from pldmlt_jax.data.prepared import open_prepared
from pldmlt_jax.data.selection import choose_splits
from pldmlt_jax.data.synthetic import draw_fundus, ensure_written
from pldmlt_jax.errors import UserError, gathered, raise_all
from pldmlt_jax.evaluation.figures import captioned, overlay, write_picture
from pldmlt_jax.progress import progress
from pldmlt_jax.types import NUM_GRADES

SHEET_COLUMNS = 3


def prepare(context: Context) -> None:
    """Opens (and so prepares) every set that the run needs."""
    data = context.config.data
    synthetic = "synthetic" in data.segmentation or "synthetic" in data.grading
    if synthetic:
        with progress("draw synthetic photographs") as task:
            ensure_written(data.synthetic, data.cache_dir, task)
        write_picture(context.workdir / "contact_sheet", contact_sheet(data.synthetic))
    errors: list[UserError] = []
    with gathered(errors):
        _ = context.segmented
    if errors and data.grading != NO_SET:  # what is wrong with the other set's photographs is told together with it
        with gathered(errors), progress(f"prepare {data.grading} for the graders") as task:
            open_prepared(data.grading, data, context.config.grader.size_px, task)
    raise_all(errors)
    sets = {data.segmentation: context.segmented, data.grading: context.graded_for_graders}
    choose_splits(sets, context.arguments.split)  # a split that is not there is told now, not after training
    facts = describe(context.segmented, context.graded_for_graders, data)
    context.write_json("data.json", facts)
    if folds := fold_rows(context.segmented, data):
        write_folds(context.workdir / "folds.csv", folds)
    for key in ("segmentation", "grading"):
        for message in facts[key]["bad_files"]:
            print(f"  left out: {message}")


def contact_sheet(config: SyntheticConfig) -> np.ndarray:
    """A row for each grade: drawn photographs, each beside itself with its lesions outlined."""
    rows = []
    for grade in range(NUM_GRADES):
        panels = []
        for i in range(SHEET_COLUMNS):
            fundus = draw_fundus((config.seed, 5, grade, i), grade, config.height_px)
            panels += [captioned(fundus.image, f"grade {grade}"), captioned(overlay(fundus.image, fundus.masks), "")]
        rows.append(np.concatenate(panels, axis=1))
    return np.concatenate(rows)

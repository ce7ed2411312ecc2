"""`prepare`: raw files -> prepared sets, and `data.json` with who is in which split."""

import cv2
import numpy as np

from pldmlt_jax.config import SyntheticConfig, has_stage_1
from pldmlt_jax.data.augment import augment, make_training_window
from pldmlt_jax.data.loader import sample_rng
from pldmlt_jax.data.preprocessing.store import open_prepared
from pldmlt_jax.data.splits.folds import write_folds
from pldmlt_jax.data.splits.selection import choose_splits
from pldmlt_jax.data.splits.summary import dataset_summary, fold_rows
from pldmlt_jax.data.synthetic.dataset import draw_fundus, ensure_synthetic_set
from pldmlt_jax.errors import UserError, collect_errors, raise_all
from pldmlt_jax.io.progress import progress
from pldmlt_jax.reporting.overlays import add_caption, overlay, write_picture
from pldmlt_jax.types import LESIONS, MASK_BITS, NUM_GRADES
from pldmlt_jax.workflow.context import Context

SHEET_COLUMNS = 3
AUGMENTED_COLUMNS, AUGMENTED_PX = 5, 320


def prepare(context: Context) -> None:
    """Opens (and so prepares) every set that the run needs."""
    data = context.config.data
    synthetic = "synthetic" in data.segmentation or "synthetic" in data.grading
    if synthetic:
        with progress("draw synthetic photographs") as task:
            ensure_synthetic_set(data.synthetic, data.cache_dir, task)
        write_picture(context.workdir / "contact_sheet", contact_sheet(data.synthetic))
    errors: list[UserError] = []
    with collect_errors(errors):
        _ = context.segmented
    if errors and has_stage_1(context.config):  # what is wrong with the other set's photographs is told together with it
        with collect_errors(errors), progress(f"prepare {data.grading} for the graders") as task:
            open_prepared(data.grading, data, context.config.grader.size_px, task)
    raise_all(errors)
    sets = {data.segmentation: context.segmented, data.grading: context.graded_for_training}
    choose_splits(sets, context.options.split)  # a split that is not there is told now, not after training
    facts = dataset_summary(context.segmented, context.graded_for_training, data)
    context.write_json("data.json", facts)
    if context.options.augmented:
        write_picture(context.workdir / "augmented", augmented_sheet(context))
        print(f"  training images as training sees them: {context.workdir / 'augmented.jpg'}")
    folds_file = context.workdir / "folds.csv"
    folds_file.unlink(missing_ok=True)
    if folds := fold_rows(context.segmented, data):
        write_folds(folds_file, folds)
    for key in ("segmentation", "grading"):
        for message in facts[key]["bad_files"]:
            print(f"  left out: {message}")


def augmented_sheet(context: Context) -> np.ndarray:
    """A row for each image: as it is, and as training sees it in its first epochs, lesions outlined."""
    config, training = context.config, context.segmented["train"]
    window = make_training_window(config.train)
    rows = []
    for index in map(int, training.indices[: context.options.augmented]):
        sample = training.split[index]
        panels = [add_caption(_with_lesions(sample.image, sample.mask_bits), sample.image_id)]
        for epoch in range(AUGMENTED_COLUMNS):
            rng = sample_rng(config.seed, epoch, index)
            drawn = augment(sample.image, sample.mask_bits, config.data.augment, rng, window)
            panels.append(add_caption(_with_lesions(*drawn), f"epoch {epoch}"))
        rows.append(np.concatenate(panels, axis=1))
    return np.concatenate(rows)


def _with_lesions(image: np.ndarray, mask_bits: np.ndarray) -> np.ndarray:
    masks = {lesion: (mask_bits & MASK_BITS[lesion]) > 0 for lesion in LESIONS}
    if not any(mask.any() for mask in masks.values()):  # a set that does not tell them apart
        masks = {"lesion": (mask_bits & MASK_BITS["fused"]) > 0}
    return cv2.resize(overlay(image, masks), (AUGMENTED_PX, AUGMENTED_PX), interpolation=cv2.INTER_AREA)


def contact_sheet(config: SyntheticConfig) -> np.ndarray:
    """A row for each grade: drawn photographs, each beside itself with its lesions outlined."""
    rows = []
    for grade in range(NUM_GRADES):
        panels = []
        for i in range(SHEET_COLUMNS):
            fundus = draw_fundus((config.seed, 5, grade, i), grade, config.height_px)
            panels += [add_caption(fundus.image, f"grade {grade}"), add_caption(overlay(fundus.image, fundus.masks), "")]
        rows.append(np.concatenate(panels, axis=1))
    return np.concatenate(rows)

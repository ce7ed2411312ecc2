"""The stage `prepare`: turns raw files into prepared sets and writes `data.json` and `folds.csv`."""

import cv2
import numpy as np

from pldmlt_jax.config import SyntheticConfig
from pldmlt_jax.data.augment import augment, make_training_window
from pldmlt_jax.data.loader import sample_rng
from pldmlt_jax.data.splits.folds import write_folds
from pldmlt_jax.data.splits.selection import choose_splits
from pldmlt_jax.data.splits.summary import dataset_summary, fold_rows
from pldmlt_jax.data.synthetic.dataset import draw_fundus, ensure_synthetic_set
from pldmlt_jax.io.progress import show_progress
from pldmlt_jax.reporting.overlays import add_caption, overlay, write_picture
from pldmlt_jax.types import LESIONS, MASK_BITS, NUM_GRADES
from pldmlt_jax.workflow.context import Context

SHEET_COLUMNS = 3
AUGMENTED_COLUMNS, AUGMENTED_PX = 5, 320


def prepare(context: Context) -> None:
    """Prepares the images of the run, and writes which image is in which split."""
    draw_synthetic_images(context)
    context.prepare_sets()
    segmented, graded = context.segmented, context.graded_for_training
    data = context.config.data
    choose_splits({data.segmentation: segmented, data.grading: graded}, context.options.split)  # rejects an unknown split
    summary = dataset_summary(segmented, graded, data)
    context.write_json("data.json", summary)
    write_augmented_sheet(context)
    write_folds_file(context)
    for key in ("segmentation", "grading"):
        for message in summary[key]["bad_files"]:
            print(f"  left out: {message}")


def draw_synthetic_images(context: Context) -> None:
    """Draws the synthetic images, if the run uses them, and a sheet that shows some of each grade."""
    data = context.config.data
    if "synthetic" in data.segmentation or "synthetic" in data.grading:
        with show_progress("draw synthetic images") as task:
            ensure_synthetic_set(data.synthetic, data.cache_dir, task)
        write_picture(context.workdir / "contact_sheet", contact_sheet(data.synthetic))


def write_folds_file(context: Context) -> None:
    """Writes the fold of each image to folds.csv; there is no such file with official splits."""
    path = context.workdir / "folds.csv"
    path.unlink(missing_ok=True)
    if folds := fold_rows(context.segmented, context.config.data):
        write_folds(path, folds)


def write_augmented_sheet(context: Context) -> None:
    """Writes a sheet of augmented training images if `--augmented` gives their number."""
    if context.options.augmented:
        write_picture(context.workdir / "augmented", augmented_sheet(context))
        print(f"  augmented training images: {context.workdir / 'augmented.jpg'}")


def augmented_sheet(context: Context) -> np.ndarray:
    """Draws a row for each image: without augmentation and as augmented in the first epochs, with lesions outlined."""
    config, training = context.config, context.segmented["train"]
    window = make_training_window(config.train)
    rows = []
    for index in map(int, training.indices[: context.options.augmented]):
        sample = training.split[index]
        panels = [add_caption(_with_lesions(sample.image, sample.mask_bits), sample.image_id)]
        for epoch in range(AUGMENTED_COLUMNS):
            rng = sample_rng(config.seed, epoch, index)
            augmented = augment(sample.image, sample.mask_bits, config.data.augment, rng, window)
            panels.append(add_caption(_with_lesions(*augmented), f"epoch {epoch}"))
        rows.append(np.concatenate(panels, axis=1))
    return np.concatenate(rows)


def _with_lesions(image: np.ndarray, mask_bits: np.ndarray) -> np.ndarray:
    masks = {lesion: (mask_bits & MASK_BITS[lesion]) > 0 for lesion in LESIONS}
    if not any(mask.any() for mask in masks.values()):  # a set whose masks do not say which lesion they show
        masks = {"lesion": (mask_bits & MASK_BITS["fused"]) > 0}
    return cv2.resize(overlay(image, masks), (AUGMENTED_PX, AUGMENTED_PX), interpolation=cv2.INTER_AREA)


def contact_sheet(config: SyntheticConfig) -> np.ndarray:
    """Draws a row for each grade: synthetic images, each next to a copy with its lesions outlined."""
    rows = []
    for grade in range(NUM_GRADES):
        panels = []
        for i in range(SHEET_COLUMNS):
            fundus = draw_fundus((config.seed, 5, grade, i), grade, config.height_px)
            panels += [add_caption(fundus.image, f"grade {grade}"), add_caption(overlay(fundus.image, fundus.masks), "")]
        rows.append(np.concatenate(panels, axis=1))
    return np.concatenate(rows)

"""`evaluate --predictions=DIR`: any method's mask files against a set's own masks, at the photographs' own size."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pldmlt_jax.data.splits.selection import Selection, choose_splits, official_splits, select_split
from pldmlt_jax.errors import DataError, UserError, raise_all
from pldmlt_jax.evaluation.mask_files import MaskEncoding, MaskFiles, find_mask_files, read_probabilities, scan_mask_files
from pldmlt_jax.evaluation.metrics.baselines import (
    EMPTY_HISTOGRAMS,
    best_threshold,
    channel_histograms,
    format_threshold,
    pixel_histograms,
    threshold_metrics,
)
from pldmlt_jax.evaluation.metrics.curves import CURVES_FILE
from pldmlt_jax.evaluation.metrics.segmentation import SegmentationCounts
from pldmlt_jax.evaluation.original_size import ORIGINAL, compute_area_columns, count_image, read_original
from pldmlt_jax.io.files import write_json, write_rows
from pldmlt_jax.io.progress import Task, progress
from pldmlt_jax.types import LESIONS
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.options import RunOptions

SHOWN = (
    ("lesions, foreground Dice", "seg/foreground/dice", "baseline/channel_threshold/dice"),
    ("lesions, micro Dice + background", "seg/micro_bg/dice", "seg/micro_bg/dice_all_background"),
)


def output_folder(options: RunOptions) -> Path:
    """Where the figures go."""
    return Path(options.output or options.workdir / "scored" / (Path(options.predictions).resolve().name or "masks"))


def main(options: RunOptions) -> None:
    """Writes `metrics.json`, `curves.json` and `per_image.csv`, as `evaluate` does, of what masks alone give."""
    context, folder = Context(options), Path(options.predictions)
    if not folder.is_dir():
        raise DataError(folder, "no such folder", "a folder of mask files", "check --predictions")
    split = choose_splits({"seg": context.segmented}, options.split)["seg"]
    selection = select_split(context.segmented, split)
    errors: list[UserError] = []
    files = find_mask_files(folder, selection.image_ids, other_images(context, selection), errors)
    paths = paths_of(files, selection)
    with progress("read masks", len(paths)) as task:
        encoding = scan_mask_files(paths, errors, lambda path: task.advance(path.name))
    raise_all(errors)
    with progress("score masks", len(selection)) as task:
        figures, curves, rows = score(context, files, selection, encoding, task)
    output = output_folder(options)
    about = {"seg/split": split, "predictions": str(folder), "predictions/lesions": list(files.lesions)}
    write_json(output / "metrics.json", about | figures)
    write_json(output / CURVES_FILE, {"network_size": {}, "original_size": curves})
    write_rows(output / "per_image.csv", rows)
    if encoding.probabilities and encoding.num_binary:
        print(
            f"  {encoding.num_binary} files hold only 0 and 1, read as near-zero probabilities: other files have more values"
        )
    if files.others:
        print(f"  {files.others} files are of images that are not in split {split!r}, and were left alone")
    for what, name, baseline in SHOWN:
        shown = [figures.get(f"{each}{ORIGINAL}") for each in (name, baseline)]
        values = ["undefined" if value is None else f"{value:.3f}" for value in shown]
        print(f"{what:<34}{values[0]}   (baseline {values[1]}), at the photographs' own size")
    print(f"all figures: {output / 'metrics.json'}, {CURVES_FILE} and per_image.csv beside it")


def other_images(context: Context, selection: Selection) -> set[str]:
    """Images of the set that are not scored now."""
    every = {image_id for split in official_splits(context.segmented) for image_id in split.image_ids}
    return every - set(selection.image_ids)


def originals(selection: Selection) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """Name, place in the split, height and width of each image."""
    for index in map(int, selection.indices):
        geometry = selection.split.metadata[index].geometry
        yield selection.split.image_ids[index], index, (geometry.original_height_px, geometry.original_width_px)


def paths_of(files: MaskFiles, selection: Selection) -> dict[Path, tuple[int, int]]:
    """Every file of the images that are scored, with its photograph's height and width."""
    return {path: shape for name, _, shape in originals(selection) for path in files.files.get(name, {}).values()}


def score(
    context: Context, files: MaskFiles, selection: Selection, encoding: MaskEncoding, task: Task
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """The figures of all images, pooled, each named as at the original size, their curves, and a row for each image."""
    config = context.config
    baseline = best_threshold(channel_histograms(context.segmented["train"]))
    counts, pixels, rows = SegmentationCounts.empty(files.target), EMPTY_HISTOGRAMS, []
    for name, index, shape in originals(selection):
        image, bits = read_original(selection.split.records[index], config.data)
        found = {
            lesion: read_probabilities(path, shape, has_probabilities=encoding.probabilities)
            for lesion, path in files.files[name].items()
        }
        if files.target == "fused":
            (p,) = found.values()
            probabilities = np.stack([1.0 - p, p], axis=-1)
        else:
            nothing = np.zeros(shape, np.float32)
            probabilities = np.stack([found.get(lesion, nothing) for lesion in LESIONS], axis=-1)
        counted = count_image(probabilities, bits, files.target, config.evaluation.threshold)
        counts, pixels = counts.merge(counted), pixels + pixel_histograms(image, bits)
        rows.append({"image": name} | {f"{key}{ORIGINAL}": value for key, value in compute_area_columns(counted).items()})
        task.advance(name)
    figures = {f"{key}{ORIGINAL}": value for key, value in counts.compute().items() if _is_predicted(key, files)}
    figures |= {"seg/threshold": config.evaluation.threshold, "baseline/channel_threshold/rule": format_threshold(baseline)}
    curves = {name: curve for name, curve in counts.curves().items() if name in ("lesion", *files.lesions)}
    return figures | threshold_metrics(baseline, pixels, ORIGINAL), curves, rows


def _is_predicted(figure: str, files: MaskFiles) -> bool:
    """Whether a figure is of lesions that the files speak of; a mean over four lesions is, where they speak of all."""
    lesion = figure.split("/")[1]
    absent = [name for name in LESIONS if files.target == "lesions" and name not in files.lesions]
    return lesion not in absent and not (lesion == "mean" and absent)

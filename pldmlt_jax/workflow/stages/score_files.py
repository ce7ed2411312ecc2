"""`evaluate --predictions=DIR`: any method's mask files against a set's own masks, at the photographs' own size."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pldmlt_jax.cli.flags import Arguments
from pldmlt_jax.data.splits.selection import Selection, choose_splits, official_splits, selected
from pldmlt_jax.errors import DataError, UserError, raise_all
from pldmlt_jax.evaluation.mask_files import MaskFiles, Meaning, find_mask_files, read_all, read_probabilities
from pldmlt_jax.evaluation.metrics.baselines import (
    NO_PIXELS,
    best_threshold,
    channel_histograms,
    pixel_histograms,
    rule,
    threshold_metrics,
)
from pldmlt_jax.evaluation.metrics.curves import FILE as CURVES
from pldmlt_jax.evaluation.metrics.segmentation import SegmentationCounts
from pldmlt_jax.evaluation.original_size import ORIGINAL, area_columns, count_one, read_original
from pldmlt_jax.io.files import write_json, write_rows
from pldmlt_jax.io.progress import ProgressTask, show_progress
from pldmlt_jax.types import LESIONS
from pldmlt_jax.workflow.context import Context

SHOWN = (
    ("lesions, foreground Dice", "seg/foreground/dice", "baseline/channel_threshold/dice"),
    ("lesions, micro Dice + background", "seg/micro_bg/dice", "seg/micro_bg/dice_all_background"),
)


def output_folder(arguments: Arguments) -> Path:
    """Where the figures go."""
    return Path(arguments.output or arguments.workdir / "scored" / (Path(arguments.predictions).resolve().name or "masks"))


def main(arguments: Arguments) -> None:
    """Writes `metrics.json`, `curves.json` and `per_image.csv`, as `evaluate` does, of what masks alone give."""
    context, folder = Context(arguments), Path(arguments.predictions)
    if not folder.is_dir():
        raise DataError(folder, "no such folder", "a folder of mask files", "check --predictions")
    split = choose_splits({"seg": context.segmented}, arguments.split)["seg"]
    selection = selected(context.segmented, split)
    errors: list[UserError] = []
    files = find_mask_files(folder, selection.image_ids, other_images(context, selection), errors)
    paths = paths_of(files, selection)
    with show_progress("read masks", len(paths)) as task:
        meaning = read_all(paths, errors, lambda path: task.advance(path.name))
    raise_all(errors)
    with show_progress("score masks", len(selection)) as task:
        figures, curves, rows = score(context, files, selection, meaning, task)
    output = output_folder(arguments)
    about = {"seg/split": split, "predictions": str(folder), "predictions/lesions": list(files.lesions)}
    write_json(output / "metrics.json", about | figures)
    write_json(output / CURVES, {"network_size": {}, "original_size": curves})
    write_rows(output / "per_image.csv", rows)
    if meaning.probabilities and meaning.faint:
        print(f"  {meaning.faint} files hold 0 and 1 alone: probabilities next to nothing, for other files have more values")
    if files.others:
        print(f"  {files.others} files are of images that are not in split {split!r}, and were left alone")
    for what, name, baseline in SHOWN:
        shown = [figures.get(f"{each}{ORIGINAL}") for each in (name, baseline)]
        values = ["undefined" if value is None else f"{value:.3f}" for value in shown]
        print(f"{what:<34}{values[0]}   (baseline {values[1]}), at the photographs' own size")
    print(f"all figures: {output / 'metrics.json'}, {CURVES} and per_image.csv beside it")


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
    context: Context, files: MaskFiles, selection: Selection, meaning: Meaning, task: ProgressTask
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """The figures of all images, pooled, each named as at the original size, their curves, and a row for each image."""
    config = context.config
    baseline = best_threshold(channel_histograms(context.segmented["train"]))
    counts, pixels, rows = SegmentationCounts.empty(files.target), NO_PIXELS, []
    for name, index, shape in originals(selection):
        image, bits = read_original(selection.split.records[index], config.data)
        found = {
            lesion: read_probabilities(path, shape, has_probabilities=meaning.probabilities)
            for lesion, path in files.files[name].items()
        }
        if files.target == "fused":
            (p,) = found.values()
            probabilities = np.stack([1.0 - p, p], axis=-1)
        else:
            nothing = np.zeros(shape, np.float32)
            probabilities = np.stack([found.get(lesion, nothing) for lesion in LESIONS], axis=-1)
        counted = count_one(probabilities, bits, files.target, config.evaluation.threshold)
        counts, pixels = counts.merge(counted), pixels + pixel_histograms(image, bits)
        rows.append({"image": name} | {f"{key}{ORIGINAL}": value for key, value in area_columns(counted).items()})
        task.advance(name)
    figures = {f"{key}{ORIGINAL}": value for key, value in counts.compute().items() if _is_predicted(key, files)}
    figures |= {"seg/threshold": config.evaluation.threshold, "baseline/channel_threshold/rule": rule(baseline)}
    curves = {name: curve for name, curve in counts.curves().items() if name in ("lesion", *files.lesions)}
    return figures | threshold_metrics(baseline, pixels, ORIGINAL), curves, rows


def _is_predicted(figure: str, files: MaskFiles) -> bool:
    """Whether a figure is of lesions that the files speak of; a mean over four lesions is, where they speak of all."""
    lesion = figure.split("/")[1]
    absent = [name for name in LESIONS if files.target == "lesions" and name not in files.lesions]
    return lesion not in absent and not (lesion == "mean" and absent)

"""`evaluate --predictions=DIR`: scores the mask files of any method at the original size of the images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pldmlt_jax.data.splits.selection import Selection, choose_splits, official_splits, select_split
from pldmlt_jax.errors import DataError, UserError, raise_all
from pldmlt_jax.evaluation.mask_files import MaskEncoding, MaskFiles, find_mask_files, read_probabilities, scan_mask_files
from pldmlt_jax.evaluation.metrics.baselines import best_threshold, channel_histograms, format_threshold
from pldmlt_jax.evaluation.metrics.curves import CURVES_FILE
from pldmlt_jax.evaluation.original_size import ORIGINAL
from pldmlt_jax.evaluation.scoring import SegmentationScores
from pldmlt_jax.io.csv_files import write_rows
from pldmlt_jax.io.files import write_json
from pldmlt_jax.io.progress import ProgressTask, show_progress
from pldmlt_jax.types import LESIONS
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.options import RunOptions

SHOWN = (
    ("lesions, foreground Dice", "seg/foreground/dice", "baseline/channel_threshold/dice"),
    ("lesions, micro Dice + background", "seg/micro_bg/dice", "seg/micro_bg/dice_all_background"),
)


def choose_output_folder(options: RunOptions) -> Path:
    """Returns the folder for the results."""
    return Path(options.output or options.workdir / "scored" / (Path(options.predictions).resolve().name or "masks"))


def main(options: RunOptions) -> None:
    """Writes `metrics.json`, `curves.json` and `per_image.csv` as `evaluate` does, restricted to the metrics of masks.

    Raises:
        DataError: There is no folder `--predictions`.
        UserError: Files are missing or cannot be read as masks; all such errors at once.
    """
    context, folder = Context(options), Path(options.predictions)
    if not folder.is_dir():
        raise DataError(folder, "no such folder", "a folder of mask files", "check --predictions")
    split = choose_splits({"seg": context.segmented}, options.split)["seg"]
    selection = select_split(context.segmented, split)
    errors: list[UserError] = []
    files = find_mask_files(folder, selection.image_ids, list_other_images(context, selection), errors)
    paths = list_paths(files, selection)
    with show_progress("read masks", len(paths)) as task:
        encoding = scan_mask_files(paths, errors, lambda path: task.advance(path.name))
    raise_all(errors)
    with show_progress("score masks", len(selection)) as task:
        metrics, curves, rows = score_mask_files(context, files, selection, encoding, task)
    output = choose_output_folder(options)
    facts = {"seg/split": split, "predictions": str(folder), "predictions/lesions": list(files.lesions)}
    write_json(output / "metrics.json", facts | metrics)
    write_json(output / CURVES_FILE, {"network_size": {}, "original_size": curves})
    write_rows(output / "per_image.csv", rows)
    if encoding.probabilities and encoding.num_binary:
        print(
            f"  {encoding.num_binary} files contain only 0 and 1, read as probabilities because other files have more values"
        )
    if files.num_others:
        print(f"  {files.num_others} files belong to images outside split {split!r} and are not scored")
    for what, name, baseline in SHOWN:
        shown = [metrics.get(f"{each}{ORIGINAL}") for each in (name, baseline)]
        values = ["undefined" if value is None else f"{value:.3f}" for value in shown]
        print(f"{what:<34}{values[0]}   (baseline {values[1]}), at original image size")
    print(f"all metrics: {output / 'metrics.json'}, with {CURVES_FILE} and per_image.csv next to it")


def list_other_images(context: Context, selection: Selection) -> set[str]:
    """Returns the ids of all images of the set that are not in the selection."""
    every = {image_id for split in official_splits(context.segmented) for image_id in split.image_ids}
    return every - set(selection.image_ids)


def iterate_originals(selection: Selection) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """Yields the id of each image, its index in the split, and its original height and width."""
    for index in map(int, selection.indices):
        geometry = selection.split.metadata[index].geometry
        yield selection.split.image_ids[index], index, (geometry.original_height_px, geometry.original_width_px)


def list_paths(files: MaskFiles, selection: Selection) -> dict[Path, tuple[int, int]]:
    """Returns all mask files of the selected images, with the original height and width of their image."""
    return {path: shape for name, _, shape in iterate_originals(selection) for path in files.files.get(name, {}).values()}


def score_mask_files(
    context: Context, files: MaskFiles, selection: Selection, encoding: MaskEncoding, task: ProgressTask
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Scores the mask files of all selected images.

    Returns:
        The pooled metrics, named as at the original size; their curves; and a row for each image.
    """
    scores, rows = SegmentationScores(files.target, context.config), []
    for name, index, shape in iterate_originals(selection):
        probabilities = read_prediction(files, name, shape, encoding)
        rows.append({"image": name} | scores.add_original(selection.split.records[index], probabilities))
        task.advance(name)
    baseline = best_threshold(channel_histograms(context.segmented["train"]))
    metrics = scores.original.compute(baseline, ORIGINAL)
    metrics = {name: value for name, value in metrics.items() if _is_predicted(name, files)}
    threshold = context.config.evaluation.threshold
    metrics |= {"seg/threshold": threshold, "baseline/channel_threshold/rule": format_threshold(baseline)}
    curves = {name: curve for name, curve in scores.original.counts.curves().items() if name in ("lesion", *files.lesions)}
    return metrics, curves, rows


def read_prediction(
    files: MaskFiles, name: str, shape: tuple[int, int], encoding: MaskEncoding
) -> Float[np.ndarray, "h w k"]:
    """Reads the mask files of one image as probabilities of the segmentation channels."""
    found = {
        lesion: read_probabilities(path, shape, has_probabilities=encoding.probabilities)
        for lesion, path in files.files[name].items()
    }
    if files.target == "fused":
        (p,) = found.values()
        return np.stack([1.0 - p, p], axis=-1)
    nothing = np.zeros(shape, np.float32)
    return np.stack([found.get(lesion, nothing) for lesion in LESIONS], axis=-1)


def _is_predicted(metric: str, files: MaskFiles) -> bool:
    """Tells whether a metric can be computed from the given files; a mean over the four lesions needs files of each."""
    lesion = metric.split("/")[1]
    absent = [name for name in LESIONS if files.target == "lesions" and name not in files.lesions]
    return lesion not in absent and not (lesion == "mean" and absent)

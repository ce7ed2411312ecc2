"""Figures 1, 6 and 7 of the paper for any trained networks, and an overview of one prediction."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8
from matplotlib.figure import Figure

from pldmlt_jax.config import has_stage_1
from pldmlt_jax.data.splits.selection import choose_splits, select_split
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.evaluation.metrics.segmentation import dice
from pldmlt_jax.evaluation.original_size import read_original
from pldmlt_jax.evaluation.predictor import Prediction, Predictor
from pldmlt_jax.io.progress import show_progress
from pldmlt_jax.reporting.paper_figures import (
    MaskRow,
    Masks,
    NetworkMask,
    plot_grade_maps,
    plot_mask_rows,
    plot_overview,
    plot_single_lesions,
    write_figure,
)
from pldmlt_jax.types import LESIONS, MASK_BITS
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.load_checkpoint import load_networks, make_predictor
from pldmlt_jax.workflow.stages.pseudo_label import grade_with_graders, load_graders

COMPARED_LESIONS = ("EX", "SE")
"""Lesions of Fig. 7."""

ImageArray = UInt8[np.ndarray, "h w 3"]
MaskBits = UInt8[np.ndarray, "h w"]


def make_figures(context: Context, image_names: Sequence[str], output: Path) -> str:
    """Writes the figures as PDF, SVG and PNG.

    Args:
        context: The run, with one network or several.
        image_names: Names of images of the split; if empty, images are chosen by their lesions.
        output: The folder for the figures.

    Returns:
        The image that figures 1 and 6 and the overview show, and its split.

    Raises:
        ConfigError: The split has no image with one of the names.
    """
    networks = load_networks(context)
    predictors = [make_predictor([network], network.config) for network in networks]
    titles = shorten_names([network.directory for network in networks])
    split = choose_splits({"segmentation": context.segmented}, context.options.split)["segmentation"]
    images = SplitImages(context, split)
    named = [images.find(name) for name in image_names if name]
    shown = named[0] if named else find_most_kinds(images.areas_px)
    plots: dict[str, Callable[[], Figure | None]] = {
        "figure1": lambda: plot_single_lesions(images.read(shown)[0], images.read_masks(shown)),
        "figure6": lambda: plot_figure_6(context, images, shown),
        "figure7": lambda: plot_figure_7(images, named, dict(zip(titles, predictors, strict=True))),
        "overview": lambda: plot_prediction(images.read(shown)[0], predictors[0]),
    }
    with show_progress("figures", len(plots)) as task:
        for name, plot in plots.items():
            figure = plot()
            if figure is not None:
                write_figure(output, name, figure)
            task.advance(name)
    return f"{images.names[shown]} (split {split})"


def has_trained_graders(context: Context) -> bool:
    """Tells whether the workdir has all trained graders of stage 1."""
    folders = [context.workdir / "graders" / name / "metrics.json" for name in context.config.grader.architectures]
    return has_stage_1(context.config) and all(path.is_file() for path in folders)


def shorten_names(directories: Sequence[Path]) -> list[str]:
    """Returns a name for each network: the shortest ends of their folders' paths that all differ."""
    paths = [path.parent if path.name == "checkpoints" else path for path in directories]
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, start=1)]


def find_most_kinds(areas: Int[np.ndarray, "n 4"]) -> int:
    """Returns the position of the image with the most kinds of lesions: the one with the largest product of their areas."""
    return int(np.log1p(areas).sum(axis=1).argmax())


def find_median_area(areas: Int[np.ndarray, "n 4"], lesion: str) -> int | None:
    """Returns the position of the image with the median area of a lesion among those that have it; None if none has."""
    area = areas[:, LESIONS.index(lesion)]
    having = [position for position in np.argsort(area, kind="stable") if area[position] > 0]
    return int(having[len(having) // 2]) if having else None


class SplitImages:
    """The images of a split of the pixel-labelled set at their own size, by their position in the selection.

    Attributes:
        names: The name of each image.
        areas_px: Pixels of each lesion in each image, int [n, 4], in the order of LESIONS.
    """

    def __init__(self, context: Context, split: str):
        self.context, self.split, self.selection = context, split, select_split(context.segmented, split)
        indices = [int(index) for index in self.selection.indices]
        self.names = [self.selection.split.image_ids[index] for index in indices]
        self.areas_px = np.array([self.selection.split.metadata[index].lesion_px for index in indices])

    def find(self, name: str) -> int:
        """Returns the position of an image.

        Raises:
            ConfigError: The split has no such image.
        """
        if name.strip() not in self.names:
            some = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
            raise ConfigError("--images", f"{name!r}", f"images of split {self.split}: {some}", "name some of these")
        return self.names.index(name.strip())

    def read(self, position: int) -> tuple[ImageArray, MaskBits]:
        """Reads an image and its mask bits at their own size."""
        record = self.selection.split.records[int(self.selection.indices[position])]
        return read_original(record, self.context.config.data)

    def read_masks(self, position: int) -> Masks:
        """Reads the mask of each lesion; one mask of all lesions if the data set does not distinguish them."""
        bits = self.read(position)[1]
        masks = {lesion: bits & MASK_BITS[lesion] != 0 for lesion in LESIONS}
        return masks if any(mask.any() for mask in masks.values()) else {"lesion": bits & MASK_BITS["fused"] != 0}


def plot_figure_6(context: Context, images: SplitImages, position: int) -> Figure | None:
    """Plots the graders' maps of an image; returns None without trained graders."""
    if not has_trained_graders(context):
        return None
    selection = context.segmented_for_graders[images.split]
    sample = selection.split[int(selection.indices[position])]
    _, choice, maps = grade_with_graders(context, load_graders(context), sample)
    return plot_grade_maps(sample.image, sample.mask_bits & MASK_BITS["fused"] != 0, maps, choice.probabilities)


def plot_figure_7(images: SplitImages, named: Sequence[int], networks: Mapping[str, Predictor]) -> Figure | None:
    """Plots the masks of all networks for some images; returns None if no image has such lesions.

    Args:
        images: The images of the split.
        named: Positions of the images to show; if empty, one image is shown for each lesion.
        networks: Title -> network.
    """
    rows = []
    for lesion in COMPARED_LESIONS:
        for position in named or [find_median_area(images.areas_px, lesion)]:
            if position is None:
                continue
            image, bits = images.read(position)
            predictions = {title: predictor.predict(image) for title, predictor in networks.items()}
            masks = [make_network_mask(title, prediction, lesion, bits) for title, prediction in predictions.items()]
            truth = NetworkMask(f"truth ({lesion})", {lesion: bits & MASK_BITS[lesion] != 0})
            rows.append(MaskRow(f"{lesion}, {images.names[position]}", image, [*masks, truth]))
    return plot_mask_rows(rows) if rows else None


def make_network_mask(title: str, prediction: Prediction, lesion: str, bits: MaskBits) -> NetworkMask:
    """Returns a network's mask of a lesion with its Dice; its mask of all lesions if it does not distinguish them."""
    name = lesion if lesion in prediction.masks else "lesion"
    title, mask = title if name == lesion else f"{title}, any lesion", prediction.masks[name]
    truth = bits & MASK_BITS["fused" if name == "lesion" else name] != 0
    return NetworkMask(title, {name: mask}, _dice(mask, truth, bits & MASK_BITS["valid"] != 0))


def _dice(mask: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"]) -> float | None:
    counts = [int(np.count_nonzero(part & valid)) for part in (mask & truth, mask, truth)]
    return dice(*counts)


def plot_prediction(image: ImageArray, predictor: Predictor) -> Figure:
    """Plots an overview of a network's prediction for an image."""
    prediction = predictor.predict(image)
    graded = ""
    if prediction.grade_probabilities is not None:
        graded = f"grade {prediction.grade} (p = {prediction.grade_probabilities.max():.2f}), Grad-CAM"
    return plot_overview(image, prediction.masks, prediction.field_of_view, prediction.grade_map, graded)

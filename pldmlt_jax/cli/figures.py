"""`figures`: figures 1, 6 and 7 of the paper for any trained networks, and what comes out of one photograph."""

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
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.stages.pseudo_label import grade_with_graders, load_graders

COMPARED = ("EX", "SE")
"""Lesions of Fig. 7."""


def main(options: RunOptions) -> None:
    context = Context(options)
    networks = load_networks(context)
    predictors = [make_predictor([network], network.config) for network in networks]
    titles = names_of([network.directory for network in networks])
    split = choose_splits({"segmentation": context.segmented}, options.split)["segmentation"]
    photographs = Photographs(context, split)
    named = [photographs.place(name) for name in options.images.split(",") if name]
    shown = named[0] if named else most_kinds(photographs.areas_px)
    output = Path(options.output or context.workdir / "figures")
    made: dict[str, Callable[[], Figure | None]] = {
        "figure1": lambda: plot_single_lesions(photographs.image(shown), photographs.truth(shown)),
        "figure6": lambda: figure_6(context, photographs, shown),
        "figure7": lambda: figure_7(photographs, named, dict(zip(titles, predictors, strict=True))),
        "overview": lambda: figure_overview(photographs.image(shown), predictors[0]),
    }
    with show_progress("figures", len(made)) as task:
        for name, make in made.items():
            figure = make()
            if figure is not None:
                write_figure(output, name, figure)
            task.advance(name)
    print(f"  of {photographs.names[shown]} (split {split}), see {output}")
    if not graders_are_there(context):
        print("  without figure 6: the workdir has no graders, whose maps it shows")


def graders_are_there(context: Context) -> bool:
    folders = [context.workdir / "graders" / name / "metrics.json" for name in context.config.grader.architectures]
    return has_stage_1(context.config) and all(path.is_file() for path in folders)


def names_of(directories: Sequence[Path]) -> list[str]:
    """What tells the networks' folders apart: the shortest ends of their paths that all differ."""
    paths = [path.parent if path.name == "checkpoints" else path for path in directories]
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, start=1)]


def most_kinds(areas: Int[np.ndarray, "n 4"]) -> int:
    """The photograph in which most kinds of lesions are seen well: the largest product of their areas."""
    return int(np.log1p(areas).sum(axis=1).argmax())


def median_area(areas: Int[np.ndarray, "n 4"], lesion: str) -> int | None:
    """The photograph whose area of a lesion is the median of those that have it: none that was picked for its looks."""
    area = areas[:, LESIONS.index(lesion)]
    having = [place for place in np.argsort(area, kind="stable") if area[place] > 0]
    return int(having[len(having) // 2]) if having else None


class Photographs:
    """The images of a split of the pixel-labelled set, by their place in it, at their own size."""

    def __init__(self, context: Context, split: str):
        self.context, self.split, self.selection = context, split, select_split(context.segmented, split)
        of = [int(i) for i in self.selection.indices]
        self.names = [self.selection.split.image_ids[i] for i in of]
        self.areas_px = np.array([self.selection.split.metadata[i].lesion_px for i in of])  # [n, 4], by LESIONS

    def place(self, name: str) -> int:
        """Raises: ConfigError: The split has no such image."""
        if name.strip() not in self.names:
            some = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
            raise ConfigError("--images", f"{name!r}", f"images of split {self.split}: {some}", "name some of these")
        return self.names.index(name.strip())

    def read(self, place: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """Photograph and mask bits."""
        record = self.selection.split.records[int(self.selection.indices[place])]
        return read_original(record, self.context.config.data)

    def image(self, place: int) -> UInt8[np.ndarray, "h w 3"]:
        return self.read(place)[0]

    def truth(self, place: int) -> Masks:
        """Each lesion, or any where the set does not tell them apart."""
        bits = self.read(place)[1]
        masks = {lesion: bits & MASK_BITS[lesion] != 0 for lesion in LESIONS}
        return masks if any(mask.any() for mask in masks.values()) else {"lesion": bits & MASK_BITS["fused"] != 0}


def figure_6(context: Context, photographs: Photographs, place: int) -> Figure | None:
    if not graders_are_there(context):
        return None
    selection = context.segmented_for_graders[photographs.split]
    sample = selection.split[int(selection.indices[place])]
    _, choice, maps = grade_with_graders(context, load_graders(context), sample)
    return plot_grade_maps(sample.image, sample.mask_bits & MASK_BITS["fused"] != 0, maps, choice.probabilities)


def figure_7(photographs: Photographs, named: Sequence[int], networks: Mapping[str, Predictor]) -> Figure | None:
    """Rows of the images that the user named; without them, of one image for each lesion."""
    chosen = [(lesion, place) for lesion in COMPARED for place in (named or [median_area(photographs.areas_px, lesion)])]
    rows = []
    for lesion, place in chosen:
        if place is None:
            continue
        image, bits = photographs.read(place)
        predicted = {title: predictor.predict(image) for title, predictor in networks.items()}
        found = [answer_of(title, prediction, lesion, bits) for title, prediction in predicted.items()]
        truth = NetworkMask(f"truth ({lesion})", {lesion: bits & MASK_BITS[lesion] != 0})
        rows.append(MaskRow(f"{lesion}, {photographs.names[place]}", image, [*found, truth]))
    return plot_mask_rows(rows) if rows else None


def answer_of(title: str, prediction: Prediction, lesion: str, bits: UInt8[np.ndarray, "h w"]) -> NetworkMask:
    """A network's mask of a lesion and its Dice, or of any lesion where it does not tell them apart."""
    name = lesion if lesion in prediction.masks else "lesion"
    title, mask = title if name == lesion else f"{title}, any lesion", prediction.masks[name]
    truth = bits & MASK_BITS["fused" if name == "lesion" else name] != 0
    return NetworkMask(title, {name: mask}, _dice(mask, truth, bits & MASK_BITS["valid"] != 0))


def _dice(mask: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"]) -> float | None:
    counts = [int(np.count_nonzero(part & valid)) for part in (mask & truth, mask, truth)]
    return dice(*counts)


def figure_overview(image: UInt8[np.ndarray, "h w 3"], predictor: Predictor) -> Figure:
    p = predictor.predict(image)
    graded = "" if p.grade_probabilities is None else f"grade {p.grade} (p = {p.grade_probabilities.max():.2f}), Grad-CAM"
    return plot_overview(image, p.masks, p.field_of_view, p.grade_map, graded)

"""`model_card.md`: what an exported network is, what goes in and comes out, how well it does, and what it is not for."""

from collections.abc import Mapping, Sequence
from typing import Any

from pldmlt_jax.config import Config
from pldmlt_jax.evaluation.metrics.definitions import SEGMENTATION_METRICS
from pldmlt_jax.evaluation.operating_points import OperatingPoints, lesion_names
from pldmlt_jax.evaluation.original_size import ORIGINAL
from pldmlt_jax.export.export import Export, channel_names

GRADE_METRICS = ("accuracy", "majority", "kappa", "ece", "n")


def model_card(export: Export, figures: Mapping[str, Any], files: Sequence[str]) -> str:
    """The card as Markdown.

    Args:
        export: What was exported.
        figures: Of `metrics.json`, empty where the network was not evaluated.
        files: One line for each file that was written.
    """
    config = export.network.config
    sections = {
        "What it is": _what(config, export),
        "Files": "\n".join(f"- {line}" for line in files),
        "What goes in": _input(config, export),
        "What comes out": _output(config),
        "Operating points": operating_points_table(export.points, lesion_names(config.loss.target)),
        "How well it does": _figures(figures),
        "Limits": _limits(config),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    title = f"# {config.name}: lesions and grade of diabetic retinopathy"
    warning = "**Not a medical device**: nothing here may be used to diagnose or to treat."
    return f"{title}\n\n{warning}\n\n{body}\n"


def _what(config: Config, export: Export) -> str:
    trained = f"trained on {config.data.segmentation}"
    graders = "graders" if config.pseudo.source == "graders" else "its grades"
    trained += f", {graders} on {config.data.grading}" if config.loss.grading else ""
    return (
        f"A {config.model.encoder} encoder with a {config.model.decoder} decoder and a grading head (PLDMLT; Liu and Huang, "
        f"2023), {trained}, step {export.network.step}. The config of its training is in `config.json`."
    )


def _input(config: Config, export: Export) -> str:
    data, size = config.data, config.data.size_px
    steps = [
        "RGB, 8 bits, turned as the EXIF data say.",
        "Crop to the box of the field of view: the lit disc before the dark border." if data.fov_crop else "No crop.",
        f"Resize the longer side to {size} px (area averaging where it shrinks, else bilinear), pad with zeros to a square, "
        "evenly on both sides." if data.resize == "pad" else f"Resize to {size} x {size} px, whatever the shape.",
    ]  # fmt: skip
    if data.enhance != "none":
        steps.append(f"Enhance as `pldmlt_jax/data/preprocessing/contrast.py` does: {data.enhance}.")
    if export.tile_px < size:
        steps.append(f"Cut into windows of {export.tile_px} px, which are blended afterwards (`evaluation/tta.py`).")
    steps.append(
        "Values 0 to 255 as they are: the network itself scales and centres them. ONNX takes float32, StableHLO uint8."
    )
    return "\n".join(f"{i}. {step}" for i, step in enumerate(steps, 1))


def _output(config: Config) -> str:
    names = channel_names(config.loss.target)
    return (
        f"- `probabilities` [b, h, w, {len(names)}]: {', '.join(names)}. Outside the field of view they mean "
        "nothing: the network is not trained there, and `predict` sets them to zero.\n"
        "- `grade_logits` [b, 5]: of the grades 0 to 4; their softmax after division by the temperature below.\n"
        "- `grade_maps` [b, h', w', 5]: what each place adds to each logit; the positive part is Grad-CAM."
        + ("" if config.loss.grading else "\n\nThis network has **not learnt grades**: the last two mean nothing.")
    )


def operating_points_table(points: OperatingPoints, names: Sequence[str]) -> str:
    """As Markdown."""
    if points.step < 0:
        return "None were chosen: a pixel is of a lesion where its probability is above 0.5. The grades are uncalibrated."
    rows = ["| lesion | threshold | smallest component, px at the network's size | Dice there | Dice at 0.5 | images |",
            "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name in names:
        point = points.of(name)
        rows.append(
            f"| {name} | {point.threshold:g} | {point.min_area_px:g} | {_number(point.dice)} "
            f"| {_number(point.dice_at_half)} | {point.images} |"
        )
    calibration = (
        f"The grades' temperature is {points.temperature:.3f}, from {points.graded_images} truly graded validation images."
        if points.temperature
        else "The grades are uncalibrated: there were no truly graded validation images."
    )
    rows += [
        "",
        "Chosen on the validation images, whose own Dice this is and so a little too high: of those within one standard "
        f"error of the best Dice, the nearest to 0.5 and to dropping nothing. {calibration}",
    ]
    return "\n".join(rows)


def _number(value: Any) -> str:
    return "undefined" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _figures(figures: Mapping[str, Any]) -> str:
    if not figures:
        return "Not evaluated: `python main.py evaluate` scores it on held-out images."
    rows = [
        (
            name,
            _number(figures[name]),
            _number(figures.get(f"{name}{ORIGINAL}", "")),
            _number(figures.get(baseline or "", "")),
        )
        for name, baseline, _ in SEGMENTATION_METRICS
        if figures.get(name) is not None
    ]
    rows += [
        (f"grade/{name}", _number(figures[f"grade/{name}"]), "", "") for name in GRADE_METRICS if f"grade/{name}" in figures
    ]
    scored = ", ".join(
        f"{what}: {figures[key]}" for what, key in (("lesions", "seg/split"), ("grades", "grade/split")) if key in figures
    )
    table = ["| figure | network's size | own size | baseline |", "| --- | --- | --- | --- |"]
    return f"On the split {scored}.\n\n" + "\n".join([*table, *("| " + " | ".join(row) + " |" for row in rows)])


def _limits(config: Config) -> str:
    limits = [
        f"Learnt from {config.data.segmentation} alone: other cameras, populations and qualities of image are untested.",
        "Lesions smaller than a pixel of the prepared image cannot be seen.",
        "A picture that is no fundus photograph gets an answer, too.",
    ]
    if config.loss.grading and config.pseudo.source == "none":
        limits.append("Grades are learnt from truly graded photographs beside the lesions', with no pseudo-label.")
    elif config.loss.grading:
        limits.append(
            "Grades are learnt from pseudo-labels of images that all show disease, as in the paper: see the baseline."
        )
    return "\n".join(f"- {limit}" for limit in limits)

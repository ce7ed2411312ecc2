"""`model_card.md`: description, inputs, outputs, metrics and limits of an exported network."""

from collections.abc import Mapping, Sequence
from typing import Any

from pldmlt_jax.config import Config
from pldmlt_jax.evaluation.metrics.definitions import SEGMENTATION_METRICS
from pldmlt_jax.evaluation.operating_points import OperatingPoints, lesion_names
from pldmlt_jax.evaluation.original_size import ORIGINAL
from pldmlt_jax.export.export import Export, channel_names

GRADE_METRICS = ("accuracy", "majority", "kappa", "ece", "n")


def model_card(export: Export, metrics: Mapping[str, Any], files: Sequence[str]) -> str:
    """Makes the model card as Markdown.

    Args:
        export: The exported network.
        metrics: Content of `metrics.json`; empty if the network was not evaluated.
        files: One line for each file that was written.
    """
    config = export.network.config
    sections = {
        "Model": _describe_model(config, export),
        "Files": "\n".join(f"- {line}" for line in files),
        "Input": _describe_input(config, export),
        "Output": _describe_output(config),
        "Operating points": operating_points_table(export.points, lesion_names(config.loss.target)),
        "Metrics": _metrics_table(metrics),
        "Limits": _list_limits(config),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    title = f"# {config.name}: lesions and grade of diabetic retinopathy"
    warning = "**Not a medical device**: nothing here may be used to diagnose or to treat."
    return f"{title}\n\n{warning}\n\n{body}\n"


def _describe_model(config: Config, export: Export) -> str:
    trained = f"trained on {config.data.segmentation}"
    graders = "graders" if config.pseudo.source == "graders" else "its grades"
    trained += f", {graders} on {config.data.grading}" if config.loss.grading else ""
    return (
        f"A {config.model.encoder} encoder with a {config.model.decoder} decoder and a grading head (PLDMLT; Liu and Huang, "
        f"2023), {trained}, step {export.network.step}. Its training config is in `config.json`."
    )


def _describe_input(config: Config, export: Export) -> str:
    data, size = config.data, config.data.size_px
    steps = [
        "RGB, 8 bits, rotated according to the EXIF data.",
        "Crop to the bounding box of the field of view, the disc in the dark border." if data.fov_crop else "No crop.",
        f"Resize the longer side to {size} px (area averaging to shrink, bilinear to enlarge), pad with zeros to a square, "
        "evenly on both sides." if data.resize == "pad" else f"Resize to {size} x {size} px, ignoring the aspect ratio.",
    ]  # fmt: skip
    if data.enhance != "none":
        steps.append(f"Enhance as `pldmlt_jax/data/preprocessing/contrast.py` does: {data.enhance}.")
    if export.tile_px < size:
        steps.append(f"Cut into windows of {export.tile_px} px, whose predictions are blended (`evaluation/tta.py`).")
    steps.append("Values 0 to 255: the network normalises them itself. ONNX takes float32, StableHLO uint8.")
    return "\n".join(f"{i}. {step}" for i, step in enumerate(steps, 1))


def _describe_output(config: Config) -> str:
    names = channel_names(config.loss.target)
    return (
        f"- `probabilities` [b, h, w, {len(names)}]: {', '.join(names)}. Outside the field of view they are "
        "meaningless: the network is not trained there, and `predict` sets them to zero.\n"
        "- `grade_logits` [b, 5]: logits of the grades 0 to 4; divide by the temperature below before the softmax.\n"
        "- `grade_maps` [b, h', w', 5]: contribution of each location to each logit; the positive part is Grad-CAM."
        + ("" if config.loss.grading else "\n\nThis network was **not trained on grades**: ignore the last two.")
    )


def operating_points_table(points: OperatingPoints, names: Sequence[str]) -> str:
    """Makes a table of the operating points as Markdown.

    Args:
        points: Thresholds and component sizes.
        names: Lesions to list.
    """
    if points.step < 0:
        return "None were chosen: a pixel is lesion if its probability is above 0.5. The grades are uncalibrated."
    rows = ["| lesion | threshold | min. component, px at the network's size | Dice | Dice at 0.5 | images |",
            "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name in names:
        point = points.point_for(name)
        rows.append(
            f"| {name} | {point.threshold:g} | {point.min_area_px:g} | {_number(point.dice)} "
            f"| {_number(point.dice_at_half)} | {point.images} |"
        )
    calibration = (
        f"Grade temperature: {points.temperature:.3f}, fitted on {points.graded_images} validation images with a true grade."
        if points.temperature
        else "The grades are uncalibrated, because no validation image has a true grade."
    )
    rows += [
        "",
        "Chosen on the validation images, so the Dice is slightly optimistic: of the choices within one standard error of "
        f"the best Dice, the one nearest to a threshold of 0.5 and to keeping every component. {calibration}",
    ]
    return "\n".join(rows)


def _number(value: Any) -> str:
    return "undefined" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _metrics_table(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return "Not evaluated. Run `python main.py evaluate` to score it on held-out images."
    rows = [
        (
            name,
            _number(metrics[name]),
            _number(metrics.get(f"{name}{ORIGINAL}", "")),
            _number(metrics.get(baseline or "", "")),
        )
        for name, baseline, _ in SEGMENTATION_METRICS
        if metrics.get(name) is not None
    ]
    rows += [
        (f"grade/{name}", _number(metrics[f"grade/{name}"]), "", "") for name in GRADE_METRICS if f"grade/{name}" in metrics
    ]
    scored = ", ".join(
        f"{task}: {metrics[key]}" for task, key in (("lesions", "seg/split"), ("grades", "grade/split")) if key in metrics
    )
    table = ["| metric | network's size | original size | baseline |", "| --- | --- | --- | --- |"]
    return f"Evaluated split: {scored}.\n\n" + "\n".join([*table, *("| " + " | ".join(row) + " |" for row in rows)])


def _list_limits(config: Config) -> str:
    limits = [
        f"Trained on {config.data.segmentation} only: other cameras, populations and image qualities are untested.",
        "Lesions smaller than a pixel of the prepared image cannot be detected.",
        "It also returns predictions for images that are not fundus photographs.",
    ]
    if config.loss.grading and config.pseudo.source == "none":
        limits.append(
            "Grades are trained on truly graded photographs in addition to those with lesion masks, without pseudo-labels."
        )
    elif config.loss.grading:
        limits.append(
            "As in the paper, grades are trained on pseudo-labels of images that all show disease: see the baseline."
        )
    return "\n".join(f"- {limit}" for limit in limits)

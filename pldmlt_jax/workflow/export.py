"""Exports the trained network of a run in several formats, with a model card."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pldmlt_jax.data.preprocessing.geometry import read_image
from pldmlt_jax.data.preprocessing.prepare import prepare_image
from pldmlt_jax.errors import CheckpointError, ConfigError, DataError, UserError, collect_errors, raise_all, suggest_nearest
from pldmlt_jax.evaluation.operating_points import read_points
from pldmlt_jax.export.export import FORMATS, OPT_IN_FORMATS, Export
from pldmlt_jax.export.model_card import model_card
from pldmlt_jax.export.onnx import INSTALL, import_optional
from pldmlt_jax.io.csv_files import read_rows
from pldmlt_jax.io.files import atomic_write, read_json_if_present
from pldmlt_jax.io.progress import show_progress
from pldmlt_jax.reporting.predictions_table import TABLE
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.load_checkpoint import load_networks
from pldmlt_jax.workflow.stages.predict import EXAMPLES

CARD = "model_card.md"

MAX_COMPARED = 4
"""Number of images on which the exported network is compared with Flax."""


def choose_formats(text: str) -> list[str]:
    """Returns the formats to write.

    Args:
        text: Names of formats, separated by commas; "" for the usual ones, ONNX only if jax2onnx is installed.

    Raises:
        ConfigError: A name is unknown, two formats exclude each other, or jax2onnx is missing although ONNX is named; all at
            once, as an `ErrorGroup`.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    errors: list[UserError] = []
    for name in names:
        if name not in FORMATS:
            action = suggest_nearest(name, list(FORMATS), "choose one of them")
            errors.append(ConfigError("--format", f"{name!r}", "one of " + ", ".join(FORMATS), action))
    with collect_errors(errors):
        if {"folder", "int8"} <= set(names):
            expected = "one of the two, because both write the same file"
            errors.append(ConfigError("--format", "both folder and int8", expected, "write them to two folders"))
        if "onnx" in names:
            import_optional("jax2onnx", "--format=onnx")
    raise_all(errors)
    if names:
        return list(dict.fromkeys(names))
    usual = [name for name in FORMATS if name not in OPT_IN_FORMATS]
    try:
        import_optional("jax2onnx", "--format=onnx")
    except ConfigError:
        print(f"  ONNX is left out because jax2onnx is not installed: {INSTALL}")
        usual.remove("onnx")
    return usual


def export_network(context: Context, formats: Sequence[str], output: Path) -> list[str]:
    """Writes the network of a run and its model card.

    Args:
        context: The run, with one network.
        formats: Names of formats, keys of `FORMATS`.
        output: The folder for the files.

    Returns:
        One line of text for each file.

    Raises:
        CheckpointError: There is no network, or more than one.
    """
    networks = load_networks(context)
    if len(networks) > 1:
        found = f"{len(networks)} networks"
        raise CheckpointError("--checkpoint", found, "one network, not the mean of several", "export each on its own")
    network = networks[0]
    output.mkdir(parents=True, exist_ok=True)
    export = Export(network, read_points(network.directory, network.step), output, read_comparison_images(context))
    lines = []
    with show_progress("export", len(formats), images=0) as task:
        for name in formats:
            lines.append(FORMATS[name](export))
            task.advance(name)
    card = model_card(export, read_json_if_present(context.workdir / "metrics.json"), lines)
    with atomic_write(output / CARD) as file:
        file.write(card)
    return [*lines, CARD]


def read_comparison_images(context: Context) -> UInt8[np.ndarray, "b s s 3"]:
    """Returns prepared photographs that the run has predicted, or noise if there are none."""
    data, images = context.config.data, []
    table = context.workdir / EXAMPLES / TABLE
    rows = read_rows(table, ("image",)) if table.is_file() else []
    for _, row in rows[:MAX_COMPARED]:
        with contextlib.suppress(DataError):  # the photograph has been moved
            images.append(prepare_image(read_image(Path(row["image"])), data, data.size_px).image)
    if not images:
        images = list(np.random.default_rng(0).integers(0, 256, (2, data.size_px, data.size_px, 3), np.uint8))
    return np.stack(images)

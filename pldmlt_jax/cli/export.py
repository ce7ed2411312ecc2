"""`export`: the trained network for use without this program, and what there is to know about it."""

import contextlib
from pathlib import Path

import numpy as np

from pldmlt_jax.data.preprocessing.geometry import read_image
from pldmlt_jax.data.preprocessing.prepare import prepare_image
from pldmlt_jax.errors import CheckpointError, ConfigError, DataError, UserError, collect_errors, raise_all, suggest_nearest
from pldmlt_jax.evaluation.operating_points import read_points
from pldmlt_jax.export.export import FORMATS, OPT_IN_FORMATS, Export
from pldmlt_jax.export.model_card import model_card
from pldmlt_jax.export.onnx import INSTALL, import_optional
from pldmlt_jax.io.files import atomic_write, read_json_if_present, read_rows
from pldmlt_jax.io.progress import show_progress
from pldmlt_jax.reporting.predictions_table import TABLE
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.load_checkpoint import load_networks
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.stages.predict import EXAMPLES

CARD = "model_card.md"
MAX_COMPARED = 4
"""Images that the exported network is compared with Flax on."""


def main(options: RunOptions) -> None:
    context = Context(options)
    formats = chosen_formats(options.format)
    networks = load_networks(context)
    if len(networks) > 1:
        found = f"{len(networks)} networks"
        raise CheckpointError("--checkpoint", found, "one: the mean of several is no network", "export each by itself")
    network = networks[0]
    output = Path(options.output or context.workdir / "export")
    output.mkdir(parents=True, exist_ok=True)
    export = Export(network, read_points(network.directory, network.step), output, images_to_compare(context))
    files = []
    with show_progress("export", len(formats), images=0) as task:
        for name in formats:
            files.append(FORMATS[name](export))
            task.advance(name)
    card = model_card(export, read_json_if_present(context.workdir / "metrics.json"), files)
    with atomic_write(output / CARD) as file:
        file.write(card)
    for line in (*files, CARD):
        print(f"  {line}")
    print(f"  in {output}")


def chosen_formats(text: str) -> list[str]:
    """The formats between commas; the usual ones that can be written where none are named.

    Raises:
        ConfigError: A name is unknown, or jax2onnx is not installed and ONNX was asked for by name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    errors: list[UserError] = []
    for name in names:
        if name not in FORMATS:
            action = suggest_nearest(name, list(FORMATS), "choose one of them")
            errors.append(ConfigError("--format", f"{name!r}", "one of " + ", ".join(FORMATS), action))
    with collect_errors(errors):
        if {"folder", "int8"} <= set(names):
            expected = "one of the two, which have the same file"
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


def images_to_compare(context: Context) -> np.ndarray:
    """Prepared photographs that the run has predicted, or noise where there are none: uint8 [b, s, s, 3]."""
    data, images = context.config.data, []
    table = context.workdir / EXAMPLES / TABLE
    rows = read_rows(table, ("image",)) if table.is_file() else []
    for _, row in rows[:MAX_COMPARED]:
        with contextlib.suppress(DataError):  # moved away since
            images.append(prepare_image(read_image(Path(row["image"])), data, data.size_px).image)
    if not images:
        images = list(np.random.default_rng(0).integers(0, 256, (2, data.size_px, data.size_px, 3), np.uint8))
    return np.stack(images)

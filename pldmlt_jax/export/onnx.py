"""Export of a trained network to ONNX, for any batch and one image size. Needs `requirements-export.txt`."""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pldmlt_jax.errors import ConfigError
from pldmlt_jax.evaluation.inference import TrainedNetwork, inference_forward
from pldmlt_jax.evaluation.temperature import softmax
from pldmlt_jax.evaluation.tta import ForwardOutput
from pldmlt_jax.io.files import partial_path
from pldmlt_jax.models.build import build_network

INPUT = "image"
METADATA = "pldmlt"
OUTPUTS = ForwardOutput._fields

INSTALL = (
    "pip install --no-deps -r requirements-export.txt (where `make` made .venv: make install EXPORT=1). It pins an old "
    "orbax-checkpoint, which --no-deps leaves alone"
)
"""How to install jax2onnx, ONNX Runtime and OpenVINO."""

UPSAMPLING = ("Reshape", "Expand", "Expand", "Reshape")
"""Operators that jax2onnx writes for `upsample_nearest_2x`, last one first; others only compute their shapes."""

DOUBLED = "doubled_height_and_width"
"""Name of the constant with the scale of each axis."""

TOLERANCE = 1e-4
"""Allowed difference of exported probabilities from Flax: rounding gives 1e-6 to 1e-5, a wrong operator far more."""


def import_optional(package: str, what_for: str) -> ModuleType:
    """Imports a package that only export and the engines need.

    Args:
        package: Name of the package.
        what_for: Flag or feature that needs it, for the error message.

    Raises:
        ConfigError: The package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            what_for, f"the package {package} is not installed ({error})", "it to be installed", INSTALL
        ) from error


@contextlib.contextmanager
def _suppress_warnings() -> Iterator[None]:
    """Suppresses logged warnings; jax2onnx warns about optional packages of its own examples."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def write_onnx(network: TrainedNetwork, size_px: int, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes a network with its weights as an ONNX file that computes in float32.

    The input is `image`: float32 [b, size, size, 3], RGB in 0..255, as `prepare_image` returns it. The outputs are
    `probabilities` [b, size, size, k], `grade_logits` [b, 5] and `grade_maps` [b, h, w, 5]; see `tta.ForwardOutput`.

    Args:
        network: The trained network.
        size_px: Height and width of the input.
        path: File to write; it is written completely or not at all.
        metadata: Stored as JSON in the file's property METADATA.

    Raises:
        ConfigError: jax2onnx is not installed.
    """
    with _suppress_warnings():
        jax2onnx = import_optional("jax2onnx", "export to ONNX")
        module = build_network(dataclasses.replace(network.config.model, dtype="float32"), network.config.loss.target)
        variables, target = network.variables, network.config.loss.target
        model = jax2onnx.to_onnx(
            lambda images: tuple(inference_forward(variables, images, network=module, target=target)),
            inputs=[jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), size_px, size_px, 3), jnp.float32)],
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            model_name="pldmlt",
        )
    upsample_by_resize(model.graph)
    model = _simplify(model)
    del model.graph.value_info[:]  # intermediate shapes, some with permuted axes; engines infer them
    model.metadata_props.add(key=METADATA, value=json.dumps(metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(path)
    temporary.write_bytes(model.SerializeToString())
    temporary.replace(path)


def upsample_by_resize(graph: Any) -> None:
    """Replaces each `upsample_nearest_2x` of an ONNX graph, in place, by a single channels-first Resize.

    jax2onnx writes it (a broadcast to six axes and a reshape) as ten operators, and no engine moves transposes past them.
    """
    onnx = import_optional("onnx", "export to ONNX")
    made_by = {output: node for node in graph.node for output in node.output}
    nodes: list[Any] = []
    for node in graph.node:
        chain = [node]
        while len(chain) < len(UPSAMPLING) and chain[-1].input and chain[-1].input[0] in made_by:
            chain.append(made_by[chain[-1].input[0]])
        if tuple(link.op_type for link in chain) != UPSAMPLING:
            nodes.append(node)
            continue
        (output,) = node.output
        first, doubled = f"{output}_channels_first", f"{output}_doubled"
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        nodes += [
            onnx.helper.make_node("Transpose", [chain[-1].input[0]], [first], perm=[0, 3, 1, 2]),
            onnx.helper.make_node("Resize", [first, "", DOUBLED], [doubled], **how),
            onnx.helper.make_node("Transpose", [doubled], [output], perm=[0, 2, 3, 1]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), DOUBLED))
    _remove_unused(graph)


def _remove_unused(graph: Any) -> None:
    """Removes operators whose outputs are not used."""
    while True:
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        unused = [node for node in graph.node if not used.intersection(node.output)]
        if not unused:
            return
        for node in unused:
            graph.node.remove(node)


def _simplify(model: Any) -> Any:
    """Applies ONNX Runtime's engine-independent rules, which remove the transposes between convolutions.

    OpenVINO spends more time on these transposes than on everything else. Without ONNX Runtime, returns the model unchanged.
    """
    onnx = import_optional("onnx", "export to ONNX")
    try:
        onnxruntime = import_optional("onnxruntime", "--engine=onnx")
    except ConfigError:
        return model
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "simplified.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath, options.log_severity_level = path, 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        simplified = onnx.load(path)
    domains = {node.domain for node in simplified.graph.node}
    used = [opset for opset in simplified.opset_import if opset.domain in domains]
    del simplified.opset_import[:]
    simplified.opset_import.extend(used)
    return simplified


def largest_difference(network: TrainedNetwork, session: Any, images: np.ndarray) -> float:
    """Returns the largest difference of lesion and grade probabilities between ONNX Runtime and Flax on some images.

    Args:
        network: The network in Flax.
        session: The exported network, see `onnx_session`.
        images: uint8 [b, size, size, 3], prepared.
    """
    probabilities, grade_logits, _ = network(images, len(images))
    their_probabilities, their_logits, _ = session.run(list(OUTPUTS), {INPUT: images.astype(np.float32)})
    grades = np.abs(softmax(grade_logits) - softmax(their_logits)).max()
    return float(max(np.abs(probabilities - their_probabilities).max(), grades))


def cached_onnx(network: TrainedNetwork, size_px: int) -> Path:
    """Returns the ONNX file of a network next to its checkpoint, and writes it if there is none.

    The name of the file identifies weights and size, so a network that was trained further gets a new file.
    """
    digest = hashlib.sha256(repr(network.module).encode())
    for leaf in jax.tree.leaves(network.variables):
        digest.update(np.asarray(leaf).tobytes())
    path = network.directory / "exported" / f"{digest.hexdigest()[:16]}_{size_px}px.onnx"
    if not path.is_file():
        print(f"  exporting the network once, to {path}", flush=True)
        write_onnx(network, size_px, path, {})
    return path

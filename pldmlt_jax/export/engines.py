"""Inference engines: XLA, or ONNX Runtime or OpenVINO on the exported network."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pldmlt_jax.config import InferenceConfig
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.evaluation.inference import TrainedNetwork, pad_batch
from pldmlt_jax.evaluation.tta import Forward, ForwardOutput
from pldmlt_jax.export.onnx import INPUT, OUTPUTS, cached_onnx, import_optional

OPENVINO_TYPES = {"float32": "f32", "bfloat16": "bf16"}


def onnx_session(content: str | bytes) -> Any:
    """Opens an ONNX file in ONNX Runtime, without its warnings about inferred shapes.

    Args:
        content: Path of the file, or its bytes.

    Raises:
        ConfigError: ONNX Runtime is not installed.
    """
    onnxruntime = import_optional("onnxruntime", "--engine=onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _xla(network: TrainedNetwork, config: InferenceConfig, size_px: int) -> Forward:
    return network


def _onnx(network: TrainedNetwork, config: InferenceConfig, size_px: int) -> Forward:
    import_optional("onnxruntime", "--engine=onnx")  # first, because the export below takes a while
    session = onnx_session(str(cached_onnx(network, size_px)))

    def forward(images: np.ndarray, batch_size: int) -> ForwardOutput:
        return ForwardOutput(*session.run(list(OUTPUTS), {INPUT: images.astype(np.float32)}))

    return forward


def _openvino(network: TrainedNetwork, config: InferenceConfig, size_px: int) -> Forward:
    openvino = import_optional("openvino", "--engine=openvino")
    core = openvino.Core()
    if config.engine_dtype == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ConfigError(
            "inference.engine_dtype", "'bfloat16'", "a processor that computes in it (AMX or AVX-512 BF16)", "use float32"
        )
    path = str(cached_onnx(network, size_px))
    hint = {"INFERENCE_PRECISION_HINT": OPENVINO_TYPES[config.engine_dtype], "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(path, "CPU", hint)

    def forward(images: np.ndarray, batch_size: int) -> ForwardOutput:
        found = compiled({INPUT: pad_batch(images, batch_size).astype(np.float32)})
        return ForwardOutput(*(np.array(found[name][: len(images)], np.float32) for name in OUTPUTS))

    return forward


ENGINES: dict[str, Callable[[TrainedNetwork, InferenceConfig, int], Forward]] = {
    "xla": _xla,
    "onnx": _onnx,
    "openvino": _openvino,
}
"""Name -> maker of the forward pass, from network, config and input side in px."""


def make_forward(engine: str, network: TrainedNetwork, config: InferenceConfig) -> Forward:
    """Makes the forward pass of a network on an engine.

    Args:
        engine: A key of ENGINES.
        network: The trained network.
        config: Tile size, mode and data type of the engine.

    Raises:
        ConfigError: The engine is unknown, its package is not installed, or it does not support the requested data type.
    """
    if engine not in ENGINES:
        raise ConfigError("--engine", f"{engine!r}", "one of " + ", ".join(ENGINES), "choose one of them")
    if config.engine_dtype != "float32" and engine != "openvino":
        found = f"{config.engine_dtype!r} with --engine={engine}"
        raise ConfigError("inference.engine_dtype", found, "--engine=openvino, or float32", "set one of the two")
    size_px = network.config.data.size_px
    return ENGINES[engine](network, config, min(config.tile_px, size_px) if config.mode == "tiles" else size_px)

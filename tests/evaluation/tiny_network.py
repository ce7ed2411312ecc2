"""A tiny network with random weights, as `export` writes one: what the tests of inference, prediction and export load."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from pldmlt_jax.config import Config, DataConfig, EvaluationConfig, LossConfig, ModelConfig, to_dict
from pldmlt_jax.evaluation.inference import TrainedNetwork
from pldmlt_jax.io.files import write_json
from pldmlt_jax.method.state import init_method_state, make_method
from pldmlt_jax.models.weights.checkpoint_io import WEIGHTS, write_weights

SIZE_PX = 64


def tiny_config(target: str = "fused", *, size_px: int = SIZE_PX, blocks: int = 5, seed: int = 0) -> Config:
    """Few channels; fewer blocks see less far."""
    return Config(
        name="tiny",
        seed=seed,
        data=DataConfig(size_px=size_px),
        model=ModelConfig(
            encoder_filters=(4,) * blocks, encoder_convs=(1,) * blocks, decoder_filters=(4,) * blocks, centre_filters=0
        ),
        loss=LossConfig(target=target),
        evaluation=EvaluationConfig(batch_size=2),
    )


def tiny_network(config: Config, folder: Path = Path("nowhere")) -> TrainedNetwork:
    """Random weights, moved so that no bias is zero and the answers are no constant."""
    method = make_method(config, total_steps=1)
    rng = np.random.default_rng(config.seed)
    state = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(leaf.dtype) if leaf.ndim else leaf,
        init_method_state(method),
    )
    positive = dataclasses.replace(state.network, batch_stats=jax.tree.map(abs, state.network.batch_stats))
    return TrainedNetwork(config, dataclasses.replace(state, network=positive), 7, folder)


def write_tiny(folder: Path, config: Config) -> Path:
    """The folder of weights and config."""
    folder.mkdir(parents=True, exist_ok=True)
    network = tiny_network(config)
    write_weights(folder / WEIGHTS, network.arrays, network.step)
    write_json(folder / "config.json", to_dict(config))
    return folder


def photograph(height: int = 90, width: int = 130, seed: int = 0) -> np.ndarray:
    """A lit orange disc with noise on black, RGB."""
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (0.48 * height) ** 2
    noise = np.random.default_rng(seed).integers(-40, 40, (height, width, 1))
    return np.where(inside[..., None], np.array([180, 90, 40]) + noise, 0).clip(0, 255).astype(np.uint8)

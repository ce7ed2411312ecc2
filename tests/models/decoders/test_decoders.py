"""The decoders, against what segmentation_models.pytorch's compute (tests/record_fixtures.py), and their connections."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.smp_names import running_by_name, with_smp_weights
from pldmlt_jax.models.decoders.deeplabv3plus import DeepLabV3Plus
from pldmlt_jax.models.decoders.fpn import FPN
from pldmlt_jax.models.decoders.layers import Decoder, GroupNorm, upsample_bilinear
from pldmlt_jax.models.decoders.linknet import LinkNet
from pldmlt_jax.models.decoders.unet import UNet
from pldmlt_jax.models.multitask import MultiTask

FIXTURES = Path(__file__).parents[2] / "fixtures"
TORCH_NORM = {"norm_momentum": 0.9, "norm_epsilon": 1e-5}
DECODERS: dict[str, Decoder] = {
    "unet": UNet((12, 8, 6, 4, 4), 20, **TORCH_NORM),
    "linknet": LinkNet(filters=4, **TORCH_NORM),
    "fpn": FPN(64, norm_epsilon=1e-5),
    "deeplabv3plus": DeepLabV3Plus(16, (1, 2, 3), **TORCH_NORM),
}
"""As they were recorded."""


class GivenFeatures(nn.Module):
    """In the encoder's place: its features are the input."""

    features: tuple[Any, ...] = ()

    def __call__(self, image: Any, train: bool) -> tuple[Any, ...]:
        return self.features


def network_on(features: list[np.ndarray], decoder: str) -> MultiTask:
    return MultiTask(GivenFeatures(tuple(jnp.asarray(f) for f in features)), DECODERS[decoder], 2)


IMAGE = jnp.zeros((2, 32, 64, 3), jnp.uint8)


@pytest.fixture(scope="module", params=sorted(DECODERS))
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, np.ndarray], MultiTask, dict[str, Any]]:
    """Name, what was recorded, the network and its variables with the recorded weights."""
    name = request.param
    with np.load(FIXTURES / f"{name}_decoder.npz") as file:
        recorded = dict(file)
    network = network_on([recorded[f"feature.{i}"] for i in range(5)], name)
    initial = jax.eval_shape(lambda: network.init(jax.random.key(0), IMAGE, False))
    initial = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), initial)
    weights = {key.removeprefix("weight."): value for key, value in recorded.items() if key.startswith("weight.")}
    return name, recorded, network, jax.tree.map(jnp.asarray, with_smp_weights(initial, weights, "none", name))


def assert_close(actual: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_inference_and_training_equal_the_original_with_running_statistics(case) -> None:
    name, recorded, network, variables = case

    @jax.jit
    def both(variables: dict[str, Any]) -> tuple[jax.Array, jax.Array, Any]:
        output, updated = network.apply(variables, IMAGE, True, mutable=["batch_stats"])
        return network.apply(variables, IMAGE, False).segmentation_logits, output.segmentation_logits, updated

    inference, training, updated = both(variables)
    assert np.abs(recorded["eval.logits"] - recorded["train.logits"]).max() > 0.1 or name == "fpn"  # it has no such mode
    assert_close(inference, recorded["eval.logits"])
    assert_close(training, recorded["train.logits"])
    ours = running_by_name(updated.get("batch_stats", {}), "none", name)
    expected = {key.removeprefix("running."): value for key, value in recorded.items() if key.startswith("running.")}
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(ours[key], value)


USED = {"unet": 5, "linknet": 5, "fpn": 4, "deeplabv3plus": 2}
"""Of the five features."""


def test_every_feature_that_a_decoder_uses_reaches_the_output(case) -> None:
    name, recorded, network, variables = case
    features = [jnp.asarray(recorded[f"feature.{i}"]) for i in range(5)]
    of_decoder = {collection: tree["decoder"] for collection, tree in variables.items() if "decoder" in tree}
    # With the batch's statistics no ReLU is dead, as some are in so narrow a decoder with random running ones.
    decode = jax.jit(lambda f: network.decoder.apply(of_decoder, f, True, mutable=["batch_stats"])[0])
    plain, rng = decode(features), np.random.default_rng(0)
    moved = []
    for i in range(5):
        noise = rng.normal(size=features[i].shape).astype(np.float32)
        changed = [feature + noise if i == j else feature for j, feature in enumerate(features)]
        moved.append(float(jnp.abs(decode(changed) - plain).max()) > 1e-4)
    expected = [False, True, False, False, True] if name == "deeplabv3plus" else [i >= 5 - USED[name] for i in range(5)]
    assert moved == expected


def test_bilinear_upsampling_by_hand() -> None:
    """Corners stay, and between pixels lies a straight line: a ramp stays a ramp."""
    ramp = jnp.linspace(0.0, 1.0, 3)[None, :, None, None] + 10 * jnp.linspace(0.0, 1.0, 2)[None, None, :, None]
    expected = np.linspace(0, 1, 12)[:, None] + 10 * np.linspace(0, 1, 8)[None, :]
    np.testing.assert_allclose(upsample_bilinear(ramp, 4)[0, ..., 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_group_norm_is_flax_own_from_the_same_parameters_and_adds_up_one_axis_at_a_time(dtype):
    x = jnp.asarray(3.0 + np.random.default_rng(0).normal(size=(2, 12, 20, 24)), dtype)
    ours = GroupNorm(8, 1e-3, jnp.dtype(dtype))
    theirs = nn.GroupNorm(8, epsilon=1e-3, dtype=jnp.dtype(dtype))
    variables = jax.tree.map(lambda leaf: leaf + 0.3, ours.init(jax.random.key(0), x))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, theirs.init(jax.random.key(0), x))
    y = ours.apply(variables, x)
    assert y.dtype == jnp.dtype(dtype)
    close = {"float32": 5e-5, "bfloat16": 0.02}[dtype]
    np.testing.assert_allclose(np.asarray(y, float), np.asarray(theirs.apply(variables, x), float), atol=close)
    jaxpr = jax.make_jaxpr(ours.apply)(variables, x)
    sums = [equation.params["axes"] for equation in jaxpr.eqns if equation.primitive.name == "reduce_sum"]
    assert len(sums) == 6 and all(len(axes) == 1 for axes in sums)

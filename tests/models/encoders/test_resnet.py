"""ResNet and ResNeXt as graders, against what timm's own network computes (tests/record_fixtures.py)."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.errors import ConfigError
from pldmlt_jax.models.classifier import Classifier
from pldmlt_jax.models.encoders.resnet import RESNETS, ResNet, make_resnet
from pldmlt_jax.models.weights.load import load_weights
from pldmlt_jax.models.weights.names import resnet_name

FIXTURES = Path(__file__).parents[2] / "fixtures"
NARROW = ResNet(blocks=(2, 1, 1, 1), cardinality=4, width_per_group=32, base_filters=4)
GRADER = Classifier(NARROW)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "resnext_narrow.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def variables(recorded: dict[str, np.ndarray]) -> dict[str, Any]:
    initial = jax.jit(GRADER.init, static_argnums=2)(jax.random.key(0), recorded["image"], False)
    return load_weights(FIXTURES / "resnext_narrow.pth", "resnext50_32x4d", initial).variables


def _by_name(tree: dict[str, Any], collection: str) -> dict[str, np.ndarray]:
    """Leaves by torchvision's names, in torch's layout."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {resnet_name((collection, *(key.key for key in path))): np.asarray(leaf) for path, leaf in leaves}
    return {name: leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T for name, leaf in named.items()}


def _assert_close(actual: Any, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "with_1000_classes"),
    [
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnext50_32x4d", 25_028_904),
        ("resnext101_32x8d", 88_791_336),
    ],
)
def test_full_size_parameter_counts_are_the_published_ones(name: str, with_1000_classes: int) -> None:
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(lambda key, x: make_resnet(name).init(key, x, False), jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count == with_1000_classes - (2048 * 1000 + 1000)


def test_inference_equals_timm(recorded: dict[str, np.ndarray], variables: dict[str, Any]) -> None:
    output = jax.jit(GRADER.apply, static_argnums=2)(variables, recorded["image"], False)
    _assert_close(output.features, recorded["eval.features"])
    _assert_close(output.logits, recorded["eval.logits"])


def test_a_training_pass_equals_torchs_with_gradients_and_running_statistics(
    recorded: dict[str, np.ndarray], variables: dict[str, Any]
) -> None:
    def loss(params: dict[str, Any]) -> tuple[jax.Array, Any]:
        output, updated = GRADER.apply({**variables, "params": params}, recorded["image"], True, mutable=["batch_stats"])
        return (output.logits * recorded["loss_weight"].astype(np.float32)).sum(), (output.logits, updated)

    gradients, (logits, updated) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    _assert_close(logits, recorded["train.logits"])
    statistics = _by_name(updated["batch_stats"], "batch_stats")
    named_gradients = _by_name(gradients, "params")
    expected = {name: value for name, value in recorded.items() if name.startswith("running.")}
    assert len(expected) == len(statistics) == 2 * (1 + 3 * 5 + 4)
    for name, value in expected.items():
        _assert_close(statistics[name.removeprefix("running.")], value)
    for name, value in recorded.items():
        if name.startswith("gradient."):
            _assert_close(named_gradients[name.removeprefix("gradient.")], value, 1e-4)


def test_features_have_strides_2_to_32(variables: dict[str, Any]) -> None:
    encoder_variables = {collection: tree["encoder"] for collection, tree in variables.items()}
    image = jax.ShapeDtypeStruct((1, 96, 64, 3), jnp.float32)
    features = jax.eval_shape(lambda x: NARROW.apply(encoder_variables, x, False), image)
    assert [f.shape[1:] for f in features] == [(48, 32, 4), (24, 16, 16), (12, 8, 32), (6, 4, 64), (3, 2, 128)]


@pytest.mark.parametrize("frozen_stages", [0, 3])
def test_frozen_stages_receive_no_gradient_and_keep_their_statistics(
    frozen_stages: int, recorded: dict[str, np.ndarray], variables: dict[str, Any]
) -> None:
    grader = Classifier(NARROW.clone(frozen_stages=frozen_stages))

    def loss(params: dict[str, Any]) -> tuple[jax.Array, Any]:
        output, updated = grader.apply({**variables, "params": params}, recorded["image"], True, mutable=["batch_stats"])
        return (output.logits**2).sum(), updated["batch_stats"]["encoder"]

    gradients, updated = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    frozen_names = {"stem", "layer1_0", "layer1_1", "layer2_0", "layer3_0", "layer4_0"}
    frozen_names = {name for name in frozen_names if (0 if name == "stem" else int(name[5])) < frozen_stages}
    for name, gradient in gradients["encoder"].items():
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), updated[name], variables["batch_stats"]["encoder"][name])
        received = jax.tree.map(lambda g: bool((g != 0).any()), gradient)
        expected = name not in frozen_names
        assert all(leaf is expected for leaf in jax.tree.leaves((moved, received))), name


def test_classify_gives_the_logits_from_the_features(variables: dict[str, Any], recorded: dict[str, np.ndarray]) -> None:
    output = jax.jit(GRADER.apply, static_argnums=2)(variables, recorded["image"], False)
    logits = GRADER.apply(variables, output.features, method="classify")
    np.testing.assert_allclose(logits, output.logits, rtol=1e-6)


def test_bfloat16_activations_stay_near_float32(recorded: dict[str, np.ndarray], variables: dict[str, Any]) -> None:
    grader = Classifier(NARROW.clone(dtype=jnp.bfloat16))
    output = jax.jit(grader.apply, static_argnums=2)(variables, recorded["image"], False)
    assert output.logits.dtype == jnp.float32
    difference = np.abs(output.logits - recorded["eval.logits"]).max()
    assert 0 < difference < 0.05 * np.abs(recorded["eval.logits"]).max()


def test_max_blocks_and_base_filters_make_it_smaller() -> None:
    small = make_resnet("resnext101_32x8d", base_filters=16, max_blocks=1)
    assert (small.blocks, small.base_filters) == ((1, 1, 1, 1), 16)
    assert make_resnet("resnext101_32x8d", max_blocks=5).blocks == (3, 4, 5, 3)
    assert make_resnet("resnet50") == make_resnet("resnet50")  # equal modules compile once


def test_too_narrow_a_network_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)base_filters.*at least 16"):
        make_resnet("resnext50_32x4d", base_filters=8)
    for name in RESNETS:
        make_resnet(name, base_filters=16)

"""DenseNet, ResNet-18, NASNet and Keras' VGG16, against what the originals compute (tests/record_fixtures.py)."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from pldmlt_jax.config import GraderConfig
from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.models.build import GRADERS, build_grader
from pldmlt_jax.models.classifier import Classifier
from pldmlt_jax.models.encoders.densenet import DenseNet
from pldmlt_jax.models.encoders.nasnet import NASNet
from pldmlt_jax.models.encoders.resnet import ResNet
from pldmlt_jax.models.encoders.vgg import VGG
from pldmlt_jax.models.weights.load import load_weights, preprocessing_scheme
from pldmlt_jax.models.weights.names import KERAS_LAYOUTS, TORCH_LAYOUTS

FIXTURES = Path(__file__).parents[2] / "fixtures"
RESNET18 = ResNet((1, 1, 1, 1), 1, 64, base_filters=4, bottleneck=False)
GRADERS_AS_RECORDED = {
    "resnet18": ("resnet18_narrow.safetensors", RESNET18),
    "densenet121": ("densenet_narrow.safetensors", DenseNet((2, 1, 1, 2), 4, final_relu=True)),
    "nasnet_mobile": ("nasnet_narrow.h5", NASNet(filters=4, stem_filters=2, cells=1)),
}
FROZEN_LAST = 5


def assert_close(actual: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def recorded_of(file: str) -> dict[str, np.ndarray]:
    with np.load((FIXTURES / file).with_suffix(".npz")) as recorded:
        return dict(recorded)


def loaded(network: nn.Module, architecture: str, file: Path, image: np.ndarray) -> dict[str, Any]:
    """The network's variables from a file that has a tensor for each of them."""
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.asarray(image), False))
    weights = load_weights(file, architecture, shapes)
    assert weights.skipped == ()
    assert weights.num_tensors == len(jax.tree.leaves(shapes))
    return weights.variables


@pytest.mark.parametrize("architecture", sorted(GRADERS_AS_RECORDED))
def test_inference_and_training_equal_the_original_with_running_statistics(architecture: str) -> None:
    if architecture == "nasnet_mobile":
        pytest.importorskip("h5py", reason="needs requirements.txt")
    file, encoder = GRADERS_AS_RECORDED[architecture]
    recorded = recorded_of(file)
    grader = Classifier(encoder, preprocess=preprocessing_scheme(architecture, file))
    variables = loaded(grader, architecture, FIXTURES / file, recorded["image"])

    @jax.jit
    def both(variables: dict[str, Any]) -> tuple[jax.Array, jax.Array, Any]:
        output, updated = grader.apply(variables, recorded["image"], True, mutable=["batch_stats"])
        return grader.apply(variables, recorded["image"], False).logits, output.logits, updated

    inference, training, updated = both(variables)
    assert_close(inference, recorded["eval.logits"])
    assert_close(training, recorded["train.logits"])
    layout = (KERAS_LAYOUTS if file.endswith(".h5") else TORCH_LAYOUTS)[architecture]
    ours = {layout.name_of(path): leaf for path, leaf in traverse_util.flatten_dict(updated).items()}
    expected = {key.removeprefix("running."): value for key, value in recorded.items() if key.startswith("running.")}
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(ours[name], value)


def test_the_dilated_last_stage_equals_the_original() -> None:
    image = recorded_of("resnet18_narrow.safetensors")["image"]
    grader = Classifier(RESNET18.clone(dilate_last=True))
    variables = loaded(grader, "resnet18", FIXTURES / "resnet18_narrow.safetensors", image)
    feature = jax.jit(grader.apply, static_argnums=2)(variables, image, False).features
    with np.load(FIXTURES / "resnet18_dilated.npz") as recorded:
        assert feature.shape == (2, 4, 4, 32)
        assert_close(feature, recorded["feature"])


def test_vgg16_of_keras_equals_the_original_with_its_own_preprocessing() -> None:
    pytest.importorskip("h5py", reason="needs requirements.txt")
    recorded = recorded_of("vgg16_keras_narrow.h5")
    grader = Classifier(VGG((4, 4, 8, 8, 8)), preprocess=preprocessing_scheme("vgg16", "vgg16_keras_narrow.h5"))
    shapes = jax.eval_shape(lambda: grader.init(jax.random.key(0), jnp.asarray(recorded["image"]), False))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    variables = load_weights(FIXTURES / "vgg16_keras_narrow.h5", "vgg16", zeros).variables
    features = jax.jit(grader.apply, static_argnums=2)(variables, recorded["image"], False).features
    assert_close(features, recorded["pool5"])


def test_both_spellings_of_densenet_are_read(tmp_path: Path) -> None:
    file, encoder = GRADERS_AS_RECORDED["densenet121"]
    image = recorded_of(file)["image"]
    tensors = load_file(FIXTURES / file)
    old = {
        name.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2.")
        if "denselayer" in name
        else name: tensor
        for name, tensor in tensors.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    save_file(old, tmp_path / "old.safetensors")
    new, from_old = (
        loaded(Classifier(encoder), "densenet121", path, image) for path in (FIXTURES / file, tmp_path / "old.safetensors")
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), new, from_old))


@pytest.mark.parametrize(
    ("name", "published", "last"),
    [
        ("resnet18", 11_689_512, 513_000),
        ("resnet34", 21_797_672, 513_000),
        ("densenet121", 7_978_856, 1_025_000),
        ("densenet201", 20_013_928, 1_921_000),
        ("nasnet_mobile", 5_326_716, 1_057_000),
    ],
)
def test_full_size_parameter_counts_are_the_published_ones(name: str, published: int, last: int) -> None:
    """With 1000 classes; Keras counts running statistics as well."""
    shapes = jax.eval_shape(
        lambda: build_grader(name, GraderConfig()).encoder.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False)
    )
    counted = shapes if name == "nasnet_mobile" else shapes["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(counted)) == published - last


@pytest.mark.parametrize(("name", "frozen_stages"), [("densenet121", 2), ("nasnet_mobile", FROZEN_LAST)])
def test_frozen_stages_receive_no_gradient(name: str, frozen_stages: int) -> None:
    encoder = build_grader(name, GraderConfig(base_filters=16, max_blocks=1, frozen_stages=frozen_stages)).encoder
    image = jax.random.normal(jax.random.key(1), (1, 64, 64, 3))
    variables = jax.jit(encoder.init, static_argnums=2)(jax.random.key(0), image, False)

    @jax.jit
    def gradients(params: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        def loss(params: dict[str, Any]) -> tuple[jax.Array, Any]:
            features, updated = encoder.apply({**variables, "params": params}, image, True, mutable=["batch_stats"])
            return sum(jnp.sum(feature**2) for feature in features), updated["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    received, updated = gradients(variables["params"])
    moved = {module for module, tree in received.items() if any(bool((leaf != 0).any()) for leaf in jax.tree.leaves(tree))}
    changed = {
        module
        for module, tree in updated.items()
        if any(
            bool((a != b).any())
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(variables["batch_stats"][module]), strict=True)
        )
    }
    stem = {"stem", "stem_conv1"}
    if frozen_stages == FROZEN_LAST:
        assert not moved
        assert not changed
    else:
        assert not moved & stem
        assert len(received) // 2 < len(moved) < len(received)


@pytest.mark.parametrize("name", sorted(GRADERS))
def test_every_file_that_belongs_to_another_library_is_refused(name: str, tmp_path: Path) -> None:
    for suffix, layouts in ((".h5", KERAS_LAYOUTS), (".pth", TORCH_LAYOUTS)):
        if name not in layouts:
            with pytest.raises(CheckpointError, match="no network that is the same"):
                load_weights(tmp_path / f"weights{suffix}", name, {"params": {}})

"""The full-size networks of torchvision, timm, Keras and segmentation_models.pytorch with random weights: the same logits.

In inference and in training, running statistics included, through the files that the libraries write. Skipped without
requirements-oracle.txt; the same comparisons at a narrow width are recorded (test_resnet.py, test_encoders.py,
test_decoders.py).
"""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from benchmarks.smp_names import running_by_name, with_smp_weights
from pldmlt_jax.config import GraderConfig, ModelConfig
from pldmlt_jax.models.build import DECODERS, DILATABLE_ENCODERS, ENCODERS, STRIDE_16_DECODERS, build_grader, build_network
from pldmlt_jax.models.weights.load import load_weights
from pldmlt_jax.models.weights.names import KERAS_LAYOUTS, TORCH_LAYOUTS

torch = pytest.importorskip("torch", reason="needs requirements-oracle.txt")
oracle = pytest.importorskip("torch_oracle", reason="needs requirements-oracle.txt")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="needs requirements-oracle.txt")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)

GRADERS = [
    ("timm", "resnet18", ".pth"),
    ("torchvision", "resnet34", ".safetensors"),
    ("timm", "resnet50", ".pth"),
    ("torchvision", "resnet101", ".pth"),
    ("timm", "resnext50_32x4d", ".pth"),
    ("torchvision", "resnext50_32x4d", ".safetensors"),
    ("timm", "resnext101_32x8d", ".safetensors"),
    ("torchvision", "resnext101_32x8d", ".pth"),
    ("timm", "densenet121", ".safetensors"),
    ("torchvision", "densenet201", ".pth"),
    ("keras", "DenseNet121", ".h5"),
    ("keras", "NASNetMobile", ".h5"),
]
PAIRS = [(e, d) for e in ENCODERS for d in DECODERS if d not in STRIDE_16_DECODERS or e in DILATABLE_ENCODERS]


def assert_close(actual: Any, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def in_float64(module: Any) -> Any:
    """The same module with activations in double precision."""
    changes = {
        name: in_float64(part) for name in ("encoder", "decoder") if (part := getattr(module, name, None)) is not None
    }
    return module.clone(**changes, **({"dtype": jnp.dtype("float64")} if hasattr(module, "dtype") else {}))


def results(network: Any, variables: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Outputs in inference, in single precision; in training and the variables that it updates, in double precision.

    A batch's statistics over the few pixels of the last stage amplify what single precision rounds off to some 1e-4.
    """
    inference = jax.jit(network.apply, static_argnums=2)(variables, IMAGE, False)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        wide = in_float64(network)
        training, updated = jax.jit(lambda v: wide.apply(v, IMAGE, True, mutable=["batch_stats"]))(double)
        return jax.device_get((inference, training, updated))


def difference(ours: Any, original: np.ndarray) -> str:
    """Relative to the greatest, for the report."""
    return f"{np.abs(ours - original).max() / np.abs(original).max():.1e}"


def torch_results(library: str, name: str, path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Logits in inference and in training and the running statistics after it; the weights go to the file."""
    torch.manual_seed(0)
    network = oracle.NETWORKS[library](name, num_classes=5)
    oracle.randomise_norms(network)
    state = network.state_dict()
    torch.save(state, path) if path.suffix == ".pth" else safetensors_torch.save_file(state, path)
    network = network.double()
    with torch.no_grad():
        inference = network.eval()(oracle.normalised(IMAGE)).numpy()
        training = network.train()(oracle.normalised(IMAGE)).numpy()
    return inference, training, {key: value.numpy() for key, value in network.named_buffers() if "running" in key}


def keras_results(name: str, path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    keras_oracle = pytest.importorskip("keras_oracle", reason="needs requirements-oracle.txt")
    model = keras_oracle.full_size(name)
    keras_oracle.randomise_norms(model)
    keras_oracle.save_weights(model, path)
    image = {"NASNetMobile": IMAGE / 127.5 - 1, "DenseNet121": oracle.normalised(IMAGE).permute(0, 2, 3, 1).numpy()}[name]
    inference, training = (keras_oracle.call(model, image, train=train) for train in (False, True))
    return inference, training, keras_oracle.running_statistics(model)


OUR_NAMES = {"DenseNet121": "densenet121", "NASNetMobile": "nasnet_mobile"}


@pytest.mark.parametrize(("library", "name", "suffix"), GRADERS)
def test_a_grader_gives_the_same_logits(library: str, name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    keras = library == "keras"
    inference, training, running = keras_results(name, path) if keras else torch_results(library, name, path)
    architecture = OUR_NAMES.get(name, name)
    grader = build_grader(architecture, GraderConfig(), str(path))
    shapes = jax.eval_shape(lambda key: grader.init(key, jnp.asarray(IMAGE), False), jax.random.key(0))
    loaded = load_weights(path, architecture, shapes)
    assert loaded.skipped == ()

    ours, ours_in_training, updated = results(grader, loaded.variables)
    assert np.abs(inference).max() > 0.1
    print(library, name, difference(ours.logits, inference), difference(ours_in_training.logits, training))
    assert_close(ours.logits, inference)
    assert_close(ours_in_training.logits, training)
    layout = (KERAS_LAYOUTS if keras else TORCH_LAYOUTS)[architecture]
    statistics = {layout.name_of(leaf): value for leaf, value in traverse_util.flatten_dict(updated).items()}
    assert statistics.keys() == running.keys()
    if not (keras and architecture == "densenet121"):  # there Keras' momentum is 0.99, and its variance the biased one
        for key, value in running.items():
            assert_close(statistics[key], value)


def test_vgg16_of_keras_gives_the_same_features(tmp_path: Path) -> None:
    keras_oracle = pytest.importorskip("keras_oracle", reason="needs requirements-oracle.txt")
    model = keras_oracle.full_size("VGG16")
    keras_oracle.save_weights(model, tmp_path / "vgg16.h5")
    pool5 = keras_oracle.call(model, IMAGE[..., ::-1] - np.array([103.939, 116.779, 123.68]), train=False)
    network = build_network(ModelConfig(weights="vgg16.h5"), "fused")
    assert network.preprocess == "caffe"
    grader = build_grader("vgg16", GraderConfig(), "vgg16.h5").clone(encoder=network.encoder)
    variables = jax.jit(grader.init, static_argnums=2)(jax.random.key(0), IMAGE, False)
    loaded = load_weights(tmp_path / "vgg16.h5", "vgg16", variables)
    assert loaded.num_tensors == 26
    assert_close(jax.jit(grader.apply, static_argnums=2)(loaded.variables, IMAGE, False).features, pool5)


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_a_pair_gives_the_same_segmentation(encoder: str, decoder: str) -> None:
    """And has as many parameters, the grading head aside."""
    torch.manual_seed(0)
    dropout = {"fpn": {"decoder_dropout": 0.0}, "deeplabv3plus": {"decoder_aspp_dropout": 0.0}}.get(decoder, {})
    original = oracle.SEGMENTERS[decoder](encoder, encoder_weights=None, classes=2, **dropout)
    oracle.randomise_norms(original)
    tensors = {name: value.numpy().copy() for name, value in original.state_dict().items()}
    original = original.double()
    with torch.no_grad():
        inference, training = (
            original.train(train)(oracle.normalised(IMAGE)).permute(0, 2, 3, 1).numpy() for train in (False, True)
        )
    model = ModelConfig(encoder=encoder, decoder=decoder, norm_momentum=0.9, norm_epsilon=1e-5)
    network = build_network(model, "fused")
    shapes = jax.eval_shape(lambda key: network.init(key, jnp.asarray(IMAGE), False), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    variables = with_smp_weights(zeros, tensors, encoder, decoder)
    counted = sum(leaf.size for leaf in jax.tree.leaves({k: v for k, v in variables["params"].items() if k != "head"}))
    assert counted == sum(parameter.numel() for parameter in original.parameters())

    ours, ours_in_training, updated = results(network, variables)
    ours, ours_in_training = ours.segmentation_logits, ours_in_training.segmentation_logits
    print(encoder, decoder, difference(ours, inference), difference(ours_in_training, training))
    assert_close(ours, inference)
    assert_close(ours_in_training, training)
    running = {name: value.numpy() for name, value in original.named_buffers() if "running" in name}
    statistics = running_by_name(updated.get("batch_stats", {}), encoder, decoder)
    assert statistics.keys() == running.keys()
    for name, value in running.items():
        assert_close(statistics[name], value)

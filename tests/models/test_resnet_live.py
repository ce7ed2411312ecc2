"""The full-size networks of timm and torchvision with random weights, through both file formats: the same logits.

Skipped without requirements-oracle.txt; the same comparison at a narrow width is recorded (test_resnet.py).
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.models.classifier import Classifier
from pldmlt_jax.models.pretrained import load_resnet
from pldmlt_jax.models.resnet import make_resnet

torch = pytest.importorskip("torch", reason="needs requirements-oracle.txt")
oracle = pytest.importorskip("torch_oracle", reason="needs requirements-oracle.txt")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="needs requirements-oracle.txt")

CASES = [
    ("timm", "resnext50_32x4d", ".pth"),
    ("torchvision", "resnext50_32x4d", ".safetensors"),
    ("timm", "resnext101_32x8d", ".safetensors"),
    ("torchvision", "resnext101_32x8d", ".pth"),
    ("timm", "resnet50", ".pth"),
]


def _save(state: dict[str, Any], path: Path) -> None:
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors_torch.save_file(state, path)


@pytest.mark.parametrize(("library", "name", "suffix"), CASES)
def test_full_size_network_gives_the_same_logits(library: str, name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = oracle.NETWORKS[library](name, num_classes=5).eval()
    oracle.randomise_norms(network)
    _save(network.state_dict(), tmp_path / f"weights{suffix}")
    image = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    with torch.no_grad():
        expected = network.double()(oracle.normalised(image)).numpy()

    grader = Classifier(make_resnet(name))
    shapes = jax.eval_shape(lambda key: grader.init(key, jnp.asarray(image), False), jax.random.key(0))
    loaded = load_resnet(tmp_path / f"weights{suffix}", shapes)
    logits = jax.jit(grader.apply, static_argnums=2)(loaded.variables, image, False).logits
    assert loaded.skipped == ()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())

"""Weight files: reading them safely, and into the right places."""

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.models.classifier import Classifier
from pldmlt_jax.models.encoders.resnet import ResNet
from pldmlt_jax.models.encoders.vgg import VGG
from pldmlt_jax.models.input_normalisation import normalise
from pldmlt_jax.models.weights.load import assign_tensors, load_weights, read_tensors

FIXTURES = Path(__file__).parents[2] / "fixtures"
RESNEXT = FIXTURES / "resnext_narrow.pth"
NARROW = ResNet(blocks=(2, 1, 1, 1), cardinality=4, width_per_group=32, base_filters=4)


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    image = jnp.zeros((1, 64, 64, 3))
    return jax.jit(lambda key: Classifier(NARROW).init(key, image, False))(jax.random.key(0))


def _vgg_params(vgg: VGG) -> dict[str, Any]:
    image = jnp.zeros((1, 32, 32, 3))
    return jax.jit(lambda key: vgg.init(key, image, False))(jax.random.key(0))["params"]


def _all_equal(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


# ---- PyTorch's files


@pytest.mark.parametrize("name", ["tensors.pth", "tensors_legacy.pth"])
def test_both_formats_of_torch_give_the_tensors_that_were_saved(name: str) -> None:
    tensors, _ = read_tensors(FIXTURES / name)
    with np.load(FIXTURES / "tensors.npz") as expected:
        assert set(tensors) == set(expected)
        for key, value in expected.items():
            assert (tensors[key].dtype, tensors[key].shape) == (value.dtype, value.shape)
            np.testing.assert_array_equal(tensors[key], value)


def _write_zip(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return path


class _Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_calls_something_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    content = pickle.dumps({"weight": _Malicious(tmp_path / "was_here")})
    path = tmp_path / "weights.pth"
    if zipped:
        _write_zip(path, content)
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="mkdir, which is not part of a tensor"):
        read_tensors(path)
    assert not (tmp_path / "was_here").exists()
    pickle.loads(content)  # the same bytes do act when they are simply unpickled
    assert (tmp_path / "was_here").exists()


@pytest.mark.parametrize("name", ["tensors.pth", "tensors_legacy.pth", "vgg16_narrow.safetensors"])
def test_a_truncated_file_is_a_checkpoint_error(tmp_path: Path, name: str) -> None:
    whole = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    for length in np.linspace(0, len(whole) - 1, 25).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=name):
            read_tensors(path)


def test_a_tensor_beyond_its_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.pth"
    with zipfile.ZipFile(FIXTURES / "tensors.pth") as source, zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name)[: 8 if name.endswith("data/0") else None])
    with pytest.raises(CheckpointError, match="reaches beyond"):
        read_tensors(path)


def test_a_training_checkpoint_is_told_from_a_state_dict(tmp_path: Path) -> None:
    path = _write_zip(tmp_path / "checkpoint.pth", pickle.dumps({"epoch": 3, "state_dict": {}}))
    with pytest.raises(CheckpointError, match="something other than a state dict"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", "weights.h5"])
def test_an_absent_or_unknown_file_is_a_checkpoint_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        read_tensors(tmp_path / name)


# ---- into the network


def test_vgg16_equals_torchvision() -> None:
    with np.load(FIXTURES / "vgg16_narrow.npz") as recorded:
        image, expected = recorded["image"], recorded["pool5"]
    vgg = VGG(filters=(4, 4, 8, 8, 8))
    params = _vgg_params(vgg)
    loaded = load_weights(FIXTURES / "vgg16_narrow.safetensors", "vgg16", {"params": params})
    features = vgg.apply(loaded.variables, normalise(image, "torch"), False)
    np.testing.assert_allclose(features[-1], expected, rtol=1e-5, atol=1e-5 * expected.max())
    assert loaded.num_tensors == 26
    assert loaded.sha256 == hashlib.sha256((FIXTURES / "vgg16_narrow.safetensors").read_bytes()).hexdigest()


def test_vgg16_of_another_width_lists_every_shape_that_differs() -> None:
    params = _vgg_params(VGG(filters=(4, 4, 8, 8, 16)))
    with pytest.raises(CheckpointError, match=r"6 of another shape: .*features\.24\.weight \(3, 3, 8, 8\)") as error:
        load_weights(FIXTURES / "vgg16_narrow.safetensors", "vgg16", {"params": params})
    assert "missing" not in str(error.value)


def test_a_classifier_head_in_the_vgg_file_is_left_out(tmp_path: Path) -> None:
    tensors, _ = read_tensors(FIXTURES / "vgg16_narrow.safetensors")
    save_file({**tensors, "classifier.0.weight": np.zeros((2, 2), np.float32)}, tmp_path / "vgg.safetensors")
    params = _vgg_params(VGG(filters=(4, 4, 8, 8, 8)))
    assert load_weights(tmp_path / "vgg.safetensors", "vgg16", {"params": params}).skipped == ("classifier.0.weight",)


def test_safetensors_and_pth_load_the_same(tmp_path: Path, variables: dict[str, Any]) -> None:
    save_file(read_tensors(RESNEXT)[0], tmp_path / "resnext.safetensors")
    from_pth, from_safetensors = (
        load_weights(RESNEXT, "resnext50_32x4d", variables),
        load_weights(tmp_path / "resnext.safetensors", "resnext50_32x4d", variables),
    )
    assert _all_equal(from_pth.variables, from_safetensors.variables)
    assert jax.tree.structure(from_pth.variables) == jax.tree.structure(variables)
    assert from_pth.num_tensors == len(jax.tree.leaves(variables))
    assert from_pth.skipped == ()


def test_a_head_with_other_outputs_keeps_its_own_values_and_is_reported(variables: dict[str, Any]) -> None:
    grader = Classifier(NARROW, num_classes=3)
    own = jax.jit(lambda key: grader.init(key, jnp.zeros((1, 32, 32, 3)), False))(jax.random.key(1))
    loaded = load_weights(RESNEXT, "resnext50_32x4d", own)
    assert loaded.skipped == ("fc.bias", "fc.weight")
    assert _all_equal(loaded.variables["params"]["head"], own["params"]["head"])
    assert _all_equal(
        loaded.variables["params"]["encoder"],
        load_weights(RESNEXT, "resnext50_32x4d", variables).variables["params"]["encoder"],
    )


def test_an_encoder_alone_can_be_loaded(variables: dict[str, Any]) -> None:
    encoder = {collection: tree["encoder"] for collection, tree in variables.items()}
    loaded, whole = load_weights(RESNEXT, "resnext50_32x4d", encoder), load_weights(RESNEXT, "resnext50_32x4d", variables)
    assert loaded.skipped == ("fc.bias", "fc.weight")
    for collection in encoder:
        assert _all_equal(loaded.variables[collection], whole.variables[collection]["encoder"])


def test_missing_unexpected_and_misshaped_tensors_are_listed_together(tmp_path: Path, variables: dict[str, Any]) -> None:
    tensors, _ = read_tensors(RESNEXT)
    tensors["layer5.0.conv1.weight"] = tensors.pop("layer1.0.conv1.weight")
    tensors["bn1.running_var"] = np.ones(7, np.float32)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_weights(tmp_path / "wrong.safetensors", "resnext50_32x4d", variables)
    for part in (
        "wrong.safetensors",
        "1 missing: layer1.0.conv1.weight",
        "1 unexpected: layer5.0.conv1.weight",
        "1 of another shape: bn1.running_var (7,) for (4,)",
    ):
        assert part in str(error.value)


def test_assign_keeps_unnamed_leaves_and_the_trees_own_dtype() -> None:
    tree = {"a": {"kernel": jnp.zeros((2, 3), jnp.bfloat16)}, "b": jnp.ones(2)}
    kernel = np.arange(6, dtype=np.float32).reshape(3, 2)
    result = assign_tensors(tree, {"a.weight": kernel}, lambda path: "a.weight" if path[0] == "a" else None, Path("file"))
    assert result["a"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(result["a"]["kernel"], kernel.T)
    np.testing.assert_array_equal(result["b"], tree["b"])

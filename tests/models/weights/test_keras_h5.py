"""Keras' weight files: read as arrays, and nothing else of them."""

from pathlib import Path

import numpy as np
import pytest

from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.models.weights.load import read_tensors

h5py = pytest.importorskip("h5py", reason="needs requirements.txt")
FIXTURES = Path(__file__).parents[2] / "fixtures"


def write(path: Path, layers: dict[str, list[np.ndarray]], root: str = "/") -> None:
    """In Keras' layout."""
    with h5py.File(path, "w") as file:
        group = file.require_group(root)
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, arrays in layers.items():
            names = [f"{layer}/part{i}:0" for i in range(len(arrays))]
            group.require_group(layer).attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, arrays, strict=True):
                group[layer].create_dataset(name, data=array)


@pytest.mark.parametrize("root", ["/", "model_weights"])
def test_weights_and_whole_models_are_read_in_order(tmp_path: Path, root: str) -> None:
    kernel, bias = np.ones((2, 3), np.float32), np.arange(3, dtype=np.float32)
    write(tmp_path / "net.h5", {"conv1/conv": [kernel, bias], "relu": []}, root)
    tensors, _ = read_tensors(tmp_path / "net.h5")
    assert tensors.keys() == {"conv1/conv/0", "conv1/conv/1"}
    np.testing.assert_array_equal(tensors["conv1/conv/1"], bias)


def test_a_long_list_of_names_in_parts_is_read(tmp_path: Path) -> None:
    write(tmp_path / "net.h5", {"a": [np.zeros(1, np.float32)], "b": [np.ones(1, np.float32)]})
    with h5py.File(tmp_path / "net.h5", "a") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = [b"a"], [b"b"]
    assert read_tensors(tmp_path / "net.h5")[0].keys() == {"a/0", "b/0"}


def test_a_link_to_another_file_and_what_is_no_array_of_floats_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "other.h5", {"a": [np.ones(1, np.float32)]})
    write(tmp_path / "link.h5", {"a": [np.ones(1, np.float32)]})
    with h5py.File(tmp_path / "link.h5", "a") as file:
        del file["a/a/part0:0"]
        file["a/a/part0:0"] = h5py.ExternalLink("other.h5", "a/a/part0:0")
    write(tmp_path / "text.h5", {"a": [np.array([b"text"])]})
    for name in ("link.h5", "text.h5"):
        with pytest.raises(CheckpointError, match="not an array of floats in this file"):
            read_tensors(tmp_path / name)


def test_a_file_of_another_layout_or_a_truncated_one_is_a_checkpoint_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "new.weights.h5", "w") as file:  # as Keras 3 saves weights by default
        file["layers/conv/vars/0"] = np.zeros(1)
    with pytest.raises(CheckpointError, match="layer_names"):
        read_tensors(tmp_path / "new.weights.h5")
    whole = (FIXTURES / "vgg16_keras_narrow.h5").read_bytes()
    for length in np.linspace(0, len(whole) - 1, 12).astype(int):
        (tmp_path / "part.h5").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"part\.h5"):
            read_tensors(tmp_path / "part.h5")

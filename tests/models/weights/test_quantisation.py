"""Weights of 8 bits: how far they are from those of 32, and that a network of them is read, refused and as small as said."""

import numpy as np
import pytest
from evaluation.tiny_network import photograph, tiny_config, write_tiny
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pldmlt_jax.cli.app import run
from pldmlt_jax.errors import CheckpointError
from pldmlt_jax.models.weights.quantisation import MAX_INT8, dequantise_kernels, quantise_kernel, quantise_kernels
from pldmlt_jax.workflow.load_checkpoint import load


@given(seed=st.integers(0, 2**31), magnitude=st.sampled_from([1e-6, 0.1, 1.0, 1e4]), kept=st.integers(0, 3))
def test_every_weight_is_kept_to_half_a_step(seed, magnitude, kept):
    rng = np.random.default_rng(seed)
    kernel = (magnitude * rng.normal(size=(3, 3, 5, 4)) * 10.0 ** rng.integers(-3, 4, 4)).astype(np.float32)
    kernel[..., :kept] = 0
    levels, scale = quantise_kernel(kernel)
    assert levels.dtype == np.int8 and scale.dtype == np.float32 and scale.shape == (4,)
    assert (np.abs(levels * scale - kernel) <= scale * 0.5001).all()
    assert (np.abs(levels).max(axis=(0, 1, 2)) == np.where(np.arange(4) < kept, 0, MAX_INT8)).all()


def test_only_kernels_lose_bits_and_twice_is_as_once():
    rng = np.random.default_rng(0)
    arrays = {
        "network/params/a/kernel": rng.normal(size=(3, 3, 2, 8)).astype(np.float32),
        "network/params/a/bias": rng.normal(size=8).astype(np.float32),
        "network/params/norm/scale": rng.normal(size=8).astype(np.float32),
    }
    once = dequantise_kernels(quantise_kernels(arrays))
    assert once.keys() == arrays.keys() and all(array.dtype == np.float32 for array in once.values())
    for name in ("network/params/a/bias", "network/params/norm/scale"):
        np.testing.assert_array_equal(once[name], arrays[name])
    twice = dequantise_kernels(quantise_kernels(once))
    np.testing.assert_allclose(twice["network/params/a/kernel"], once["network/params/a/kernel"], rtol=1e-6)
    assert dequantise_kernels(arrays).keys() == arrays.keys()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A network of 32 bits, and what `export --format=int8` makes of it."""
    root = tmp_path_factory.mktemp("bits")
    write_tiny(root / "32", tiny_config("lesions"))
    command = ["main.py", "export", f"--checkpoint={root / '32'}", f"--workdir={root}", f"--output={root / '8'}"]
    assert run([*command, "--format=int8"]) == 0
    return root / "32", root / "8"


def test_exported_network_of_8_bits_answers_nearly_as_that_of_32(folders):
    before, after = (load(folder).predict(photograph()) for folder in folders)
    for name in before.probabilities:
        difference = np.abs(before.probabilities[name] - after.probabilities[name]).max()
        assert 0 < difference < 0.05
    np.testing.assert_allclose(before.grade_probabilities, after.grade_probabilities, atol=0.05)
    kinds = {name.rsplit("/", 1)[-1]: array.dtype for name, array in load_file(folders[1] / "model.safetensors").items()}
    assert kinds["kernel"] == np.int8 and kinds["kernel_scale"] == kinds["bias"] == np.float32


def test_kernel_without_its_scales_is_refused_and_so_are_both_formats_at_once(folders, tmp_path, capsys):
    arrays = load_file(folders[1] / "model.safetensors")
    name = next(name for name in arrays if name.endswith("_scale"))
    del arrays[name]
    save_file(arrays, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folders[1] / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="kernel_scale"):
        load(tmp_path)
    assert run(["main.py", "export", f"--checkpoint={folders[0]}", "--format=folder,int8", f"--output={tmp_path}"]) == 2
    assert "both folder and int8" in capsys.readouterr().err

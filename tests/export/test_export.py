"""Exported networks: read back without this package, at other sizes and batches, by other engines, as Flax answers.

What needs jax2onnx, ONNX Runtime or OpenVINO skips where they are not installed: requirements-export.txt.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from evaluation.tiny_network import photograph, tiny_config, tiny_network, write_tiny
from PIL import Image

from pldmlt_jax.cli.app import run
from pldmlt_jax.config import InferenceConfig
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.evaluation.operating_points import OperatingPoint, OperatingPoints, write_points
from pldmlt_jax.export.engines import make_forward, onnx_session
from pldmlt_jax.export.onnx import cached_onnx, import_optional, largest_difference, write_onnx
from pldmlt_jax.models.weights.checkpoint_io import WEIGHTS, read_variables, write_weights
from pldmlt_jax.workflow.load_checkpoint import load

RNG = np.random.default_rng(0)
EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained network with operating points and figures, as a workdir has them."""
    folder = write_tiny(tmp_path_factory.mktemp("trained"), tiny_config())
    write_points(folder, OperatingPoints({"lesion": OperatingPoint(0.4, 3.0, 5, 0.31, 0.28)}, 1.5, 12, step=7))
    (folder / "metrics.json").write_text(
        json.dumps({"seg/split": "test", "seg/foreground/dice": 0.4321, "baseline/channel_threshold/dice": 0.1234})
    )
    return folder


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    """What the verb leaves, without ONNX."""
    output = tmp_path_factory.mktemp("exported")
    command = ["main.py", "export", f"--checkpoint={folder}", f"--workdir={folder}", f"--output={output}"]
    assert run([*command, "--format=folder,stablehlo"]) == 0
    return output


def test_exported_folder_answers_as_what_it_was_exported_from(folder, exported):
    image = photograph()
    before, after = (load(path).predict(image) for path in (folder, exported))
    np.testing.assert_array_equal(before.probabilities["lesion"], after.probabilities["lesion"])
    np.testing.assert_array_equal(before.masks["lesion"], after.masks["lesion"])
    np.testing.assert_array_equal(before.grade_probabilities, after.grade_probabilities)
    assert after.calibrated


def test_arrays_are_written_as_they_read_however_they_lie_in_memory(tmp_path):
    """Weights that came from PyTorch are views with turned axes."""
    network = tiny_network(tiny_config())
    turned = jax.tree.map(lambda leaf: np.asfortranarray(leaf), network.state.network.params)
    state = dataclasses.replace(network.state, network=dataclasses.replace(network.state.network, params=turned))
    write_weights(tmp_path / WEIGHTS, dataclasses.replace(network, state=state).arrays, network.step)
    read = read_variables(tmp_path / WEIGHTS)["params"]
    jax.tree.map(np.testing.assert_array_equal, read, network.state.network.params)


def test_stablehlo_takes_any_batch_and_size(exported, folder):
    loaded = jax.export.deserialize(bytearray((exported / "model.stablehlo").read_bytes()))
    assert set(loaded.platforms) == {"cpu", "cuda"}
    (network,) = load(folder).networks
    for batch, height, width in ((1, 64, 64), (3, 96, 32)):
        images = RNG.integers(0, 256, (batch, height, width, 3)).astype(np.uint8)
        for theirs, ours in zip(loaded.call(images), network(images, batch), strict=True):
            np.testing.assert_allclose(np.asarray(theirs), ours, atol=1e-5)


def test_card_tells_input_points_figures_and_limits(exported):
    card = (exported / "model_card.md").read_text()
    for part in ("Not a medical device", "64 px", "0.432", "0.123", "| lesion | 0.4 | 3 | 0.310 | 0.280 | 5 |", "1.500",
                 "model.stablehlo: any batch and size; differs from Flax by"):  # fmt: skip
        assert part in card, part


def test_wrong_formats_several_networks_and_missing_packages_are_told(folder, capsys, monkeypatch):
    assert run(["main.py", "export", f"--checkpoint={folder}", "--format=onxx,folder,hlo"]) == 2
    message = capsys.readouterr().err
    assert "did you mean onnx?" in message and "'hlo'" in message
    assert run(["main.py", "export", f"--checkpoint={folder},{folder}", "--format=folder"]) == 2
    assert "export each on its own" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"openvino is not installed[\s\S]*pip install --no-deps -r requirements-export"):
        import_optional("openvino", "--engine=openvino")
    assert run(["main.py", "predict", f"--checkpoint={folder}", "--input=README.md", "--engine=openvino"]) == 2
    assert "openvino is not installed" in capsys.readouterr().err
    assert run(["main.py", "predict", f"--checkpoint={folder}", "--input=README.md", "--engine=tensorrt"]) == 2
    assert "xla, onnx, openvino" in capsys.readouterr().err


def test_engines_answer_as_flax_does_and_the_file_is_written_once(tmp_path, capsys):
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package)
    network = tiny_network(tiny_config("exclusive"), tmp_path)
    images = RNG.integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    for engine in ("onnx", "openvino"):
        if engine == "openvino":
            pytest.importorskip("openvino")
        forward = make_forward(engine, network, InferenceConfig())
        for batch in (1, 3):
            for theirs, ours in zip(forward(images[:batch], 3), network(images[:batch], 3), strict=True):
                np.testing.assert_allclose(theirs, ours, atol=1e-5 * max(1.0, float(np.abs(ours).max())))
    assert capsys.readouterr().out.count("exporting the network once") == 1
    tiles = InferenceConfig(mode="tiles", tile_px=32)
    assert make_forward("onnx", network, tiles)(images[:, :32, :32], 3)[0].shape == (3, 32, 32, 5)
    moved = dataclasses.replace(network, state=tiny_network(tiny_config("exclusive", seed=5)).state)
    assert cached_onnx(moved, 64) != cached_onnx(network, 64)  # other weights, another file


def test_onnx_file_has_standard_operators_and_no_transposes_between_convolutions(tmp_path):
    """OpenVINO took 1.6 times as long for the same network, in bfloat16 three times, when these were there."""
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package)
    onnx = pytest.importorskip("onnx")
    model = onnx.load(cached_onnx(tiny_network(tiny_config(), tmp_path), 64))
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert {node.domain for node in model.graph.node} == {""}
    assert kinds.count("Transpose") == 3  # of the image, the masks and the grade maps: channels are last for the caller
    assert kinds.count("Resize") == len(tiny_config().model.decoder_filters) and "Expand" not in kinds


def test_example_predicts_without_this_package(folder, exported, tmp_path):
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package)
    assert run(["main.py", "export", f"--checkpoint={folder}", f"--output={tmp_path}", "--format=onnx"]) == 0
    image = photograph(200, 300)
    cv2.imwrite(str(tmp_path / "eye.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    done = subprocess.run(
        [sys.executable, EXAMPLE.resolve(), "model.onnx", "eye.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = load(folder, inference=InferenceConfig(threshold=0.4)).predict(image)
    mask = np.asarray(Image.open(tmp_path / "eye_lesion.png")) > 0
    inside = answer.field_of_view
    assert 0.02 < answer.masks["lesion"][inside].mean() < 0.98
    assert (mask == answer.masks["lesion"]).mean() > 0.97
    assert not mask[~inside].any() or mask[~inside].mean() < 0.01
    printed = np.array([float(part) for part in done.stdout.split("[")[1].split("]")[0].split()])
    np.testing.assert_allclose(printed, answer.grade_probabilities, atol=0.02)


def test_group_normalisation_of_a_large_image_is_as_accurate_in_onnx_runtime_as_in_flax(tmp_path):
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package)
    config = tiny_config("lesions", size_px=448)
    config.model.decoder_norm, config.model.encoder_norm = "group", False
    network = tiny_network(config, tmp_path)
    write_onnx(network, 448, tmp_path / "model.onnx", {})
    session = onnx_session(str(tmp_path / "model.onnx"))
    assert largest_difference(network, session, photograph(448, 448)[None]) < 2e-5


def test_example_refuses_what_it_would_answer_wrongly(tmp_path):
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package)
    config = tiny_config()
    config.data.resize = "stretch"
    stretched = write_tiny(tmp_path / "stretched", config)
    assert run(["main.py", "export", f"--checkpoint={stretched}", f"--output={tmp_path}", "--format=onnx"]) == 0
    Image.fromarray(photograph()).save(tmp_path / "eye.png")
    for photographs, told in ((["eye.png"], "stretch"), (["no.png"], "usage"), ([], "usage")):
        command = [sys.executable, str(EXAMPLE.resolve()), "model.onnx", *photographs]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr


def test_bfloat16_is_for_openvino_alone(tmp_path):
    network = tiny_network(tiny_config(), tmp_path)
    with pytest.raises(ConfigError, match="engine=xla"):
        make_forward("xla", network, InferenceConfig(engine_dtype="bfloat16"))

"""The Python API: light to import, answers on the photograph's own pixels, means of several networks, errors."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation.tiny_network import SIZE_PX, photograph, tiny_config, write_tiny

import pldmlt_jax as pj
from pldmlt_jax.config import to_dict
from pldmlt_jax.data.image_warnings import image_warnings
from pldmlt_jax.errors import CheckpointError, DataError
from pldmlt_jax.evaluation.operating_points import OperatingPoint, OperatingPoints, write_points
from pldmlt_jax.evaluation.predictor import LesionArea, Prediction
from pldmlt_jax.evaluation.temperature import softmax
from pldmlt_jax.io.files import write_json
from pldmlt_jax.workflow.load_checkpoint import load


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two networks of one kind, and one of another."""
    root = tmp_path_factory.mktemp("networks")
    return [
        write_tiny(root / "a", tiny_config("lesions")),
        write_tiny(root / "b", tiny_config("lesions", seed=1)),
        write_tiny(root / "c", tiny_config("fused")),
    ]


@pytest.fixture(scope="module")
def predictor(folders):
    return pj.load(folders[0])


def test_importing_the_package_loads_nothing_and_names_are_there():
    check = (
        "import sys, time; begun = time.perf_counter(); import pldmlt_jax as pj; took = time.perf_counter() - begun\n"
        "heavy = {'jax', 'flax', 'cv2', 'numpy'} & set(sys.modules)\n"
        "assert not heavy and took < 0.5, (heavy, took)\n"
        "assert set(pj.__all__) <= set(dir(pj))\n"
        "assert pj.InferenceConfig(tta='flips').tta == 'flips' and 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
    for name in pj.__all__:
        assert getattr(pj, name).__doc__
        assert f"`{name}" in str(pj.__doc__)
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = pj.nothing_such


@pytest.mark.parametrize("answer", [Prediction, LesionArea])
def test_help_says_what_each_part_of_an_answer_is(answer):
    assert re.findall(r"^        (\w+): ", answer.__doc__, re.MULTILINE) == list(inspect.signature(answer).parameters)


def test_a_users_program_is_type_checked(tmp_path):
    """The types of the names that load when they are first used: the one wrong line is found, and no other."""
    (tmp_path / "own.py").write_text(
        "import pldmlt_jax as pj\n"
        "answer = pj.load('runs/idrid', inference=pj.InferenceConfig(tta='flips')).predict('eye.jpg')\n"
        "grade: int | None = answer.grade\n"
        "share: float = answer.areas['lesion'].percent_of_field\n"
        "picture = pj.overlay(pj.read_image('eye.jpg'), answer.masks)\n"
        "run: str = pj.run_config(pj.Config(name='own'), 'check')\n"
    )
    root = str(Path(pj.__file__).parent.parent)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard", "extraPaths": [root]}))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found = [row for row in json.loads(result.stdout)["generalDiagnostics"] if row["severity"] == "error"]
    assert [(row["range"]["start"]["line"], row["rule"]) for row in found] == [(5, "reportAssignmentType")]


def test_answer_lies_on_the_photographs_own_pixels(predictor):
    """What the network says of its square, enlarged: a lesion of the square is at the same place of the photograph."""
    image = photograph(150, 210)
    answer = predictor.predict(image)
    view = predictor.prepare(image)
    raw = predictor(view.image[None], 1)
    g = view.geometry
    inner = (raw.probabilities[0] * view.valid[..., None])[
        g.pad_top_px : g.pad_top_px + g.resized_height_px, g.pad_left_px : g.pad_left_px + g.resized_width_px
    ]
    for i, name in enumerate(("MA", "HE", "EX", "SE")):
        expected = np.zeros((150, 210), np.float32)
        expected[g.crop_y_px : g.crop_y_px + g.crop_height_px, g.crop_x_px : g.crop_x_px + g.crop_width_px] = cv2.resize(
            np.ascontiguousarray(inner[..., i]), (g.crop_width_px, g.crop_height_px)
        )
        np.testing.assert_allclose(answer.probabilities[name], expected, atol=1e-6)
        np.testing.assert_array_equal(answer.masks[name], expected > 0.5)
        assert answer.areas[name].area_px == answer.masks[name].sum()
    assert answer.field_of_view.shape == answer.grade_map.shape == (150, 210)
    np.testing.assert_allclose(answer.grade_probabilities, raw.grade_probabilities[0])
    assert answer.grade == answer.grade_probabilities.argmax() and not answer.calibrated


def test_file_and_pixels_one_by_one_and_together_have_the_same_answer(predictor, tmp_path):
    photographs = [photograph(90, 130, seed) for seed in range(3)]
    cv2.imwrite(str(tmp_path / "0.png"), cv2.cvtColor(photographs[0], cv2.COLOR_RGB2BGR))
    together = list(predictor.predict_many([tmp_path / "0.png", *photographs[1:]]))
    for image, answer in zip(photographs, together, strict=True):
        alone = predictor.predict(image)
        np.testing.assert_allclose(alone.probabilities["EX"], answer.probabilities["EX"], atol=1e-6)


@pytest.mark.parametrize(("mode", "number", "seen"), [("whole", 1, {1}), ("whole", 3, {2}), ("tiles", 1, {2})])
def test_one_photograph_is_not_filled_up_to_a_batch(folders, mode, number, seen):
    """Black images beside it would take as long as it does; many windows still go together."""
    asked = pj.load(folders[0], inference=pj.InferenceConfig(mode=mode, tile_px=SIZE_PX // 2))
    batches = set()

    def forward(images, batch_size):
        batches.add(batch_size)
        return asked.forwards[0](images, batch_size)

    watched = dataclasses.replace(asked, forwards=(forward,))
    assert len(list(watched.predict_many([photograph(90, 130, seed) for seed in range(number)]))) == number
    assert batches == seen
    assert list(watched.predict_many([])) == []


def test_grade_map_is_the_grad_cam_of_the_whole_network(folders, predictor):
    """By autodiff through the encoder's last feature, which is perturbed by zero."""
    (network,) = predictor.networks
    module, variables = network.module, network.variables
    images = jnp.asarray(photograph(SIZE_PX, SIZE_PX)[None])

    def logits(shift):
        def shifted(next_call, args, kwargs, context):
            found = next_call(*args, **kwargs)
            return (*found[:-1], found[-1] + shift) if context.module.name == "encoder" else found

        with nn.intercept_methods(shifted):
            return module.apply(variables, images, False).grade_logits[0]

    _, grade_logits, grade_maps = network(np.asarray(images), 1)
    shape = (1, *grade_maps.shape[1:3], network.config.model.encoder_filters[-1])
    _, kept = module.apply(
        variables, images, False, mutable="intermediates", capture_intermediates=lambda m, _: m.name == "encoder"
    )
    features = kept["intermediates"]["encoder"]["__call__"][0][-1]
    slopes = jax.jacrev(logits)(jnp.zeros(shape))  # [c, 1, h, w, k]
    alpha = slopes.mean(axis=(1, 2, 3))
    cam = jax.nn.relu(jnp.einsum("bhwk,ck->bhwc", features, alpha))
    places = grade_maps.shape[1] * grade_maps.shape[2]
    np.testing.assert_allclose(np.maximum(grade_maps, 0) / places, cam, rtol=1e-4, atol=1e-6)
    bias = variables["params"]["head"]["bias"]
    np.testing.assert_allclose(grade_maps.mean(axis=(1, 2)) + bias, grade_logits, rtol=1e-4, atol=1e-5)


def test_several_networks_answer_the_mean(folders, predictor):
    image = photograph()
    single = [load(folder).predict(image) for folder in folders[:2]]
    both = load(folders[:2]).predict(image)
    for name in ("MA", "SE"):
        mean = (single[0].probabilities[name] + single[1].probabilities[name]) / 2
        np.testing.assert_allclose(both.probabilities[name], mean, atol=1e-6)
    mean = (single[0].grade_probabilities + single[1].grade_probabilities) / 2
    np.testing.assert_allclose(both.grade_probabilities, mean, atol=1e-6)


def test_networks_of_another_view_or_answer_are_not_averaged(folders, tmp_path):
    with pytest.raises(CheckpointError, match=r"loss\.target = 'fused', not 'lesions'"):
        load([folders[0], folders[2]])
    stretched = tiny_config("lesions")
    stretched.data.resize = "stretch"
    with pytest.raises(CheckpointError, match=r"data\.resize"):
        load([folders[0], write_tiny(tmp_path / "d", stretched)])


def test_operating_points_beside_the_weights_are_used(folders, tmp_path):
    folder = write_tiny(tmp_path / "e", tiny_config("lesions"))
    image = photograph()
    half = load(folder).predict(image)
    threshold = float(np.percentile(half.probabilities["MA"][half.field_of_view], 90))
    points = OperatingPoints({"MA": OperatingPoint(threshold)}, temperature=3.0, step=7, field_px=(400, 500))
    write_points(folder, points)
    answer = load(folder).predict(image)
    np.testing.assert_array_equal(answer.masks["MA"], answer.probabilities["MA"] > threshold)
    np.testing.assert_array_equal(answer.masks["EX"], half.masks["EX"])
    logits = np.log(half.grade_probabilities)
    np.testing.assert_allclose(answer.grade_probabilities, softmax(logits, 3.0), rtol=1e-4)
    assert answer.calibrated and not half.calibrated
    assert "much smaller than the 400 to 500 px" in "".join(answer.warnings)
    chosen = load(folder, inference=pj.InferenceConfig(threshold=0.9)).predict(image)
    np.testing.assert_array_equal(chosen.masks["MA"], answer.probabilities["MA"] > 0.9)


def test_weights_of_another_architecture_and_wrong_arrays_are_told(folders, predictor, tmp_path):
    other = write_tiny(tmp_path / "f", tiny_config("lesions"))
    config = tiny_config("lesions")
    wide = dataclasses.replace(config, model=dataclasses.replace(config.model, centre_filters=8))
    write_json(other / "config.json", to_dict(wide))
    with pytest.raises(CheckpointError, match=r"another architecture .*centre_1.*absent"):
        load(other)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load(tmp_path)
    for wrong in (photograph().astype(np.float32), photograph()[..., 0]):
        with pytest.raises(DataError, match="uint8"):
            predictor.predict(wrong)


def test_what_is_no_fundus_photograph_is_told():
    rng = np.random.default_rng(0)
    image = photograph(200, 260)
    fov = image.max(axis=-1) > 0
    assert image_warnings(image, fov, (150, 250)) == []
    everywhere = np.ones_like(fov)
    noise = rng.integers(0, 256, image.shape).astype(np.uint8)
    cases = [
        (image[..., ::-1].copy(), fov, "red"),
        (np.zeros_like(image), everywhere, "black"),
        (np.full_like(image, 250), everywhere, "white"),
        (noise, everywhere, "border"),
        (image[:60], fov[:60], "not a disc"),
    ]
    for picture, field, word in cases:
        assert word in " ".join(image_warnings(picture, field, None)), word
    assert "much larger than the 60 to 80 px" in image_warnings(image, fov, (60, 80))[0]

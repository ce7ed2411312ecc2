"""benchmarks/sizes.py: the same network at other sizes, and the mean of its probabilities."""

import cv2
import numpy as np
import pytest
from evaluation.tiny_network import SIZE_PX, photograph, tiny_config, write_tiny

import pldmlt_jax as pj
from benchmarks.sizes import at_size, count_sizes, line, predict_at_own_size
from pldmlt_jax.data.records import RawRecord


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A photograph whose haemorrhage is marked, and nothing else."""
    folder = tmp_path_factory.mktemp("photographs")
    mask = np.zeros((90, 130), np.uint8)
    mask[40:50, 60:80] = 255
    cv2.imwrite(str(folder / "a.png"), photograph())
    cv2.imwrite(str(folder / "he.png"), mask)
    return RawRecord("a", folder / "a.png", {"HE": folder / "he.png"})


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return pj.load(write_tiny(tmp_path_factory.mktemp("networks") / "a", tiny_config("lesions")))


def test_other_size_is_what_the_photograph_is_prepared_at(predictor):
    image = photograph()
    own, larger = at_size(predictor, SIZE_PX), at_size(predictor, 2 * SIZE_PX)
    np.testing.assert_array_equal(predict_at_own_size(own, image), predict_at_own_size(predictor, image))
    assert predict_at_own_size(larger, image).shape == predict_at_own_size(own, image).shape == (90, 130, 4)
    assert larger.prepare(image).image.shape == (2 * SIZE_PX, 2 * SIZE_PX, 3)
    assert np.abs(predict_at_own_size(larger, image) - predict_at_own_size(own, image)).max() > 1e-3


def test_mean_is_counted_last(predictor, record):
    other = at_size(predictor, 2 * SIZE_PX)
    one, two, mean = count_sizes([predictor, other], [record])
    same = count_sizes([predictor, predictor], [record])
    assert line(one) == line(same[0]) == line(same[2]) != line(mean) != line(two)
    assert f"ap of HE {one.compute()['seg/HE/ap']:.3f}" in line(one) and "ap of MA undefined" in line(one)
    assert one.lesions[1, 2] == 200

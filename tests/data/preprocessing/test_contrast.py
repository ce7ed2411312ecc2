"""Contrast enhancement: inside the field alone, the same when trained and predicted, and what it is for."""

import dataclasses

import cv2
import numpy as np
import pytest

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing.contrast import ENHANCEMENTS
from pldmlt_jax.data.preprocessing.prepare import prepare_image, prepare_record
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.data.synthetic.dataset import draw_fundus

DATA = DataConfig()


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return draw_fundus((0, 1), 3, 320).image


@pytest.mark.parametrize("name", ENHANCEMENTS)
def test_outside_of_the_field_stays_black(photograph, name):
    view = prepare_image(photograph, dataclasses.replace(DATA, enhance=name), 192)
    assert view.image.dtype == np.uint8
    if name != "none":
        assert not view.image[~view.valid].any()
    assert view.image[view.valid].std() > 5


def test_uneven_light_is_evened_out(photograph):
    """A photograph that is darker on the left looks like the evenly lit one afterwards."""
    shade = np.linspace(0.45, 1.0, photograph.shape[1])[None, :, None]
    uneven = (photograph * shade).astype(np.uint8)
    even = prepare_image(photograph, DATA, 192)

    def difference(enhance: str) -> float:
        data = dataclasses.replace(DATA, enhance=enhance)
        first, second = (prepare_image(image, data, 192).image[even.valid].astype(float) for image in (photograph, uneven))
        return float(np.abs(first - second).mean() / first.std())

    assert difference("ben_graham") < 0.7 * difference("none")


def test_clahe_gives_a_dull_photograph_local_contrast(photograph):
    dull = (photograph * 0.3 + 60 * photograph.any(axis=-1, keepdims=True)).astype(np.uint8)

    def contrast(enhance: str) -> float:
        view = prepare_image(dull, dataclasses.replace(DATA, enhance=enhance), 192)
        grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return float(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 6))[48:144, 48:144].mean())

    assert contrast("clahe") > 1.5 * contrast("none")


def test_a_plain_field_is_grey_up_to_its_rim():
    """The local mean is taken inside the field: a plain one has no bright rim."""
    image, valid = np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.uint8)
    cv2.circle(valid, (48, 48), 40, 1, -1)
    image[valid > 0] = (150, 80, 40)
    result = ENHANCEMENTS["ben_graham"](image, valid > 0)
    assert (np.abs(result[valid > 0].astype(int) - 128) <= 1).all()


def test_prepared_file_holds_what_prediction_sees(photograph, tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), cv2.cvtColor(photograph, cv2.COLOR_RGB2BGR))
    data = dataclasses.replace(DATA, enhance="clahe")
    stored = prepare_record(RawRecord("a", path), data, 192)
    decoded = cv2.cvtColor(cv2.imdecode(stored["image"], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(decoded, prepare_image(photograph, data, 192).image)

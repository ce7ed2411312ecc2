"""Temperature scaling: the softmax in closed form, and a temperature that undoes a scaling of the logits."""

import numpy as np
import pytest

from pldmlt_jax.evaluation.temperature import fit_temperature, softmax


def test_temperature_divides_logits():
    logits = np.array([[2.0, 0.0, -1.0]])
    np.testing.assert_allclose(softmax(logits, 2.0), softmax(logits / 2.0))
    np.testing.assert_allclose(softmax(logits)[0, 0], 1 / (1 + np.exp(-2) + np.exp(-3)))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_fitted_temperature_undoes_a_scaling_of_calibrated_logits(scale):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5))
    grades = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn with the softmax of the logits
    assert fit_temperature(scale * logits, grades) == pytest.approx(scale, rel=0.05)

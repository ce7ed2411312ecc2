"""Weight gradients in bfloat16 against XLA's own: the convolution, its other derivatives, and a whole network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.config import ModelConfig
from pldmlt_jax.models.build import build_network
from pldmlt_jax.models.weight_gradients import convolve_with_fast_gradients

ROUNDING = 2.0**-8
"""Relative rounding error of bfloat16."""


def own(x, kernel, strides=(1, 1), padding="SAME", **options):
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def fast(x, kernel, strides=(1, 1), padding="SAME", **options):
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
    return convolve_with_fast_gradients(x, kernel, strides, padding, **options)


def drawn(height=12, width=20, inputs=16, outputs=24, size=3):
    x, kernel, slope = (
        jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate(((2, height, width, inputs), (size, size, inputs, outputs), (2, height, width, outputs)))
    )
    return x, kernel, slope


def close(given, expected, tolerance):
    """In the norm: single elements of a rounded sum may cancel."""
    return float(jnp.linalg.norm(given - expected) / jnp.linalg.norm(expected)) < tolerance


def test_only_the_weight_gradient_is_rounded():
    x, kernel, slope = drawn()
    (y, pull), (expected, pull_own) = jax.vjp(fast, x, kernel), jax.vjp(own, x, kernel)
    np.testing.assert_array_equal(y, expected)
    (x_slope, kernel_slope), (x_expected, kernel_expected) = pull(slope), pull_own(slope)
    np.testing.assert_array_equal(x_slope, x_expected)
    assert float(jnp.abs(kernel_slope - kernel_expected).max()) > 0
    assert close(kernel_slope, kernel_expected, ROUNDING)


def test_derivative_of_the_gradient_is_right_too():
    """As the meta step takes it: the slope of a loss after one step of descent."""
    x, kernel, _ = drawn()

    def after_a_step(scale, convolve):
        loss = lambda k: scale * jnp.mean(jnp.tanh(convolve(x, k)))  # noqa: E731
        return jnp.mean(jnp.cos(convolve(x, kernel - jax.grad(loss)(kernel))))

    given, expected = (jax.grad(after_a_step)(3.0, convolve) for convolve in (fast, own))
    assert abs(float(expected)) > 1e-6
    assert float(given) == pytest.approx(float(expected), rel=5 * ROUNDING)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ({}, {"strides": (2, 2)}),
        ({}, {"padding": "VALID"}),
        ({}, {"rhs_dilation": (2, 2)}),
        ({"size": 1}, {}),
        ({"inputs": 4}, {}),
        ({"outputs": 4}, {}),
    ],
)
def test_other_convolutions_stay_as_they_are(shape, options):
    x, kernel, _ = drawn(**shape)
    given, expected = (jax.grad(lambda k, f=f: jnp.sum(f(x, k, **options) ** 2))(kernel) for f in (fast, own))
    np.testing.assert_array_equal(given, expected)


def test_network_trains_on_nearly_the_same_gradient_and_predicts_the_same():
    model: dict = {
        "encoder_filters": (16, 16, 16),
        "encoder_convs": (1, 1, 1),
        "decoder_filters": (16, 16, 16),
        "centre_filters": 16,
    }
    plain, rounded = (build_network(ModelConfig(**model, weight_gradients=name), "lesions") for name in ("xla", "bfloat16"))
    image = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3)) * 255
    variables = jax.jit(plain.init, static_argnums=2)(jax.random.key(1), image, False)

    @jax.jit
    def gradients(params):
        def loss(params, network):
            output, _ = network.apply({**variables, "params": params}, image, True, mutable=["batch_stats"])
            return jnp.mean(output.segmentation_logits**2) + jnp.mean(output.grade_logits**2)

        return [jax.grad(loss)(params, network) for network in (plain, rounded)]

    expected, given = gradients(variables["params"])
    jax.tree.map(lambda a, b: None if close(a, b, 4 * ROUNDING) else pytest.fail(f"{a.shape}"), given, expected)
    answers = [network.apply(variables, image, False).segmentation_logits for network in (plain, rounded)]
    np.testing.assert_array_equal(*answers)

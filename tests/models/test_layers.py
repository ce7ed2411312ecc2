"""Normalisation, grouped convolutions, batch normalisation, pooling."""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.models import layers


def _random(shape: tuple[int, ...], seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


# ---- normalise


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("torch", [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.406 / 0.225]),
        ("caffe", [0 - 103.939, 51 - 116.779, 255 - 123.68]),
        ("tf", [1.0, 51 / 127.5 - 1, -1.0]),
        ("none", [1.0, 0.2, 0.0]),
    ],
)
def test_normalise_of_one_pixel_by_hand(scheme: str, expected: list[float]) -> None:
    pixel = np.array([255, 51, 0], np.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(layers.normalise(pixel, scheme)[0, 0, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(layers.normalise(pixel, scheme), layers.normalise(pixel.astype(np.float32), scheme))


def test_normalise_rounds_once_in_bfloat16() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    half = layers.normalise(image, "torch", jnp.bfloat16)
    np.testing.assert_array_equal(half, layers.normalise(image, "torch").astype(jnp.bfloat16))


# ---- grouped convolution


@partial(jax.jit, static_argnames=("implementation", "groups", "stride"))
def _outputs_and_gradients(implementation: str, x: jax.Array, kernel: jax.Array, groups: int, stride: int) -> list:
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return layers.GROUPED_CONVS[implementation](x, kernel, groups, stride)

    y, pullback = jax.vjp(convolve, x, kernel)
    return [y, *pullback(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))]


@pytest.mark.parametrize("implementation", ["einsum", "dense"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("groups", "in_channels", "features"), [(4, 4, 4), (4, 8, 12), (1, 3, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_every_form_of_the_grouped_convolution_agrees_with_xlas_own(
    implementation: str, stride: int, groups: int, in_channels: int, features: int, dtype: type, tolerance: float
) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(_random((2, 6, 9, in_channels), dtype=dtype))
        kernel = jnp.asarray(_random((3, 3, in_channels // groups, features), 1, dtype))
        ours = _outputs_and_gradients(implementation, x, kernel, groups, stride)
        reference = _outputs_and_gradients("lax", x, kernel, groups, stride)
        for a, b in zip(ours, reference, strict=True):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(jnp.abs(b).max()))


@pytest.mark.parametrize("implementation", ["einsum", "dense"])
@pytest.mark.parametrize("dilation", [2, 3])
def test_every_form_of_the_grouped_convolution_can_be_dilated(implementation: str, dilation: int) -> None:
    x, kernel = jnp.asarray(_random((2, 6, 9, 8))), jnp.asarray(_random((3, 3, 2, 12), 1))
    wide = jnp.zeros((2 * dilation + 1, 2 * dilation + 1, 2, 12)).at[::dilation, ::dilation].set(kernel)
    expected = layers.GROUPED_CONVS["lax"](x, wide, 4, 1)
    for name in ("lax", implementation):
        np.testing.assert_allclose(layers.GROUPED_CONVS[name](x, kernel, 4, 1, dilation), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "stride", "dilation"), [(3, 1, 1), (3, 1, 2), (5, 2, 1), (7, 2, 1)])
def test_the_depthwise_loop_agrees_with_xlas_own_in_value_and_derivatives(size: int, stride: int, dilation: int) -> None:
    x, kernel = jnp.asarray(_random((2, 13, 14, 3))), jnp.asarray(_random((size, size, 1, 3), 1))

    @partial(jax.jit, static_argnames="implementation")
    def results(x: jax.Array, kernel: jax.Array, implementation: str) -> tuple:
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(layers.DEPTHWISE_CONVS[implementation](x, kernel, stride, dilation)))

        first = jax.grad(loss, argnums=(0, 1))
        along = (jnp.cos(x), jnp.sin(kernel))
        return loss(x, kernel), first(x, kernel), jax.jvp(first, (x, kernel), along)[1]

    ours, reference = (results(x, kernel, implementation=name) for name in ("taps", "lax"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", list(layers.GROUPED_CONVS))
def test_a_group_sees_its_own_input_channels_only(implementation: str) -> None:
    conv = layers.GroupedConv(features=12, groups=4, implementation=implementation)
    x = jnp.asarray(_random((1, 5, 5, 8)))
    variables = conv.init(jax.random.key(0), x)
    changed = x.at[..., 2:4].add(1)  # the input of the second group
    difference = np.abs(conv.apply(variables, changed) - conv.apply(variables, x)).max(axis=(0, 1, 2))
    assert np.all(difference[3:6] > 1e-3)
    np.testing.assert_array_less(np.delete(difference, [3, 4, 5]), 1e-6)


def test_the_parameters_do_not_depend_on_the_form() -> None:
    x = jnp.zeros((1, 5, 5, 8))
    kernels = [
        layers.GroupedConv(12, 4, implementation=name).init(jax.random.key(0), x)["params"]["kernel"]
        for name in (*layers.GROUPED_CONVS, "auto")
    ]
    assert kernels[0].shape == (3, 3, 2, 12)
    for kernel in kernels[1:]:
        np.testing.assert_array_equal(kernel, kernels[0])


def test_auto_is_much_faster_than_xlas_own_on_cpu() -> None:
    """Asserted with a margin for busy machines."""
    if jax.default_backend() != "cpu":
        pytest.skip("the forms differ on CPU only")
    x, fastest_s = jnp.asarray(_random((4, 8, 8, 256))), {}
    for implementation in ("auto", "lax"):
        conv = layers.GroupedConv(features=256, groups=32, implementation=implementation)
        variables = conv.init(jax.random.key(0), x)
        step = jax.jit(jax.grad(lambda v, conv=conv: (conv.apply(v, x) ** 2).sum()))
        jax.block_until_ready(step(variables))
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(step(variables))
            seconds.append(time.perf_counter() - start)
        fastest_s[implementation] = min(seconds)
    assert fastest_s["lax"] > 3 * fastest_s["auto"], fastest_s


# ---- batch normalisation


def test_batch_norm_in_training_by_hand() -> None:
    """One channel of the values 0 and 2: mean 1, biased variance 1, unbiased variance 2."""
    norm = layers.BatchNorm(momentum=0.9, epsilon=0.0)
    x = jnp.array([0.0, 2.0]).reshape(2, 1, 1, 1)
    variables = norm.init(jax.random.key(0), x, True)
    assert variables["batch_stats"] == {"mean": jnp.zeros(1), "var": jnp.ones(1)}  # untouched by initialisation
    y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.ravel(), [-1, 1], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.1], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 + 0.1 * 2], rtol=1e-6)


def test_batch_norm_in_inference_by_hand() -> None:
    variables = {
        "params": {"scale": jnp.array([3.0]), "bias": jnp.array([5.0])},
        "batch_stats": {"mean": jnp.array([2.0]), "var": jnp.array([4.0])},
    }
    y = layers.BatchNorm(epsilon=0.0).apply(variables, jnp.full((1, 1, 1, 1), 6.0), False)
    np.testing.assert_allclose(y.ravel(), [(6 - 2) / 2 * 3 + 5])


# ---- pooling


def test_max_pool_after_a_relu_equals_padding_with_minus_infinity() -> None:
    x = jax.nn.relu(_random((2, 8, 6, 3)))
    window = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_array_equal(layers.max_pool(x, size=3, stride=2, padding=1), window)

"""Grouped and depthwise convolutions: every implementation against XLA's own."""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.models import grouped_convolutions


def _random(shape: tuple[int, ...], seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@partial(jax.jit, static_argnames=("implementation", "groups", "stride"))
def _outputs_and_gradients(implementation: str, x: jax.Array, kernel: jax.Array, groups: int, stride: int) -> list:
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return grouped_convolutions.GROUPED_CONVS[implementation](x, kernel, groups, stride)

    y, pullback = jax.vjp(convolve, x, kernel)
    return [y, *pullback(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))]


@pytest.mark.parametrize("implementation", ["einsum", "dense"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("groups", "in_channels", "features"), [(4, 4, 4), (4, 8, 12), (1, 3, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_grouped_convolution_equals_xlas_own(
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
def test_dilated_grouped_convolution_equals_a_kernel_with_zeros(implementation: str, dilation: int) -> None:
    x, kernel = jnp.asarray(_random((2, 6, 9, 8))), jnp.asarray(_random((3, 3, 2, 12), 1))
    wide = jnp.zeros((2 * dilation + 1, 2 * dilation + 1, 2, 12)).at[::dilation, ::dilation].set(kernel)
    expected = grouped_convolutions.GROUPED_CONVS["lax"](x, wide, 4, 1)
    for name in ("lax", implementation):
        np.testing.assert_allclose(
            grouped_convolutions.GROUPED_CONVS[name](x, kernel, 4, 1, dilation), expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(("size", "stride", "dilation"), [(3, 1, 1), (3, 1, 2), (5, 2, 1), (7, 2, 1)])
def test_depthwise_loop_equals_xlas_own_in_value_and_derivatives(size: int, stride: int, dilation: int) -> None:
    x, kernel = jnp.asarray(_random((2, 13, 14, 3))), jnp.asarray(_random((size, size, 1, 3), 1))

    @partial(jax.jit, static_argnames="implementation")
    def results(x: jax.Array, kernel: jax.Array, implementation: str) -> tuple:
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(grouped_convolutions.DEPTHWISE_CONVS[implementation](x, kernel, stride, dilation)))

        first = jax.grad(loss, argnums=(0, 1))
        along = (jnp.cos(x), jnp.sin(kernel))
        return loss(x, kernel), first(x, kernel), jax.jvp(first, (x, kernel), along)[1]

    ours, reference = (results(x, kernel, implementation=name) for name in ("taps", "lax"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", list(grouped_convolutions.GROUPED_CONVS))
def test_a_group_reads_only_its_own_input_channels(implementation: str) -> None:
    conv = grouped_convolutions.GroupedConv(features=12, groups=4, implementation=implementation)
    x = jnp.asarray(_random((1, 5, 5, 8)))
    variables = conv.init(jax.random.key(0), x)
    changed = x.at[..., 2:4].add(1)  # the input of the second group
    difference = np.abs(conv.apply(variables, changed) - conv.apply(variables, x)).max(axis=(0, 1, 2))
    assert np.all(difference[3:6] > 1e-3)
    np.testing.assert_array_less(np.delete(difference, [3, 4, 5]), 1e-6)


def test_parameters_do_not_depend_on_the_implementation() -> None:
    x = jnp.zeros((1, 5, 5, 8))
    kernels = [
        grouped_convolutions.GroupedConv(12, 4, implementation=name).init(jax.random.key(0), x)["params"]["kernel"]
        for name in (*grouped_convolutions.GROUPED_CONVS, "auto")
    ]
    assert kernels[0].shape == (3, 3, 2, 12)
    for kernel in kernels[1:]:
        np.testing.assert_array_equal(kernel, kernels[0])


def test_auto_is_much_faster_than_xlas_own_on_cpu() -> None:
    """Asserted with a margin for busy machines."""
    if jax.default_backend() != "cpu":
        pytest.skip("the implementations differ on CPU only")
    x, fastest_s = jnp.asarray(_random((4, 8, 8, 256))), {}
    for implementation in ("auto", "lax"):
        conv = grouped_convolutions.GroupedConv(features=256, groups=32, implementation=implementation)
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

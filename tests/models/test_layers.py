"""Batch normalisation and pooling."""

import jax
import jax.numpy as jnp
import numpy as np

from pldmlt_jax.models import layers


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


def test_max_pool_after_a_relu_equals_padding_with_minus_infinity() -> None:
    x = jax.nn.relu(np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype(np.float32))
    window = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_array_equal(layers.max_pool(x, size=3, stride=2, padding=1), window)

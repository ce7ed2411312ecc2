"""theta's optimiser against its closed form, computed by hand in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pldmlt_jax.config import MetaConfig, OptimConfig
from pldmlt_jax.method.optimizers import label_optimizer, network_optimizer, virtual_optimizer

pytestmark = pytest.mark.usefixtures("float64")

RATE = 0.2


def make_params() -> dict:
    rng = np.random.default_rng(0)
    return {
        "encoder": {"conv": jnp.asarray(rng.normal(size=(3, 2)))},
        "decoder": {"conv": jnp.asarray(rng.normal(size=4))},
        "head": {"bias": jnp.asarray(rng.normal(size=2))},
    }


def make_gradients(num: int) -> list[dict]:
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), make_params()) for _ in range(num)]


def run_updates(optimizer: optax.GradientTransformation, gradients: list[dict]) -> list[dict]:
    """The update of each step, with the parameters held constant."""
    params = make_params()
    state, updates = optimizer.init(params), []
    for gradient in gradients:
        update, state = optimizer.update(gradient, state, params)
        updates.append(update)
    return updates


def assert_updates_equal(actual: list[dict], expected: list[dict]) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), actual, expected)


def scale(tree: dict, factor: float) -> dict:
    return jax.tree.map(lambda leaf: np.asarray(leaf) * factor, tree)


def test_sgd_is_minus_the_rate_times_the_gradient() -> None:
    gradients = make_gradients(2)
    updates = run_updates(network_optimizer(OptimConfig(optimizer="sgd", learning_rate=RATE), 10), gradients)
    assert_updates_equal(updates, [scale(gradient, -RATE) for gradient in gradients])


def test_adam_has_bias_corrected_moments() -> None:
    """Kingma and Ba 2015, Algorithm 1, with beta1 = 0.9, beta2 = 0.999, eps = 1e-8."""
    gradients = make_gradients(4)
    updates = run_updates(network_optimizer(OptimConfig(optimizer="adam", learning_rate=RATE), 10), gradients)
    first = second = scale(gradients[0], 0.0)
    expected = []
    for t, gradient in enumerate(gradients, start=1):
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * np.asarray(g), first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * np.asarray(g) ** 2, second, gradient)
        expected.append(
            jax.tree.map(lambda m, v, t=t: -RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), first, second)
        )
    assert_updates_equal(updates, expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_decoder_factor_multiplies_the_update_outside_the_encoder(optimizer: str) -> None:
    gradients = make_gradients(3)
    plain, factored = (
        run_updates(network_optimizer(OptimConfig(optimizer=optimizer, decoder_factor=factor), 10), gradients)
        for factor in (1.0, 7.0)
    )
    expected = [{part: scale(tree, 1.0 if part == "encoder" else 7.0) for part, tree in update.items()} for update in plain]
    assert_updates_equal(factored, expected)


@pytest.mark.parametrize("clip_norm", [0.1, 1e3])
def test_clip_norm_bounds_the_global_norm_of_the_gradient(clip_norm: float) -> None:
    """A gradient with a greater norm is scaled down to it; the norm is that of all parameters together."""
    gradients = make_gradients(2)
    config = OptimConfig(optimizer="sgd", learning_rate=RATE, clip_norm=clip_norm)
    updates = run_updates(network_optimizer(config, 10), gradients)
    norms = [np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(tree))) for tree in gradients]
    assert min(norms) > 0.1
    expected = [scale(g, -RATE * min(1.0, clip_norm / norm)) for g, norm in zip(gradients, norms, strict=True)]
    assert_updates_equal(updates, expected)


def rates_of(num_steps: int, total_steps: int, **fields) -> np.ndarray:
    """The learning rate of each step, read from SGD on a gradient of ones."""
    optimizer = network_optimizer(OptimConfig(optimizer="sgd", learning_rate=RATE, **fields), total_steps)
    ones = jax.tree.map(jnp.ones_like, make_params())
    return np.array([-float(update["head"]["bias"][0]) for update in run_updates(optimizer, [ones] * num_steps)])


def test_constant_schedule() -> None:
    np.testing.assert_allclose(rates_of(5, 4), [RATE] * 5, rtol=1e-12)


def test_cosine_schedule_falls_from_the_rate_to_zero_over_the_total_steps() -> None:
    expected = [RATE * 0.5 * (1 + np.cos(np.pi * min(step, 8) / 8)) for step in range(11)]
    np.testing.assert_allclose(rates_of(11, 8, schedule="cosine"), expected, rtol=1e-6, atol=1e-12)


def test_warmup_rises_linearly_from_zero_before_a_constant_rate() -> None:
    np.testing.assert_allclose(rates_of(7, 20, warmup_steps=4), RATE * np.array([0, 1, 2, 3, 4, 4, 4]) / 4, rtol=1e-6)


def test_cosine_schedule_after_a_warmup_ends_at_the_total_steps() -> None:
    warmup, total = 3, 9
    expected = [RATE * step / warmup for step in range(warmup)]
    expected += [RATE * 0.5 * (1 + np.cos(np.pi * step / (total - warmup))) for step in range(total - warmup + 1)]
    rates = rates_of(total + 1, total, schedule="cosine", warmup_steps=warmup)
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)


def test_virtual_sgd_ignores_clipping_decoder_factor_and_schedule() -> None:
    """The virtual step is theta - epsilon grad L, whatever the optimiser of theta does."""
    gradients = make_gradients(1)
    optim = OptimConfig(clip_norm=1e-3, decoder_factor=5.0, warmup_steps=10)
    updates = run_updates(virtual_optimizer(MetaConfig(inner_learning_rate=0.3), optim), gradients)
    assert_updates_equal(updates, [scale(gradients[0], -0.3)])


@pytest.mark.parametrize(("name", "power"), [("sgd", 1), ("adam", 0)])
def test_label_optimizer(name: str, power: int) -> None:
    """SGD follows the gradient. Adam's first step is the sign of the gradient, up to its eps."""
    gradients = make_gradients(1)
    updates = run_updates(label_optimizer(MetaConfig(optimizer=name, learning_rate=0.3)), gradients)
    expected = jax.tree.map(lambda g: -0.3 * np.sign(g) * np.abs(np.asarray(g)) ** power, gradients[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates[0], expected)

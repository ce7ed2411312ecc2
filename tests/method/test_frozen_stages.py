"""Frozen stages of the encoder: no gradient there, the same gradient elsewhere, and no step moves them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.config import Config, LossConfig, MetaConfig, ModelConfig, OptimConfig
from pldmlt_jax.config_checks import validate_config
from pldmlt_jax.errors import UserError
from pldmlt_jax.method.steps import meta_step, train_step
from pldmlt_jax.models.build import build_network
from tests.method.methods import tiny_batch, tiny_method, tiny_state, with_graded_images

FROZEN = 2
STAGES = {
    "vgg16": lambda name: int(name.removeprefix("conv").removeprefix("norm")[0]),
    "resnet18": lambda name: 1 if name == "stem" else 1 + int(name[5]),
    "densenet121": lambda name: 1 if name == "stem" else 2 if name.startswith(("block1", "transition1_norm")) else 3,
}
"""Function from the name of a module to its stage, from 1, by encoder."""


def same(given, expected):
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4 * float(jnp.abs(expected).max()))


def networks(encoder):
    """The same network without and with frozen stages. VGG has normalisation, whose statistics must be frozen too."""
    fields = {
        "encoder": encoder,
        "encoder_filters": (4, 4, 6, 6, 8),
        "encoder_convs": (1, 1, 1, 1, 1),
        "encoder_norm": encoder == "vgg16",
        "encoder_base_filters": 8,
        "encoder_max_blocks": 1,
        "decoder_filters": (8, 6, 4, 4, 4),
        "centre_filters": 4,
    }
    return [build_network(ModelConfig(**fields, frozen_stages=count), "fused") for count in (0, FROZEN)]


@pytest.mark.parametrize("encoder", sorted(STAGES))
def test_frozen_stages_get_no_gradient_and_all_others_the_same(encoder):
    free, frozen = networks(encoder)
    image = jax.random.normal(jax.random.key(1), (2, 64, 64, 3)) * 50 + 120
    variables = jax.jit(free.init, static_argnums=2)(jax.random.key(0), image, False)

    def gradients(network, train):
        def loss(params):
            output, kept = network.apply({**variables, "params": params}, image, train, mutable=["batch_stats"])
            return jnp.sum(output.segmentation_logits**2) + jnp.sum(output.grade_logits**2), kept["batch_stats"]

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    (expected, _), (given, _) = gradients(free, False), gradients(frozen, False)
    for module, tree in given["encoder"].items():
        is_frozen = STAGES[encoder](module) <= FROZEN
        assert not is_frozen or not any(bool(leaf.any()) for leaf in jax.tree.leaves(tree)), module
        if not is_frozen:
            jax.tree.map(same, tree, expected["encoder"][module])
    for part in ("decoder", "head", "output"):
        jax.tree.map(same, given[part], expected[part])
    statistics = gradients(frozen, True)[1]["encoder"]
    for module, tree in statistics.items():
        kept = jax.tree.map(lambda a, b: bool((a == b).all()), tree, variables["batch_stats"]["encoder"][module])
        assert set(jax.tree.leaves(kept)) == {STAGES[encoder](module) <= FROZEN}, module


def test_no_step_moves_frozen_weights_nor_their_average(float64):
    """With Adam, moving average and truly graded images. A decay that is no power of two would show in the last bit."""
    optim = OptimConfig(learning_rate=0.01, ema_decay=0.97)
    loss = LossConfig(reduction="pixel_mean", graded_weight=0.5)
    method = tiny_method(optim=optim, loss=loss, model={"frozen_stages": FROZEN}, meta=MetaConfig(hidden=(16,)))
    start = state = tiny_state(method, moved=False)
    for _ in range(3):
        state, _ = train_step(state, with_graded_images(tiny_batch()), method=method)
        state, metrics = meta_step(state, tiny_batch(), method=method)
        assert float(metrics["meta_grad_norm"]) > 0
    for trained in (state.network.params, state.network.ema):
        for block in range(1, 6):
            before, after = (tree["encoder"][f"conv{block}_1"]["kernel"] for tree in (start.network.params, trained))
            assert bool((before == after).all()) == (block <= FROZEN), block


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frozen_stages": 1}, "frozen at random values"),
        ({"frozen_stages": 1, "weights": "none"}, "frozen at random values"),
        ({"frozen_stages": 6, "weights": "vgg16.pth"}, "5 at most"),
    ],
)
def test_what_cannot_be_frozen_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        validate_config(Config(model=ModelConfig(**fields)))
    validate_config(Config(model=ModelConfig(frozen_stages=5, weights="vgg16.pth")))

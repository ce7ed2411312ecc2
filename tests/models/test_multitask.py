"""The multi-task network and the label-update network: full-size counts, connections, invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.config import Config, GraderConfig, MetaConfig, ModelConfig
from pldmlt_jax.config_checks import validate_config
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.models.build import (
    DECODERS,
    DILATABLE_ENCODERS,
    ENCODERS,
    GRADERS,
    STRIDE_16_DECODERS,
    build_grader,
    build_label_network,
    build_network,
)
from pldmlt_jax.models.decoders.layers import upsample_nearest_2x
from pldmlt_jax.models.grade_heads import GRADE_HEADS
from pldmlt_jax.models.label_update import HIERARCHIES, SOFTMAXES

IMAGE = jnp.zeros((1, 64, 64, 3), jnp.uint8)


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def shapes(network) -> dict:
    return jax.eval_shape(lambda: network.init(jax.random.key(0), IMAGE, False))


def test_full_size_parameter_counts():
    """VGG16's convolutions as published; the whole as segmentation_models' Unet('vgg16'), 23,748,241 trainable with one
    class, plus one more output channel (145) and the grading head (2,565).
    """
    params = shapes(build_network(ModelConfig(), "fused"))["params"]
    assert count(params["encoder"]) == 14_714_688
    assert count(params) == 23_748_241 + 145 + 2_565
    label = jax.eval_shape(
        lambda: build_label_network(MetaConfig()).init(jax.random.key(0), jnp.zeros((1, 512)), jnp.zeros(1, jnp.int32))
    )
    assert count(label["params"]) == (512 + 5 + 1) * 256 + (256 + 1) * 5


@pytest.mark.parametrize("name", sorted(GRADERS))
def test_every_grader_has_five_logits(name):
    grader = build_grader(name, GraderConfig(base_filters=16, max_blocks=1))
    output = jax.eval_shape(lambda: grader.init_with_output(jax.random.key(0), IMAGE, False))[0]
    assert output.logits.shape == (1, 5)


def tiny_network(**changes):
    values = {
        "encoder_filters": (4, 4, 6, 6, 8),
        "encoder_convs": (1, 1, 1, 1, 1),
        "decoder_filters": (8, 6, 4, 4, 4),
        "centre_filters": 4,
    }
    return build_network(ModelConfig(**(values | changes)), "fused")


@pytest.mark.parametrize("full_res_skip", [False, True])
def test_every_skip_connection_reaches_the_output(full_res_skip):
    network = tiny_network(full_res_skip=full_res_skip)
    decoder = network.decoder
    rng = np.random.default_rng(0)
    features = [jnp.asarray(rng.normal(size=(1, 64 // 2**i, 64 // 2**i, 4)), jnp.float32) for i in range(6)]
    variables = decoder.init(jax.random.key(0), features, False)
    apply = jax.jit(lambda f: decoder.apply(variables, f, False))
    plain = apply(features)
    for level in range(6):
        changed = [feature + (1.0 if i == level else 0.0) for i, feature in enumerate(features)]
        moved = float(jnp.abs(apply(changed) - plain).max())
        assert (moved > 1e-6) == (level > 0 or full_res_skip), level


def test_nearest_upsampling_repeats_pixels():
    x = jnp.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(upsample_nearest_2x(x), np.repeat(np.repeat(x, 2, axis=1), 2, axis=2))


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_every_pair_segments_at_full_size_and_grades_or_is_refused(encoder, decoder):
    model = ModelConfig(encoder=encoder, decoder=decoder)
    if decoder in STRIDE_16_DECODERS and encoder not in DILATABLE_ENCODERS:
        with pytest.raises(ConfigError, match="cannot be dilated"):
            validate_config(Config(model=model))
        return
    validate_config(Config(model=model))
    network = build_network(model, "fused")
    output = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), IMAGE, False))[0]
    assert output.segmentation_logits.shape == (1, 64, 64, 2)
    assert output.grade_logits.shape == (1, 5)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("model.full_res_skip", {"encoder": "resnet18", "full_res_skip": True}),
        ("model.encoder_norm", {"encoder": "densenet121", "encoder_norm": True}),
        ("model.full_res_skip", {"decoder": "linknet", "full_res_skip": True}),
        ("model.decoder_filters", {"encoder": "resnet18", "decoder_filters": (8, 8, 8, 8)}),
        ("model.decoder", {"decoder": "fpn", "encoder_filters": (4, 4, 4, 4), "encoder_convs": (1, 1, 1, 1)}),
        ("model.encoder_base_filters", {"encoder": "resnext50_32x4d", "encoder_base_filters": 8}),
        ("model.atrous_rates", {"encoder": "resnet18", "decoder": "deeplabv3plus", "atrous_rates": (6, 12)}),
    ],
)
def test_parts_that_do_not_go_together_are_refused(field, changes):
    with pytest.raises(ConfigError, match=field):
        validate_config(Config(model=ModelConfig(**changes)))


# ---- grading heads


def test_the_ordinal_heads_probabilities_by_hand():
    """P(1) = P(>= 1) P(not >= 2 | >= 1), and so on; they sum to 1."""
    steps = jnp.array([[2.0, -1.0, 0.5, 0.0]])
    p = jax.nn.sigmoid(steps)[0]
    expected = [1 - p[0], p[0] * (1 - p[1]), p[0] * p[1] * (1 - p[2]), p[0] * p[1] * p[2] * (1 - p[3]), jnp.prod(p)]
    np.testing.assert_allclose(jax.nn.softmax(GRADE_HEADS["ordinal"].to_logits(steps))[0], expected, rtol=1e-5)
    saturated = GRADE_HEADS["ordinal"].to_logits(1e4 * steps)
    assert np.isfinite(np.asarray(saturated)).all()


def test_the_regression_head_predicts_the_nearest_grade():
    numbers = jnp.array([[-2.0], [-0.6], [0.4], [1.6], [9.0]])  # from the middle grade on
    assert jnp.argmax(GRADE_HEADS["regression"].to_logits(numbers), axis=-1).tolist() == [0, 1, 2, 4, 4]


# ---- label update


def test_soft_label_starts_near_the_pseudo_label():
    network = build_label_network(MetaConfig())
    pseudo = jnp.array([0, 3])
    logits, _ = network.init_with_output(jax.random.key(0), jnp.ones((2, 512)), pseudo)
    labels = jax.nn.softmax(logits)
    expected = np.exp(4.0) / (np.exp(4.0) + 4.0)
    np.testing.assert_allclose(labels[jnp.arange(2), pseudo], expected, rtol=1e-6)


def test_masked_softmax_gives_masked_grades_exactly_zero_and_the_literal_one_does_not():
    logits, mask = jnp.array([[1.0, 2.0, 3.0, 0.5, -1.0]]), jnp.array([[False, True, True, False, True]])
    masked, literal = (SOFTMAXES[name](logits, mask) for name in ("masked", "literal"))
    assert np.asarray(masked)[~np.asarray(mask)].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(masked[0, mask[0]], jax.nn.softmax(logits[0, mask[0]]), rtol=1e-6)
    np.testing.assert_allclose(literal, jax.nn.softmax(logits * mask), rtol=1e-6)
    assert float(literal[0, 0]) > 0
    for labels in (masked, literal):
        assert float(labels.sum()) == pytest.approx(1.0)


def test_hierarchies():
    pseudo = jnp.array([0, 2])
    admissible = jnp.array([[True, False, False, False, False], [False, False, True, True, True]])
    masks = {name: HIERARCHIES[name](pseudo, admissible) for name in HIERARCHIES}
    assert bool(masks["full"].all())
    assert masks["ordinal"].tolist() == [[True, True, False, False, False], [False, True, True, True, False]]
    assert masks["evidence"].tolist() == admissible.tolist()

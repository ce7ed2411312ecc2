"""The losses against closed forms, and at their limits."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.config import Config, LossConfig, MetaConfig
from pldmlt_jax.config_checks import validate_config
from pldmlt_jax.errors import ConfigError, UserError
from pldmlt_jax.method import losses
from pldmlt_jax.models.build import TARGET_CHANNELS
from pldmlt_jax.types import LESIONS, MASK_BITS
from tests.method.methods import tiny_batch

FIXTURES = Path(__file__).parent.parent / "fixtures"


def test_focal_by_hand():
    p = np.array([0.7, 0.2, 0.1])
    expected = -0.25 * (1 - 0.2) ** 2 * np.log(0.2)
    actual = losses.categorical_focal(jnp.log(p), jnp.array([0.0, 1.0, 0.0]), 0.25, 2.0)
    assert float(actual) == pytest.approx(expected, rel=1e-6)


def test_gamma_zero_is_weighted_cross_entropy():
    logits = jnp.array([[2.0, -1.0, 0.5]])
    target = jnp.array([[0.2, 0.3, 0.5]])
    expected = -0.25 * (target * jax.nn.log_softmax(logits)).sum()
    assert float(losses.categorical_focal(logits, target, 0.25, 0.0)[0]) == pytest.approx(float(expected), rel=1e-6)


def test_focal_is_linear_in_soft_labels():
    logits = jnp.array([[2.0, -1.0, 0.5]])
    whole = losses.categorical_focal(logits, jnp.array([[0.25, 0.0, 0.75]]), 0.25, 2.0)
    parts = [losses.categorical_focal(logits, jnp.eye(3)[None, i], 0.25, 2.0) for i in (0, 2)]
    assert float(whole[0]) == pytest.approx(float(0.25 * parts[0][0] + 0.75 * parts[1][0]), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_saturated_logits_have_finite_loss_and_gradient(scale, gamma):
    logits = scale * jnp.array([[1.0, -1.0]])
    for target in (jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])):
        value, slope = jax.value_and_grad(lambda z, t=target: losses.categorical_focal(z, t, 0.25, gamma).sum())(logits)
        assert np.isfinite(float(value))
        assert np.isfinite(np.asarray(slope)).all()
    wrong = losses.categorical_focal(logits, jnp.array([[0.0, 1.0]]), 0.25, gamma)
    assert float(wrong[0]) == pytest.approx(0.25 * 2 * scale, rel=1e-5)


def test_binary_focal_by_hand_for_both_alphas():
    logits, target = jnp.array([[0.3, -1.2]]), jnp.array([[1.0, 0.0]])
    p = 1 / (1 + np.exp(-np.array([0.3, -1.2])))
    for name, (positive, negative) in (("retinanet", (0.25, 0.75)), ("keras", (0.25, 0.25))):
        expected = -positive * (1 - p[0]) ** 2 * np.log(p[0]) - negative * p[1] ** 2 * np.log(1 - p[1])
        actual = losses.binary_focal(logits, target, 0.25, 2.0, name)
        assert float(actual[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("target", sorted(losses.TARGETS))
def test_keras_reduction_divides_by_the_channels(target):
    batch = tiny_batch()
    channels = losses.segmentation_target(batch.mask_bits, target).shape[-1]
    logits = jax.random.normal(jax.random.key(0), (*batch.mask_bits.shape, channels))
    values = [
        float(losses.segmentation_loss(logits, batch, LossConfig(target=target, reduction=reduction)))
        for reduction in ("keras", "pixel_mean")
    ]
    assert values[0] == pytest.approx(values[1] / channels, rel=1e-5)


@pytest.mark.parametrize("target", sorted(losses.TARGETS))
@pytest.mark.parametrize("name", sorted(losses.SEGMENTATION_LOSSES))
def test_only_valid_pixels_count_and_a_lesion_free_batch_is_finite(name, target):
    batch = tiny_batch()
    config = LossConfig(target=target, segmentation=name)
    channels = losses.segmentation_target(batch.mask_bits, target).shape[-1]
    logits = jax.random.normal(jax.random.key(0), (*batch.mask_bits.shape, channels))
    invalid = (batch.mask_bits & MASK_BITS["valid"]) == 0
    assert bool(invalid.any())
    changed = jnp.where(invalid[..., None], 50.0 - logits, logits)
    value = losses.segmentation_loss(logits, batch, config)
    assert float(losses.segmentation_loss(changed, batch, config)) == pytest.approx(float(value), rel=1e-6)
    free = dataclasses.replace(batch, mask_bits=batch.mask_bits & MASK_BITS["valid"])
    value, slope = jax.value_and_grad(lambda z: losses.segmentation_loss(z, free, config))(logits)
    assert np.isfinite(float(value))
    assert np.isfinite(np.asarray(slope)).all()


def test_dice_ce_is_zero_for_a_perfect_prediction():
    batch = tiny_batch()
    config = LossConfig(segmentation="dice_ce")
    logits = 100.0 * (2.0 * losses.segmentation_target(batch.mask_bits, "fused") - 1.0)
    assert float(losses.segmentation_loss(logits, batch, config)) == pytest.approx(0.0, abs=1e-5)


def test_where_lesions_overlap_the_later_one_wins():
    bits = jnp.array([[[MASK_BITS["EX"] | MASK_BITS["HE"], MASK_BITS["HE"] | MASK_BITS["SE"]], [126, 0]]], jnp.uint8)
    label = losses.segmentation_target(bits, "exclusive").argmax(axis=-1)[0]
    expected = [[1 + LESIONS.index("HE"), 1 + LESIONS.index("SE")], [1 + LESIONS.index("MA"), 0]]
    np.testing.assert_array_equal(label, expected)


# ---- against segmentation_models.pytorch


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "losses.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("dice.lesions", {}),
        ("dice.softmax", {}),
        ("absent.dice.lesions", {"absent_overlap": False}),
        ("absent.dice.softmax", {"absent_overlap": False}),
        ("absent.weighted.dice.lesions", {"absent_overlap": False, "class_weights": (3.0, 1.0, 1.0, 1.5)}),
        ("focal_tversky.lesions", {}),
        ("absent.focal_tversky.lesions", {"absent_overlap": False}),
        ("focal.lesions", {}),
        ("focal.softmax", {"reduction": "pixel_mean", "alpha": 1.0}),
        ("cross_entropy.softmax", {"reduction": "pixel_mean"}),
        ("cross_entropy.lesions", {}),
        ("weighted.cross_entropy.softmax", {"reduction": "pixel_mean", "class_weights": (0.5, 1.0, 2.0, 3.0)}),
    ],
)
def test_losses_equal_the_librarys(recorded, name, fields):
    *variant, segmentation, target = name.split(".")
    config = LossConfig(target="lesions" if target == "lesions" else "exclusive", segmentation=segmentation, **fields)
    masks, label = recorded["masks"], recorded["label"]
    if "absent" in variant:
        masks, label = masks * (np.arange(4) != 3), np.where(label == 3, 0, label)
    truth = masks if target == "lesions" else np.eye(4)[label]
    arrays = (jnp.asarray(recorded["logits"]), jnp.asarray(truth), jnp.ones(truth.shape[:-1], bool))
    ours = float(losses.SEGMENTATION_LOSSES[segmentation](*arrays, config, None))
    assert ours == pytest.approx(float(recorded[name]), rel=1e-5)


@pytest.mark.parametrize("name", losses.OVERLAP_LOSSES)
def test_absent_lesions_have_no_slope_where_their_overlap_does_not_count(name):
    """The batch's only lesions are microaneurysms, whose slope does not change."""
    batch = tiny_batch()
    logits = jax.random.normal(jax.random.key(0), (*batch.mask_bits.shape, len(LESIONS)))

    def slope(absent_overlap):
        config = LossConfig(target="lesions", segmentation=name, absent_overlap=absent_overlap)
        return np.asarray(jax.grad(lambda z: losses.segmentation_loss(z, batch, config))(logits))

    present = np.array([lesion == "MA" for lesion in LESIONS])
    np.testing.assert_array_equal(slope(False), slope(True) * present)
    assert slope(True).any(axis=(0, 1, 2)).all()


@pytest.mark.parametrize("name", losses.OVERLAP_LOSSES)
def test_a_lesion_on_only_one_device_is_not_absent(name):
    """The losses of the parts equal that of the whole batch, in which only the first image has microaneurysms."""
    batch = tiny_batch()
    batch = dataclasses.replace(batch, mask_bits=batch.mask_bits.at[1].set(batch.mask_bits[1] & MASK_BITS["valid"]))
    logits = jax.random.normal(jax.random.key(0), (*batch.mask_bits.shape, len(LESIONS)))
    config = LossConfig(target="lesions", segmentation=name, absent_overlap=False)

    def of_part(z, part):
        return losses.segmentation_loss(z, part, config, axis_name="devices")

    parts = jax.vmap(of_part, axis_name="devices")(*jax.tree.map(lambda leaf: leaf[:, None], (logits, batch)))
    whole = losses.segmentation_loss(logits, batch, config)
    np.testing.assert_allclose(parts, [whole, whole], rtol=1e-5)
    assert float(whole) > 0


@pytest.mark.parametrize("name", losses.OVERLAP_LOSSES)
@pytest.mark.parametrize("target", sorted(losses.TARGETS))
def test_overlap_that_does_not_count_is_no_loss_in_a_batch_without_lesions(name, target):
    batch = tiny_batch()
    free = dataclasses.replace(batch, mask_bits=batch.mask_bits & MASK_BITS["valid"])
    logits = jax.random.normal(jax.random.key(0), (*batch.mask_bits.shape, TARGET_CHANNELS[target]))
    config = LossConfig(target=target, segmentation=name, absent_overlap=False)
    value, slope = jax.value_and_grad(lambda z: losses.segmentation_loss(z, free, config))(logits)
    assert float(value) == 0 and not np.asarray(slope).any()


def test_binary_focal_of_two_channels_is_that_of_their_logits_difference():
    """Of a softmax over background and lesion: a sigmoid of the difference, once for each channel."""
    batch = tiny_batch()
    logits = 3 * jax.random.normal(jax.random.key(0), (*batch.mask_bits.shape, 2))
    truth = losses.segmentation_target(batch.mask_bits, "fused")
    difference = jnp.stack([logits[..., 0] - logits[..., 1], logits[..., 1] - logits[..., 0]], axis=-1)
    pixel_mask = losses.unpack_mask(batch.mask_bits, "valid")
    expected = losses.masked_mean(losses.binary_focal(difference, truth, 0.25, 2.0, "retinanet"), pixel_mask) / 2
    config = LossConfig(segmentation="binary_focal")
    assert float(losses.segmentation_loss(logits, batch, config)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", sorted(losses.SEGMENTATION_LOSSES))
def test_a_weight_of_zero_leaves_a_lesion_out(name):
    batch = tiny_batch()
    config = LossConfig(target="lesions", segmentation=name, class_weights=(2.0, 0.0, 1.0, 1.0))
    logits = jax.random.normal(jax.random.key(0), (*batch.mask_bits.shape, 4))
    value = float(losses.segmentation_loss(logits, batch, config))
    assert float(losses.segmentation_loss(logits.at[..., 1].add(3.0), batch, config)) == pytest.approx(value, rel=1e-6)
    assert float(losses.segmentation_loss(logits.at[..., 0].add(3.0), batch, config)) != pytest.approx(value, rel=1e-3)


def test_focal_tversky_is_finite_at_a_perfect_prediction():
    batch = tiny_batch()
    logits = 1e3 * (2.0 * losses.segmentation_target(batch.mask_bits, "fused") - 1.0)
    config = LossConfig(segmentation="focal_tversky")
    value, slope = jax.value_and_grad(lambda z: losses.segmentation_loss(z, batch, config))(logits)
    assert 0 <= float(value) < 1e-4
    assert np.isfinite(np.asarray(slope)).all()


# ---- options together

OPTIONS = {
    "segmentation": tuple(losses.SEGMENTATION_LOSSES),
    "target": tuple(losses.TARGETS),
    "reduction": ("keras", "pixel_mean"),
    "binary_alpha": tuple(losses.BINARY_ALPHAS),
    "gamma": (0.0, 2.0),
    "class_weights": (False, True),
    "absent_overlap": (False, True),
}


def pairwise(options):
    """A few combinations that contain every pair of values of two options, chosen greedily."""
    rows = [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]

    def pairs(row):
        return set(itertools.combinations(row.items(), 2))

    missing, chosen = set().union(*map(pairs, rows)), []
    while missing:
        chosen.append(max(rows, key=lambda row: len(pairs(row) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


@pytest.mark.parametrize("row", pairwise(OPTIONS), ids=lambda row: "-".join(map(str, row.values())))
def test_every_pair_of_options_gives_a_loss_that_descends_or_is_refused(row):
    """A step against the gradient lowers the loss. Validation refuses the one pair that makes no sense."""
    channels = TARGET_CHANNELS[row["target"]]
    weights = tuple(float(1 + c) for c in range(channels)) if row["class_weights"] else ()
    config = LossConfig(**(row | {"class_weights": weights}))
    if weights and row["segmentation"] in losses.OVERLAP_LOSSES and row["target"] == "fused":
        with pytest.raises(ConfigError, match="class_weights"):
            validate_config(Config(loss=config))
        return
    validate_config(Config(loss=config))
    batch = tiny_batch()
    logits = jax.random.normal(jax.random.key(0), (*batch.mask_bits.shape, channels))
    value_and_slope = jax.jit(jax.value_and_grad(lambda z: losses.segmentation_loss(z, batch, config)))
    value, slope = value_and_slope(logits)
    lower, _ = value_and_slope(logits - 1e-2 * slope / jnp.abs(slope).max())
    assert 0 < float(lower) < float(value)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, 1.0, 1.0)])
def test_class_weights_of_another_number_or_of_no_lesion_are_refused(weights):
    with pytest.raises(ConfigError, match="class_weights"):
        validate_config(Config(loss=LossConfig(class_weights=weights)))


@pytest.mark.parametrize(
    ("loss", "pseudo"), [({"grading": False}, "graders"), ({}, "given"), ({"graded_weight": 0.0}, "none")]
)
def test_self_training_needs_graded_images_to_train_on(loss, pseudo):
    config = Config(loss=LossConfig(self_training=1.0, **loss), meta=MetaConfig(enabled=False))
    config.pseudo.source = pseudo
    with pytest.raises(UserError, match=r"self_training|pseudo\.source"):
        validate_config(config)

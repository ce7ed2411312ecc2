"""The steps against closed forms, compilation, the gradient balance, microbatches and Grad-CAM."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.config import GraderConfig, LossConfig, MetaConfig, OptimConfig
from pldmlt_jax.method import losses
from pldmlt_jax.method.diagnostics import gradient_balance
from pldmlt_jax.method.gradcam import grad_cam, grade_contributions, head_jacobian
from pldmlt_jax.method.steps import eval_step, meta_step, train_step
from pldmlt_jax.method.virtual_step import apply_network, soft_labels
from pldmlt_jax.models.build import build_grader
from pldmlt_jax.models.grade_heads import GRADE_HEADS
from pldmlt_jax.types import NUM_GRADES
from tests.method.methods import tiny_batch, tiny_method, tiny_state, with_graded_images


def test_train_step_is_one_gradient_step_with_the_labels_held_constant(float64):
    method = tiny_method(meta=MetaConfig(hidden=(16,)), optim=OptimConfig(optimizer="sgd", learning_rate=0.1))
    state, batch = tiny_state(method), tiny_batch()
    output, _ = apply_network(state.network.params, state.network.batch_stats, batch, method)
    labels = soft_labels(state.label.params, output.pooled, batch, method)

    def loss(params):
        return losses.total_loss(
            apply_network(params, state.network.batch_stats, batch, method)[0], labels, batch, method.loss
        ).total

    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.network.params, jax.jit(jax.grad(loss))(state.network.params))
    new, metrics = train_step(state, batch, method=method)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), new.network.params, expected)
    jax.tree.map(np.testing.assert_array_equal, new.label, state.label)
    assert float(metrics["loss"]) == pytest.approx(float(metrics["seg_loss"] + 0.8 * metrics["grade_loss"]))


def test_joint_training_adds_the_weighted_loss_on_truly_graded_images(float64):
    """The running statistics remain those of the pixel-labelled images."""
    plain = tiny_method(loss=LossConfig(reduction="pixel_mean"))
    joint = tiny_method(loss=LossConfig(reduction="pixel_mean", graded_weight=0.7))
    state, batch = tiny_state(plain), with_graded_images(tiny_batch())

    def loss(params):
        output, _ = apply_network(params, state.network.batch_stats, batch.graded, joint)
        true = jnp.eye(5)[batch.graded.grade]
        return losses.grading_loss(output.grade_logits, true, batch.graded, joint.loss)

    alone, _ = train_step(state, batch, method=plain)
    both, metrics = train_step(state, batch, method=joint)
    slope = jax.jit(jax.grad(loss))(state.network.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * 0.7 * g, alone.network.params, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), both.network.params, expected)
    jax.tree.map(np.testing.assert_array_equal, both.network.batch_stats, alone.network.batch_stats)
    assert float(metrics["graded_loss"]) == pytest.approx(float(loss(state.network.params)))
    with pytest.raises(ValueError, match="truly graded"):
        train_step(state, tiny_batch(), method=joint)


@pytest.mark.parametrize("target", ["fused", "lesions"])
def test_self_training_adds_the_loss_against_the_networks_own_masks(float64, target):
    """The masks come from the network as deployed and have no gradient. Only `valid` pixels of graded images count."""
    plain = tiny_method(loss=LossConfig(target=target, segmentation="dice_ce"))
    both = tiny_method(loss=LossConfig(target=target, segmentation="dice_ce", self_training=0.3))
    state, batch = tiny_state(plain), with_graded_images(tiny_batch())
    deployed = {"params": state.network.params, "batch_stats": state.network.batch_stats}
    answer = plain.network.apply(deployed, batch.graded.image, False).segmentation_logits
    masks = (answer > 0).astype(float) if target == "lesions" else jnp.eye(2)[jnp.argmax(answer, axis=-1)]
    assert 0 < float(masks.mean()) < 1

    def loss(params):
        output, _ = apply_network(params, state.network.batch_stats, batch.graded, both)
        return losses.segmentation_loss(output.segmentation_logits, batch.graded, both.loss, target=masks)

    alone, _ = train_step(state, batch, method=plain)
    trained, metrics = train_step(state, batch, method=both)
    value, slope = jax.jit(jax.value_and_grad(loss))(state.network.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * 0.3 * g, alone.network.params, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), trained.network.params, expected)
    assert float(metrics["self_training_loss"]) == pytest.approx(float(value))


def test_a_masked_row_does_not_change_the_losses(float64):
    """Exactly so in evaluation, where normalisation uses running statistics."""
    method = tiny_method(loss=LossConfig(reduction="pixel_mean"))
    state, batch = tiny_state(method), tiny_batch(2)
    padded = jax.tree.map(lambda a: jnp.concatenate([a, a[:1]]), batch)
    padded = dataclasses.replace(padded, sample_mask=jnp.array([1.0, 1.0, 0.0]))
    values = [eval_step(state, b, method=method).losses for b in (batch, padded)]
    np.testing.assert_allclose(np.array(values[0]), np.array(values[1]), rtol=1e-12)


def test_steps_compile_once_and_equal_methods_share_it():
    method = tiny_method(dtype="float32", optim=OptimConfig(learning_rate=0.0321))
    state, batch = tiny_state(method), tiny_batch()
    state = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, state)
    for step in (train_step, meta_step):
        before = step._cache_size()
        state, _ = step(state, batch, method=method)
        state, _ = step(state, batch, method=method)
        step(state, batch, method=tiny_method(dtype="float32", optim=OptimConfig(learning_rate=0.0321)))
        assert step._cache_size() == before + 1


def test_without_label_update_the_labels_are_the_pseudo_labels(float64):
    method = tiny_method(meta=MetaConfig(enabled=False))
    state, batch = tiny_state(method), tiny_batch()
    output = eval_step(state, batch, method=method)
    np.testing.assert_array_equal(output.labels, np.eye(5)[batch.grade])
    assert float(output.losses.total) == float(output.loss_updated)


def test_ablation_without_grading_loss_gives_the_head_no_gradient(float64):
    method = tiny_method(meta=MetaConfig(enabled=False), loss=LossConfig(grading=False))
    state, batch = tiny_state(method), tiny_batch()
    new, _ = train_step(state, batch, method=method)
    jax.tree.map(np.testing.assert_array_equal, new.network.params["head"], state.network.params["head"])


def test_gradient_balance_adds_up_to_the_encoders_gradient(float64):
    """|g_S + g_C|^2 = |g_S|^2 + |g_C|^2 + 2 cos |g_S| |g_C|."""
    method = tiny_method()
    state, batch = tiny_state(method), tiny_batch()
    balance = {name: float(value) for name, value in gradient_balance(state, batch, method=method).items()}
    new, _ = train_step(state, batch, method=method)
    change = jax.tree.map(jnp.subtract, new.network.params["encoder"], state.network.params["encoder"])
    whole = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(change)) / 0.1**2
    seg, grade = balance["grad_norm/seg_encoder"], balance["grad_norm/grade_encoder"]
    assert whole == pytest.approx(seg**2 + grade**2 + 2 * balance["grad_cosine_encoder"] * seg * grade, rel=1e-9)


def test_gradient_balance_of_fixed_labels_is_that_of_a_run_without_update(float64):
    method = tiny_method(meta=MetaConfig(hidden=(16,), kappa=1.0))
    state, batch = tiny_state(method), tiny_batch()
    without = dataclasses.replace(method, meta=dataclasses.replace(method.meta, enabled=False))
    balance, fixed = (gradient_balance(state, batch, method=m) for m in (method, without))
    assert set(fixed) == {"grad_norm/seg_encoder", "grad_norm/grade_encoder", "grad_cosine_encoder"}
    assert float(balance["grad_norm/seg_encoder"]) == pytest.approx(float(fixed["grad_norm/seg_encoder"]), rel=1e-9)
    for name in ("grad_norm/grade_encoder", "grad_cosine_encoder"):
        assert float(balance[f"{name}_fixed"]) == pytest.approx(float(fixed[name]), rel=1e-9)
        assert float(balance[name]) != pytest.approx(float(fixed[name]), rel=1e-2)


def test_grad_cam_equals_one_grade_at_a_time():
    """After global pooling and one dense layer, alpha is the layer's weight over the number of pixels."""
    grader = build_grader("resnext50_32x4d", GraderConfig(base_filters=16, max_blocks=1))
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    variables = grader.init(jax.random.key(1), image, False)
    cam = grad_cam(variables, image, classifier=grader)
    output = grader.apply(variables, image, False)
    h, w = output.features.shape[1:3]
    expected = jax.nn.relu(jnp.einsum("bhwk,kc->bchw", output.features, variables["params"]["head"]["kernel"]) / (h * w))
    np.testing.assert_allclose(cam.maps, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
    np.testing.assert_allclose(cam.logits, output.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "segmentation", "microbatches"),
    [(train_step, "focal", 4), (train_step, "dice_ce", 2), (meta_step, "focal", 2), (meta_step, "dice_ce", 2)],
)
def test_microbatches_equal_the_whole_batch_where_no_norm_looks_at_it(step, segmentation, microbatches, float64):
    """Also for Dice, which is no sum over images, with a masked image and a field of view smaller than the image."""
    whole = tiny_method(
        model={"decoder_norm": "group"},
        meta=MetaConfig(loss="maxl", inner_learning_rate=0.1, learning_rate=0.1, hidden=(16,)),
        loss=LossConfig(segmentation=segmentation, reduction="pixel_mean"),
    )
    state, batch = tiny_state(whole), tiny_batch(4)
    batch = dataclasses.replace(batch, sample_mask=jnp.array([1.0, 1.0, 1.0, 0.0]))
    expected = step(state, batch, method=whole)
    actual = step(state, batch, method=dataclasses.replace(whole, microbatches=microbatches))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), actual, expected)


@pytest.mark.parametrize("step", [train_step, meta_step])
@pytest.mark.parametrize("rematerialisation", ["blocks", "convs"])
def test_rematerialisation_changes_nothing(step, rematerialisation, float64):
    kept, again = (
        tiny_method(model={"rematerialisation": name, "encoder_norm": True, "centre_filters": 6})
        for name in ("none", rematerialisation)
    )
    state, batch = tiny_state(kept), tiny_batch()
    assert jax.tree.structure(tiny_state(again)) == jax.tree.structure(state)
    expected, _ = step(state, batch, method=kept)
    actual, _ = step(state, batch, method=again)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), actual, expected)


@pytest.mark.parametrize("grade_head", sorted(GRADE_HEADS))
def test_grade_contributions_follow_the_jacobian_of_the_logits(grade_head, float64):
    """Compared with central differences of the head's logits along every channel of the pooled feature."""
    rng = np.random.default_rng(0)
    outputs = GRADE_HEADS[grade_head].outputs
    head = {"kernel": jnp.asarray(rng.normal(size=(6, outputs))), "bias": jnp.asarray(rng.normal(size=outputs))}
    features = jnp.asarray(rng.random((2, 3, 4, 6)))
    pooled = features.mean(axis=(1, 2))

    def logits(at):
        return GRADE_HEADS[grade_head].to_logits(at @ head["kernel"] + head["bias"])

    steps = 1e-5 * jnp.eye(6)[:, None]
    slopes = jnp.stack([(logits(pooled + step) - logits(pooled - step)) / 2e-5 for step in steps], axis=1)
    maps = grade_contributions(features, head_jacobian(head, grade_head, pooled))
    assert maps.shape == (2, 3, 4, NUM_GRADES)
    np.testing.assert_allclose(maps, jnp.einsum("bhwk,bkc->bhwc", features, slopes), rtol=1e-6, atol=1e-8)

"""The method trains: it memorises four synthetic images within a hundred steps of Algorithm 1."""

import jax
import numpy as np
import pytest

from pldmlt_jax.config import LossConfig, MetaConfig, ModelConfig, OptimConfig
from pldmlt_jax.data.synthetic.dataset import draw_fundus
from pldmlt_jax.method.state import Method, init_method_state
from pldmlt_jax.method.steps import eval_step, meta_step, train_step
from pldmlt_jax.models.build import build_label_network, build_network
from pldmlt_jax.types import MASK_BITS, Batch

pytestmark = pytest.mark.slow

GRADES = np.array([0, 2, 3, 4], np.int32)


def make_four_images() -> Batch:
    """Centres of synthetic images, so that the lesions are large."""
    cut = np.s_[64:128, 96:160]
    drawn = [draw_fundus((i,), int(grade), 192) for i, grade in enumerate(GRADES)]
    lesion = np.stack([np.any([mask[cut] for mask in image.masks.values()], axis=0) for image in drawn])
    return Batch(
        image=np.stack([image.image[cut] for image in drawn]),
        mask_bits=(MASK_BITS["valid"] + MASK_BITS["fused"] * lesion).astype(np.uint8),
        grade=GRADES,
        admissible=np.ones((4, 5), bool),
        sample_mask=np.ones(4, np.float32),
        index=np.arange(4, dtype=np.int32),
    )


def test_four_images_are_memorised_with_the_label_update():
    model = ModelConfig(
        encoder_filters=(8, 12, 16, 24, 32),
        encoder_convs=(1, 1, 1, 1, 1),
        encoder_norm=True,
        decoder_filters=(24, 16, 12, 12, 8),
        centre_filters=0,
        full_res_skip=True,
        norm_momentum=0.8,
    )
    meta = MetaConfig(loss="anchored", inner_learning_rate=1e-2, optimizer="adam", learning_rate=1e-3, hierarchy="ordinal")
    method = Method(
        network=build_network(model, "fused"),
        label_network=build_label_network(meta),
        loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"),
        meta=meta,
        optim=OptimConfig(learning_rate=5e-3),
        total_steps=100,
        seed=0,
    )
    batch = jax.tree.map(jax.numpy.asarray, make_four_images())
    state = init_method_state(method)
    for step in range(100):
        state, _ = train_step(state, batch, method=method)
        if step % 10 == 9:
            state, _ = meta_step(state, batch, method=method)
    output = eval_step(state, batch, method=method)
    truth = np.asarray(batch.mask_bits & MASK_BITS["fused"]) != 0
    predicted = np.asarray(output.probabilities[..., 1]) > 0.5
    assert 2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()) > 0.8
    np.testing.assert_array_equal(np.argmax(output.grade_probabilities, axis=-1), GRADES)

"""A tiny method in float64 and one batch, shared by the tests of `method/`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pldmlt_jax.config import LossConfig, MetaConfig, ModelConfig, OptimConfig
from pldmlt_jax.method.state import Method, MethodState, init_method_state
from pldmlt_jax.models.build import build_label_network, build_network
from pldmlt_jax.types import Batch

SIZE_PX = 32


def tiny_method(
    *,
    meta: MetaConfig | None = None,
    loss: LossConfig | None = None,
    optim: OptimConfig | None = None,
    model: dict | None = None,
    dtype: str = "float64",
) -> Method:
    """A VGG of five blocks and a U-Net, both of a few channels; `model` sets further fields of the config."""
    narrow = ModelConfig(
        encoder_filters=(4, 4, 6, 6, 8),
        encoder_convs=(1, 1, 1, 1, 1),
        decoder_filters=(8, 6, 4, 4, 4),
        centre_filters=0,
        dtype=dtype,
    )
    loss = loss or LossConfig(reduction="pixel_mean")
    meta = meta or MetaConfig(hidden=(16,))
    return Method(
        network=build_network(dataclasses.replace(narrow, **(model or {})), loss.target),
        label_network=build_label_network(meta),
        loss=loss,
        meta=meta,
        optim=optim or OptimConfig(optimizer="sgd", learning_rate=0.1),
        total_steps=100,
        seed=0,
    )


def tiny_state(method: Method, *, moved: bool = True) -> MethodState:
    """A float64 state; `moved` perturbs all parameters, so that no gradient vanishes because they start at zero."""
    state = init_method_state(method)
    rng = np.random.default_rng(1)

    def cast(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        noise = 0.2 * rng.normal(size=leaf.shape) if moved and leaf.ndim else 0.0
        return jnp.asarray(np.asarray(leaf, np.float64) + noise)

    return jax.tree.map(cast, state)


def tiny_batch(num: int = 2) -> Batch:
    """Random images with lesions in a tenth of the pixels, of grades 2, 3, 4 and 1."""
    rng = np.random.default_rng(0)
    shape = (num, SIZE_PX, SIZE_PX)
    bits = np.where(rng.random(shape) < 0.1, 1 + 2 + 64, 1).astype(np.uint8)
    bits[:, :2] = 0
    batch = Batch(
        image=rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
        mask_bits=bits,
        grade=np.array([2, 3, 4, 1][:num], np.int32),
        admissible=np.array([[False, False, True, True, True]] * num),
        sample_mask=np.ones(num, np.float64),
        index=np.arange(num, dtype=np.int32),
    )
    return jax.tree.map(jnp.asarray, batch)


def with_graded_images(batch: Batch, num: int = 3) -> Batch:
    """The batch with truly graded images added: other images, without masks, in another number."""
    other = tiny_batch(4)
    graded = Batch(
        image=255 - other.image[:num],
        mask_bits=jnp.ones_like(other.mask_bits[:num]),
        grade=jnp.asarray([0, 4, 1][:num], jnp.int32),
        admissible=jnp.ones((num, 5), bool),
        sample_mask=other.sample_mask[:num],
        index=other.index[:num],
    )
    return dataclasses.replace(batch, graded=graded)

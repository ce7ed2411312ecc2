"""The multi-task network of stage 2: one encoder, a segmentation decoder and a grading head (the paper's Fig. 4)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.layers import normalise
from pldmlt_jax.types import NUM_GRADES


class NetworkOutput(NamedTuple):
    segmentation_logits: Float[Array, "b h w k"]
    grade_logits: Float[Array, "b c"]
    pooled: Float[Array, "b f"]
    """Global average of the encoder's last feature (pool5): what the head and the label-update network see."""


class MultiTask(nn.Module):
    """Gives any encoder-decoder pair a grading head on the pooled last feature of the encoder.

    Attributes:
        encoder: Module `(image, train) -> features`, finest first.
        decoder: Module `(features, train) -> [b, h, w, f]`.
        num_channels: Channels of the segmentation output.
        preprocess: Scheme of `layers.normalise`, tied to the encoder's weights.
        dtype: Of the activations; outputs are at least float32.
    """

    encoder: nn.Module
    decoder: nn.Module
    num_channels: int
    preprocess: str = "torch"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Any, train: bool) -> NetworkOutput:
        """Args: image: RGB [b, h, w, 3] in 0..255, uint8 or float; train: batch statistics in the decoder's norms."""
        features = self.encoder(normalise(image, self.preprocess, self.dtype), train)
        at_least_f32 = jnp.promote_types(self.dtype, jnp.float32)
        pooled = features[-1].astype(at_least_f32).mean(axis=(1, 2))
        grade_logits = nn.Dense(NUM_GRADES, dtype=at_least_f32, name="head")(pooled)
        decoded = self.decoder(features, train)
        # He-normal starts are for convolutions before a ReLU; before the softmax Flax' default keeps the variance
        segmentation_logits = nn.Conv(self.num_channels, (3, 3), dtype=self.dtype, name="output")(decoded)
        return NetworkOutput(segmentation_logits.astype(at_least_f32), grade_logits, pooled)

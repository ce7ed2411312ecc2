"""The multi-task network of stage 2: one encoder, a segmentation decoder and a grading head (the paper's Fig. 4)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.decoders.layers import Decoder, upsample_bilinear
from pldmlt_jax.models.grade_heads import GRADE_HEADS
from pldmlt_jax.models.layers import normalise


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
        grade_head: A key of `GRADE_HEADS`.
    """

    encoder: nn.Module
    decoder: Decoder
    num_channels: int
    preprocess: str = "torch"
    dtype: DTypeLike = jnp.float32
    grade_head: str = "softmax"

    @nn.compact
    def __call__(self, image: Any, train: bool) -> NetworkOutput:
        """Args: image: RGB [b, h, w, 3] in 0..255, uint8 or float; train: batch statistics in all norms."""
        features = self.encoder(normalise(image, self.preprocess, self.dtype), train)
        at_least_f32 = jnp.promote_types(self.dtype, jnp.float32)
        pooled = features[-1].astype(at_least_f32).mean(axis=(1, 2))
        head = GRADE_HEADS[self.grade_head]
        grade_logits = head.to_logits(nn.Dense(head.outputs, dtype=at_least_f32, name="head")(pooled))
        decoded = self.decoder(features, train)
        # He-normal starts are for convolutions before a ReLU; before the softmax Flax' default keeps the variance
        size = (self.decoder.output_kernel,) * 2
        logits = nn.Conv(self.num_channels, size, dtype=self.dtype, name="output")(decoded).astype(at_least_f32)
        if self.decoder.output_stride > 1:
            logits = upsample_bilinear(logits, self.decoder.output_stride)
        return NetworkOutput(logits, grade_logits, pooled)

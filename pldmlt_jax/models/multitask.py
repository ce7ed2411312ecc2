"""The multi-task network of stage 2: one encoder, a segmentation decoder and a grading head (the paper's Fig. 4)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.decoders.layers import Decoder, upsample_bilinear
from pldmlt_jax.models.grade_heads import GRADE_HEADS
from pldmlt_jax.models.input_normalisation import normalise


class NetworkOutput(NamedTuple):
    """What the multi-task network returns, in float32 or wider."""

    segmentation_logits: Float[Array, "b h w k"]
    """Logits of the segmentation's channels at the size of the image."""
    grade_logits: Float[Array, "b c"]
    """Logits of the grades."""
    pooled: Float[Array, "b f"]
    """Global average of the encoder's last feature (pool5), the input of the head and of the label-update network."""


class MultiTask(nn.Module):
    """An encoder and a decoder, with a grading head on the pooled last feature of the encoder.

    Attributes:
        encoder: Module `(image, train) -> features`, finest first.
        decoder: Module `(features, train) -> [b, h, w, f]`.
        num_channels: Channels of the segmentation output.
        preprocess: A key of `NORMALISATIONS`, chosen by the encoder's weights.
        dtype: Data type of the activations. Outputs are float32 or wider.
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
        """Segments and grades a batch.

        Args:
            image: RGB [b, h, w, 3] in 0..255, uint8 or float. Height and width are multiples of 2**encoder_depth.
            train: Whether batch normalisation uses the statistics of the batch and updates the running ones.
        """
        features = self.encoder(normalise(image, self.preprocess, self.dtype), train)
        at_least_f32 = jnp.promote_types(self.dtype, jnp.float32)
        pooled = features[-1].astype(at_least_f32).mean(axis=(1, 2))
        head = GRADE_HEADS[self.grade_head]
        grade_logits = head.to_logits(nn.Dense(head.outputs, dtype=at_least_f32, name="head")(pooled))
        decoded = self.decoder(features, train)
        # He-normal is for convolutions before a ReLU. Before the softmax, Flax's default keeps the variance.
        size = (self.decoder.output_kernel,) * 2
        logits = nn.Conv(self.num_channels, size, dtype=self.dtype, name="output")(decoded).astype(at_least_f32)
        if self.decoder.output_stride > 1:
            logits = upsample_bilinear(logits, self.decoder.output_stride)
        return NetworkOutput(logits, grade_logits, pooled)

"""A grader of stage 1: any encoder, global average pooling and one fully connected layer."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from pldmlt_jax.models.input_normalisation import normalise
from pldmlt_jax.types import NUM_GRADES


class ClassifierOutput(NamedTuple):
    """What a classifier returns."""

    features: Float[Array, "b h w f"]
    """The encoder's last feature map, which Grad-CAM explains."""
    logits: Float[Array, "b c"]
    """Logits of the grades."""


class Classifier(nn.Module):
    """Grades an image from the last feature map of an encoder. Submodules are `encoder` and `head`.

    Attributes:
        encoder: Module `(image, train) -> features`, finest first.
        num_classes: Number of logits.
        preprocess: A key of `NORMALISATIONS`, chosen by the encoder's weights.
    """

    encoder: nn.Module
    num_classes: int = NUM_GRADES
    preprocess: str = "torch"

    def setup(self) -> None:
        self.head = nn.Dense(self.num_classes, dtype=None)

    def __call__(self, image: Any, train: bool) -> ClassifierOutput:
        """Grades a batch.

        Args:
            image: RGB [b, h, w, 3] in 0..255, uint8 or float.
            train: Whether batch normalisation uses the statistics of the batch and updates the running ones.
        """
        dtype = getattr(self.encoder, "dtype", jnp.float32)
        features = self.encoder(normalise(image, self.preprocess, dtype), train)[-1]
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        return ClassifierOutput(features, self.classify(features))

    def classify(self, features: Float[Array, "b h w f"]) -> Float[Array, "b c"]:
        """Computes the logits from the last feature map only: `apply(variables, features, method="classify")`."""
        return self.head(features.mean(axis=(1, 2)))

"""A stage 1 grader: any encoder, global average pooling, one fully connected layer."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from pldmlt_jax.models.layers import normalise
from pldmlt_jax.types import NUM_GRADES


class ClassifierOutput(NamedTuple):
    features: Float[Array, "b h w f"]
    """The encoder's last feature map, on which Grad-CAM works."""
    logits: Float[Array, "b c"]


class Classifier(nn.Module):
    """Grades an image from an encoder's last feature map.

    Attributes:
        encoder: Module `(image, train) -> features`, finest first.
        num_classes: Number of logits.
        preprocess: Scheme of `layers.normalise`, tied to the encoder's weights.

    Parameters `encoder` and `head`.
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
            train: Whether batch normalisation uses the batch's statistics and updates the running ones.
        """
        dtype = getattr(self.encoder, "dtype", jnp.float32)
        features = self.encoder(normalise(image, self.preprocess, dtype), train)[-1]
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        return ClassifierOutput(features, self.classify(features))

    def classify(self, features: Float[Array, "b h w f"]) -> Float[Array, "b c"]:
        """Logits from the last feature map alone: `apply(variables, features, method="classify")`."""
        return self.head(features.mean(axis=(1, 2)))

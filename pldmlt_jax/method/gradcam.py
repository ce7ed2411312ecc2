"""Grad-CAM of all grades in one pass (Eq. 1; Selvaraju et al. 2020)."""

from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pldmlt_jax.models.classifier import Classifier, ClassifierOutput
from pldmlt_jax.types import NUM_GRADES


def grade_maps(features: Float[Array, "b h w k"], kernel: Float[Array, "k c"]) -> Float[Array, "b h w c"]:
    """What each place of a feature map adds to each grade's logit, under a linear head on the map's average.

    Their mean over all places is the logit less the head's bias. Grad-CAM's alpha is then the head's weight over the
    number of places, so that ReLU(grade_maps) is its map (Eq. 1) times that number (Zhou et al. 2016).

    Args:
        features: The encoder's last.
        kernel: Of the head.
    """
    return jnp.einsum("bhwk,kc->bhwc", features, kernel.astype(features.dtype))


class GradCam(NamedTuple):
    maps: Float[Array, "b c h w"]
    """Raw and non-negative, at the feature map's size: comparable between grades."""
    logits: Float[Array, "b c"]


@partial(jax.jit, static_argnames="classifier")
def grad_cam(variables: dict, image: Array, *, classifier: Classifier) -> GradCam:
    """Class activation maps of the five grades: one forward pass, five cotangents pulled back at once.

    alpha_k^c = spatial mean of d logit_c / d F^k, map^c = ReLU(sum_k alpha_k^c F^k), F = the last feature map.

    Args:
        variables: Of the classifier.
        image: [b, h, w, 3] in 0..255.
        classifier: Static.
    """
    output = cast(ClassifierOutput, classifier.apply(variables, image, False))

    def classify(features: Array) -> Array:
        return cast(Array, classifier.apply(variables, features, method="classify"))

    logits, pullback = jax.vjp(classify, output.features)

    def one_grade(one_hot: Array) -> Array:
        (slope,) = pullback(jnp.broadcast_to(one_hot, logits.shape))
        alpha = slope.mean(axis=(1, 2))
        return jax.nn.relu(jnp.einsum("bhwk,bk->bhw", output.features, alpha))

    maps = jax.vmap(one_grade, out_axes=1)(jnp.eye(NUM_GRADES, dtype=logits.dtype))
    return GradCam(maps, logits)

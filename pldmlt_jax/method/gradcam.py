"""Grad-CAM of all grades in one pass (Eq. 1; Selvaraju et al. 2020)."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pldmlt_jax.models.classifier import Classifier, ClassifierOutput
from pldmlt_jax.models.grade_heads import GRADE_HEADS
from pldmlt_jax.types import NUM_GRADES


def grade_maps(features: Float[Array, "b h w k"], slopes: Float[Array, "*b k c"]) -> Float[Array, "b h w c"]:
    """What each place of a feature map adds to each grade's logit, under a head on the map's average.

    Grad-CAM's alpha is the slope over the number of places, so that ReLU(grade_maps) is its map (Eq. 1) times that number;
    of a linear head, their mean over all places is the logit less the head's bias (Zhou et al. 2016).

    Args:
        features: The encoder's last.
        slopes: See `head_jacobian`.
    """
    axes = "bhwk,kc->bhwc" if slopes.ndim == 2 else "bhwk,bkc->bhwc"
    return jnp.einsum(axes, features, slopes.astype(features.dtype))


def head_jacobian(head: Mapping[str, Array], grade_head: str, pooled: Float[Array, "b k"]) -> Float[Array, "*b k c"]:
    """Slope of each grade's logit along the pooled feature: [k, c] of a linear head, else [b, k, c].

    Args:
        head: `kernel` and `bias` of the network's head.
        grade_head: A key of GRADE_HEADS.
        pooled: Average of the feature map.
    """
    kernel = head["kernel"].astype(pooled.dtype)
    if grade_head == "softmax":  # linear: the same for every image
        return kernel

    def logits(one: Float[Array, "k"]) -> Float[Array, "c"]:
        return GRADE_HEADS[grade_head].to_logits((one @ kernel + head["bias"])[None])[0]

    return jax.vmap(jax.jacrev(logits))(pooled).swapaxes(1, 2)


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

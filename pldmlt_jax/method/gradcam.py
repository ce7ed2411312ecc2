"""Grad-CAM for all grades in one pass (Eq. 1; Selvaraju et al. 2020)."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pldmlt_jax.models.classifier import Classifier, ClassifierOutput
from pldmlt_jax.models.grade_heads import GRADE_HEADS
from pldmlt_jax.types import NUM_GRADES


def grade_contributions(features: Float[Array, "b h w k"], jacobian: Float[Array, "*b k c"]) -> Float[Array, "b h w c"]:
    """Computes the contribution of each position of a feature map to each grade's logit.

    Grad-CAM's alpha is the Jacobian divided by the number of positions, so the ReLU of the contributions is its map (Eq. 1)
    times that number. For a linear head, the mean over all positions is the logit minus the bias of the head (CAM, Zhou et
    al. 2016).

    Args:
        features: The encoder's last feature map, whose average the head sees.
        jacobian: See `head_jacobian`.
    """
    axes = "bhwk,kc->bhwc" if jacobian.ndim == 2 else "bhwk,bkc->bhwc"
    return jnp.einsum(axes, features, jacobian.astype(features.dtype))


def head_jacobian(head: Mapping[str, Array], grade_head: str, pooled: Float[Array, "b k"]) -> Float[Array, "*b k c"]:
    """Computes the Jacobian of the logits with respect to the pooled feature.

    Args:
        head: `kernel` and `bias` of the network's head.
        grade_head: A key of `GRADE_HEADS`.
        pooled: Average of the feature map.

    Returns:
        [k, c] for a linear head ("softmax"), else [b, k, c].
    """
    kernel = head["kernel"].astype(pooled.dtype)
    if grade_head == "softmax":  # linear: the same for every image
        return kernel

    def logits(one: Float[Array, "k"]) -> Float[Array, "c"]:
        return GRADE_HEADS[grade_head].to_logits((one @ kernel + head["bias"])[None])[0]

    return jax.vmap(jax.jacrev(logits))(pooled).swapaxes(1, 2)


class GradCam(NamedTuple):
    """What `grad_cam` returns."""

    maps: Float[Array, "b c h w"]
    """Non-negative maps at the size of the feature map. They are not normalised, so grades can be compared."""
    logits: Float[Array, "b c"]
    """Logits of the grades."""


@partial(jax.jit, static_argnames="classifier")
def grad_cam(variables: dict, image: Array, *, classifier: Classifier) -> GradCam:
    """Computes the class activation maps of the five grades, by one forward pass and five cotangents at once (Eq. 1).

    map^c = ReLU(sum_k alpha_k^c F^k), where F is the last feature map and alpha_k^c the spatial mean of d logit_c / d F^k.

    Args:
        variables: Variables of the classifier, `params` and, if any, `batch_stats`.
        image: RGB [b, h, w, 3] in 0..255, uint8 or float.
        classifier: The classifier; static.

    Example:
        >>> from pldmlt_jax.models.encoders.vgg import VGG
        >>> classifier = Classifier(VGG(filters=(4, 8), convs=(1, 1)))
        >>> image = jnp.zeros((1, 32, 32, 3), jnp.uint8)
        >>> variables = classifier.init(jax.random.key(0), image, False)
        >>> grad_cam(variables, image, classifier=classifier).maps.shape
        (1, 5, 8, 8)
    """
    output = cast(ClassifierOutput, classifier.apply(variables, image, False))

    def classify(features: Array) -> Array:
        return cast(Array, classifier.apply(variables, features, method="classify"))

    logits, pullback = jax.vjp(classify, output.features)

    def one_grade(one_hot: Array) -> Array:
        (gradient,) = pullback(jnp.broadcast_to(one_hot, logits.shape))
        alpha = gradient.mean(axis=(1, 2))
        return jax.nn.relu(jnp.einsum("bhwk,bk->bhw", output.features, alpha))

    maps = jax.vmap(one_grade, out_axes=1)(jnp.eye(NUM_GRADES, dtype=logits.dtype))
    return GradCam(maps, logits)

"""The losses: focal (Eq. 2, categorical and binary), Dice + cross-entropy, and L = L_S + beta L_C (Eq. 3).

All take logits and work with log-probabilities, so that saturated logits neither overflow nor lose the gradient. Every
mean runs over what counts: pixels inside the field of view (`valid`), images of weight 1. `axis_name`, under `pmap`, is
the axis of the devices that the batch is spread over: losses are those of the whole batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pldmlt_jax.config import LossConfig
from pldmlt_jax.method.devices import device_sum
from pldmlt_jax.models.multitask import NetworkOutput
from pldmlt_jax.types import LESIONS, MASK_BITS, Batch

DICE_SMOOTH = 1.0
"""Added to numerator and denominator of the soft Dice, in pixels: a lesion-free batch then has a finite loss."""

EXCLUSIVE_ORDER = ("EX", "HE", "SE", "MA")
"""Where lesions overlap and one class a pixel is needed, the later one wins."""


class LossParts(NamedTuple):
    total: Float[Array, ""]
    segmentation: Float[Array, ""]
    grading: Float[Array, ""]


def bit(mask_bits: Array, name: str) -> Bool[Array, "..."]:
    """The mask of one name out of the bit plane."""
    return (mask_bits & MASK_BITS[name]) != 0


def _fused_target(mask_bits: Array) -> Array:
    return jax.nn.one_hot(bit(mask_bits, "fused").astype(jnp.int32), 2)


def _lesions_target(mask_bits: Array) -> Array:
    return jnp.stack([bit(mask_bits, lesion) for lesion in LESIONS], axis=-1).astype(jnp.float32)


def _exclusive_target(mask_bits: Array) -> Array:
    label = jnp.zeros(mask_bits.shape, jnp.int32)
    for lesion in EXCLUSIVE_ORDER:
        label = jnp.where(bit(mask_bits, lesion), 1 + LESIONS.index(lesion), label)
    return jax.nn.one_hot(label, 1 + len(LESIONS))


TARGETS: dict[str, Callable[[Array], Array]] = {
    "fused": _fused_target,
    "lesions": _lesions_target,
    "exclusive": _exclusive_target,
}


def segmentation_target(mask_bits: Array, target: str) -> Float[Array, "b h w k"]:
    """One-hot (`fused`, `exclusive`: channel 0 is background) or independent (`lesions`) channels of the truth."""
    return TARGETS[target](mask_bits)


def segmentation_probabilities(logits: Float[Array, "b h w k"], target: str) -> Float[Array, "b h w k"]:
    """Softmax over the channels, or a sigmoid for each where they are independent (`lesions`)."""
    return jax.nn.sigmoid(logits) if target == "lesions" else jax.nn.softmax(logits, axis=-1)


def focal_modulation(log_p: Array, gamma: float) -> Array:
    """(1 - p)^gamma from log p; exact near p = 1, where 1 - exp(log p) would cancel."""
    return jnp.power(-jnp.expm1(log_p), gamma) if gamma else jnp.ones_like(log_p)


def categorical_focal(
    logits: Float[Array, "... k"], target: Float[Array, "... k"], alpha: float, gamma: float
) -> Float[Array, "..."]:
    """Eq. 2 with the class index written out: -alpha sum_c y_c (1 - p_c)^gamma log p_c.

    Linear in the target, which may be soft. `gamma` is 0 or at least 1.
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -alpha * jnp.sum(target * focal_modulation(log_p, gamma) * log_p, axis=-1)


BINARY_ALPHAS: dict[str, Callable[[float], tuple[float, float]]] = {
    "retinanet": lambda alpha: (alpha, 1.0 - alpha),
    "keras": lambda alpha: (alpha, alpha),
}
"""Weight of positives and of negatives."""


def binary_focal(
    logits: Float[Array, "... k"], target: Float[Array, "... k"], alpha: float, gamma: float, binary_alpha: str
) -> Float[Array, "..."]:
    """Focal loss of independent sigmoids, summed over the channels (Lin et al. 2017, Eq. 5)."""
    positive, negative = BINARY_ALPHAS[binary_alpha](alpha)
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    loss = positive * target * focal_modulation(log_p, gamma) * log_p
    loss += negative * (1.0 - target) * focal_modulation(log_not_p, gamma) * log_not_p
    return -jnp.sum(loss, axis=-1)


def masked_mean(values: Array, mask: Array, axis_name: str | None = None) -> Float[Array, ""]:
    """Mean of the values where the mask is set, 0 where it is set nowhere; over all devices' values."""
    mask = mask.astype(values.dtype)
    total, count = device_sum((jnp.sum(values * mask), jnp.sum(mask)), axis_name)
    return total / jnp.maximum(count, 1.0)


def reduction_divisor(reduction: str, num_classes: int) -> float:
    """`keras` takes the mean over pixels and classes, and so divides by the number of classes; `pixel_mean` does not."""
    return {"keras": float(num_classes), "pixel_mean": 1.0}[reduction]


def _focal_segmentation(
    logits: Array, target: Array, counted: Array, config: LossConfig, axis_name: str | None = None
) -> Array:
    if config.target == "lesions":
        loss = binary_focal(logits, target, config.alpha, config.gamma, config.binary_alpha)
    else:
        loss = categorical_focal(logits, target, config.alpha, config.gamma)
    return masked_mean(loss, counted, axis_name) / reduction_divisor(config.reduction, logits.shape[-1])


def _dice_ce_segmentation(
    logits: Array, target: Array, counted: Array, config: LossConfig, axis_name: str | None = None
) -> Array:
    """Soft Dice of the lesion channels, pooled over the batch, plus cross-entropy."""
    mask = counted.astype(logits.dtype)[..., None]
    probabilities = segmentation_probabilities(logits, config.target)
    if config.target == "lesions":
        bce = -(target * jax.nn.log_sigmoid(logits) + (1.0 - target) * jax.nn.log_sigmoid(-logits))
        cross_entropy = bce.mean(axis=-1)
    else:
        cross_entropy = -jnp.sum(target * jax.nn.log_softmax(logits, axis=-1), axis=-1)
        probabilities, target = probabilities[..., 1:], target[..., 1:]
    over_pixels = tuple(range(target.ndim - 1))
    overlap = jnp.sum(probabilities * target * mask, axis=over_pixels)
    total = jnp.sum((probabilities + target) * mask, axis=over_pixels)
    overlap, total = device_sum((overlap, total), axis_name)
    dice = (2.0 * overlap + DICE_SMOOTH) / (total + DICE_SMOOTH)
    return jnp.mean(1.0 - dice) + masked_mean(cross_entropy, counted, axis_name)


SEGMENTATION_LOSSES: dict[str, Callable[[Array, Array, Array, LossConfig, str | None], Array]] = {
    "focal": _focal_segmentation,
    "dice_ce": _dice_ce_segmentation,
}


def segmentation_loss(
    logits: Float[Array, "b h w k"], batch: Batch, config: LossConfig, axis_name: str | None = None
) -> Float[Array, ""]:
    """L_S over the valid pixels of the batch."""
    counted = bit(batch.mask_bits, "valid") & (batch.weight[:, None, None] > 0)
    target = segmentation_target(batch.mask_bits, config.target).astype(logits.dtype)
    return SEGMENTATION_LOSSES[config.segmentation](logits, target, counted, config, axis_name)


def grading_loss(
    logits: Float[Array, "b c"],
    soft_labels: Float[Array, "b c"],
    batch: Batch,
    config: LossConfig,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """L_C: the categorical focal loss against soft labels, linear in them."""
    loss = categorical_focal(logits, soft_labels, config.alpha, config.gamma)
    return masked_mean(loss, batch.weight, axis_name) / reduction_divisor(config.reduction, logits.shape[-1])


def total_loss(
    output: NetworkOutput,
    soft_labels: Float[Array, "b c"],
    batch: Batch,
    config: LossConfig,
    axis_name: str | None = None,
) -> LossParts:
    """L = L_S + beta L_C (Eq. 3); L_S alone where `config.grading` is off, L_C then only reported."""
    segmentation = segmentation_loss(output.segmentation_logits, batch, config, axis_name)
    grading = grading_loss(output.grade_logits, soft_labels, batch, config, axis_name)
    total = segmentation + config.beta * grading if config.grading else segmentation
    return LossParts(total, segmentation, grading)

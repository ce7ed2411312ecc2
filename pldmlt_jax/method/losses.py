"""The losses: L_S in several forms, L_C (focal, Eq. 2), and L = L_S + beta L_C (Eq. 3).

All take logits and work with log-probabilities, so that saturated logits neither overflow nor lose the gradient. Means run
over pixels inside the field of view (`valid`) of images with `sample_mask` 1. Under `pmap`, `axis_name` is the axis of the
devices, and losses are those of the whole batch; otherwise it is None.
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
"""Smoothing term of the soft Dice, in pixels, so that a batch without lesions has a finite loss."""

EXCLUSIVE_ORDER = ("EX", "HE", "SE", "MA")
"""Order of the lesions where they overlap and a pixel has one class: the later one wins."""


class LossParts(NamedTuple):
    """The loss of Eq. 3 and its parts."""

    total: Float[Array, ""]  # L
    segmentation: Float[Array, ""]  # L_S
    grading: Float[Array, ""]  # L_C, without beta


def unpack_mask(mask_bits: Array, name: str) -> Bool[Array, "..."]:
    """Returns the mask of one name, a key of `MASK_BITS`, from the bit plane."""
    return (mask_bits & MASK_BITS[name]) != 0


def _fused_target(mask_bits: Array) -> Array:
    return jax.nn.one_hot(unpack_mask(mask_bits, "fused").astype(jnp.int32), 2)


def _lesions_target(mask_bits: Array) -> Array:
    return jnp.stack([unpack_mask(mask_bits, lesion) for lesion in LESIONS], axis=-1).astype(jnp.float32)


def _exclusive_target(mask_bits: Array) -> Array:
    label = jnp.zeros(mask_bits.shape, jnp.int32)
    for lesion in EXCLUSIVE_ORDER:
        label = jnp.where(unpack_mask(mask_bits, lesion), 1 + LESIONS.index(lesion), label)
    return jax.nn.one_hot(label, 1 + len(LESIONS))


TARGETS: dict[str, Callable[[Array], Array]] = {
    "fused": _fused_target,
    "lesions": _lesions_target,
    "exclusive": _exclusive_target,
}
"""Function [b, h, w] -> [b, h, w, k], by name of the target."""


def segmentation_target(mask_bits: Array, target: str) -> Float[Array, "b h w k"]:
    """Turns masks into the channels of a segmentation target, in float32.

    Args:
        mask_bits: Bit plane [b, h, w], uint8.
        target: A key of `TARGETS`.

    Returns:
        One-hot channels, of which channel 0 is the background ("fused", "exclusive"), or independent ones ("lesions").
    """
    return TARGETS[target](mask_bits)


def segmentation_probabilities(logits: Float[Array, "b h w k"], target: str) -> Float[Array, "b h w k"]:
    """Turns logits into probabilities: a softmax over the channels, or a sigmoid each if independent ("lesions")."""
    return jax.nn.sigmoid(logits) if target == "lesions" else jax.nn.softmax(logits, axis=-1)


def hard_masks(logits: Float[Array, "b h w k"], target: str) -> Float[Array, "b h w k"]:
    """Turns logits into a target: the most probable channel, or each above 1/2 if they are independent ("lesions")."""
    if target == "lesions":
        return (logits > 0).astype(logits.dtype)
    return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=logits.dtype)


def focal_modulation(log_p: Array, gamma: float) -> Array:
    """Computes (1 - p)^gamma from log p. It is exact near p = 1, where 1 - exp(log p) would cancel."""
    return jnp.power(-jnp.expm1(log_p), gamma) if gamma else jnp.ones_like(log_p)


def categorical_focal(
    logits: Float[Array, "... k"], target: Float[Array, "... k"], alpha: float, gamma: float
) -> Float[Array, "..."]:
    """Computes the focal loss of a softmax, -alpha sum_c y_c (1 - p_c)^gamma log p_c (Eq. 2).

    Args:
        logits: Logits of the classes.
        target: Distribution over the classes. The loss is linear in it.
        alpha: Weight.
        gamma: Focusing exponent: 0, or at least 1.
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -alpha * jnp.sum(target * focal_modulation(log_p, gamma) * log_p, axis=-1)


BINARY_ALPHAS: dict[str, Callable[[float], tuple[float, float]]] = {
    "retinanet": lambda alpha: (alpha, 1.0 - alpha),
    "keras": lambda alpha: (alpha, alpha),
}
"""Weights of positives and negatives, as a function of alpha."""


def binary_focal(
    logits: Float[Array, "... k"], target: Float[Array, "... k"], alpha: float, gamma: float, binary_alpha: str
) -> Float[Array, "..."]:
    """Computes the focal loss of independent sigmoids, summed over the channels (Lin et al. 2017, Eq. 5).

    `target` is 0 or 1 in each channel, and `binary_alpha` a key of `BINARY_ALPHAS`; otherwise as `categorical_focal`.
    """
    positive, negative = BINARY_ALPHAS[binary_alpha](alpha)
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    loss = positive * target * focal_modulation(log_p, gamma) * log_p
    loss += negative * (1.0 - target) * focal_modulation(log_not_p, gamma) * log_not_p
    return -jnp.sum(loss, axis=-1)


def masked_mean(values: Array, mask: Array, axis_name: str | None = None) -> Float[Array, ""]:
    """Averages the values where the mask is set, over all devices. It is 0 if the mask is set nowhere."""
    mask = mask.astype(values.dtype)
    total, count = device_sum((jnp.sum(values * mask), jnp.sum(mask)), axis_name)
    return total / jnp.maximum(count, 1.0)


def reduction_divisor(reduction: str, num_classes: int) -> float:
    """Returns the divisor of a mean over pixels: the number of classes for "keras", 1 for "pixel_mean"."""
    return {"keras": float(num_classes), "pixel_mean": 1.0}[reduction]


def class_weights(config: LossConfig, num_channels: int) -> Float[Array, "k"]:
    """Returns the weights of the segmentation's channels, all 1 by default."""
    return jnp.asarray(config.class_weights or (1.0,) * num_channels)


def _pixel_mean(loss: Array, pixel_mask: Array, config: LossConfig, axis_name: str | None) -> Array:
    """Weighted sum over the channels, mean over the pixels of the mask."""
    weighted = jnp.sum(loss * class_weights(config, loss.shape[-1]), axis=-1)
    return masked_mean(weighted, pixel_mask, axis_name) / reduction_divisor(config.reduction, loss.shape[-1])


def _focal(logits: Array, target: Array, mask: Array, config: LossConfig, axis_name: str | None = None) -> Array:
    """Eq. 2: categorical, or binary if the channels are independent (`lesions`)."""
    if config.target == "lesions":
        return _binary_focal(logits, target, mask, config, axis_name)
    weighted = target * class_weights(config, logits.shape[-1])  # the loss is linear in the target
    loss = categorical_focal(logits, weighted, config.alpha, config.gamma)
    return masked_mean(loss, mask, axis_name) / reduction_divisor(config.reduction, logits.shape[-1])


def _binary_focal(logits: Array, target: Array, mask: Array, config: LossConfig, axis_name: str | None = None) -> Array:
    """Each channel against all others. For a softmax, the logit of p_c is log p_c - log(1 - p_c)."""
    if config.target != "lesions":
        others = jnp.where(jnp.eye(logits.shape[-1], dtype=bool), -jnp.inf, logits[..., None, :])
        logits = logits - jax.nn.logsumexp(others, axis=-1)
    channels = [
        binary_focal(logits[..., c : c + 1], target[..., c : c + 1], config.alpha, config.gamma, config.binary_alpha)
        for c in range(logits.shape[-1])
    ]
    return _pixel_mean(jnp.stack(channels, axis=-1), mask, config, axis_name)


def _cross_entropies(logits: Array, target: Array, config: LossConfig) -> Float[Array, "b h w k"]:
    """Cross-entropy by channel: its share of a softmax's, or a binary one (`lesions`)."""
    if config.target == "lesions":
        return -(target * jax.nn.log_sigmoid(logits) + (1.0 - target) * jax.nn.log_sigmoid(-logits))
    return -target * jax.nn.log_softmax(logits, axis=-1)


def _cross_entropy(logits: Array, target: Array, mask: Array, config: LossConfig, axis_name: str | None = None) -> Array:
    return _pixel_mean(_cross_entropies(logits, target, config), mask, config, axis_name)


class Overlap(NamedTuple):
    """Soft pixel counts of each lesion channel, pooled over the batch, and the weights of the channels.

    The mean weight is 1 if every lesion counts. With `config.absent_overlap` off, a lesion that is absent from the batch has
    weight 0, as in segmentation_models.pytorch. With it on, its Dice is 1 / (predicted + 1), which punishes every predicted
    pixel. In batches of one image this can outweigh the images that have the lesion, until the network predicts none.
    """

    true_positives: Float[Array, "k"]
    predicted: Float[Array, "k"]
    true: Float[Array, "k"]
    weights: Float[Array, "k"]


def _overlap(logits: Array, target: Array, pixel_mask: Array, config: LossConfig, axis_name: str | None) -> Overlap:
    mask = pixel_mask.astype(logits.dtype)[..., None]
    first = 0 if config.target == "lesions" else 1  # without the background
    probabilities = (segmentation_probabilities(logits, config.target) * mask)[..., first:]
    target = (target * mask)[..., first:]
    pixels = tuple(range(target.ndim - 1))
    weights = class_weights(config, logits.shape[-1])[first:]
    sums = tuple(jnp.sum(values, axis=pixels) for values in (probabilities * target, probabilities, target))
    true_positives, predicted, true = device_sum(sums, axis_name)
    counts = True if config.absent_overlap else true > 0
    return Overlap(true_positives, predicted, true, jnp.where(counts, weights / weights.mean(), 0.0))


def _dice(logits: Array, target: Array, mask: Array, config: LossConfig, axis_name: str | None = None) -> Array:
    """1 - soft Dice of the lesion channels (Milletari et al. 2016, without squares)."""
    true_positives, predicted, true, weights = _overlap(logits, target, mask, config, axis_name)
    dice = (2.0 * true_positives + DICE_SMOOTH) / (predicted + true + DICE_SMOOTH)
    return jnp.mean(weights * (1.0 - dice))


def _dice_ce(logits: Array, target: Array, mask: Array, config: LossConfig, axis_name: str | None = None) -> Array:
    """Dice plus cross-entropy, with any `reduction`: the mean over independent channels, the sum over a softmax's."""
    entropies = _cross_entropies(logits, target, config) * class_weights(config, logits.shape[-1])
    cross_entropy = entropies.mean(axis=-1) if config.target == "lesions" else entropies.sum(axis=-1)
    return _dice(logits, target, mask, config, axis_name) + masked_mean(cross_entropy, mask, axis_name)


MIN_TVERSKY = 1e-7
"""Smallest 1 - index. A power below 1 has an infinite slope at 0."""


def _focal_tversky(logits: Array, target: Array, mask: Array, config: LossConfig, axis_name: str | None = None) -> Array:
    """(1 - index)^gamma of the lesion channels (Abraham and Khan 2019). Missed pixels weigh more than false ones."""
    true_positives, predicted, true, weights = _overlap(logits, target, mask, config, axis_name)
    missed = config.missed_weight * (true - true_positives)
    false = (1.0 - config.missed_weight) * (predicted - true_positives)
    index = (true_positives + DICE_SMOOTH) / (true_positives + missed + false + DICE_SMOOTH)
    return jnp.mean(weights * jnp.power(jnp.maximum(1.0 - index, MIN_TVERSKY), config.tversky_gamma))


SEGMENTATION_LOSSES: dict[str, Callable[[Array, Array, Array, LossConfig, str | None], Array]] = {
    "focal": _focal,
    "binary_focal": _binary_focal,
    "cross_entropy": _cross_entropy,
    "dice": _dice,
    "dice_ce": _dice_ce,
    "focal_tversky": _focal_tversky,
}
"""L_S by name, `(logits, target, mask, config, axis_name) -> scalar`, averaged over the pixels of the mask."""

OVERLAP_LOSSES = ("dice", "focal_tversky")
"""Losses of the lesion channels only, in which only the ratios of their weights matter."""


def segmentation_loss(
    logits: Float[Array, "b h w k"],
    batch: Batch,
    config: LossConfig,
    axis_name: str | None = None,
    target: Float[Array, "b h w k"] | None = None,
) -> Float[Array, ""]:
    """Computes L_S over the valid pixels of the batch.

    Args:
        logits: Logits of the segmentation's channels.
        batch: Masks and sample mask.
        config: The loss, a key of `SEGMENTATION_LOSSES`, and its target.
        axis_name: Axis of the devices under `pmap`, else None.
        target: Channels of another target than the masks of the batch.
    """
    pixel_mask = unpack_mask(batch.mask_bits, "valid") & (batch.sample_mask[:, None, None] > 0)
    if target is None:
        target = segmentation_target(batch.mask_bits, config.target)
    target = target.astype(logits.dtype)
    return SEGMENTATION_LOSSES[config.segmentation](logits, target, pixel_mask, config, axis_name)


def grading_loss(
    logits: Float[Array, "b c"],
    soft_labels: Float[Array, "b c"],
    batch: Batch,
    config: LossConfig,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Computes L_C, the categorical focal loss against soft labels. It is linear in them."""
    loss = categorical_focal(logits, soft_labels, config.alpha, config.gamma)
    return masked_mean(loss, batch.sample_mask, axis_name) / reduction_divisor(config.reduction, logits.shape[-1])


def total_loss(
    output: NetworkOutput,
    soft_labels: Float[Array, "b c"],
    batch: Batch,
    config: LossConfig,
    axis_name: str | None = None,
) -> LossParts:
    """Computes L = L_S + beta L_C (Eq. 3). With `config.grading` off, L is L_S, and L_C is only reported."""
    segmentation = segmentation_loss(output.segmentation_logits, batch, config, axis_name)
    grading = grading_loss(output.grade_logits, soft_labels, batch, config, axis_name)
    total = segmentation + config.beta * grading if config.grading else segmentation
    return LossParts(total, segmentation, grading)

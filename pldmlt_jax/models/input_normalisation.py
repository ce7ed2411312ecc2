"""Image normalisation as each family of pretrained weights expects it."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def _normalise_torch(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return (image / 255 - jnp.asarray(IMAGENET_MEAN, image.dtype)) / jnp.asarray(IMAGENET_STD, image.dtype)


def _normalise_caffe(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return image[..., ::-1] - jnp.asarray(CAFFE_MEAN_BGR, image.dtype)


def _normalise_tf(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return image / 127.5 - 1


def _normalise_none(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return image / 255


NORMALISATIONS: dict[str, Callable[[Array], Array]] = {
    "torch": _normalise_torch,
    "caffe": _normalise_caffe,
    "tf": _normalise_tf,
    "none": _normalise_none,
}
"""Normalisation scheme by name.

| scheme | weights | image |
| --- | --- | --- |
| `torch` | torchvision, timm | RGB in [0, 1], minus ImageNet's mean, divided by its standard deviation |
| `caffe` | VGG in Keras | BGR in 0..255, minus the mean |
| `tf` | NASNet | RGB in [-1, 1] |
| `none` | | RGB in [0, 1] |
"""


def normalise(image: Any, scheme: str, dtype: DTypeLike = jnp.float32) -> Float[Array, "b h w 3"]:
    """Normalises a batch of images as an encoder's weights expect it.

    A wrong scheme raises no error and gives wrong features, so `models.weights.load.preprocessing` chooses it by the
    weights.

    Args:
        image: RGB [b, h, w, 3] in 0..255, uint8 or float.
        scheme: A key of `NORMALISATIONS`.
        dtype: Data type of the result. The computation is in float32 or wider.

    Returns:
        The normalised images, of the same shape.

    Raises:
        KeyError: The scheme is unknown.
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    return NORMALISATIONS[scheme](jnp.asarray(image).astype(wide)).astype(dtype)

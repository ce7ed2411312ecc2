"""The Keras networks that ours are compared with, on JAX and in float64. Needs requirements-oracle.txt."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import h5py
import jax
import keras
import numpy as np
from keras.src.applications.nasnet import NASNet
from keras.src.legacy.saving import legacy_h5_format


def _in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has both Keras and JAX compute in double precision while the function runs."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        keras.config.set_floatx("float64")
        try:
            with jax.enable_x64(True):
                return function(*args, **kwargs)
        finally:
            keras.config.set_floatx("float32")

    return wrapped


@_in_float64
def narrow_nasnet() -> keras.Model:
    """Keras' NASNet-A with one cell a group, a sixteenth of NASNet-Mobile's base width, and five outputs as logits."""
    keras.utils.set_random_seed(0)
    return NASNet((64, 64, 3), 96, 1, 2, skip_reduction=False, weights=None, classes=5, classifier_activation=None)


@_in_float64
def narrow_vgg16(filters: tuple[int, ...]) -> keras.Model:
    """Keras' VGG16 of any width without its classifier, by its layers' names."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((None, None, 3))
    for block, (width, convs) in enumerate(zip(filters, (2, 2, 3, 3, 3), strict=True), start=1):
        for i in range(1, convs + 1):
            name = f"block{block}_conv{i}"
            layer = keras.layers.Conv2D(
                width, 3, padding="same", activation="relu", bias_initializer="random_normal", name=name
            )
            x = layer(x)
        x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    return keras.Model(image, x)


@_in_float64
def full_size(name: str) -> keras.Model:
    """An application of Keras with random weights and five outputs as logits; VGG16 without its classifier."""
    keras.utils.set_random_seed(0)
    make = getattr(keras.applications, name)
    if name == "VGG16":
        return make(weights=None, include_top=False, input_shape=(96, 96, 3))
    return make(weights=None, classes=5, classifier_activation=None, input_shape=(96, 96, 3))


@_in_float64
def randomise_norms(model: keras.Model) -> None:
    """Gives each batch normalisation scales, biases and statistics of its own; all weights become exact in float32."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            scale, variance = rng.uniform(0.5, 1.5, (2, *layer.gamma.shape))
            bias, mean = rng.normal(0, 0.2, (2, *layer.gamma.shape))
            layer.set_weights([scale, bias, mean, variance])
    model.set_weights([weight.astype(np.float32) for weight in model.get_weights()])


@_in_float64
def save_weights(model: keras.Model, path: Path) -> None:
    """In the layout of the files that Keras publishes for its applications, in float32."""
    weights = model.get_weights()
    model.set_weights([weight.astype(np.float32) for weight in weights])
    with h5py.File(path, "w", libver="latest") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
        _as_float32(file)


def _as_float32(group: h5py.Group) -> None:
    for name, item in list(group.items()):
        if isinstance(item, h5py.Group):
            _as_float32(item)
        else:
            values = item[()].astype(np.float32)
            del group[name]
            group.create_dataset(name, data=values)


@_in_float64
def call(model: keras.Model, image: np.ndarray, *, train: bool) -> np.ndarray:
    """The model's result; in training its running statistics move."""
    return np.asarray(model(image.astype(np.float64), training=train))


@_in_float64
def running_statistics(model: keras.Model) -> dict[str, np.ndarray]:
    """Running mean ("layer/2") and variance ("layer/3") of each norm."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return {f"{layer.name}/{i}": layer.get_weights()[i] for layer in norms for i in (2, 3)}

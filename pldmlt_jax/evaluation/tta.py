"""Test-time augmentation: predictions averaged over flipped and turned views, and over overlapping windows of an image."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from pldmlt_jax.config import InferenceConfig
from pldmlt_jax.evaluation.temperature import softmax

TILE_STEP_PX = 32
"""Windows begin at multiples of this, so that the grids of coarse features are aligned in windows and whole image."""


class ForwardOutput(NamedTuple):
    """What a network computes of a batch, at the batch's size. Exported files have the same outputs in the same order."""

    probabilities: Float[Any, "b h w k"]
    """Of the segmentation channels."""
    grade_logits: Float[Any, "b c"]
    grade_maps: Float[Any, "b h2 w2 c"]
    """What each position adds to each grade's logit (see `gradcam.grade_contributions`)."""


Forward = Callable[[UInt8[np.ndarray, "b h w 3"], int], ForwardOutput]
"""(RGB images, batch size) -> output. At most that many images; fewer are padded, so that one shape is compiled."""


class BatchPrediction(NamedTuple):
    """The prediction of a batch at the network's size: the mean over views, windows and networks."""

    probabilities: Float[np.ndarray, "b s s k"]
    """Of the segmentation channels."""
    grade_probabilities: Float[np.ndarray, "b c"]
    grade_maps: Float[np.ndarray, "b h2 w2 c"]
    """See `ForwardOutput`."""


@dataclasses.dataclass(frozen=True)
class View:
    """A view of an image: quarter turns, then a flip from left to right."""

    quarter_turns: int
    flip: bool

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Turns and flips images [b, s, s, ...]."""
        turned = np.rot90(images, self.quarter_turns, axes=(1, 2))
        return np.ascontiguousarray(turned[:, :, ::-1] if self.flip else turned)

    def undo(self, planes: np.ndarray) -> np.ndarray:
        """Turns and flips planes [b, s, s, ...] of any resolution back."""
        flipped = planes[:, :, ::-1] if self.flip else planes
        return np.rot90(flipped, -self.quarter_turns, axes=(1, 2))


VIEWS: dict[str, tuple[View, ...]] = {
    "none": (View(0, False),),
    "flips": tuple(View(turns, flip) for turns in (0, 2) for flip in (False, True)),
    "dihedral": tuple(View(turns, flip) for turns in range(4) for flip in (False, True)),
}
"""Name of a test-time augmentation -> its views. They form a group, so that the mean turns and flips as the image does."""


def predict_views(
    forward: Forward,
    images: UInt8[np.ndarray, "b s s 3"],
    config: InferenceConfig,
    batch_size: int,
    temperature: float = 1.0,
) -> BatchPrediction:
    """Predicts images with one network: the mean over the config's views, each predicted whole or in windows.

    Args:
        forward: The network.
        images: RGB at the network's size.
        config: Mode, windows and views.
        batch_size: Images or windows in one forward pass.
        temperature: Temperature of the grade probabilities.
    """
    predict = predict_tiles if config.mode == "tiles" and config.tile_px < images.shape[1] else predict_whole
    predictions = []
    for view in VIEWS[config.tta]:
        output = predict(forward, view.apply(images), config, batch_size)
        grades = softmax(output.grade_logits, temperature)
        predictions.append(BatchPrediction(view.undo(output.probabilities), grades, view.undo(output.grade_maps)))
    return average_predictions(predictions)


def average_predictions(predictions: Sequence[BatchPrediction]) -> BatchPrediction:
    """Averages predictions; maps whose resolution differs from the first one's are left out."""
    if len(predictions) == 1:
        return predictions[0]
    first = predictions[0].grade_maps.shape
    maps = [prediction.grade_maps for prediction in predictions if prediction.grade_maps.shape == first]
    return BatchPrediction(
        _mean([prediction.probabilities for prediction in predictions]),
        _mean([prediction.grade_probabilities for prediction in predictions]),
        _mean(maps),
    )


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    total = arrays[0].astype(np.float32)
    for array in arrays[1:]:
        total += array
    return total / len(arrays)


def predict_whole(forward: Forward, images: np.ndarray, config: InferenceConfig, batch_size: int) -> ForwardOutput:
    """Predicts whole images, `batch_size` at a time."""
    parts = [forward(images[i : i + batch_size], batch_size) for i in range(0, len(images), batch_size)]
    return ForwardOutput(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def tile_starts(size_px: int, config: InferenceConfig) -> list[int]:
    """Returns where windows begin along one side: evenly spaced from edge to edge, with at least the config's overlap."""
    last = size_px - config.tile_px
    stride = max(int(config.tile_px * (1.0 - config.overlap)) // TILE_STEP_PX, 1) * TILE_STEP_PX
    number = math.ceil(last / stride) + 1
    return [round(i * last / (number - 1) / TILE_STEP_PX) * TILE_STEP_PX for i in range(number)]


def tile_weight(start: int, starts: Sequence[int], size_px: int, tile_px: int) -> Float[np.ndarray, "t"]:
    """Returns the weight of each pixel of a window along one side: a Gaussian of an eighth of the window (nnU-Net's).

    The outer quarter of the overlap has no weight, except at the image's own edges: there a window lacks context that the
    whole image has. For a network whose receptive field fits into that margin, windows equal the whole image.
    """
    places = np.arange(tile_px, dtype=np.float64) - (tile_px - 1) / 2
    weight = np.exp(-0.5 * (places / (tile_px / 8)) ** 2)
    rim = (tile_px - max(np.diff(starts))) // 4
    if start > 0:
        weight[:rim] = 0.0
    if start + tile_px < size_px:
        weight[tile_px - rim :] = 0.0
    return weight


def predict_tiles(forward: Forward, images: np.ndarray, config: InferenceConfig, batch_size: int) -> ForwardOutput:
    """Predicts images in windows blended by `tile_weight`; grade logits are the mean of the blended maps plus the bias."""
    size_px, tile_px = images.shape[1], config.tile_px
    starts = tile_starts(size_px, config)
    places = [(y, x) for y in starts for x in starts]
    weights = {start: tile_weight(start, starts, size_px, tile_px) for start in starts}
    blended = []
    for image in images:
        planes, maps, biases = _Blend(size_px), _Blend(size_px), []
        for (y, x), window in _windows(forward, image, places, tile_px, batch_size):
            biases.append(window.grade_logits - window.grade_maps.mean(axis=(0, 1)))
            for blend, values in ((planes, window.probabilities), (maps, window.grade_maps)):
                blend.add(values, y, x, weights[y], weights[x])
        blended_maps = maps.result()
        grade_logits = blended_maps.mean(axis=(0, 1)) + np.mean(biases, axis=0)
        blended.append((planes.result(), grade_logits, blended_maps))
    return ForwardOutput(*(np.stack(arrays) for arrays in zip(*blended, strict=True)))


def _windows(
    forward: Forward, image: np.ndarray, places: Sequence[tuple[int, int]], tile_px: int, batch_size: int
) -> Iterator[tuple[tuple[int, int], ForwardOutput]]:
    """Yields the place of each window and its output, without the batch axis."""
    for i in range(0, len(places), batch_size):
        chunk = places[i : i + batch_size]
        output = forward(np.stack([image[y : y + tile_px, x : x + tile_px] for y, x in chunk]), batch_size)
        yield from zip(chunk, map(ForwardOutput, *output), strict=True)


class _Blend:
    """A weighted mean of windows of any resolution."""

    def __init__(self, size_px: int):
        self.size_px = size_px
        self._sum: np.ndarray | None = None
        self._weight: np.ndarray | None = None

    def add(self, values: np.ndarray, y: int, x: int, weight_y: np.ndarray, weight_x: np.ndarray) -> None:
        scale = len(weight_y) // len(values)
        side = self.size_px // scale
        if self._sum is None or self._weight is None:
            self._sum = np.zeros((side, side, values.shape[-1]))
            self._weight = np.zeros((side, side, 1))
        coarse_y, coarse_x = (weight.reshape(-1, scale).mean(axis=1) for weight in (weight_y, weight_x))
        weight = np.outer(coarse_y, coarse_x)[..., None]
        rows, columns = (slice(start // scale, start // scale + len(values)) for start in (y, x))
        self._sum[rows, columns] += weight * values
        self._weight[rows, columns] += weight

    def result(self) -> np.ndarray:
        assert self._sum is not None and self._weight is not None
        return (self._sum / self._weight).astype(np.float32)

"""Asking a network more than once about an image: flipped and turned views, and overlapping windows of large images."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from pldmlt_jax.config import InferenceConfig

TILE_STEP_PX = 32
"""Windows begin at multiples of this: the encoders' grids of coarse features then lie alike in windows and whole image."""


class RawOutput(NamedTuple):
    """What a network says of a batch, at the network's size."""

    probabilities: Float[np.ndarray, "b h w k"]  # of the segmentation channels
    grade_logits: Float[np.ndarray, "b c"]
    grade_maps: Float[np.ndarray, "b h2 w2 c"]  # what each place adds to each grade's logit, see gradcam.grade_maps


Forward = Callable[[UInt8[np.ndarray, "b h w 3"], int], RawOutput]
"""(RGB images, batch size) -> output; at most that many images, filled up to it so that one shape is compiled."""


class Answer(NamedTuple):
    """What one network, or several, say of a batch after all views and windows are put together."""

    probabilities: Float[np.ndarray, "b s s k"]
    grade_probabilities: Float[np.ndarray, "b c"]
    grade_maps: Float[np.ndarray, "b h2 w2 c"]


@dataclasses.dataclass(frozen=True)
class View:
    """Quarter turns, then a flip from left to right."""

    quarter_turns: int
    flip: bool

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Args: images: [b, s, s, ...]."""
        turned = np.rot90(images, self.quarter_turns, axes=(1, 2))
        return np.ascontiguousarray(turned[:, :, ::-1] if self.flip else turned)

    def undo(self, planes: np.ndarray) -> np.ndarray:
        """The way back, for planes [b, s, s, ...] of any resolution."""
        flipped = planes[:, :, ::-1] if self.flip else planes
        return np.rot90(flipped, -self.quarter_turns, axes=(1, 2))


VIEWS: dict[str, tuple[View, ...]] = {
    "none": (View(0, False),),
    "flips": tuple(View(turns, flip) for turns in (0, 2) for flip in (False, True)),
    "dihedral": tuple(View(turns, flip) for turns in range(4) for flip in (False, True)),
}
"""Test-time augmentation. The views of each form a group: the average turns and flips as the image does."""


def softmax(logits: Float[np.ndarray, "... c"], temperature: float = 1.0) -> Float[np.ndarray, "... c"]:
    """Probabilities of logits divided by a temperature (Guo et al. 2017)."""
    scaled = logits / temperature
    odds = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def predict_views(
    forward: Forward,
    images: UInt8[np.ndarray, "b s s 3"],
    config: InferenceConfig,
    batch_size: int,
    temperature: float = 1.0,
) -> Answer:
    """Probabilities averaged over the views of the config, each seen whole or in tiles.

    Args:
        forward: The network.
        images: RGB at the network's size.
        config: Mode, tiles and views.
        batch_size: Images or windows that the network sees at once.
        temperature: Of the grades.
    """
    seen = predict_tiles if config.mode == "tiles" and config.tile_px < images.shape[1] else predict_whole
    answers = []
    for view in VIEWS[config.tta]:
        output = seen(forward, view.apply(images), config, batch_size)
        grades = softmax(output.grade_logits, temperature)
        answers.append(Answer(view.undo(output.probabilities), grades, view.undo(output.grade_maps)))
    return average_predictions(answers)


def average_predictions(answers: Sequence[Answer]) -> Answer:
    """Mean of the probabilities; the maps are those of all, or of the first where the networks' resolutions differ."""
    if len(answers) == 1:
        return answers[0]
    first = answers[0].grade_maps.shape
    maps = [answer.grade_maps for answer in answers if answer.grade_maps.shape == first]
    return Answer(
        _mean([answer.probabilities for answer in answers]),
        _mean([answer.grade_probabilities for answer in answers]),
        _mean(maps),
    )


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    total = arrays[0].astype(np.float32)
    for array in arrays[1:]:
        total += array
    return total / len(arrays)


def predict_whole(forward: Forward, images: np.ndarray, config: InferenceConfig, batch_size: int) -> RawOutput:
    """One window that is the image, `batch_size` images at a time."""
    parts = [forward(images[i : i + batch_size], batch_size) for i in range(0, len(images), batch_size)]
    return RawOutput(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def tile_starts(size_px: int, config: InferenceConfig) -> list[int]:
    """Where windows begin along one side: evenly, from edge to edge, with the config's overlap at least."""
    last = size_px - config.tile_px
    stride = max(int(config.tile_px * (1.0 - config.overlap)) // TILE_STEP_PX, 1) * TILE_STEP_PX
    number = math.ceil(last / stride) + 1
    return [round(i * last / (number - 1) / TILE_STEP_PX) * TILE_STEP_PX for i in range(number)]


def tile_weight(start: int, starts: Sequence[int], size_px: int, tile_px: int) -> Float[np.ndarray, "t"]:
    """How much each pixel of a window counts along one side: a Gaussian of an eighth of the window (nnU-Net's).

    The outer quarter of the overlap has no weight, for there a window lacks context that the whole image has; at the
    image's own edges there is none to lack. So windows equal the whole image for networks that see no further.
    """
    places = np.arange(tile_px, dtype=np.float64) - (tile_px - 1) / 2
    weight = np.exp(-0.5 * (places / (tile_px / 8)) ** 2)
    rim = (tile_px - max(np.diff(starts))) // 4
    if start > 0:
        weight[:rim] = 0.0
    if start + tile_px < size_px:
        weight[tile_px - rim :] = 0.0
    return weight


def predict_tiles(forward: Forward, images: np.ndarray, config: InferenceConfig, batch_size: int) -> RawOutput:
    """Windows blended by `tile_weight`, image by image; the grade is the mean of the blended maps and the head's bias."""
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
        grade_maps = maps.result()
        blended.append(RawOutput(planes.result(), grade_maps.mean(axis=(0, 1)) + np.mean(biases, axis=0), grade_maps))
    return RawOutput(*(np.stack(arrays) for arrays in zip(*blended, strict=True)))


def _windows(
    forward: Forward, image: np.ndarray, places: Sequence[tuple[int, int]], tile_px: int, batch_size: int
) -> Iterator[tuple[tuple[int, int], RawOutput]]:
    """Place and output of each window, the output without its batch axis."""
    for i in range(0, len(places), batch_size):
        chunk = places[i : i + batch_size]
        output = forward(np.stack([image[y : y + tile_px, x : x + tile_px] for y, x in chunk]), batch_size)
        yield from zip(chunk, map(RawOutput._make, zip(*output, strict=True)), strict=True)


class _Blend:
    """A weighted mean of windows, at whatever resolution they come."""

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

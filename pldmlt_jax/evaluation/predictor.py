"""Predicting photographs of any size with one trained network or several: what `predict` and the Python API do."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.config import Config, InferenceConfig, ParallelConfig, fields
from pldmlt_jax.data.image_warnings import image_warnings
from pldmlt_jax.data.preprocessing.geometry import read_image, to_original
from pldmlt_jax.data.preprocessing.prepare import NetworkView, prepare_image
from pldmlt_jax.errors import CheckpointError, DataError
from pldmlt_jax.evaluation.inference import BUNDLED_MODEL, TrainedNetwork, checkpoint_directory, load_network, saved_config
from pldmlt_jax.evaluation.operating_points import (
    OperatingPoints,
    average_points,
    lesion_names,
    make_masks,
    mask_scores,
    read_points,
)
from pldmlt_jax.evaluation.tta import Answer, Forward, average_predictions, predict_views
from pldmlt_jax.export.engines import make_forward
from pldmlt_jax.method.setup import make_method

MUST_AGREE = ("data.size_px", "data.fov_crop", "data.resize", "data.enhance", "loss.target", "loss.grading")
"""Fields that networks must have alike for their probabilities to be averaged."""


class LesionArea(NamedTuple):
    """How much of one lesion a photograph shows.

    Attributes:
        components: 8-connected ones of its mask.
        area_px: Pixels of its mask, at the photograph's own size.
        percent_of_field: The same in % of the field of view.
    """

    components: int
    area_px: int
    percent_of_field: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one photograph, aligned with its own pixels: h and w are its height and width.

    Attributes:
        probabilities: By lesion (MA, HE, EX, SE, or `lesion` for any), float32 [h, w] in 0..1; zero outside the field.
        masks: By lesion, bool [h, w]: the probabilities at the operating points. Lesions may overlap.
        field_of_view: bool [h, w].
        grade: The most probable of the international grades 0 to 4; None where the network has not learnt grades.
        grade_probabilities: float32 [5], sum 1; None likewise.
        calibrated: Whether a temperature (Guo et al. 2017) that was fitted on truly graded images is in them.
        grade_map: float32 [h, w], Grad-CAM of the grade (Eq. 1 of the paper): relative, not negative, zero outside the crop;
            None likewise.
        warnings: What is unlike a fundus photograph, or far from the training photographs, in words; empty where nothing is.
    """

    probabilities: dict[str, Float[np.ndarray, "h w"]]
    masks: dict[str, Bool[np.ndarray, "h w"]]
    field_of_view: Bool[np.ndarray, "h w"]
    grade: int | None
    grade_probabilities: Float[np.ndarray, "c"] | None
    calibrated: bool
    grade_map: Float[np.ndarray, "h w"] | None
    warnings: tuple[str, ...]

    @property
    def areas(self) -> dict[str, LesionArea]:
        """Components and area of each lesion's mask, see `LesionArea`."""
        field_px = max(int(self.field_of_view.sum()), 1)
        areas = {}
        for name, mask in self.masks.items():
            number, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            pixels = int(np.count_nonzero(mask))
            areas[name] = LesionArea(number - 1, pixels, 100.0 * pixels / field_px)
        return areas


@dataclass(frozen=True)
class Predictor:
    """Trained networks whose probabilities are averaged, and how they are asked."""

    networks: tuple[TrainedNetwork, ...]
    forwards: tuple[Forward, ...]  # of the networks, by the chosen engine
    temperatures: tuple[float, ...]  # of the networks' grades, 1 where none was fitted
    points: OperatingPoints
    config: Config  # of the first network

    @property
    def target(self) -> str:
        """What the segmentation channels are, a key of `losses.TARGETS`."""
        return self.config.loss.target

    @property
    def names(self) -> tuple[str, ...]:
        """The lesions that are predicted: `lesion` for all in one, or `MA`, `HE`, `EX`, `SE`."""
        return lesion_names(self.target)

    def __call__(self, images: UInt8[np.ndarray, "b s s 3"], batch_size: int) -> Answer:
        """Probabilities of prepared images at the networks' size, by the config's views and tiles."""
        asked = zip(self.forwards, self.temperatures, strict=True)
        return average_predictions(
            [predict_views(forward, images, self.config.inference, batch_size, t) for forward, t in asked]
        )

    def choose_batch_size(self, number: int) -> int:
        """Photographs of so many to ask about at once: a batch is filled up, which one photograph alone need not pay for.

        Windows are many for each photograph, and keep the batch of the config.
        """
        batch_size = self.config.evaluation.batch_size
        return batch_size if self.config.inference.mode == "tiles" else max(min(batch_size, number), 1)

    def predict(self, image: np.ndarray | str | Path) -> Prediction:
        """Predicts one photograph.

        Args:
            image: RGB of any size, uint8 [h, w, 3] in 0..255; or an image file (see `read_image`).

        Raises:
            DataError: The file cannot be read, or the array is of another kind.
        """
        return next(self.predict_many([image]))

    def predict_many(self, images: Sequence[np.ndarray | str | Path]) -> Iterator[Prediction]:
        """Predicts photographs in order, `evaluation.batch_size` at once at most; each answer is made when it is asked for.

        Args:
            images: As for `predict`; each batch is read when its first answer is asked for.

        Yields:
            The answers. 12 megapixels and four lesions take 0.3 GB: let go of each before the next.

        Raises:
            DataError: As `predict`; the photographs before that one's batch have been answered.
        """
        batch_size = self.choose_batch_size(len(images))
        for start in range(0, len(images), batch_size):
            photographs = [_as_photograph(image) for image in images[start : start + batch_size]]
            views = [self.prepare(photograph) for photograph in photographs]
            answer = self(np.stack([view.image for view in views]), batch_size)
            for row, (photograph, view) in enumerate(zip(photographs, views, strict=True)):
                yield self.build_prediction(photograph, view, answer, row)

    def prepare(self, image: UInt8[np.ndarray, "h w 3"]) -> NetworkView:
        """The networks' view of a photograph."""
        return prepare_image(image, self.config.data, self.config.data.size_px)

    def build_prediction(self, image: UInt8[np.ndarray, "h w 3"], view: NetworkView, answer: Answer, row: int) -> Prediction:
        """One row of an answer on the photograph's own pixels."""
        scores = mask_scores(answer.probabilities[row], self.target) * view.valid[..., None]
        enlarged = to_original(scores, view.geometry)
        graded = self.config.loss.grading
        p = answer.grade_probabilities[row]
        grade = int(p.argmax()) if graded else None
        return Prediction(
            probabilities={name: enlarged[..., i] for i, name in enumerate(self.names)},
            masks=make_masks(enlarged, self.names, self.points, view.geometry.area_scale),
            field_of_view=view.fov,
            grade=grade,
            grade_probabilities=p if graded else None,
            calibrated=graded and self.points.temperature is not None,
            grade_map=None if grade is None else _grade_map(answer.grade_maps[row], grade, view),
            warnings=tuple(image_warnings(image, view.fov, self.points.field_px)),
        )


def _as_photograph(image: np.ndarray | str | Path) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(image, str | Path):
        return read_image(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        found = f"{image.dtype} {image.shape}"
        raise DataError("image", found, "uint8 [height, width, 3], RGB in 0..255", "convert it, or give the file's path")
    return image


def _grade_map(maps: Float[np.ndarray, "m m c"], grade: int, view: NetworkView) -> Float[np.ndarray, "h w"]:
    """Grad-CAM of one grade on the photograph's pixels."""
    evidence = np.maximum(maps[..., grade], 0.0)
    square = cv2.resize(evidence, (view.geometry.size_px,) * 2, interpolation=cv2.INTER_LINEAR)
    return to_original(square * view.valid, view.geometry)


def split_checkpoints(text: str) -> list[Path]:
    """The folders that `--checkpoint` names, with commas between them; one whose own name has a comma is taken whole."""
    return [Path(text)] if Path(text).exists() else [Path(part.strip()) for part in text.split(",") if part.strip()]


def make_predictor(networks: Sequence[TrainedNetwork], config: Config, engine: str = "xla") -> Predictor:
    """Puts networks together.

    Args:
        networks: One, or several that answer the same about the same view of a photograph.
        config: The first one's, with `inference` as it is asked for.
        engine: A key of `ENGINES`.

    Raises:
        CheckpointError: The networks do not fit each other.
        ConfigError: See `engines.make_forward`.
    """
    wanted = dict(fields(config))
    for network in networks:
        given = dict(fields(network.config))
        differing = [f"{name} = {given[name]!r}, not {wanted[name]!r}" for name in MUST_AGREE if given[name] != wanted[name]]
        if differing:
            expected = "networks with the same view of a photograph and the same answer, for their mean"
            raise CheckpointError(network.directory, "; ".join(differing), expected, "leave it out of --checkpoint")
    found = [read_points(network.directory, network.step) for network in networks]
    points = average_points(found)
    if config.inference.threshold > 0:
        points = OperatingPoints.at(config.inference.threshold, lesion_names(config.loss.target), points)
    forwards = tuple(make_forward(engine, network, config.inference) for network in networks)
    return Predictor(tuple(networks), forwards, tuple(one.temperature or 1.0 for one in found), points, config)


def load(
    path: str | Path | Sequence[str | Path] = BUNDLED_MODEL, *, engine: str = "xla", inference: InferenceConfig | None = None
) -> Predictor:
    """Loads what was trained, ready to predict.

    Args:
        path: A workdir, its `checkpoints/`, or a folder that `export` has written; several for the mean of their
            probabilities. Without it, the network that ships with the package, see `pretrained/model_card.md`.
        engine: "xla", or "onnx" or "openvino" where they are installed (`requirements-export.txt`).
        inference: Views and tiles, where they are to differ from the network's own config.

    Returns:
        A predictor: `load(path).predict(image)`.

    Raises:
        CheckpointError: There is no trained network, it is of another version, or several do not fit each other.
        ConfigError: The engine is not there.
    """
    several = [path] if isinstance(path, str | Path) else list(path)
    networks = []
    for one in several:
        directory = checkpoint_directory(Path(one))
        config = saved_config(directory)
        config.parallel = ParallelConfig()  # of this machine, not of the one that trained it
        networks.append(load_network(directory, config, make_method(config, total_steps=1)))
    config = networks[0].config
    if inference is not None:
        config = dataclasses.replace(config, inference=inference)
    return make_predictor(networks, config, engine)

"""Predicts photographs of any size with one trained network, or with several whose probabilities are averaged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pldmlt_jax.config import Config
from pldmlt_jax.data.image_warnings import image_warnings
from pldmlt_jax.data.preprocessing.geometry import read_image, to_original
from pldmlt_jax.data.preprocessing.prepare import PreparedImage, prepare_image
from pldmlt_jax.data.preprocessing.prepared_split import PreparedSplit
from pldmlt_jax.errors import DataError
from pldmlt_jax.evaluation.inference import TrainedNetwork
from pldmlt_jax.evaluation.operating_points import OperatingPoints, lesion_names, make_masks, mask_scores
from pldmlt_jax.evaluation.tta import BatchPrediction, Forward, average_predictions, predict_views
from pldmlt_jax.types import Sample


class LesionArea(NamedTuple):
    """How much of one lesion a photograph shows.

    Attributes:
        components: Number of 8-connected components of its mask.
        area_px: Pixels of its mask, at the photograph's own size.
        percent_of_field: The same in % of the field of view.
    """

    components: int
    area_px: int
    percent_of_field: float


@dataclass(frozen=True)
class Prediction:
    """The prediction for one photograph, on its own pixels: h and w are its height and width.

    Attributes:
        probabilities: By lesion (MA, HE, EX, SE, or `lesion` for any), float32 [h, w] in 0..1; zero outside the field.
        masks: By lesion, bool [h, w]: the probabilities at the operating points. Lesions may overlap.
        field_of_view: bool [h, w].
        grade: The most probable of the international grades 0 to 4; None if the network was not trained on grades.
        grade_probabilities: float32 [5], sum 1; None if the network was not trained on grades.
        calibrated: Whether the grade probabilities include a temperature (Guo et al. 2017) that was fitted on truly graded
            images.
        grade_map: float32 [h, w], Grad-CAM of the grade (Eq. 1 of the paper): relative, not negative, zero outside the crop;
            None if the network was not trained on grades.
        warnings: How the photograph differs from a fundus photograph or from the training photographs; empty if it does not.

    Example:
        >>> probability = np.zeros((4, 10), np.float32)
        >>> probability[1, 2:5] = 0.9
        >>> prediction = Prediction(
        ...     probabilities={"HE": probability}, masks={"HE": probability > 0.5},
        ...     field_of_view=np.ones((4, 10), bool), grade=None, grade_probabilities=None, calibrated=False,
        ...     grade_map=None, warnings=(),
        ... )
        >>> prediction.areas["HE"]
        LesionArea(components=1, area_px=3, percent_of_field=7.5)
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
        """Components and area of each lesion's mask."""
        field_px = max(int(self.field_of_view.sum()), 1)
        areas = {}
        for name, mask in self.masks.items():
            number, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            pixels = int(np.count_nonzero(mask))
            areas[name] = LesionArea(number - 1, pixels, 100.0 * pixels / field_px)
        return areas


@dataclass(frozen=True)
class Predictor:
    """Trained networks whose probabilities are averaged.

    Attributes:
        networks: One network, or several that prepare photographs alike and have the same outputs.
        forwards: The forward pass of each, by the chosen engine.
        temperatures: Temperature of each network's grade probabilities; 1 where none was fitted.
        points: Thresholds and smallest components of the masks.
            config: The first network's config, with the views and windows of prediction.

    Example:
        >>> import pldmlt_jax as pj
        >>> from pldmlt_jax.data.synthetic.dataset import draw_fundus
        >>> photograph = draw_fundus((0, 1), grade=2, height_px=96).image
        >>> predictor = pj.load()
        >>> predictor.config.data.size_px = 160  # only to make this example quick: the network is made for 640
        >>> prediction = predictor.predict(photograph)
        >>> prediction.masks["HE"].shape, prediction.grade in range(5)
        ((96, 144), True)
    """

    networks: tuple[TrainedNetwork, ...]
    forwards: tuple[Forward, ...]
    temperatures: tuple[float, ...]
    points: OperatingPoints
    config: Config

    @property
    def target(self) -> str:
        """What the segmentation channels are, a key of `losses.TARGETS`."""
        return self.config.loss.target

    @property
    def lesion_names(self) -> tuple[str, ...]:
        """Returns the lesions that are predicted: `lesion` for all in one, or `MA`, `HE`, `EX`, `SE`."""
        return lesion_names(self.target)

    def __call__(self, images: UInt8[np.ndarray, "b s s 3"], batch_size: int) -> BatchPrediction:
        """Predicts prepared images at the networks' size, with the config's views and windows."""
        inference, networks = self.config.inference, zip(self.forwards, self.temperatures, strict=True)
        return average_predictions([predict_views(forward, images, inference, batch_size, t) for forward, t in networks])

    def predict_prepared(
        self, split: PreparedSplit, indices: Sequence[int] | np.ndarray
    ) -> Iterator[tuple[Sample, Float[np.ndarray, "s s k"], Float[np.ndarray, "c"]]]:
        """Predicts images of a prepared set in order, `evaluation.batch_size` at a time.

        Args:
            split: The prepared images.
            indices: Positions in the split.

        Yields:
            Each image, its segmentation probabilities at the networks' size, and its grade probabilities.
        """
        batch_size = self.config.evaluation.batch_size
        for start in range(0, len(indices), batch_size):
            samples = [split[int(index)] for index in indices[start : start + batch_size]]
            batch = self(np.stack([sample.image for sample in samples]), batch_size)
            yield from zip(samples, batch.probabilities, batch.grade_probabilities, strict=True)

    def choose_batch_size(self, num_photographs: int) -> int:
        """Returns the batch size for some photographs: at most their number, so that few are not padded to a full batch.

        Windows are many for each photograph, and keep the config's batch size.
        """
        batch_size = self.config.evaluation.batch_size
        return batch_size if self.config.inference.mode == "tiles" else max(min(batch_size, num_photographs), 1)

    def predict(self, image: np.ndarray | str | Path) -> Prediction:
        """Predicts one photograph.

        Args:
            image: RGB of any size, uint8 [h, w, 3] in 0..255; or an image file (see `read_image`).

        Raises:
            DataError: The file cannot be read, or the array is of another kind.
        """
        return next(self.predict_many([image]))

    def predict_many(self, images: Sequence[np.ndarray | str | Path]) -> Iterator[Prediction]:
        """Predicts photographs in order, at most `evaluation.batch_size` at a time.

        Args:
            images: As for `predict`; each batch is read when its first prediction is requested.

        Yields:
            The predictions. One of 12 megapixels and four lesions takes 0.3 GB: release each before the next.

        Raises:
            DataError: As `predict`; the photographs of earlier batches have been predicted.
        """
        batch_size = self.choose_batch_size(len(images))
        for start in range(0, len(images), batch_size):
            photographs = [_as_photograph(image) for image in images[start : start + batch_size]]
            views = [self.prepare(photograph) for photograph in photographs]
            batch = self(np.stack([view.image for view in views]), batch_size)
            for row, (photograph, view) in enumerate(zip(photographs, views, strict=True)):
                yield self.build_prediction(photograph, view, batch, row)

    def prepare(self, image: UInt8[np.ndarray, "h w 3"]) -> PreparedImage:
        """Prepares a photograph for the networks."""
        return prepare_image(image, self.config.data, self.config.data.size_px)

    def build_prediction(
        self, image: UInt8[np.ndarray, "h w 3"], view: PreparedImage, batch: BatchPrediction, row: int
    ) -> Prediction:
        """Builds the prediction on a photograph's own pixels from one row of a batch."""
        scores = mask_scores(batch.probabilities[row], self.target) * view.valid[..., None]
        enlarged = to_original(scores, view.geometry)
        graded = self.config.loss.grading
        p = batch.grade_probabilities[row]
        grade = int(p.argmax()) if graded else None
        return Prediction(
            probabilities={name: enlarged[..., i] for i, name in enumerate(self.lesion_names)},
            masks=make_masks(enlarged, self.lesion_names, self.points, view.geometry.area_scale),
            field_of_view=view.fov,
            grade=grade,
            grade_probabilities=p if graded else None,
            calibrated=graded and self.points.temperature is not None,
            grade_map=None if grade is None else _enlarge_grade_map(batch.grade_maps[row], grade, view),
            warnings=tuple(image_warnings(image, view.fov, self.points.field_px)),
        )


def _as_photograph(image: np.ndarray | str | Path) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(image, str | Path):
        return read_image(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        found = f"{image.dtype} {image.shape}"
        raise DataError("image", found, "uint8 [height, width, 3], RGB in 0..255", "convert it, or give the file's path")
    return image


def _enlarge_grade_map(maps: Float[np.ndarray, "m m c"], grade: int, view: PreparedImage) -> Float[np.ndarray, "h w"]:
    """Enlarges the Grad-CAM of one grade to the photograph's pixels."""
    evidence = np.maximum(maps[..., grade], 0.0)
    square = cv2.resize(evidence, (view.geometry.size_px,) * 2, interpolation=cv2.INTER_LINEAR)
    return to_original(square * view.valid, view.geometry)

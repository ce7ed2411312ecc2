"""Scores predicted masks against a set's own masks, at the network's size and at the images' own size."""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from pldmlt_jax.config import Config
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.evaluation.metrics.baselines import EMPTY_HISTOGRAMS, Threshold, pixel_histograms, threshold_metrics
from pldmlt_jax.evaluation.metrics.segmentation import SegmentationCounts
from pldmlt_jax.evaluation.operating_points import OperatingPoints, PointCounts
from pldmlt_jax.evaluation.original_size import (
    ORIGINAL,
    compute_area_columns,
    compute_image_row,
    count_image,
    inflation_metrics,
    read_original,
)
from pldmlt_jax.io.processes import sum_over_processes
from pldmlt_jax.types import LESIONS, Sample


class SizeScores:
    """Counters of predicted masks over many images, at one size.

    Args:
        target: What the segmentation channels are, a key of `losses.TARGETS`.
        threshold: Threshold of the probabilities.
        points: Operating points to count at as well; None: only at the threshold.
    """

    def __init__(self, target: str, threshold: float, points: OperatingPoints | None):
        self.target, self.threshold = target, threshold
        self.counts = SegmentationCounts.empty(target)
        self.points = None if points is None else PointCounts(target, points)
        self.pixels = EMPTY_HISTOGRAMS

    def add(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        mask_bits: UInt8[np.ndarray, "h w"],
        probabilities: Float[np.ndarray, "h w k"],
        area_scale: float = 1.0,
    ) -> SegmentationCounts:
        """Counts one image and returns its own counters.

        Args:
            image: RGB.
            mask_bits: The truth, see `MASK_BITS`.
            probabilities: The prediction.
            area_scale: See `operating_points.make_masks`.
        """
        counted = count_image(probabilities, mask_bits, self.target, self.threshold)
        self.counts = self.counts.merge(counted)
        self.pixels = self.pixels + pixel_histograms(image, mask_bits)
        if self.points is not None:
            self.points.add(probabilities, mask_bits, area_scale)
        return counted

    def sum_processes(self) -> None:
        """Replaces the counters by their sum over all processes."""
        self.counts, self.pixels = sum_over_processes((self.counts, self.pixels))
        if self.points is not None:
            self.points.counts = sum_over_processes(self.points.counts)

    def compute(self, baseline: Threshold, suffix: str = "") -> dict[str, Any]:
        """Computes the metrics of the masks and of the baseline, by name with the suffix."""
        metrics = self.counts.compute() | (self.points.compute() if self.points is not None else {})
        return {f"{name}{suffix}": value for name, value in metrics.items()} | threshold_metrics(
            baseline, self.pixels, suffix
        )


class SegmentationScores:
    """Scores of predicted masks at the network's size and at the images' own, pooled over images.

    Args:
        target: What the segmentation channels are, a key of `losses.TARGETS`.
        config: Config of the run, with the threshold.
        points: The network's operating points; None for masks that have none.
    """

    def __init__(self, target: str, config: Config, points: OperatingPoints | None = None):
        self.config = config
        self.network, self.original = (SizeScores(target, config.evaluation.threshold, points) for _ in range(2))
        self.reduced_px = np.zeros(1 + len(LESIONS))

    def add_prepared(
        self, sample: Sample, probabilities: Float[np.ndarray, "s s k"], grades: np.ndarray | None, true_grade: int | None
    ) -> dict[str, Any]:
        """Scores one image at the network's size; returns its row of `per_image.csv`, see `compute_image_row`."""
        counted = self.network.add(sample.image, sample.mask_bits, probabilities)
        self.reduced_px += counted.target_px * sample.geometry.area_scale
        return compute_image_row(sample, counted, grades, true_grade)

    def add_original(
        self, record: RawRecord, probabilities: Float[np.ndarray, "h w k"], area_scale: float = 1.0
    ) -> dict[str, Any]:
        """Scores one image at its own size; returns further columns of its row."""
        image, mask_bits = read_original(record, self.config.data)
        counted = self.original.add(image, mask_bits, probabilities, area_scale)
        return {f"{name}{ORIGINAL}": value for name, value in compute_area_columns(counted).items()}

    def sum_processes(self) -> None:
        """Replaces what was counted by its sum over all processes."""
        self.network.sum_processes()
        self.original.sum_processes()
        self.reduced_px = sum_over_processes(self.reduced_px)

    def compute(self, baseline: Threshold) -> dict[str, Any]:
        """Computes the metrics of the network's size and, if it is scored, of the images' own."""
        metrics = self.network.compute(baseline)
        if self.config.evaluation.original_size:
            metrics |= self.original.compute(baseline, ORIGINAL)
            metrics |= inflation_metrics(self.reduced_px, self.original.counts.target_px)
        return metrics

"""Scores one image: its prediction against its masks, at the network's size and at the image's own size."""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.data.preprocessing.geometry import read_image, to_original
from pldmlt_jax.data.preprocessing.masks import fuse_lesions, read_annotation
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.evaluation.metrics.segmentation import SegmentationCounts, dice, iou, segmentation_counts
from pldmlt_jax.types import LESIONS, MASK_BITS, Sample

ORIGINAL = "_original_size"
"""Suffix of the metrics at the images' own size."""


def count_image(
    probabilities: Float[np.ndarray, "h w k"], mask_bits: UInt8[np.ndarray, "h w"], target: str, threshold: float
) -> SegmentationCounts:
    """Counts one image."""
    return segmentation_counts(probabilities[None], mask_bits[None], np.ones(1), target=target, threshold=threshold)


def restore_original_size(
    probabilities: Float[np.ndarray, "s s k"], sample: Sample, target: str
) -> Float[np.ndarray, "h w k"]:
    """Enlarges a prediction to the image's own pixels; outside the field of view everything is background."""
    valid = sample.mask_bits & MASK_BITS["valid"] != 0
    enlarged = to_original(probabilities * valid[..., None], sample.geometry)
    if target != "lesions":
        enlarged[..., 0] = 1.0 - enlarged[..., 1:].sum(axis=-1)
    return enlarged


def read_original(record: RawRecord, data: DataConfig) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Reads a photograph and its mask bits at their own size; the fused mask has the same morphology as in training."""
    image = read_image(record.image)
    shape = image.shape[:2]
    masks = read_annotation(record, shape, data).masks
    planes = {lesion: masks[lesion] for lesion in LESIONS if lesion in masks}
    planes |= {"valid": field_of_view(image), "fused": fuse_lesions(masks, shape, data)[0]}
    bits = np.zeros(shape, np.uint8)
    for name, plane in planes.items():
        bits[plane] |= MASK_BITS[name]
    return image, bits


def compute_image_row(
    sample: Sample, counts: SegmentationCounts, grade_probabilities: np.ndarray | None, true_grade: int | None
) -> dict[str, Any]:
    """One row of `per_image.csv`; `grade_probabilities` is None if the network was not trained on grades."""
    p = grade_probabilities
    return {
        "image": sample.image_id,
        **compute_area_columns(counts),
        **{f"{lesion}_truth_px": int(counts.lesions[i, 2]) for i, lesion in enumerate(LESIONS)},
        "predicted_grade": "" if p is None else int(p.argmax()),
        "confidence": "" if p is None else round(float(p.max()), 4),
        "true_grade": "" if true_grade is None else true_grade,
    }


def compute_area_columns(counts: SegmentationCounts) -> dict[str, Any]:
    """Foreground Dice and IoU of one image, empty where undefined, and areas in pixels of truth, prediction and overlap."""
    tp, predicted, target_px, valid = (int(v) for v in counts.foreground)
    values = {"dice": dice(tp, predicted, target_px), "iou": iou(tp, predicted, target_px)}
    rounded = {name: "" if value is None else round(value, 4) for name, value in values.items()}
    return rounded | {"truth_px": target_px, "predicted_px": predicted, "overlap_px": tp, "valid_px": valid}


def inflation_metrics(reduced_px: np.ndarray, original_px: np.ndarray) -> dict[str, float | None]:
    """How many times larger masks are at the network's size than at the original one, both in pixels of the original.

    Args:
        reduced_px: Area at the network's size, of the fused mask and of each lesion's.
        original_px: The same at the original size.
    """
    names = ("seg/inflation", *(f"seg/{lesion}/inflation" for lesion in LESIONS))
    pairs = zip(reduced_px, original_px, strict=True)
    return {name: float(reduced / px) if px else None for name, (reduced, px) in zip(names, pairs, strict=True)}

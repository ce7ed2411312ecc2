"""The few structures that every part of the project shares: one image's data, a batch, and the mask bits.

All masks of an image travel as the bits of one uint8 plane (`MASK_BITS`), from the prepared file to the accelerator: one
small PNG on disk, one warp in the augmentation, one byte a pixel on the way to the device.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

LESIONS = ("MA", "HE", "EX", "SE")
"""Microaneurysms, haemorrhages, hard exudates, soft exudates: the order of every lesion axis."""

EVIDENCE = (*LESIONS, "untyped")
"""What is counted as evidence for a grade: the four lesions, and masks that do not say which lesion they show."""

NUM_GRADES = 5
"""Grades 0 to 4 of the international clinical diabetic retinopathy scale."""

MASK_BITS = {"valid": 1, "MA": 2, "HE": 4, "EX": 8, "SE": 16, "OD": 32, "fused": 64}
"""Bit of each mask: inside the field of view, the four lesions, the optic disc, the fused lesion mask of the paper."""

UNKNOWN_GRADE = -1

Array = jax.Array
ArrayLike = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How an image of the original size became a square of `size_px`, and so the way back.

    The original is cropped to `[crop_y_px : crop_y_px + crop_height_px, crop_x_px : crop_x_px + crop_width_px]`, resized
    to `resized_height_px x resized_width_px` and placed at (`pad_top_px`, `pad_left_px`) of a zero square.
    """

    original_height_px: int
    original_width_px: int
    crop_y_px: int
    crop_x_px: int
    crop_height_px: int
    crop_width_px: int
    resized_height_px: int
    resized_width_px: int
    pad_top_px: int
    pad_left_px: int
    size_px: int

    @property
    def area_scale(self) -> float:
        """Pixels of the original to one of the square."""
        return self.crop_height_px * self.crop_width_px / (self.resized_height_px * self.resized_width_px)

    def as_array(self) -> np.ndarray:
        """The eleven fields, int64, in the order of their declaration."""
        return np.array(dataclasses.astuple(self), np.int64)

    @classmethod
    def from_array(cls, values: np.ndarray) -> "Geometry":
        return cls(*(int(v) for v in values))


@dataclasses.dataclass(frozen=True)
class Sample:
    """One prepared image, decoded, on the host."""

    image: UInt8[np.ndarray, "s s 3"]  # RGB
    mask_bits: UInt8[np.ndarray, "s s"]  # MASK_BITS; only `valid` is set where an image has no masks
    image_id: str
    grade: int  # true grade 0..4, UNKNOWN_GRADE where there is none
    evidence_px: np.ndarray  # int64 [5], pixels marked at the original size, by EVIDENCE; -1 where there are no masks
    least_grade: int  # that the set admits, see RawRecord
    geometry: Geometry


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """What a step takes. `grade` is the true grade in stage 1 and the pseudo-label in stage 2."""

    image: UInt8[Any, "b h w 3"]  # RGB, 0..255
    mask_bits: UInt8[Any, "b h w"]  # see MASK_BITS
    grade: Int[Any, "b"]  # int32, 0..4, UNKNOWN_GRADE where there is none
    admissible: Bool[Any, "b c"]  # grades that the masks admit (method: evidence); all True where nothing is known
    sample_mask: Float[Any, "b"]  # 1.0, or 0.0 for a row that only fills up the batch
    index: Int[Any, "b"]  # int32, position in the split's list of images
    graded: "Batch | None" = None  # stage 2: truly graded images, whose `grade` is the true one, where the config uses them

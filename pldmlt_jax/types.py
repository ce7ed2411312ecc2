"""The structures that the whole package shares: one prepared image, a batch, and the mask bits.

All masks of an image are the bits of one uint8 plane (`MASK_BITS`), from the prepared file to the accelerator: one small
PNG on disk, one warp in the augmentation, and one byte per pixel on the way to the device.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

LESIONS = ("MA", "HE", "EX", "SE")
"""Microaneurysms, haemorrhages, hard exudates, soft exudates: the order of every lesion axis."""

EVIDENCE = (*LESIONS, "untyped")
"""Masks that are evidence for a grade: the four lesions, and masks of lesions without a type."""

NUM_GRADES = 5
"""Grades 0 to 4 of the international clinical diabetic retinopathy scale."""

MASK_BITS = {"valid": 1, "MA": 2, "HE": 4, "EX": 8, "SE": 16, "OD": 32, "fused": 64}
"""Bit of each mask: the field of view, the four lesions, the optic disc, and the paper's fused lesion mask."""

UNKNOWN_GRADE = -1
"""Grade of an image that has none."""

Array = jax.Array
ArrayLike = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How an image became a square of `size_px`, which is all that is needed to map results back.

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
        """Number of original pixels per pixel of the square."""
        return self.crop_height_px * self.crop_width_px / (self.resized_height_px * self.resized_width_px)

    def as_array(self) -> np.ndarray:
        """The eleven fields as int64, in order of declaration."""
        return np.array(dataclasses.astuple(self), np.int64)

    @classmethod
    def from_array(cls, values: np.ndarray) -> "Geometry":
        """Makes a geometry from the result of `as_array`."""
        return cls(*(int(v) for v in values))


@dataclasses.dataclass(frozen=True)
class Sample:
    """One prepared and decoded image, on the host."""

    image: UInt8[np.ndarray, "s s 3"]  # RGB
    mask_bits: UInt8[np.ndarray, "s s"]  # see MASK_BITS; only "valid" is set if the image has no masks
    image_id: str
    grade: int  # true grade 0..4, or UNKNOWN_GRADE
    evidence_px: np.ndarray  # int64 [5]: lesion pixels at the original size, in order of EVIDENCE; -1 = no masks
    least_grade: int  # smallest grade that the data set allows, see RawRecord
    geometry: Geometry


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """The input of a training step. `grade` is the true grade in stage 1 and the pseudo-label in stage 2."""

    image: UInt8[Any, "b h w 3"]  # RGB, 0..255
    mask_bits: UInt8[Any, "b h w"]  # see MASK_BITS
    grade: Int[Any, "b"]  # int32, 0..4, or UNKNOWN_GRADE
    admissible: Bool[Any, "b c"]  # grades that the masks allow (method: evidence); all True if nothing is known
    sample_mask: Float[Any, "b"]  # 1.0, or 0.0 for a row that only pads the batch
    index: Int[Any, "b"]  # int32, position in the split's list of images
    graded: "Batch | None" = None  # stage 2: truly graded images with their true `grade`, if the config uses them

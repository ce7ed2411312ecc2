"""From what a set's lesions measure and what a step needs: a size and a batch to train with."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pldmlt_jax.data.check import DIAMETER_BINS
from pldmlt_jax.types import EVIDENCE

SIZES_PX = (256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 2048)
LEAST_DIAMETER_PX = 2.0
SHARE_ABOVE = 0.9
"""The smallest size at which this share of all lesions is at least so wide; wider ones cost memory and show nothing more."""

MEMORY_SHARE = 0.8
"""Of what is there: buffers of the input pipeline and of the libraries need some of it too."""

BATCHES = (16, 8, 4, 2, 1)


class LesionSize(NamedTuple):
    """How large the connected components of one lesion are at a size of the network's square."""

    number: int
    median_px: float  # diameter of the circle of the same area
    tenth_px: float  # a tenth is smaller than this
    below_1_px: float  # share of them


class SizeSuggestion(NamedTuple):
    size_px: int
    batch_size: int
    bytes_needed: int
    wide_enough: bool  # whether SHARE_ABOVE of the lesions are, or memory or the photographs' own size stood against it


def summarise_lesion_sizes(diameters: Int[np.ndarray, "5 112"], size_px: int) -> dict[str, LesionSize]:
    """By EVIDENCE, those that occur.

    Args:
        diameters: Connected components by lesion and DIAMETER_BINS.
        size_px: Side of the network's square.
    """
    return {
        name: LesionSize(
            int(counts.sum()),
            _quantile(counts, 0.5) * size_px,
            _quantile(counts, 0.1) * size_px,
            1.0 - _share_above(counts, 1.0 / size_px),
        )
        for name, counts in zip(EVIDENCE, diameters, strict=True)
        if counts.sum()
    }


def _quantile(counts: Int[np.ndarray, "112"], share: float) -> float:
    """Of the diameters relative to the field of view; to a sixteenth of an octave."""
    place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
    return float(2.0 ** ((DIAMETER_BINS[place] + DIAMETER_BINS[place + 1]) / 2))


def _share_above(counts: Int[np.ndarray, "112"], diameter: float) -> float:
    centres = 2.0 ** ((DIAMETER_BINS[:-1] + DIAMETER_BINS[1:]) / 2)
    return float(counts[centres >= diameter].sum() / counts.sum())


def suggest_size(
    diameters: Int[np.ndarray, "5 112"],
    field_px: int,
    fixed_bytes: int,
    bytes_per_pixel: float,
    available_bytes: int,
    multiple: int,
) -> SizeSuggestion:
    """The smallest size that shows the lesions and fits, and the largest batch that fits then.

    Args:
        diameters: See `summarise_lesion_sizes`.
        field_px: Longer side of a typical field of view: more pixels than that show nothing more.
        fixed_bytes: That a step needs whatever its size.
        bytes_per_pixel: Of an image of the batch.
        available_bytes: On the device.
        multiple: Sizes are multiples of this.
    """
    total = diameters.sum(axis=0)
    room = MEMORY_SHARE * available_bytes - fixed_bytes
    sizes = [size for size in SIZES_PX if size % multiple == 0]
    fitting = [size for size in sizes if bytes_per_pixel * size**2 <= room and size <= max(field_px, sizes[0])] or sizes[:1]
    wide = [size for size in fitting if total.sum() and _share_above(total, LEAST_DIAMETER_PX / size) >= SHARE_ABOVE]
    size_px = wide[0] if wide else fitting[-1]
    batch_size = next((batch for batch in BATCHES if batch * bytes_per_pixel * size_px**2 <= room), 1)
    return SizeSuggestion(size_px, batch_size, int(fixed_bytes + batch_size * bytes_per_pixel * size_px**2), bool(wide))

"""Suggests an image size and a batch size from the sizes of the lesions and the memory that a step needs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pldmlt_jax.data.check import DIAMETER_BINS
from pldmlt_jax.types import EVIDENCE

SIZES_PX = (256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 2048)
MIN_DIAMETER_PX = 2.0
MIN_SHARE_VISIBLE = 0.9
"""The suggested size is the smallest one at which this share of the lesions has at least this diameter."""

MEMORY_SHARE = 0.8
"""Usable share of the device's memory; the input pipeline and the libraries need the rest."""

BATCHES = (16, 8, 4, 2, 1)


class LesionSize(NamedTuple):
    """Diameters of the connected components of one kind of lesion, in pixels of the network's square.

    A diameter is that of the circle with the component's area.
    """

    number: int
    median_px: float
    tenth_px: float  # 10th percentile
    below_1_px: float  # share with a diameter below one pixel


class SizeSuggestion(NamedTuple):
    """A size and a batch that fit into the memory."""

    size_px: int
    batch_size: int
    bytes_needed: int
    wide_enough: bool  # whether MIN_SHARE_VISIBLE of the lesions have MIN_DIAMETER_PX at this size


def summarise_lesion_sizes(diameters: Int[np.ndarray, "5 112"], size_px: int) -> dict[str, LesionSize]:
    """Summarises the diameters of the lesions at a size of the network's square.

    Args:
        diameters: Number of connected components by EVIDENCE and DIAMETER_BINS.
        size_px: Side of the square.

    Returns:
        Sizes by name of EVIDENCE, of those that occur.
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
    """Returns a quantile of the diameters relative to the field of view, to a sixteenth of an octave."""
    index = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
    return float(2.0 ** ((DIAMETER_BINS[index] + DIAMETER_BINS[index + 1]) / 2))


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
    """Suggests the smallest size that shows the lesions and fits into memory, and the largest batch that fits with it.

    Args:
        diameters: Number of connected components by EVIDENCE and DIAMETER_BINS.
        field_px: Longer side of a typical field of view; a larger size shows nothing more.
        fixed_bytes: Memory of a step that does not depend on its input.
        bytes_per_pixel: Memory of a step per pixel of its batch.
        available_bytes: Memory of the device.
        multiple: The size is a multiple of this.
    """
    total = diameters.sum(axis=0)
    room = MEMORY_SHARE * available_bytes - fixed_bytes
    sizes = [size for size in SIZES_PX if size % multiple == 0]
    fitting = [size for size in sizes if bytes_per_pixel * size**2 <= room and size <= max(field_px, sizes[0])] or sizes[:1]
    wide = [size for size in fitting if total.sum() and _share_above(total, MIN_DIAMETER_PX / size) >= MIN_SHARE_VISIBLE]
    size_px = wide[0] if wide else fitting[-1]
    batch_size = next((batch for batch in BATCHES if batch * bytes_per_pixel * size_px**2 <= room), 1)
    return SizeSuggestion(size_px, batch_size, int(fixed_bytes + batch_size * bytes_per_pixel * size_px**2), bool(wide))

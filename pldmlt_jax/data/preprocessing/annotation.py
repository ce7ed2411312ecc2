"""What a data set marks in a photograph, at the photograph's own size: mask files, or several experts' regions."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.diaretdb1_xml import DISC_AGREEMENT, PLANES, count_votes, read_markings, required_votes
from pldmlt_jax.data.datasets.records import RawRecord
from pldmlt_jax.data.preprocessing.masks import read_mask
from pldmlt_jax.types import EVIDENCE, LESIONS


class Annotation(NamedTuple):
    """Masks of one photograph at its own size."""

    masks: dict[str, Bool[np.ndarray, "h w"]]  # by name of EVIDENCE; one that is absent marks nothing
    disc: Bool[np.ndarray, "h w"] | None
    evidence_px: Int[np.ndarray, "5"]  # pixels that anyone marked, by EVIDENCE; -1 where there are no masks at all


def read_annotation(record: RawRecord, shape: tuple[int, int], data: DataConfig) -> Annotation:
    """Reads the masks of a photograph, or fuses its experts' regions at `data.agreement`.

    Args:
        record: The raw files.
        shape: Height and width of the photograph.
        data: Gives the agreement.

    Raises:
        DataError: See `fundus.read_mask` and `markings.read_markings`.
    """
    if record.markings:
        return _fused_markings(record, shape, data)
    masks = {name: read_mask(path, shape, record.mask_rule) for name, path in (record.masks or {}).items()}
    disc = read_mask(record.disc, shape, record.mask_rule) if record.disc else None
    absent = -1 if record.masks is None else 0
    return Annotation(masks, disc, np.array([masks[name].sum() if name in masks else absent for name in EVIDENCE], np.int64))


def _fused_markings(record: RawRecord, shape: tuple[int, int], data: DataConfig) -> Annotation:
    """One expert's mark is evidence for a grade; a mask needs the experts' agreement."""
    experts = [read_markings(path) for path in record.markings]
    total = count_votes(experts, shape, weighted=data.agreement_weighted)
    planes = {name: total[..., i] for i, name in enumerate(PLANES)}
    needed = required_votes(data.agreement, len(experts))
    masks = {lesion: planes[lesion] >= needed for lesion in LESIONS}
    disc = planes["OD"] >= required_votes(DISC_AGREEMENT, len(experts))
    evidence = [np.count_nonzero(planes[name]) if name in planes else 0 for name in EVIDENCE]
    return Annotation(masks, disc if disc.any() else None, np.array(evidence, np.int64))

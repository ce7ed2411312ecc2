"""Initial pseudo-labels: the choice of the graders, refined by Grad-CAM and the lesion masks (section 3.1).

This runs once, on the host in NumPy, one image at a time. Every decision is written into a table with its reason.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from pldmlt_jax.config import PseudoLabelConfig
from pldmlt_jax.types import EVIDENCE, NUM_GRADES


class EnsembleChoice(NamedTuple):
    """The pseudo-label of an image before refinement."""

    grade: int
    grader: int  # index of the grader whose maps are compared with the masks
    probabilities: Float[np.ndarray, "c"]  # of the grades


def _most_confident(probabilities: Float[np.ndarray, "g c"]) -> EnsembleChoice:
    grader = int(np.argmax(probabilities.max(axis=1)))
    return EnsembleChoice(int(np.argmax(probabilities[grader])), grader, probabilities[grader])


def _mean(probabilities: Float[np.ndarray, "g c"]) -> EnsembleChoice:
    mean = probabilities.mean(axis=0)
    grade = int(np.argmax(mean))
    return EnsembleChoice(grade, int(np.argmax(probabilities[:, grade])), mean)


ENSEMBLES: dict[str, Callable[[np.ndarray], EnsembleChoice]] = {"most_confident": _most_confident, "mean": _mean}
"""Function [graders, grades] -> choice, by name. `most_confident` is the paper's."""


def admissible_grades(evidence_px: Int[np.ndarray, "5"], least_grade: int = 0) -> Bool[np.ndarray, "5"]:
    """Returns the grades that are consistent with the lesion masks.

    As in the paper, grade 0 has no lesions, grade 1 has microaneurysms only, and grades 2 to 4 have more. A lesion of
    unknown type excludes only grade 0.

    Args:
        evidence_px: Lesion pixels at the original size in the order of `EVIDENCE`; -1 if there are no masks.
        least_grade: Lowest grade of the photographs in the data set. If the masks admit only lower ones, they are
            incomplete, and all grades from this one on are admissible.

    Returns:
        bool [5], with at least one True.
    """
    marked = {name for name, pixels in zip(EVIDENCE, evidence_px, strict=True) if pixels > 0}
    if (evidence_px < 0).any():
        grades = {0, 1, 2, 3, 4}
    elif not marked:
        grades = {0}
    elif marked - {"MA", "untyped"}:
        grades = {2, 3, 4}
    else:
        grades = {1} if marked == {"MA"} else {1, 2, 3, 4}
    every = np.arange(NUM_GRADES)
    admitted = np.isin(every, list(grades)) & (every >= least_grade)
    return admitted if admitted.any() else every >= least_grade


class MapAgreement(NamedTuple):
    """Overlap of each grade's map with the lesions and the optic disc, in 0..1; 0 for an empty map."""

    share: Float[np.ndarray, "5"]  # share of the map's mass inside the dilated lesion mask: s_c
    coverage: Float[np.ndarray, "5"]  # share of the lesion pixels inside the map's top part
    disc_share: Float[np.ndarray, "5"]  # share of the map's mass on the optic disc


def map_agreement(
    maps: Float[np.ndarray, "5 h w"],
    lesion: Bool[np.ndarray, "s s"],
    disc: Bool[np.ndarray, "s s"],
    valid: Bool[np.ndarray, "s s"],
    config: PseudoLabelConfig,
) -> MapAgreement:
    """Compares the maps of the grades with the masks inside the field of view.

    Args:
        maps: Non-negative maps of `grad_cam`. They are upsampled bilinearly.
        lesion: Lesion mask. It is dilated by `dilation_share` of the width of the field of view, because maps are coarse.
        disc: Mask of the optic disc.
        valid: Field of view.
        config: The dilation, and the top part of a map (`coverage_top`).
    """
    columns = np.flatnonzero(valid.any(axis=0))
    width_px = columns[-1] - columns[0] + 1 if columns.size else valid.shape[1]
    radius_px = max(round(config.dilation_share * width_px), 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    near_lesion = cv2.dilate(lesion.astype(np.uint8), kernel).astype(bool) & valid
    share, coverage, disc_share = np.zeros((3, NUM_GRADES))
    for grade, coarse in enumerate(maps):
        heat = upsample_map(coarse, valid.shape) * valid
        mass = heat.sum()
        if mass <= 0:
            continue
        share[grade] = heat[near_lesion].sum() / mass
        disc_share[grade] = heat[disc & valid].sum() / mass
        top = heat >= max(np.quantile(heat[valid], 1.0 - config.coverage_top), np.finfo(np.float32).tiny)
        coverage[grade] = (top & lesion & valid).sum() / max((lesion & valid).sum(), 1)
    return MapAgreement(share, coverage, disc_share)


def upsample_map(coarse: Float[np.ndarray, "h w"], shape: tuple[int, ...]) -> Float[np.ndarray, "s s"]:
    """Upsamples a map bilinearly to a shape (height, width). Pixel centres are at half-integers (OpenCV's convention)."""
    resized = cv2.resize(np.asarray(coarse, np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.float64)


class Refinement(NamedTuple):
    """The pseudo-label of an image after refinement, and the reason in words."""

    grade: int
    reason: str


def refine(
    choice: EnsembleChoice,
    admissible: Bool[np.ndarray, "5"],
    agreement: MapAgreement,
    config: PseudoLabelConfig,
) -> Refinement:
    """Keeps the pseudo-label if masks and maps allow it, else takes the best grade that they allow.

    A candidate is an admissible grade whose map agrees with the lesions at least `candidate_ratio` times as well as the best
    map and is not on the optic disc. The candidate with the largest probability times agreement wins. Without a candidate,
    it is the admissible grade with the largest probability.

    Args:
        choice: The choice of the graders.
        admissible: See `admissible_grades`.
        agreement: See `map_agreement`.
        config: `candidate_ratio` and `disc_rejection`.

    Example:
        >>> choice = EnsembleChoice(grade=0, grader=0, probabilities=np.array([0.5, 0.1, 0.3, 0.1, 0.0]))
        >>> admissible = admissible_grades(np.array([40, 10, 0, 0, 0]))  # microaneurysms and haemorrhages
        >>> agreement = MapAgreement(share=np.full(5, 0.6), coverage=np.full(5, 0.5), disc_share=np.zeros(5))
        >>> refine(choice, admissible, agreement, PseudoLabelConfig())
        Refinement(grade=2, reason='the masks exclude it; highest probability x agreement among the candidates')
    """
    share = agreement.share
    candidates = admissible & (share >= config.candidate_ratio * share.max())
    if config.disc_rejection:
        candidates &= agreement.disc_share <= share
    before = choice.grade
    if candidates[before]:
        return Refinement(before, "kept: masks and map agree with it")
    if not admissible[before]:
        reason = "the masks exclude it"
    elif config.disc_rejection and agreement.disc_share[before] > share[before]:
        reason = "its map sits on the optic disc"
    else:
        reason = f"its map's agreement with the lesions is below {config.candidate_ratio:g} of the best map's"
    if candidates.any():
        after = int(np.argmax(np.where(candidates, choice.probabilities * share, -1.0)))
        return Refinement(after, f"{reason}; highest probability x agreement among the candidates")
    after = int(np.argmax(np.where(admissible, choice.probabilities, -1.0)))
    verb = "kept" if after == before else "changed"
    return Refinement(after, f"{reason}; {verb}: no candidate, highest probability among the admissible")

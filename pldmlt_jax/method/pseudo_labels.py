"""Initial grade pseudo-labels: the ensemble's choice, refined by Grad-CAM and the lesion masks (section 3.1).

Numpy on the host, one image at a time: it runs once, and every decision is written into a table with its reason.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from pldmlt_jax.config import PseudoLabelConfig
from pldmlt_jax.types import EVIDENCE, NUM_GRADES


class EnsembleChoice(NamedTuple):
    grade: int
    grader: int  # index of the grader whose maps are compared with the masks
    probabilities: Float[np.ndarray, "c"]


def _most_confident(probabilities: Float[np.ndarray, "g c"]) -> EnsembleChoice:
    grader = int(np.argmax(probabilities.max(axis=1)))
    return EnsembleChoice(int(np.argmax(probabilities[grader])), grader, probabilities[grader])


def _mean(probabilities: Float[np.ndarray, "g c"]) -> EnsembleChoice:
    mean = probabilities.mean(axis=0)
    grade = int(np.argmax(mean))
    return EnsembleChoice(grade, int(np.argmax(probabilities[:, grade])), mean)


ENSEMBLES: dict[str, Callable[[np.ndarray], EnsembleChoice]] = {"most_confident": _most_confident, "mean": _mean}
"""How several graders become one pseudo-label; `most_confident` is the paper's."""


def admissible_grades(evidence_px: Int[np.ndarray, "5"], least_grade: int = 0) -> Bool[np.ndarray, "5"]:
    """The grades that the lesion masks admit.

    The paper: grade 0 shows no lesion, grade 1 microaneurysms only, grades 2 to 4 more than that. A lesion of no known kind
    admits all but grade 0.

    Args:
        evidence_px: Marked pixels at the original size, by EVIDENCE; -1 where there are no masks.
        least_grade: That the set's choice of photographs admits. Where the masks admit less only, they are at fault, and all
            grades from this one on are admissible.

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
    """How each grade's map lies on the lesions and on the optic disc; float64 [5] each, 0 for an empty map."""

    share: Float[np.ndarray, "5"]  # of the map's mass inside the dilated lesion mask: s_c
    coverage: Float[np.ndarray, "5"]  # of the lesion pixels inside the map's top part
    disc_share: Float[np.ndarray, "5"]  # of the map's mass on the optic disc


def map_agreement(
    maps: Float[np.ndarray, "5 h w"],
    lesion: Bool[np.ndarray, "s s"],
    disc: Bool[np.ndarray, "s s"],
    valid: Bool[np.ndarray, "s s"],
    config: PseudoLabelConfig,
) -> MapAgreement:
    """Compares the raw maps, bilinearly upsampled, with the masks inside the field of view.

    The lesion mask is dilated by `dilation_share` of the field of view's width, for a map is coarse.
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
    """Bilinear, with the corner pixels' centres half a pixel inside."""
    resized = cv2.resize(np.asarray(coarse, np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.float64)


class Refinement(NamedTuple):
    grade: int
    reason: str


def refine(
    choice: EnsembleChoice,
    admissible: Bool[np.ndarray, "5"],
    agreement: MapAgreement,
    config: PseudoLabelConfig,
) -> Refinement:
    """Keeps the pseudo-label if masks and maps allow it, else takes the best grade that they allow.

    A candidate is admissible, its map agrees with the lesions at least `candidate_ratio` times as well as the best map,
    and does not sit on the optic disc. Among candidates the largest probability times agreement wins; without one,
    the largest probability among the admissible.
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

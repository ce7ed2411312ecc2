"""The choice of the graders, the admissible grades and the refinement, case by case."""

import numpy as np
import pytest

from pldmlt_jax.config import PseudoLabelConfig
from pldmlt_jax.method.pseudo_labels import (
    ENSEMBLES,
    EnsembleChoice,
    MapAgreement,
    admissible_grades,
    map_agreement,
    refine,
)

CONFIG = PseudoLabelConfig()


@pytest.mark.parametrize(
    ("evidence", "grades"),
    [
        ((0, 0, 0, 0, 0), [0]),
        ((3, 0, 0, 0, 0), [1]),
        ((3, 0, 1, 0, 0), [2, 3, 4]),
        ((0, 5, 0, 0, 0), [2, 3, 4]),
        ((0, 0, 0, 0, 7), [1, 2, 3, 4]),
        ((3, 0, 0, 0, 7), [1, 2, 3, 4]),
        ((0, 0, 2, 0, 7), [2, 3, 4]),
        ((-1, -1, -1, -1, -1), [0, 1, 2, 3, 4]),
    ],
)
def test_admissible_grades_follow_the_papers_rule(evidence, grades):
    assert np.flatnonzero(admissible_grades(np.array(evidence))).tolist() == grades


def test_black_masks_do_not_admit_grade_0_in_a_set_of_diseased_eyes():
    assert np.flatnonzero(admissible_grades(np.zeros(5, int), least_grade=1)).tolist() == [1, 2, 3, 4]
    assert np.flatnonzero(admissible_grades(np.array([2, 0, 0, 0, 0]), least_grade=1)).tolist() == [1]


def test_most_confident_grader_is_taken():
    probabilities = np.array([[0.6, 0.4, 0, 0, 0], [0, 0.1, 0.2, 0.7, 0]])
    choice = ENSEMBLES["most_confident"](probabilities)
    assert (choice.grade, choice.grader) == (3, 1)
    assert ENSEMBLES["mean"](probabilities).grade == 3


def square(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[rows, columns] = True
    return mask


def test_shares_of_maps_that_lie_on_one_half():
    """The map of grade 1 lies on the lesion's half, that of grade 2 on the disc's, the others are empty."""
    maps = np.zeros((5, 64, 64), np.float32)
    maps[1, :, :32] = 2.0
    maps[2, :, 32:] = 0.1
    lesion, disc = square(slice(0, 64), slice(0, 32)), square(slice(0, 64), slice(40, 64))
    agreement = map_agreement(maps, lesion, disc, np.ones((64, 64), bool), CONFIG)
    assert agreement.share[1] == pytest.approx(1.0)
    assert agreement.share[2] == pytest.approx(1 / 32, abs=1e-6)  # the dilation by 2 % of 64 px: one column of 32
    assert agreement.disc_share[2] == pytest.approx(24 / 32)
    assert agreement.share[[0, 3, 4]].tolist() == [0, 0, 0]
    assert agreement.coverage[1] == pytest.approx(1.0)


def test_shares_do_not_depend_on_the_scale_of_a_map():
    rng = np.random.default_rng(0)
    maps, lesion = rng.random((5, 8, 8)).astype(np.float32), square(slice(3, 20), slice(9, 30))
    one, other = (map_agreement(scale * maps, lesion, ~lesion, np.ones((64, 64), bool), CONFIG) for scale in (1.0, 1e3))
    np.testing.assert_allclose(one.share, other.share, rtol=1e-5)
    np.testing.assert_allclose(one.disc_share, other.disc_share, rtol=1e-5)


def case(before, probabilities, admissible, share, disc=(0, 0, 0, 0, 0)):
    choice = EnsembleChoice(before, 0, np.array(probabilities))
    agreement = MapAgreement(np.array(share, float), np.zeros(5), np.array(disc, float))
    return refine(choice, np.array(admissible, bool), agreement, CONFIG)


def test_admissible_label_with_a_good_map_is_kept():
    refined = case(3, [0, 0, 0.3, 0.6, 0.1], [0, 0, 1, 1, 1], [0, 0, 0.3, 0.2, 0.1])
    assert refined.grade == 3
    assert "kept" in refined.reason


def test_label_that_the_masks_exclude_goes_to_the_best_candidate():
    refined = case(0, [0.6, 0, 0.1, 0.2, 0.1], [0, 0, 1, 1, 1], [0.9, 0, 0.8, 0.5, 0.1])
    assert refined.grade == 3  # 0.2 x 0.5 > 0.1 x 0.8; grade 4's map is below half of the best
    assert "masks exclude" in refined.reason


def test_map_on_the_disc_rejects_a_grade():
    refined = case(2, [0, 0, 0.6, 0.3, 0.1], [0, 0, 1, 1, 1], [0, 0, 0.4, 0.4, 0.1], disc=[0, 0, 0.5, 0.1, 0])
    assert refined.grade == 3
    assert "optic disc" in refined.reason


def test_without_candidates_the_probability_decides_among_the_admissible():
    refined = case(0, [0.6, 0, 0.1, 0.1, 0.2], [0, 0, 1, 1, 1], [0.9, 0, 0, 0, 0])
    assert refined.grade == 4
    assert "no candidate" in refined.reason


def test_lesion_free_image_becomes_grade_0():
    refined = case(2, [0.1, 0, 0.6, 0.2, 0.1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0])
    assert refined.grade == 0

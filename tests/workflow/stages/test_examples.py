"""Example pictures: the worst and the best images are kept while a set is scored, and no others."""

import numpy as np
import pytest

from pldmlt_jax.workflow.stages.examples import Examples, choose_examples


def test_lowest_and_highest_dice_are_chosen():
    dices = {0: 0.5, 1: 0.1, 2: 0.9, 3: 0.1, 4: 0.7}
    assert choose_examples(dices, 3) == [1, 3, 2]
    assert choose_examples(dices, 0) == []
    assert sorted(choose_examples(dices, 9)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("number", [1, 4, 5])
def test_only_the_chosen_images_are_kept_with_their_own_predictions(number):
    rng = np.random.default_rng(0)
    dices = dict(enumerate(rng.integers(0, 8, 40) / 8))
    examples, batch = Examples(number), np.arange(41.0)[:, None, None, None]
    examples.add(40, "", batch[40])  # an undefined Dice
    for position, dice in dices.items():
        examples.add(position, float(dice), batch[position])
        assert len(examples.kept) <= number
    assert set(examples.kept) == set(choose_examples(dices, number))
    for position, (dice, probabilities) in examples.kept.items():
        assert dice == dices[position] and probabilities.item() == position and probabilities.base is None

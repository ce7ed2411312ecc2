"""What keeps the meta step cheap, by XLA's own count: nothing is run. benchmarks/meta_step.py has the figures at 1024 px."""

import dataclasses
from functools import cache

import pytest

from pldmlt_jax.config import Config, LossConfig, MetaConfig
from pldmlt_jax.method.cost import step_cost
from pldmlt_jax.method.setup import make_method
from pldmlt_jax.method.steps import meta_step, train_step

SIZE_PX = 64
STEPS = {"train": train_step, "meta": meta_step}


@cache
def flops(step: str, meta_loss: str = "anchored", **meta) -> float:
    """Of one step of the paper's network at its full width, batch 2."""
    config = Config(loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"))
    config.meta = dataclasses.replace(MetaConfig(inner_learning_rate=1e-2), loss=meta_loss, **meta)
    return step_cost(STEPS[step], make_method(config, total_steps=1), SIZE_PX, 2).flops


@pytest.mark.parametrize(("meta_loss", "most"), [("anchored", 2.35), ("maxl", 2.55)])
def test_meta_step_costs_little_more_than_two_training_steps(meta_loss, most):
    """Second order through the decoder, or the decoder's weight gradient at theta*, would cost at least a step more."""
    factor = flops("meta", meta_loss) / flops("train")
    assert 1.5 < factor < most


def test_meta_gradient_without_the_inner_step_costs_one_forward_pass():
    assert flops("meta", "paper", gradient="first_order") < 0.5 * flops("train")

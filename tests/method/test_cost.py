"""What keeps the meta step cheap, by XLA's own count. Nothing is run; benchmarks/meta_step.py counts at 1024 px."""

from functools import cache

import jax
import pytest

from benchmarks.meta_gradients import first_order
from pldmlt_jax.config import Config, LossConfig, MetaConfig
from pldmlt_jax.method.diagnostics import step_cost
from pldmlt_jax.method.state import Method, make_method
from pldmlt_jax.method.steps import meta_step, train_step

SIZE_PX = 64
STEPS = {"train": train_step, "meta": meta_step}


def make_full_size_method(meta_loss: str) -> Method:
    """The paper's network at its full width."""
    config = Config(loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"))
    config.meta = MetaConfig(inner_learning_rate=1e-2, loss=meta_loss)
    return make_method(config, total_steps=1)


@cache
def flops(step: str, meta_loss: str = "anchored") -> float:
    """Of one step at batch 2."""
    return step_cost(STEPS[step], make_full_size_method(meta_loss), SIZE_PX, 2).flops


@pytest.mark.parametrize(("meta_loss", "most"), [("anchored", 2.35), ("maxl", 2.55)])
def test_meta_step_costs_little_more_than_two_training_steps(meta_loss, most):
    """Second order through the decoder, or the decoder's weight gradient at theta*, would cost at least a step more."""
    factor = flops("meta", meta_loss) / flops("train")
    assert 1.5 < factor < most


def test_meta_gradient_without_the_inner_step_costs_one_forward_pass():
    method = make_full_size_method("paper")
    step = jax.jit(lambda state, batch, method: first_order(state, batch, method)[1], static_argnames="method")
    assert step_cost(step, method, SIZE_PX, 2).flops < 0.5 * flops("train")

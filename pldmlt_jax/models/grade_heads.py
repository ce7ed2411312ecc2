"""Variants of the grading head. Each turns its outputs into the logits of five grades, which every loss takes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pldmlt_jax.types import NUM_GRADES


class GradeHead(NamedTuple):
    """A variant of the grading head."""

    outputs: int
    """Number of outputs of the fully connected layer."""
    to_logits: Callable[[Array], Array]
    """Function [b, outputs] -> [b, 5]. The softmax of its result is the distribution over the grades."""


def _ordinal(steps: Float[Array, "b s"]) -> Float[Array, "b c"]:
    """Output c is the logit of a grade above c given a grade of at least c (CORN, Shi et al. 2023)."""
    reached = jnp.cumsum(jax.nn.log_sigmoid(steps), axis=-1)
    reached = jnp.pad(reached, ((0, 0), (1, 0)))  # log P(grade >= c)
    stays = jnp.pad(jax.nn.log_sigmoid(-steps), ((0, 0), (0, 1)))
    return reached + stays


def _regression(grade: Float[Array, "b s"]) -> Float[Array, "b c"]:
    """The output is a grade r relative to the middle grade; the logit of grade c is -(r - c)^2."""
    return -jnp.square(NUM_GRADES // 2 + grade - jnp.arange(NUM_GRADES))


GRADE_HEADS: dict[str, GradeHead] = {
    "softmax": GradeHead(NUM_GRADES, lambda logits: logits),
    "ordinal": GradeHead(NUM_GRADES - 1, _ordinal),
    "regression": GradeHead(1, _regression),
}
"""Grading head by name. `softmax` is the paper's.

The others are variants for the baseline MTUnet (Foo et al. 2020), whose public description gives neither architecture nor
loss. We approximate it by VGG16-U-Net with one of these heads. It is trained on lesions first (`train.init_from`), then on
graded images too, against their grades (`loss.graded_weight` 1) and the network's own masks (`loss.self_training` 1), with
`pseudo.source` "none" and no label update.
"""

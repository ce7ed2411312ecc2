"""What the grading head's numbers mean: each variant's become five logits, which every loss takes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pldmlt_jax.types import NUM_GRADES


class GradeHead(NamedTuple):
    outputs: int
    """Numbers that the fully connected layer gives."""
    to_logits: Callable[[Array], Array]
    """[b, outputs] -> [b, 5]; their softmax is the distribution over the grades."""


def _ordinal(steps: Float[Array, "b s"]) -> Float[Array, "b c"]:
    """Each number is the logit of a grade above c, given one of at least c (Shi et al. 2023, CORN): log-probabilities."""
    reached = jnp.cumsum(jax.nn.log_sigmoid(steps), axis=-1)
    reached = jnp.pad(reached, ((0, 0), (1, 0)))  # log P(grade >= c)
    stays = jnp.pad(jax.nn.log_sigmoid(-steps), ((0, 0), (0, 1)))
    return reached + stays


def _regression(grade: Float[Array, "b s"]) -> Float[Array, "b c"]:
    """One number r, counted from the middle grade; the logit of grade c is -(r - c)^2: the nearest is the likeliest."""
    return -jnp.square(NUM_GRADES // 2 + grade - jnp.arange(NUM_GRADES))


GRADE_HEADS: dict[str, GradeHead] = {
    "softmax": GradeHead(NUM_GRADES, lambda logits: logits),
    "ordinal": GradeHead(NUM_GRADES - 1, _ordinal),
    "regression": GradeHead(1, _regression),
}
"""`softmax` is the paper's; the others are variants of the baseline MTUnet (Foo et al. 2020), whose public part gives
neither architecture nor loss. Ours is an approximation: VGG16-U-Net with this head, trained on lesions first
(`train.init_from`), then with graded images as well, against their grades (`loss.graded_weight` 1) and the network's own
masks of them (`loss.self_training` 1), with `pseudo.source` "none" and no label update."""

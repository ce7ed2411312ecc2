"""The label-update network u (section 3.3 of the paper) and its masked softmax (Eq. 4)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pldmlt_jax.types import NUM_GRADES


class LabelUpdate(nn.Module):
    """The network u(E(x), pseudo-label): an MLP on the pooled encoder feature joined with the one-hot pseudo-label.

    Attributes:
        hidden: Widths of the hidden layers, each followed by a ReLU.
        kappa: Logit added to the pseudo-label. With it the last layer starts at zero, so that soft labels start near the
            pseudo-labels: Algorithm 1 trains theta before it first trains u. With kappa = 0 (the paper's) the last layer
            starts at random, because zeros would give uniform labels.
    """

    hidden: tuple[int, ...] = (256,)
    kappa: float = 4.0

    @nn.compact
    def __call__(self, pooled: Float[Array, "b f"], pseudo_label: Int[Array, "b"]) -> Float[Array, "b c"]:
        """Computes the logits of the updated labels.

        Args:
            pooled: Global average of the encoder's last feature. The caller stops its gradient.
            pseudo_label: Grades in 0..4.
        """
        one_hot = jax.nn.one_hot(pseudo_label, NUM_GRADES, dtype=pooled.dtype)
        x = jnp.concatenate([pooled, one_hot], axis=-1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal())(x))
        last_init = nn.initializers.zeros if self.kappa else nn.initializers.lecun_normal()
        return self.kappa * one_hot + nn.Dense(NUM_GRADES, kernel_init=last_init, name="logits")(x)


def _full(pseudo_label: Int[Array, "b"], admissible: Bool[Array, "b c"]) -> Bool[Array, "b c"]:
    del pseudo_label
    return jnp.ones_like(admissible)


def _ordinal(pseudo_label: Int[Array, "b"], admissible: Bool[Array, "b c"]) -> Bool[Array, "b c"]:
    del admissible
    return jnp.abs(jnp.arange(NUM_GRADES) - pseudo_label[:, None]) <= 1


def _evidence(pseudo_label: Int[Array, "b"], admissible: Bool[Array, "b c"]) -> Bool[Array, "b c"]:
    del pseudo_label
    return admissible


HIERARCHIES: dict[str, Callable[[Array, Array], Array]] = {"full": _full, "ordinal": _ordinal, "evidence": _evidence}
"""The hierarchy psi by name: the grades that a label may take, `(pseudo_label [b], admissible [b, 5]) -> [b, 5]`."""


def _masked_softmax(logits: Float[Array, "b c"], mask: Bool[Array, "b c"]) -> Float[Array, "b c"]:
    return jax.nn.softmax(logits, axis=-1, where=mask)


def _literal_softmax(logits: Float[Array, "b c"], mask: Bool[Array, "b c"]) -> Float[Array, "b c"]:
    return jax.nn.softmax(logits * mask, axis=-1)


SOFTMAXES: dict[str, Callable[[Array, Array], Array]] = {"masked": _masked_softmax, "literal": _literal_softmax}
"""The softmax of Eq. 4 by name, `(logits [b, 5], mask [b, 5]) -> labels [b, 5]`.

`masked` is exp(z) m / sum exp(z) m, so that a masked grade gets exactly zero. `literal` is the softmax of m z, as printed.
"""

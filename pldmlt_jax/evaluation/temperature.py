"""Temperature scaling of grade probabilities (Guo et al. 2017)."""

import numpy as np
import scipy.special
from jaxtyping import Float, Int

TEMPERATURES = np.geomspace(0.1, 10.0, 200)
"""The grid that `fit_temperature` searches."""


def softmax(logits: Float[np.ndarray, "*b c"], temperature: float = 1.0) -> Float[np.ndarray, "*b c"]:
    """Computes the probabilities of logits divided by a temperature, over the last axis."""
    return scipy.special.softmax(logits / temperature, axis=-1)


def fit_temperature(logits: Float[np.ndarray, "n c"], grades: Int[np.ndarray, "n"]) -> float:
    """Returns the temperature of TEMPERATURES with the least mean negative log-likelihood of the true grades."""
    rows = np.arange(len(grades))
    losses = [-np.log(softmax(logits, t)[rows, grades] + 1e-12).mean() for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])

"""The threshold baseline against trying every threshold on the pixels themselves."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from pldmlt_jax.data.splits.selection import Selection
from pldmlt_jax.evaluation.metrics.baselines import (
    CHANNELS,
    best_threshold,
    channel_histograms,
    format_threshold,
    threshold_metrics,
)
from pldmlt_jax.types import MASK_BITS

VALID, FUSED = MASK_BITS["valid"], MASK_BITS["fused"]


@dataclass
class _Sample:
    image: np.ndarray
    mask_bits: np.ndarray


def _split(num: int, seed: int, *, channel: int, shift: int) -> list[_Sample]:
    """Noise of few levels; lesions differ by `shift` in one channel; the outside of the field is as marked as can be."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(num):
        lesion = rng.random((12, 12)) < 0.2
        image = rng.integers(100, 120, (12, 12, 3))
        image[..., channel] += shift * lesion
        bits = np.where(lesion, VALID | FUSED, VALID).astype(np.uint8)
        bits[:2] = 0
        image[:2] = 255 if shift > 0 else 0
        samples.append(_Sample(image.astype(np.uint8), bits))
    return samples


def _selection(samples: list[_Sample], indices: list[int]) -> Selection:
    return Selection(samples, np.array(indices))  # pyright: ignore[reportArgumentType]


def _pixels(samples: list[_Sample]) -> tuple[np.ndarray, np.ndarray]:
    valid = [sample.mask_bits & VALID != 0 for sample in samples]
    images = np.concatenate([sample.image[v] for sample, v in zip(samples, valid, strict=True)])
    return images, np.concatenate([sample.mask_bits[v] & FUSED != 0 for sample, v in zip(samples, valid, strict=True)])


def _metrics(train: Selection, test: Selection) -> dict[str, Any]:
    threshold, pixels = best_threshold(channel_histograms(train)), channel_histograms(train)
    return {
        "rule": format_threshold(threshold),
        **threshold_metrics(threshold, pixels, "_train"),
        **threshold_metrics(threshold, channel_histograms(test)),
    }


@pytest.mark.parametrize(("channel", "shift"), [(0, 12), (1, -8), (2, 5)])
def test_it_is_the_best_of_all_thresholds_on_the_training_images(channel: int, shift: int) -> None:
    train, test = _split(3, 0, channel=channel, shift=shift), _split(2, 1, channel=channel, shift=shift)
    metrics = _metrics(_selection(train, [0, 2]), _selection(test, [0, 1]))
    images, lesion = _pixels([train[0], train[2]])
    candidates = [(c, sign, level) for c in range(3) for sign in (">=", "<=") for level in range(95, 140)]

    def select(candidate: tuple[int, str, int], pixels: np.ndarray) -> np.ndarray:
        c, sign, level = candidate
        return pixels[:, c] >= level if sign == ">=" else pixels[:, c] <= level

    scores = {one: f1_score(lesion, select(one, images), zero_division=0.0) for one in candidates}
    assert metrics["baseline/channel_threshold/dice_train"] == pytest.approx(max(scores.values()), abs=1e-12)
    name, sign, level = metrics["rule"].split()
    chosen = (CHANNELS.index(name), sign, int(level))
    assert chosen[:2] == (channel, ">=" if shift > 0 else "<=")
    assert scores[chosen] == max(scores.values())
    images, lesion = _pixels(test)
    expected = f1_score(lesion, select(chosen, images))
    assert metrics["baseline/channel_threshold/dice"] == pytest.approx(expected, abs=1e-12)
    expected = jaccard_score(lesion, select(chosen, images))
    assert metrics["baseline/channel_threshold/iou"] == pytest.approx(expected, abs=1e-12)


def test_nothing_marked_and_nothing_chosen_is_undefined() -> None:
    train, test = _split(1, 0, channel=0, shift=60), _split(1, 1, channel=0, shift=60)
    test[0].mask_bits &= VALID
    test[0].image[:] = 10
    metrics = _metrics(_selection(train, [0]), _selection(test, [0]))
    assert metrics["baseline/channel_threshold/dice_train"] == 1.0
    assert metrics["baseline/channel_threshold/dice"] is None

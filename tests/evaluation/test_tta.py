"""Views and windows: groups of turns and flips, windows that equal the whole image, and the grade that follows."""

import numpy as np
import pytest
from evaluation.tiny_network import tiny_config, tiny_network

from pldmlt_jax.config import InferenceConfig
from pldmlt_jax.evaluation.tta import (
    TILE_STEP_PX,
    VIEWS,
    BatchPrediction,
    ForwardOutput,
    average_predictions,
    predict_views,
    tile_starts,
    tile_weight,
)

RNG = np.random.default_rng(0)


def test_each_view_has_its_way_back_and_none_stands_twice():
    planes = RNG.random((2, 6, 6, 3))
    for views in VIEWS.values():
        seen = [view.apply(planes) for view in views]
        for view, applied in zip(views, seen, strict=True):
            np.testing.assert_array_equal(view.undo(applied), planes)
        assert len({applied.tobytes() for applied in seen}) == len(views)


def crooked(images: np.ndarray, batch_size: int) -> ForwardOutput:
    """A forward pass that treats no two places alike."""
    ramp = np.linspace(0.1, 1.0, images.shape[1] * images.shape[2]).reshape(1, *images.shape[1:3], 1)
    p = (images[..., :2] / 255.0 * ramp).astype(np.float32)
    logits = p.mean(axis=(1, 2))[:, [0, 1, 0, 1, 0]] * np.arange(5)
    return ForwardOutput(p, logits, p[:, ::4, ::4][..., [0, 1, 0, 1, 0]])


@pytest.mark.parametrize(("tta", "turns"), [("dihedral", (0, 1, 2, 3)), ("flips", (0, 2))])
def test_average_over_views_turns_and_flips_as_the_image_does(tta, turns):
    images = RNG.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    config = InferenceConfig(tta=tta)
    straight = predict_views(crooked, images, config, 2)
    alone = predict_views(crooked, images, InferenceConfig(), 2)
    assert np.abs(straight.probabilities - alone.probabilities).max() > 0.05
    for view in (view for view in VIEWS["dihedral"] if view.quarter_turns in turns):
        turned = predict_views(crooked, view.apply(images), config, 2)
        np.testing.assert_allclose(view.undo(turned.probabilities), straight.probabilities, atol=1e-6)
        np.testing.assert_allclose(turned.grade_probabilities, straight.grade_probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("size_px", "tile_px", "overlap"), [(256, 96, 0.5), (1024, 512, 0.0), (320, 96, 0.9), (96, 64, 0.3)]
)
def test_windows_cover_every_pixel_with_the_overlap_asked_for(size_px, tile_px, overlap):
    config = InferenceConfig(mode="tiles", tile_px=tile_px, overlap=overlap)
    starts = tile_starts(size_px, config)
    assert starts[0] == 0 and starts[-1] == size_px - tile_px
    assert all(start % TILE_STEP_PX == 0 for start in starts)
    stride = max(tile_px * (1 - overlap), TILE_STEP_PX)
    assert max(np.diff(starts)) <= stride
    total = np.zeros(size_px)
    for start in starts:
        total[start : start + tile_px] += tile_weight(start, starts, size_px, tile_px)
    assert (total > 0).all()


def test_windows_equal_the_whole_image_for_a_network_that_sees_no_further_than_their_margin():
    """Two blocks see less than 16 pixels far; windows of 96 px that overlap by 64 have no weight in their outer 16."""
    network = tiny_network(tiny_config("lesions", size_px=160, blocks=2))
    images = RNG.integers(0, 256, (2, 160, 160, 3)).astype(np.uint8)
    whole = predict_views(network, images, InferenceConfig(), 2)
    tiles = predict_views(network, images, InferenceConfig(mode="tiles", tile_px=96, overlap=0.6), 3)
    assert whole.probabilities.std(axis=(1, 2)).min() > 0.01
    np.testing.assert_allclose(tiles.probabilities, whole.probabilities, atol=2e-6)
    np.testing.assert_allclose(tiles.grade_maps, whole.grade_maps, atol=2e-5)
    np.testing.assert_allclose(tiles.grade_probabilities, whole.grade_probabilities, atol=2e-5)
    corner = predict_views(network, images[:, :96, :96], InferenceConfig(), 2)  # without the blend a window's edge differs
    assert np.abs(corner.probabilities[:, -1] - whole.probabilities[:, 95, :96]).max() > 1e-3


def test_mean_of_predictions_is_of_probabilities_and_keeps_maps_of_one_resolution():
    a, b = (BatchPrediction(np.full((1, 4, 4, 2), v), np.full((1, 5), v), np.full((1, 2, 2, 5), v)) for v in (0.2, 0.6))
    coarse = b._replace(grade_maps=np.full((1, 1, 1, 5), 9.0))
    both = average_predictions([a, b])
    np.testing.assert_allclose([both.probabilities[0, 0, 0, 0], both.grade_maps[0, 0, 0, 0]], 0.4)
    np.testing.assert_allclose(average_predictions([a, coarse]).grade_maps, 0.2)
    np.testing.assert_allclose(a.probabilities, 0.2)

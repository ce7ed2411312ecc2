"""Figures for print: outlines match the masks, text stays text, and the same input gives the same file."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from pldmlt_jax.reporting.overlays import LESION_COLOURS
from pldmlt_jax.reporting.paper_figures import (
    FORMATS,
    MaskRow,
    NetworkMask,
    _draw_masks,
    plot_grade_maps,
    plot_mask_rows,
    plot_overview,
    plot_single_lesions,
    write_figure,
)

SHAPE = (24, 36)
IMAGE = np.random.default_rng(0).integers(60, 200, (*SHAPE, 3), np.uint8)


def _mask(seed: int = 0) -> np.ndarray:
    """Single pixels, a ring with a pixel inside its hole, and a pair that touches at a corner."""
    mask = np.random.default_rng(seed).random(SHAPE) < 0.02
    mask[4:12, 5:15] = True
    mask[6:10, 7:13] = False
    mask[8, 9] = True
    mask[20, 20] = mask[21, 21] = True
    return mask


def _titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")


def test_outlines_cover_the_pixels_of_the_mask_and_no_others():
    mask, scale = _mask(), 10
    figure = plt.figure(figsize=(SHAPE[1] / 10, SHAPE[0] / 10), dpi=10 * scale)
    axes: Any = figure.add_axes((0, 0, 1, 1), xlim=(0, SHAPE[1]), ylim=(SHAPE[0], 0))
    axes.axis("off")
    _draw_masks(axes, {"HE": mask}, (*SHAPE, 3), opacity=1.0)
    for patch in axes.patches:
        patch.set_linewidth(0)
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[scale // 2 :: scale, scale // 2 :: scale, :3]  # the pixels' centres
    np.testing.assert_array_equal((drawn == LESION_COLOURS["HE"]).all(axis=-1), mask)


def test_figure_is_written_reproducibly_in_every_format_with_text_as_text(tmp_path):
    for name in ("first", "second"):
        masks = {lesion: _mask(seed) for seed, lesion in enumerate(("MA", "HE", "EX", "SE"))}
        write_figure(tmp_path / name, "figure1", plot_single_lesions(IMAGE, masks))
    for kind in FORMATS:
        first, second = ((tmp_path / name / f"figure1.{kind}").read_bytes() for name in ("first", "second"))
        assert first == second
    text = (tmp_path / "first" / "figure1.svg").read_text()
    for part in ("photograph", "microaneurysms (MA)", "soft exudates (SE)"):
        assert f">{part}</text>" in text
    assert b"/Subtype /Type3" not in (tmp_path / "first" / "figure1.pdf").read_bytes()  # fonts that editors can use


def test_single_lesions_are_as_high_as_the_photograph_next_to_them():
    for number in (1, 3, 4):
        masks = {lesion: _mask() for lesion in ("MA", "HE", "EX", "SE")[:number]}
        figure = plot_single_lesions(IMAGE, masks)
        figure.draw_without_rendering()
        assert len(_titles(figure)) == 1 + number
        large = next(axes for axes in figure.axes if axes.get_title() == "photograph").get_position()
        others = [axes.get_position() for axes in figure.axes if axes.get_title() != "photograph"]
        assert max(place.y1 for place in others) == pytest.approx(large.y1, abs=0.03)
        assert min(place.y0 for place in others) == pytest.approx(large.y0, abs=0.03)


def test_raw_maps_share_a_scale_and_overlays_do_not():
    maps = np.zeros((5, 4, 4), np.float32)
    maps[1, 1, 1], maps[3, 2, 2] = 0.5, 2.0
    figure = plot_grade_maps(IMAGE[:, :24], _mask()[:, :24], maps, np.array([0.1, 0.2, 0.3, 0.4, 0.0]))
    raw = {axes.get_title(): axes.images[0] for axes in figure.axes if ", p =" in axes.get_title()}
    assert list(raw)[:2] == ["(c) grade 0, p = 0.10", "(e) grade 1, p = 0.20"] and len(raw) == 5
    assert {image.get_clim() for image in raw.values()} == {(0.0, 2.0)}
    np.testing.assert_array_equal(raw["(i) grade 3, p = 0.40"].get_array(), maps[3])
    assert "(d) overlay, empty" in _titles(figure) and "(f) overlay" in _titles(figure)


def test_figure_7_has_one_row_per_photograph_and_one_column_per_network():
    ours, other = NetworkMask("ours", {"EX": _mask()}, 0.512), NetworkMask("other", {"lesion": _mask(1)})
    rows = [MaskRow("EX, eye", IMAGE, (ours, other)), MaskRow("SE, eye", IMAGE, (other, ours))]
    figure = plot_mask_rows(rows)
    assert _titles(figure) == ["photograph", "ours, Dice 0.51", "other", "photograph", "other", "ours, Dice 0.51"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["hard exudates (EX)", "any lesion"]


def test_overview_without_grades_has_two_panels_and_the_map_stays_inside_the_field_of_view():
    field = np.zeros(SHAPE, bool)
    field[:, 10:] = True
    assert len(plot_overview(IMAGE, {"lesion": _mask()}, field, None, "").axes) == 2
    figure = plot_overview(IMAGE, {"lesion": _mask()}, field, np.ones(SHAPE, np.float32), "grade 2")
    heat = figure.axes[2].images[1]
    assert _titles(figure)[2] == "grade 2" and not heat.get_alpha()[:, :10].any() and heat.get_alpha()[:, 10:].all()

"""The checks of the paper's printed figures that docs/reproduction.md rests on."""

import re
from pathlib import Path

import numpy as np
import pytest

from configs.tables.rows import DDR, IDRID_DIARETDB1, ablation
from pldmlt_jax.config import Config
from pldmlt_jax.evaluation.metrics.segmentation import dice, iou
from scripts.published_figures import ablation_rows, dice_lines, iou_of_dice, rounding, set_sizes

ROOT = Path(__file__).resolve().parent.parent


def fits(rows) -> dict[str, str]:
    return {
        line.split(" | ")[0].removeprefix("| "): line.rsplit(" | ", 1)[1].removesuffix(" |") for line in dice_lines(rows)
    }


def test_one_ratio_has_the_iou_that_its_dice_implies_and_a_mean_of_ratios_never_less():
    """x / (2 - x) is convex (Jensen): averaging over images or classes can only raise IoU above it."""
    rng = np.random.default_rng(0)
    marked, predicted = rng.integers(1, 100, (2, 50))
    common = rng.integers(0, np.minimum(marked, predicted) + 1)
    pairs = [(dice(*counts), iou(*counts)) for counts in zip(common, predicted, marked, strict=True)]
    assert all(100 * b == pytest.approx(iou_of_dice(100 * a)) for a, b in pairs)
    mean_dice, mean_iou = 100 * np.mean(pairs, axis=0)
    assert mean_iou > iou_of_dice(mean_dice)


def test_every_row_of_ddr_fits_one_ratio_and_of_idrid_only_deeplabv3plus():
    assert set(fits(DDR).values()) == {"yes"}
    assert fits(IDRID_DIARETDB1) == {
        "unet": "no, above", "linknet": "no, above", "deeplabv3plus": "yes", "fpn": "no, below", "mtunet": "no, above",
        "ours": "no, above",
    }  # fmt: skip
    assert list(fits(ablation_rows(ablation(Config()))).values()) == ["no, above", "yes", "no, below", "yes"]


def test_rounding_is_the_most_that_it_can_be():
    values = np.linspace(91, 99, 4001)
    gaps = np.abs(np.round(iou_of_dice(values), 3) - [iou_of_dice(value) for value in np.round(values, 3)])
    assert all(gap <= rounding(value, 3) + 1e-9 for gap, value in zip(gaps, values, strict=True))
    assert gaps.max() > 0.3 * rounding(95.0, 3)


def test_sizes_of_a_test_set_by_its_printed_accuracy():
    assert set_sizes("50.00", 6) == {2, 4, 6}
    assert set_sizes("33.33", 10) == {3, 6, 9}
    assert 83 in set_sizes("53.01") & set_sizes("57.83")  # 44 and 48 of 83
    for rows in (IDRID_DIARETDB1, DDR):
        every = [set_sizes(f"{figures['Accuracy']:.2f}") for figures in rows.values() if "Accuracy" in figures]
        assert len(every) == 6 and not set.intersection(*every)


def test_what_the_claims_quote_stands_in_the_paper():
    """Word for word, but for what is left out (...) or put into brackets."""
    paper = ROOT.parent / "shared" / "paper.txt"
    if not paper.exists():
        pytest.skip("../shared/paper.txt is not there")
    text = " ".join(paper.read_text(encoding="utf-8").split()).lower()
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    rows = page.partition("## The paper's claims")[2].partition("\n## ")[0]
    claims = [line.split(" | ")[0] for line in rows.splitlines() if line.startswith("| ")][2:]
    quoted = [quote for claim in claims for quote in re.findall(r'"([^"]+)"', claim)]
    parts = [part.strip() for quote in quoted for part in re.split(r"\.\.\.|\[[A-Za-z]+\]", quote)]
    assert len(parts) > 30
    assert not [part for part in parts if part.replace(" %", "%").lower() not in text]

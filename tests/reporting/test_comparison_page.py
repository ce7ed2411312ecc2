"""The comparison page shows every metric, sets the paper's numbers apart and lists incomplete runs."""

from typing import Any

import pytest
from browser import Page

from pldmlt_jax.evaluation.metrics.definitions import SEGMENTATION_METRICS
from pldmlt_jax.reporting.comparison_page import write_comparison


def _row(name: str, dice: float, states: tuple[str, str] = ("complete", "complete"), **more: Any) -> dict[str, Any]:
    metrics = {
        "seg/foreground/dice": {"mean": dice, "sd": 0.0123, "n": 2},
        "baseline/channel_threshold/dice": {"mean": 0.2611, "sd": 0.0, "n": 2},
        "seg/mean/aupr_11_exclusive_original_size": {"mean": dice / 2, "sd": None, "n": 1},
        "seg/micro_bg/dice": {"mean": 0.9512, "sd": None, "n": 1},
    }
    cells = [{"fold": 0, "seed": seed, "state": state, "why": f"<b>{state}</b> & why" if state == "failed" else ""}
             for seed, state in enumerate(states)]  # fmt: skip
    cost = {"training_s": {"mean": 90.0, "sd": 6.0, "n": 2}, "peak_memory_bytes": {"mean": 2.0**31, "sd": None, "n": 2}}
    row = {"name": name, "what": "", "published": {}, "cells": cells, "figures": metrics, "differences": {}, "cost": cost}
    return row | {"parameters": 2759, "images": {"train": 4, "val": 1, "scored": 5}} | more


def table_of_runs() -> dict[str, Any]:
    """Small content of `table.json`."""
    difference = {"difference": -0.1034, "low": -0.2056, "high": -0.0078, "images": 5}
    rows = [
        _row("focal & <i>co</i>", 0.5111, published={"mDice": 94.96}, differences={"seg/foreground/dice": difference}),
        _row("second", 0.6, ("complete", "failed"), what="with $x_1$ left as it is"),
        _row("ours", 0.6145),
    ]
    explained = [{"name": name, "baseline": baseline, "what": what} for name, baseline, what in SEGMENTATION_METRICS]
    return {
        "name": "tiny", "title": "Tiny <table>", "command": "python main.py compare", "environment": {"jax": "1.2.3"},
        "folds": [0], "seeds": [0, 1], "reference": "ours", "published_in": "a paper, table 1", "rows": rows,
        "published_as": {"mDice": "seg/micro_bg/dice"}, "figures": explained,
    }  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return write_comparison(tmp_path_factory.mktemp("table") / "compare.html", table_of_runs()).read_text(encoding="utf-8")


def test_page_is_well_formed_self_contained_and_escaped(text):
    page = Page(text)
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= page.ids
    assert "<i>co" not in text and "<b>failed" not in text and "Tiny &lt;table&gt;" in text


def test_metrics_are_shown_with_spread_and_baseline(text):
    shown = Page(text).text
    for part in (
        "0.5111 ± 0.0123 (0.2611)",
        "0.2555",  # a column of its own, without an interval: it has no per-image values
        "−0.1034 [−0.2056, −0.0078]",
        "1.5 ± 0.1",
        "2.00",
        "2759",
        "1.2.3",
        "with $x_1$",
    ):
        assert part in shown, part


def test_published_numbers_are_set_apart_and_marked_as_such(text):
    line = text[text.index('<tr class="marked">') :].partition("</tr>")[0]
    assert "published: focal" in line and "94.96 % (mDice)" in line and "0.5111" not in line
    assert text.count('class="marked"') == 1
    assert "the paper&#x27;s numbers as printed (a paper, table 1)" in text


def test_incomplete_runs_are_listed_with_the_reason(text):
    shown = Page(text).text
    assert "5 of 6 runs are complete" in shown and "<b>failed</b> & why" in shown and "1 of 2" in shown


def test_difference_chart_has_a_text_alternative(text):
    assert "focal &amp; &lt;i&gt;co&lt;/i&gt; -0.1034 (-0.2056 to -0.0078)" in text


def test_page_of_a_table_without_complete_runs_says_so(tmp_path):
    found = table_of_runs()
    for row in found["rows"]:
        row |= {"figures": {}, "differences": {}, "cost": {}, "parameters": None, "images": {}}
        row["cells"] = [cell | {"state": "missing", "why": ""} for cell in row["cells"]]
    shown = Page(write_comparison(tmp_path / "compare.html", found).read_text(encoding="utf-8")).text
    assert "0 of 6 runs are complete" in shown and "no other row has complete runs in common" in shown

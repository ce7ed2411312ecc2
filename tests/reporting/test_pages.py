"""Both pages in a real browser: no errors, no overflow, light and dark, sharp pictures with a description."""

import re
from pathlib import Path

import pytest
from browser import Visit, visit
from reporting.report_files import write_run
from reporting.test_comparison_page import table_of_runs

from pldmlt_jax.reporting.comparison_page import write_comparison
from pldmlt_jax.reporting.run_report import write_report

WIDTHS = (400, 1400)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write_report(write_run(tmp_path_factory.mktemp("run"))).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def light(page, tmp_path_factory) -> Visit:
    unscripted = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    folder: Path = tmp_path_factory.mktemp("light")
    comparison = write_comparison(folder / "compare.html", table_of_runs()).read_text(encoding="utf-8")
    pages = {"report": page, "unscripted": unscripted, "comparison": comparison}
    return visit(pages, folder, widths=WIDTHS, dark=False)


@pytest.fixture(scope="module")
def dark(page, tmp_path_factory) -> Visit:
    folder: Path = tmp_path_factory.mktemp("dark")
    faulty = page.replace("</main>", '<img alt="" src="https://example.org/x.png"><p style="width:900px">wide</p></main>')
    return visit({"report": page, "faulty": faulty}, folder, widths=WIDTHS, dark=True)


def test_the_console_stays_empty(light):
    assert light.console == []


def test_no_page_is_wider_than_its_window(light):
    assert {name: found["client_width"] for name, found in light.found.items()} == {
        f"{page} {width}": width for page in ("report", "unscripted", "comparison") for width in WIDTHS
    }
    for found in light.found.values():
        assert found["scroll_width"] <= found["client_width"]
        assert found["unreachable"] == 0  # boxes that scroll can be focused, and so scrolled by keyboard


def test_pictures_are_whole_sharp_and_named(light):
    for found in light.found.values():
        assert (found["broken"], found["blurred"], found["unnamed"], found["repeated"]) == ([], [], 0, [])


def test_the_choice_shows_one_view_or_several_and_can_be_reached_by_keyboard(light):
    found = light.found["report 1400"]
    assert found["focused"] == [True] * 5
    assert {name: sorted(set(views)) for name, views in found["views"].items()} == {
        "first": ["prediction", "truth"], "pair": ["prediction", "truth"], "all": ["image", "prediction", "truth"],
        "image": ["image"], "truth": ["truth"], "prediction": ["prediction"],
    }  # fmt: skip


def test_without_scripts_all_views_are_seen_and_no_choice_is(light):
    found = light.found["unscripted 1400"]
    assert set(found["views"]["first"]) == {"image", "truth", "prediction"}
    assert found["focused"] == []


def test_the_page_follows_the_readers_colour_scheme(light, dark):
    def lightness(colour: str) -> float:
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765

    for visited, is_dark in ((light, False), (dark, True)):
        found = visited.found["report 1400"]
        assert found["dark"] == is_dark
        darker, lighter = (found[name] for name in (("background", "ink") if is_dark else ("ink", "background")))
        assert lightness(darker) < 0.15 and lightness(lighter) > 0.85


def test_these_tests_see_what_is_wrong_with_a_page(dark):
    found = dark.found["faulty 400"]
    assert found["scroll_width"] > found["client_width"] and found["broken"] == [""] and found["unnamed"] == 1
    assert any("example.org" in line for line in dark.console)  # the page's policy forbids what is not in it

"""The report: self-contained and well-formed whatever files there are, with every metric next to its baseline."""

import json
import re
from pathlib import Path

import pytest
from browser import Page
from reporting.report_files import write_run

from pldmlt_jax.evaluation.operating_points import OperatingPoint, OperatingPoints, write_points
from pldmlt_jax.reporting.run_report import write_report


@pytest.fixture
def workdir(tmp_path) -> Path:
    return write_run(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    """The page of a complete run, for tests that do not change it."""
    return write_report(write_run(tmp_path_factory.mktemp("run"))).read_text(encoding="utf-8")


def test_page_is_well_formed_and_refers_to_nothing_outside_itself(whole):
    page = Page(whole)
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= page.ids
    assert sum(reference.startswith("data:image/jpeg") for reference in page.references) == 2 * (3 + 1) + 1


def test_text_from_files_is_escaped(whole):
    assert "<b>bold" not in whole and "<i>odd" not in whole
    assert "&lt;b&gt;bold &amp; brash" in whole
    assert "masks &gt; maps" in whole


def test_every_metric_is_shown_with_its_baseline(whole):
    text = Page(whole).text
    for number in ("0.6123", "0.2345", "0.5877", "0.2211", "0.9402", "0.3333", "0.640", "23,750,951"):
        assert number in text
    assert "undefined" in text  # the kappa


def test_operating_points_are_shown_with_their_dice_on_the_evaluated_split(whole, workdir):
    assert "Operating points" not in Page(whole).text
    metrics = json.loads((workdir / "metrics.json").read_text()) | {"seg/foreground/dice_at_operating_point": 0.7171}
    (workdir / "metrics.json").write_text(json.dumps(metrics))
    write_points(workdir / "checkpoints", OperatingPoints({"lesion": OperatingPoint(0.35, 6.0, 9, 0.4141, 0.3131)}, step=7))
    text = Page(write_report(workdir).read_text()).text
    for part in ("Operating points", "0.3500", "6", "validation Dice", "0.4141", "0.3131", "0.7171", "uncalibrated"):
        assert part in text, part


def test_all_placeholders_of_the_template_are_replaced(whole):
    assert not re.search(r"<!--[A-Z]+-->", whole)


def test_page_of_an_unfinished_run_names_the_commands_for_missing_sections(tmp_path):
    text = Page(write_report(tmp_path).read_text()).text
    for verb in ("prepare", "pseudo-label", "train", "evaluate"):
        assert f"python main.py {verb}" in text


def test_what_was_not_scored_is_left_out(workdir):
    metrics = json.loads((workdir / "metrics.json").read_text())
    for kind in ("seg", "grade"):
        kept = {name: value for name, value in metrics.items() if not name.startswith(f"{kind}/")}
        (workdir / "metrics.json").write_text(json.dumps(kept))
        text = Page(write_report(workdir).read_text(encoding="utf-8")).text
        assert ("lesion Dice (foreground), pooled" in text) == (kind != "seg")
        assert ("quadratic weighted kappa" in text) == (kind != "grade")


def test_page_of_scored_masks_has_only_the_sections_that_masks_can_fill(workdir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    own_size = {f"{name}_original_size": 0.1234 for name in ("seg/micro_bg/dice", "seg/micro_bg/dice_all_background")}
    own_size |= {"seg/foreground/dice_original_size": 0.5678, "seg/EX/dice_original_size": 0.4321}
    (folder / "metrics.json").write_text(json.dumps({"seg/split": "test", "predictions": "theirs & <co>"} | own_size))
    curves = json.loads((workdir / "curves.json").read_text())["network_size"]
    (folder / "curves.json").write_text(json.dumps({"network_size": {}, "original_size": curves}))
    (folder / "per_image.csv").write_text("image,dice_original_size\neye,0.5\n")
    page = write_report(folder).read_text(encoding="utf-8")
    text = Page(page).text
    for part in ("masks of theirs & <co>", "0.568", "0.5678", "0.4321", "0.1234", "precision and recall"):
        assert part in text, part
    assert "python main.py" not in text and "Parameters" not in text and "single lesions are not defined" not in text

"""The page: whole from whatever there is, self-contained, well-formed, and with every figure beside its baseline."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pldmlt_jax.evaluation.figures import write_picture
from pldmlt_jax.evaluation.operating_points import OperatingPoint, OperatingPoints, write_points
from pldmlt_jax.evaluation.report import write_report

VOID = {"meta", "link", "img", "br", "path", "rect", "circle", "line", "use"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps what refers to something else."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.references += [value for name in ("src", "href", "xlink:href") if (value := values.get(name))]
        self.ids |= {values["id"]} if values.get("id") else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        if tag not in VOID:
            self.handle_starttag(tag, attrs)
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def workdir(tmp_path) -> Path:
    """A workdir with every file that a run leaves, in small."""
    metrics = {
        "seg/split": "test", "grade/split": "val", "step": 7, "seg/foreground/dice": 0.61234, "grade/n": 9,
        "baseline/channel_threshold/dice": 0.2345, "seg/foreground/dice_original_size": 0.5877,
        "baseline/channel_threshold/dice_original_size": 0.2211, "seg/micro_bg/dice": 0.95,
        "seg/micro_bg/dice_all_background": 0.9402, "grade/accuracy": 0.5, "grade/accuracy_low": 0.25,
        "grade/accuracy_high": 0.75, "grade/majority": 0.3333, "grade/kappa": None, "pseudo/accuracy_before": 0.6,
        "pseudo/accuracy_after": 0.7, "pseudo/kappa_before": 0.5, "pseudo/kappa_after": 0.55, "pseudo/majority": 0.64,
        "pseudo/n_known": 42, "parameters/network": 23_750_951,
        "grade/confusion": np.eye(5, dtype=int).tolist(),
    }  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "pseudo_labels.json").write_text(json.dumps({k: v for k, v in metrics.items() if "pseudo" in k}))
    (tmp_path / "config.json").write_text(json.dumps({"name": "<b>bold & brash</b>"}))
    (tmp_path / "data.json").write_text(json.dumps({"segmentation": {"splits": {"train": ["a"], "val": []}}}))
    log = [
        {"step": 1, "phase": "theta", "round": 1, "loss": 2.0, "seg_loss": 1.0, "grade_loss": 1.0,
         "grad_norm/seg_encoder": 0.5, "grad_norm/grade_encoder": 0.1, "grad_cosine_encoder": -0.1},
        {"step": 2, "phase": "label", "round": 1, "direct_norm": 0.0, "indirect_norm": 0.1, "label_entropy": 0.3,
         "label_histogram": [0.2] * 5, "agreement/pseudo_label": 1.0, "agreement/head": 0.4},
        {"step": 2, "phase": "val", "round": 1, "val/loss": 1.5, "val/loss_updated": 1.4, "val/dice": 0.3},
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, log)) + "\n")
    rows = {
        "per_image.csv": [{"image": "eye", "dice": "0.6123", "predicted_grade": "2"}],
        "pseudo_labels.csv": [
            {
                "image": "eye",
                "resnext50_32x4d/grade": "0",
                "resnext50_32x4d/confidence": "0.51",
                "admissible": "2 3 4",
                "before": "0",
                "after": "2",
                "changed": "1",
                "why": "masks > maps",
                "true_grade": "2",
            }
        ],
    }
    for name, lines in rows.items():
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.DictWriter(file, lines[0].keys())
            writer.writeheader()
            writer.writerows(lines)
    picture = np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)
    for folder in ("cams", "examples"):
        (tmp_path / folder).mkdir()
    for name in ("cams/eye", "examples/eye_image", "examples/eye_truth", "examples/eye_prediction", "contact_sheet"):
        write_picture(tmp_path / name, picture)
    return tmp_path


def test_page_is_well_formed_and_refers_to_nothing_outside_itself(workdir):
    page = Page(write_report(workdir).read_text())
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= page.ids
    assert sum(reference.startswith("data:image/jpeg") for reference in page.references) == 5


def test_text_from_files_is_escaped(workdir):
    text = write_report(workdir).read_text()
    assert "<b>bold" not in text
    assert "&lt;b&gt;bold &amp; brash" in text
    assert "masks &gt; maps" in text


def test_every_figure_stands_beside_its_baseline(workdir):
    text = Page(write_report(workdir).read_text()).text
    for number in ("0.6123", "0.2345", "0.5877", "0.2211", "0.9402", "0.3333", "0.6400", "23750951"):
        assert number in text
    assert "undefined" in text  # the kappa


def test_operating_points_stand_beside_what_they_do_on_the_evaluated_split(workdir):
    assert "Operating points" not in Page(write_report(workdir).read_text()).text
    metrics = json.loads((workdir / "metrics.json").read_text()) | {"seg/foreground/dice_at_operating_point": 0.7171}
    (workdir / "metrics.json").write_text(json.dumps(metrics))
    write_points(workdir / "checkpoints", OperatingPoints({"lesion": OperatingPoint(0.35, 6.0, 9, 0.4141, 0.3131)}, step=7))
    text = Page(write_report(workdir).read_text()).text
    for part in ("Operating points", "0.3500", "6.0000", "0.4141", "0.3131", "0.7171", "uncalibrated"):
        assert part in text, part


def test_nothing_is_left_of_the_template_s_marks(workdir):
    assert not re.search(r"<!--[A-Z]+-->", write_report(workdir).read_text())


def test_page_of_an_unfinished_run_says_what_is_missing_and_how_to_make_it(tmp_path):
    text = Page(write_report(tmp_path).read_text()).text
    for verb in ("prepare", "pseudo-label", "train", "evaluate"):
        assert f"python main.py {verb}" in text


def test_what_was_not_scored_is_left_out(workdir):
    metrics = json.loads((workdir / "metrics.json").read_text())
    for kind in ("seg", "grade"):
        kept = {name: value for name, value in metrics.items() if not name.startswith(f"{kind}/")}
        (workdir / "metrics.json").write_text(json.dumps(kept))
        text = Page(write_report(workdir).read_text(encoding="utf-8")).text
        assert ("lesion Dice (foreground, pooled)" in text) == (kind != "seg")
        assert ("quadratic weighted kappa" in text) == (kind != "grade")

"""The notebooks as a user runs them, made small: each in a process of its own, cell by cell, warnings as errors."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pldmlt_jax.evaluation.metrics.grading import grading_metrics
from pldmlt_jax.evaluation.metrics.labels import label_quality_metrics
from pldmlt_jax.evaluation.metrics.segmentation import SegmentationCounts
from pldmlt_jax.evaluation.operating_points import OperatingPoints, PointCounts
from pldmlt_jax.evaluation.original_size import ORIGINAL
from pldmlt_jax.method.losses import TARGETS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

RUN_CELLS = """
import json, pathlib, sys
names = {"__name__": "__main__"}
for cell in json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
import matplotlib
assert matplotlib.get_backend() == "svg", "figures would not be shown where the user wants them"
"""


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where they run, and share what they have drawn and prepared."""
    return tmp_path_factory.mktemp("notebooks")


def execute(path: Path, folder: Path) -> str:
    """Runs a notebook; returns what it prints."""
    environment = os.environ | {"PLDMLT_NOTEBOOK_TINY": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "svg"}
    command = [sys.executable, "-W", "error", "-c", RUN_CELLS, str(path)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{path.name}: {result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def own_data(folder: Path) -> str:
    """What notebook 3 prints; its run is what notebook 4 reads then."""
    return execute(NOTEBOOKS[2], folder)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_readable_short_stripped_and_says_how_long_it_takes(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert path.read_text(encoding="utf-8") == json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z0-9-]{1,64}", name) for name in ids)
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert len(code) <= 20
    assert not any(cell["outputs"] or cell["execution_count"] or cell["metadata"] for cell in code)
    opening = "".join(content["cells"][0]["source"])
    assert opening.startswith("# ") and "**Time:**" in opening
    for cell in content["cells"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", "".join(cell["source"])):
            assert cell["cell_type"] == "code" or (path.parent / target).exists(), target


def test_the_method(folder):
    printed = execute(NOTEBOOKS[0], folder)
    before, after = map(float, re.search(r"before refinement: ([\d.]+), after: ([\d.]+)", printed).groups())
    assert before <= after <= 1
    assert float(re.search(r"\|dJ/dtheta_1\| = (\S+)", printed)[1]) > 0


def test_the_meta_gradient_equals_its_closed_form_and_a_difference(folder):
    printed = execute(NOTEBOOKS[1], folder)
    by_autodiff, by_difference = (
        float(re.search(rf"^{name} +(\S+)$", printed, re.M)[1]) for name in ("autodiff", "difference")
    )
    assert by_autodiff == pytest.approx(by_difference, rel=1e-4)
    assert float(re.search(r"closed form against autodiff: (\S+)", printed)[1]) < 1e-12
    assert re.search(r"^first_order +nan +0\.0", printed, re.M)


def test_your_own_data_is_told_what_is_wrong_and_trains_when_mended(own_data, folder):
    told, mended = own_data.split("3 errors, see above")
    for words in ("grade '7' of eye_004", "a mask without its image", "a mask 50 px high, 70 px wide"):
        assert words in told
    assert "no errors" in mended
    assert (folder / "runs" / "notebook_3" / "report.html").exists()


def test_a_trained_net_is_read(own_data, folder):
    printed = execute(NOTEBOOKS[3], folder)
    figures = json.loads((folder / "runs" / "notebook_3" / "metrics.json").read_text())
    shown = re.search(r"^seg/micro_bg/dice +(\S+) +(\S+)$", printed, re.M)
    assert [float(value) for value in shown.groups()] == pytest.approx(
        [figures["seg/micro_bg/dice"], figures["seg/micro_bg/dice_all_background"]], abs=1e-3
    )
    assert f"accuracy {figures['grade/accuracy']:.3f}" in printed


# ---- docs/metrics.md, which describes what such a run leaves


def documented(file: str) -> set[str]:
    """The names in the first column of the page's tables under the heading of a file."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    section = re.search(rf"^## [^\n]*`{re.escape(file)}`[^\n]*\n(.*?)(?=^## |\Z)", page, re.M | re.S)[1]
    firsts = re.findall(r"^\| (`[^|]+) \|", section, re.M)
    return {name for cell in firsts for name in re.findall(r"`([^`]+)`", cell)}


def general(name: str) -> str:
    """A figure's name as the page writes it: for any lesion, any grader, either size."""
    name = name.removesuffix(ORIGINAL)
    name = re.sub(r"^train/.*", "train/...", name)
    name = re.sub(r"^(seg/|)(MA|HE|EX|SE)(?=[/_])", r"\1LESION", name)
    return re.sub(r"^(grader|parameters)/(?!network|label_network)[^/]+", r"\1/GRADER", name)


def test_page_describes_every_figure_of_a_run_and_no_other(own_data, folder):
    run = folder / "runs" / "notebook_3"
    found = set(json.loads((run / "metrics.json").read_text()))
    for target in TARGETS:
        found |= SegmentationCounts.empty(target).compute().keys() | PointCounts(target, OperatingPoints()).compute().keys()
    found |= grading_metrics(np.eye(5), np.arange(5), 0).keys()
    found |= {f"pseudo/{name}_{when}" for name in ("accuracy", "kappa") for when in ("before", "after")}
    found |= {"pseudo/majority"}  # where true grades are known, which are not in that folder
    found |= label_quality_metrics(np.eye(5), np.arange(5), np.arange(5), np.ones((5, 5), bool)).keys()
    assert {general(name) for name in found} == documented("metrics.json")


def test_page_describes_every_column_and_every_logged_figure(own_data, folder):
    run = folder / "runs" / "notebook_3"
    with open(run / "per_image.csv", newline="") as file:
        columns = csv.DictReader(file).fieldnames
    assert {general(name) for name in columns} == documented("per_image.csv")
    lines = [line for log in run.rglob("log.jsonl") for line in log.read_text().splitlines()]
    with_options = {"graded_loss", "self_training_loss"}
    assert {name for line in lines for name in json.loads(line)} | with_options == documented("log.jsonl")

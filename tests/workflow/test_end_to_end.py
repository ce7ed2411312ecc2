"""The program as a user runs it, on a tiny drawn set: every stage, resumption, prediction, and bad input."""

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from data.count_listings import count_listings
from evaluation.tiny_network import tiny_config, write_tiny
from PIL import Image

from pldmlt_jax.cli.app import run
from pldmlt_jax.config import from_dict
from pldmlt_jax.data.synthetic.dataset import SyntheticGrading, SyntheticSegmentation
from pldmlt_jax.evaluation.inference import saved_config
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.workflow.stages.pseudo_label import read_label_table

TINY = (
    "--config.data.synthetic.height_px=96",
    "--config.data.synthetic.num_segmentation_train=12",
    "--config.data.synthetic.num_segmentation_test=4",
    "--config.data.synthetic.num_grading_train=20",
    "--config.data.synthetic.num_grading_test=6",
    "--config.data.size_px=64",
    "--config.grader.size_px=64",
    "--config.grader.architectures=('resnext50_32x4d','vgg16')",
    "--config.grader.batch_size=4",
    "--config.grader.epochs=1",
    "--config.model.encoder_filters=(4,4,8,8,8)",
    "--config.model.encoder_convs=(1,1,1,1,1)",
    "--config.model.decoder_filters=(8,8,4,4,4)",
    "--config.train.batch_size=2",
    "--config.train.theta_units=2",
    "--config.train.label_units=1",
    "--config.train.eval_every_rounds=1",
    "--config.evaluation.batch_size=2",
    "--config.evaluation.num_examples=2",
)


def arguments(workdir: Path, *more: str, verb: str | None = None, rounds: int = 2) -> list[str]:
    cache = f"--config.data.cache_dir={workdir.parent / 'cache'}"
    return [
        "main.py", *([verb] if verb else []), f"--workdir={workdir}", cache, f"--config.train.max_rounds={rounds}",
        *TINY, *more,
    ]  # fmt: skip


LISTED: Counter[str] = Counter()
"""How often the whole pipeline has listed the raw files of each set."""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A workdir after the whole pipeline."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        for builder in (SyntheticSegmentation, SyntheticGrading):
            count_listings(builder, LISTED, patch)
        assert run(arguments(directory)) == 0
    return directory


def test_pipeline_leaves_every_promised_file(workdir):
    for name in (
        "report.html",
        "metrics.json",
        "per_image.csv",
        "pseudo_labels.csv",
        "config.json",
        "log.jsonl",
        "parameters.txt",
    ):
        assert (workdir / name).stat().st_size > 0
    assert list(workdir.glob("events.*"))
    assert json.loads((workdir / "weights.json").read_text()) == {"encoder": "random start"}
    metrics = json.loads((workdir / "metrics.json").read_text())
    for name in (
        "seg/micro_bg/dice", "seg/micro_bg/dice_all_background", "seg/foreground/dice", "grade/accuracy", "grade/kappa",
        "grade/majority", "baseline/channel_threshold/dice", "pseudo/accuracy_before", "pseudo/accuracy_after",
        "parameters/network", "parameters/label_network", "parameters/vgg16", "parameters/resnext50_32x4d",
        "seg/foreground/dice_at_operating_point", "seg/foreground/dice_at_operating_point_original_size",
        "labels/repaired", "labels/spoilt", "train/grad_norm/grade_encoder", "train/grad_norm/grade_encoder_fixed",
        "train/indirect_norm",
    ):  # fmt: skip
        assert name in metrics, name
    points = json.loads((workdir / "checkpoints" / "operating_points.json").read_text())
    assert (
        points["step"] == metrics["step"] and points["temperature"] > 0 and 0 < points["lesions"]["lesion"]["threshold"] < 1
    )
    with open(workdir / "per_image.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    phases = {json.loads(line)["phase"] for line in (workdir / "log.jsonl").read_text().splitlines()}
    assert phases == {"theta", "label", "val"}


def test_whole_run_lists_raw_files_and_stores_prepared_images_once(workdir):
    assert LISTED == {"SyntheticSegmentation": 1, "SyntheticGrading": 1}
    assert not any((workdir.parent / "cache" / "photographs").iterdir())


def test_metrics_of_the_state_in_memory_are_those_of_the_checkpoint(workdir):
    """The pipeline evaluates the state that training held; the verb alone reads it from disk."""
    copy = workdir.parent / "from_disk"
    shutil.copytree(workdir, copy)
    (copy / "metrics.json").unlink()
    assert run(arguments(copy, verb="evaluate")) == 0
    for name in ("metrics.json", "per_image.csv", "curves.json"):
        assert (copy / name).read_text() == (workdir / name).read_text(), name


def test_second_run_skips_every_stage(workdir, capsys):
    assert run(arguments(workdir)) == 0
    assert capsys.readouterr().out.count("complete and unchanged, skipped") == 7


def test_changed_field_runs_its_stage_and_the_later_ones_only(workdir, capsys):
    copy = workdir.parent / "copy"
    shutil.copytree(workdir, copy)
    assert run(arguments(copy, "--config.evaluation.threshold=0.4")) == 0
    out = capsys.readouterr().out
    assert out.count("skipped") == 4
    assert "train: complete" in out
    assert "evaluate:\n" in out


def test_what_another_config_trained_is_moved_aside_and_still_predicts(workdir, capsys):
    copy = workdir.parent / "other"
    shutil.copytree(workdir, copy)
    assert run(arguments(copy, "--config.loss.beta=0.5")) == 0
    out = capsys.readouterr().out
    old = copy / "set_aside" / "001"
    assert re.search(r"moved to \S+001: checkpoints, log\.jsonl, events\.\S+, .*metrics\.json", out)
    assert saved_config(old / "checkpoints").loss.beta == 0.8
    assert json.loads((copy / "config.json").read_text())["loss"]["beta"] == 0.5
    image = next((workdir.parent / "cache").glob("synthetic-*/A*/1*/b*/*.jpg"))
    assert run(["main.py", "predict", f"--checkpoint={old}", f"--input={image}"]) == 0
    assert (old / "predictions" / "predictions.csv").exists()
    assert (old / "predictions" / "examples" / "predictions.csv").exists()


def test_labels_that_were_edited_by_hand_are_trained_on(workdir, capsys):
    """Stage 1 is left alone, for its config is the same; what was trained on the labels from before is kept aside."""
    copy = workdir.parent / "edited"
    shutil.copytree(workdir, copy)
    table = copy / "pseudo_labels.csv"
    rows = table.read_text().splitlines()
    column = rows[0].split(",").index("after")
    cells = rows[1].split(",")
    cells[column] = str((int(cells[column]) + 1) % 5)
    table.write_text("\n".join([rows[0], ",".join(cells), *rows[2:]]) + "\n")
    assert run(arguments(copy)) == 0
    out = capsys.readouterr().out
    assert "pseudo-label: complete" in out
    assert "train: complete" not in out
    assert (copy / "set_aside" / "001" / "checkpoints").is_dir()
    assert table.read_text().splitlines()[1] == ",".join(cells)


def test_wrong_labels_are_told_and_what_was_trained_stays_where_it_is(workdir, capsys):
    copy = workdir.parent / "mistaken"
    shutil.copytree(workdir, copy)
    table = copy / "pseudo_labels.csv"
    text = table.read_text()
    column = text.splitlines()[0].split(",").index("after")
    lines = [line.split(",") for line in text.splitlines()]
    lines[1][column], lines[3][column] = "7", ""
    table.write_text("\n".join(map(",".join, lines)) + "\n")
    assert run(arguments(copy, verb="train")) == 2
    message = capsys.readouterr().err
    assert "line 2: after = '7'" in message and "line 4: after = ''" in message
    table.write_text("\ufeff" + text.replace(",", ";"), encoding="utf-8")
    assert run(arguments(copy, verb="train")) == 2
    assert "no column image, before" in capsys.readouterr().err
    table.unlink()
    assert run(arguments(copy, "--config.loss.beta=0.5", verb="train")) == 2
    assert "put back" in capsys.readouterr().out
    assert (copy / "checkpoints").is_dir() and not any((copy / "set_aside").iterdir())
    table.write_text("\ufeff" + text, encoding="utf-8")  # as a spreadsheet saves it
    assert set(read_label_table(table)) == set(read_label_table(workdir / "pseudo_labels.csv"))


def test_network_is_not_scored_on_what_it_was_trained_on(workdir, capsys):
    command = ["main.py", "evaluate", f"--checkpoint={workdir}", "--config.data.split=folds", "--config.data.fold=1"]
    assert run(command) == 2
    message = capsys.readouterr().err
    assert "data.fold = 0, not 1" in message and "data.split = 'official', not 'folds'" in message


def test_labels_of_another_config_are_noticed_by_the_next_run(workdir, capsys):
    """The verb alone replaces the table; the whole run makes it anew, and finds what was trained on it unchanged."""
    copy = workdir.parent / "relabelled"
    shutil.copytree(workdir, copy)
    before = (copy / "pseudo_labels.csv").read_text()
    assert run(arguments(copy, "--config.pseudo.refine=False", verb="pseudo-label")) == 0
    assert (copy / "pseudo_labels.csv").read_text() != before
    assert (copy / "set_aside" / "001" / "pseudo_labels.csv").read_text() == before
    capsys.readouterr()
    assert run(arguments(copy)) == 0
    out = capsys.readouterr().out
    assert "pseudo-label: complete" not in out
    assert "train: complete" in out
    assert (copy / "pseudo_labels.csv").read_text() == before


def test_network_keeps_the_config_that_it_was_trained_with(workdir, capsys):
    copy = workdir.parent / "prepared_otherwise"
    shutil.copytree(workdir, copy)
    assert run(arguments(copy, "--config.data.resize=stretch", verb="prepare")) == 0
    assert json.loads((copy / "config.json").read_text())["data"]["resize"] == "stretch"
    assert saved_config(copy / "checkpoints").data.resize == "pad"
    image = next((workdir.parent / "cache").glob("synthetic-*/A*/1*/b*/*.jpg"))
    assert run(["main.py", "predict", f"--workdir={copy}", f"--input={image}", "--config=configs/idrid.py"]) == 2
    message = capsys.readouterr().err
    assert "data.size_px = 64, not 1024" in message
    assert "data.resize = 'pad', not 'stretch'" in message


def test_evaluate_takes_the_saved_config_and_leaves_it(workdir, capsys):
    copy = workdir.parent / "evaluated"
    shutil.copytree(workdir, copy)
    saved = (copy / "config.json").read_text()
    command = ["main.py", "evaluate", f"--checkpoint={copy}", "--split=val", "--config.evaluation.threshold=0.99"]
    assert run(command) == 0
    assert (copy / "config.json").read_text() == saved
    figures = json.loads((copy / "metrics.json").read_text())
    assert figures["seg/split"] == figures["grade/split"] == "val"
    with open(copy / "per_image.csv", newline="") as file:
        assert sum(int(row["predicted_px"]) for row in csv.DictReader(file)) == 0  # nothing is that certain so early
    assert run(arguments(copy)) == 0
    assert "evaluate: complete" not in capsys.readouterr().out  # the test images are scored again
    assert json.loads((copy / "metrics.json").read_text())["seg/split"] == "test"


def test_a_network_averaged_with_itself_scores_as_it_does_alone(workdir, tmp_path):
    cache = f"--config.data.cache_dir={workdir.parent / 'cache'}"
    command = ["main.py", "evaluate", f"--checkpoint={workdir},{workdir}/checkpoints", f"--workdir={tmp_path}", cache]
    assert run(command) == 0
    alone, both = (json.loads((folder / "metrics.json").read_text()) for folder in (workdir, tmp_path))
    assert both["step"] == [alone["step"]] * 2
    for name in (
        "seg/foreground/dice",
        "seg/foreground/dice_at_operating_point",
        "seg/macro_bg/dice_soft",
        "grade/accuracy",
    ):
        assert both[name] == pytest.approx(alone[name], abs=1e-6), name
    assert run([*command, "--config.data.split=folds"]) == 2


def test_training_goes_on_from_its_checkpoint(workdir, tmp_path):
    """Two rounds and then a third, against three at once: the same parameters, bit by bit."""
    results = []
    for name, plan in (("parts", (2, 3)), ("whole", (3,))):
        directory = tmp_path / name
        directory.mkdir()
        shutil.copy(workdir / "pseudo_labels.csv", directory)
        shutil.copytree(workdir.parent / "cache", tmp_path / "cache", dirs_exist_ok=True)
        for rounds in plan:
            assert run(arguments(directory, "--config.optim.schedule=constant", verb="train", rounds=rounds)) == 0
        with Checkpoints(directory / "checkpoints") as checkpoints:
            assert checkpoints.latest_step == 9
            results.append(checkpoints.restore_raw(9))
    jax.tree.map(np.testing.assert_array_equal, results[0], results[1])


def test_notebook_code_of_the_readme_runs(workdir, tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    config = from_dict(json.loads((workdir / "config.json").read_text()))
    monkeypatch.setattr("configs.demo.get_config", lambda: config)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(workdir)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert "'meta_loss'" in capsys.readouterr().out


def test_predict_answers_at_the_images_own_size(workdir, tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for name, shape in (("a.png", (70, 120, 3)), ("b.jpg", (200, 150)), ("c.tif", (64, 64, 4))):
        cv2.imwrite(str(images / name), rng.integers(30, 255, shape).astype(np.uint8))
    (images / "broken.png").write_bytes(b"\x89PNG not an image")
    output = tmp_path / "out"
    status = run(["main.py", "predict", f"--checkpoint={workdir}", f"--input={images}", f"--output={output}"])
    captured = capsys.readouterr()
    assert status == 2
    assert "broken.png" in captured.out
    with open(output / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["height_px"], row["width_px"]) for row in rows] == [("70", "120"), ("200", "150"), ("64", "64")]
    for row in rows:
        picture = Image.open(output / row["mask"])
        assert picture.mode == "P"
        mask = np.asarray(picture)
        assert mask.shape == (int(row["height_px"]), int(row["width_px"]))
        assert int((mask > 0).sum()) == int(row["lesion_px"])
        assert sum(float(row[f"grade_{grade}"]) for grade in range(5)) == pytest.approx(1.0, abs=1e-3)


def test_checkpoint_of_another_architecture_is_refused(workdir, capsys):
    other = arguments(workdir, "--config.model.centre_filters=8", "--config=configs/demo.py", verb="predict")
    assert run([*other, f"--input={workdir / 'examples'}"]) == 2
    assert "another architecture" in capsys.readouterr().err


def test_unknown_split_and_missing_input_are_refused(workdir, capsys):
    assert run(arguments(workdir, "--split=nope", verb="evaluate")) == 2
    assert "official_test" in capsys.readouterr().err
    assert run(arguments(workdir, verb="predict")) == 2
    assert "--input" in capsys.readouterr().err
    assert run(["main.py", "report", f"--workdir={workdir / 'nowhere'}"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_truncated_photographs_of_both_sets_stop_the_run_and_are_named(workdir, tmp_path, capsys):
    shutil.copytree(workdir.parent / "cache", tmp_path / "cache")
    (root,) = (tmp_path / "cache").glob("synthetic-*")
    bad = [next(root.glob(f"{part}/1. Original Images/a. Training Set/*.jpg")) for part in ("A. *", "B. *")]
    for path in bad:
        path.write_bytes(path.read_bytes()[:1000])
    assert run(arguments(tmp_path / "run", verb="prepare")) == 2
    text = capsys.readouterr().err
    assert all(path.name in text for path in bad)
    assert "truncated" in text


def test_figures_of_two_networks(workdir, tmp_path, capsys):
    other = write_tiny(tmp_path / "other", tiny_config("lesions"))
    named = f"--checkpoint={workdir},{other}"
    assert run(["main.py", "figures", named, f"--output={tmp_path / 'figures'}"]) == 0
    assert "split test" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "figures").iterdir() if not path.name.startswith(".")}
    figures = ("figure1", "figure6", "figure7", "overview")
    assert names == {f"{name}.{kind}" for name in figures for kind in ("pdf", "svg", "png")}
    text = (tmp_path / "figures" / "figure7.svg").read_text()
    for part in ("EX, IDRiD_", "tiny, any lesion, Dice ", "other", "truth (EX)", "any lesion"):
        assert f">{part}" in text, part
    assert run(["main.py", "figures", named, "--images=nobody", f"--output={tmp_path / 'none'}"]) == 2
    error = capsys.readouterr().err
    assert "'nobody'" in error and "images of split test: IDRiD_" in error
    assert not (tmp_path / "none").exists()

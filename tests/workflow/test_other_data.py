"""The program on other sets than IDRiD's: one's own folder without grades, and truly graded images beside the others."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation.tiny_network import tiny_config, write_tiny

from pldmlt_jax.cli.app import run
from pldmlt_jax.data.synthetic.dataset import draw_fundus

pytestmark = pytest.mark.slow

SMALL = (
    "--config.data.size_px=64",
    "--config.model.encoder_filters=(4,4,8,8,8)",
    "--config.model.encoder_convs=(1,1,1,1,1)",
    "--config.model.decoder_filters=(8,8,4,4,4)",
    "--config.train.theta_units=2",
    "--config.train.label_units=1",
    "--config.train.max_rounds=2",
    "--config.train.eval_every_rounds=1",
    "--config.train.log_every_steps=1",
    "--config.evaluation.batch_size=2",
    "--config.evaluation.num_examples=2",
)
LESIONS_ALONE = ("--config.data.grading=none", "--config.loss.grading=False", "--config.meta.enabled=False")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve drawn photographs with masks of three lesions, in a folder whose name has a blank."""
    root = tmp_path_factory.mktemp("own") / "my photographs"
    for i in range(12):
        fundus = draw_fundus((7, i), 2 + i % 3, 96)
        (root / "images").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "images" / f"eye {i}.png"), cv2.cvtColor(fundus.image, cv2.COLOR_RGB2BGR))
        for lesion in ("MA", "HE", "EX"):
            (root / "masks" / lesion).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "masks" / lesion / f"eye {i}.png"), fundus.masks[lesion].astype(np.uint8) * 255)
    return root


def own(folder: Path, *more: str, verb: str | None = None) -> list[str]:
    return [
        "main.py", *([verb] if verb else []), "--config=configs/folder.py", f"--config.data.folder_root={folder}",
        f"--config.data.cache_dir={folder.parent / 'cache'}", f"--workdir={folder.parent / 'run'}", *SMALL, *more,
    ]  # fmt: skip


def test_folder_without_grades_learns_lesions_alone(folder, capsys):
    """`check` says what is lacking and how to go on; the run then makes no claim about grades."""
    assert run(own(folder, verb="check")) == 2
    out = capsys.readouterr().out
    assert "no grades in it" in out
    for flag in LESIONS_ALONE:
        assert flag in out
    assert run(own(folder, *LESIONS_ALONE)) == 0
    out = capsys.readouterr().out
    assert "grades are not scored: the network was not trained on them" in out
    assert "grades, accuracy" not in out
    workdir = folder.parent / "run"
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["seg/split"] == "test"
    assert "seg/foreground/dice_original_size" in metrics
    assert not [name for name in metrics if name.startswith(("grade/", "pseudo/"))]
    assert not (workdir / "pseudo_labels.csv").exists()
    assert not (workdir / "graders").exists()
    with open(workdir / "per_image.csv", newline="") as file:
        assert {row["predicted_grade"] for row in csv.DictReader(file)} == {""}
    with open(workdir / "folds.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 12
    assert "<html" in (workdir / "report.html").read_text()

    assert run(own(folder, *LESIONS_ALONE, "--augmented=3", verb="prepare")) == 0
    sheet = cv2.imread(str(workdir / "augmented.jpg"))
    assert sheet.shape[0] // 3 > 300 and sheet.shape[1] == 6 * 320

    assert run(["main.py", "predict", f"--checkpoint={workdir}", f"--input={folder / 'images'}"]) == 0
    with open(workdir / "predictions" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert "grade" not in rows[0]
    assert run(own(folder, *LESIONS_ALONE)) == 0
    assert capsys.readouterr().out.count("skipped") == 5


def test_a_network_is_scored_on_all_photographs_of_a_folder_that_it_has_not_seen(folder, tmp_path, capsys):
    """Those with masks and grades are scored in both, for nothing is trained; one has no grade."""
    root = shutil.copytree(folder, tmp_path / "other")
    (root / "grades.csv").write_text("image,grade\n" + "".join(f"eye {i},{2 + i % 2}\n" for i in range(11)))
    network, workdir = write_tiny(tmp_path / "net", tiny_config("lesions")), tmp_path / "scored"
    other = (f"--config.data.folder_root={root}", f"--config.data.cache_dir={tmp_path / 'cache'}", f"--workdir={workdir}")
    sets = ("--config.data.segmentation=folder_s", "--config.data.grading=folder_d")
    assert run(["main.py", "evaluate", f"--checkpoint={network}", "--split=all", *sets, *other]) == 0
    told = capsys.readouterr().out
    figures = json.loads((workdir / "metrics.json").read_text())
    assert (
        "including any that the network was trained on" in told
        and "scored: lesions on split all, grades on split all" in told
    )
    assert f"at the images' own size {figures['seg/mean/aupr_11_exclusive_original_size']:.3f}\n" in told
    assert f"n = 11), kappa {figures['grade/kappa']:.3f}\n" in told
    assert figures["seg/split"] == figures["grade/split"] == "all"
    assert figures["grade/n"] == 11 and figures["grade/majority"] == pytest.approx(6 / 11)
    with (workdir / "per_image.csv").open() as file:
        assert sorted(row["image"] for row in csv.DictReader(file)) == sorted(f"eye {i}" for i in range(12))
    (root / "grades.csv").unlink()
    without_grades = ("--config.data.grading=none", "--config.pseudo.source=given", "--config.loss.graded_weight=0")
    assert run(["main.py", "evaluate", f"--checkpoint={network}", "--split=all", sets[0], *without_grades, *other]) == 0
    told = capsys.readouterr().out
    assert "grades are not scored: no image of split 'all' is left" in told and "kappa" not in told
    figures = json.loads((workdir / "metrics.json").read_text())
    assert figures["seg/split"] == "all" and "grade/split" not in figures and "grade/n" not in figures


def test_stages_of_grades_are_refused_without_them_and_lesions_alone_must_be_said(folder, capsys):
    assert run(own(folder, *LESIONS_ALONE, verb="train-grader")) == 2
    assert "nothing to do for train-grader" in capsys.readouterr().err
    assert run(own(folder, LESIONS_ALONE[0])) == 2
    assert "--config.loss.grading=False --config.meta.enabled=False" in capsys.readouterr().err


def test_photographs_with_masks_and_grades_are_learnt_from_without_graders(folder, capsys):
    """Every photograph has both: no grader can be trained, and none is needed. One grade is not known."""
    (table := folder / "grades.csv").write_text(
        "image,grade\n" + "".join(f"eye {i}.png,{2 + i % 3}\n" for i in range(1, 12))
    )
    workdir = folder.parent / "given"
    given = ("--config.pseudo.source=given", "--config.data.grading=none", "--config.meta.enabled=False")
    try:
        assert run(own(folder, f"--workdir={workdir}", verb="check")) == 2
        out = capsys.readouterr().out
        assert "every graded photograph is pixel-labelled as well" in out
        assert " ".join(given) in out
        assert run(own(folder, *given, f"--workdir={workdir}", verb="check")) == 0
        assert run(own(folder, *given, f"--workdir={workdir}")) == 0
        metrics = json.loads((workdir / "metrics.json").read_text())
        assert 2 <= metrics["grade/n"] <= 3  # the held-out fifth
        assert metrics["leakage/images"] == 0
        lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
        assert all(line["grade_loss"] > 0 for line in lines if line["phase"] == "theta")
        with open(workdir / "per_image.csv", newline="") as file:
            assert {row["predicted_grade"] for row in csv.DictReader(file)} <= set("01234")
        assert run(own(folder, *given[:2], f"--workdir={workdir}")) == 2
        assert "photographs without a grade" in capsys.readouterr().err
    finally:
        table.unlink()


def test_bad_files_can_be_left_out_and_are_counted(folder, capsys):
    """One truncated photograph and one mask of another size, of twelve; and a mask of none of them."""
    damaged = folder.parent / "damaged"
    for source in folder.rglob("*.png"):
        target = damaged / source.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    broken = damaged / "images" / "eye 3.png"
    broken.write_bytes(broken.read_bytes()[:500])
    cv2.imwrite(str(damaged / "masks" / "HE" / "eye 5.png"), np.zeros((5, 7), np.uint8))
    cv2.imwrite(str(damaged / "masks" / "HE" / "nobody.png"), np.zeros((5, 7), np.uint8))
    workdir = folder.parent / "damaged_run"
    command = [*own(damaged, *LESIONS_ALONE, f"--workdir={workdir}", verb="prepare")]
    assert run(command) == 2
    assert "eye 3.png: a truncated image" in (error := capsys.readouterr().err)
    assert "eye 5.png: a mask 5 px high" in error
    assert error.count("nobody.png: a mask without its image") == 1
    assert run([*command, "--config.data.on_bad_file=skip"]) == 0
    assert capsys.readouterr().out.count("left out") == 3
    facts = json.loads((workdir / "data.json").read_text())["segmentation"]
    assert sum(len(facts["splits"][name]) for name in ("train", "val", "test")) == 10
    assert len(facts["bad_files"]) == 3


def test_truly_graded_images_beside_windows_that_hold_lesions(tmp_path, capsys):
    """The options together: `trusted`, joint training, windows, rarer grades more often, elastic deformation and blur."""
    command = [
        "main.py", f"--workdir={tmp_path / 'run'}", f"--config.data.cache_dir={tmp_path / 'cache'}", *SMALL,
        "--config.data.synthetic.height_px=96", "--config.data.synthetic.num_segmentation_train=12",
        "--config.data.synthetic.num_segmentation_test=4", "--config.data.synthetic.num_grading_train=20",
        "--config.data.synthetic.num_grading_test=6", "--config.grader.size_px=64",
        "--config.grader.architectures=('vgg16',)", "--config.grader.weights=('',)", "--config.grader.epochs=1",
        "--config.meta.loss=trusted", "--config.loss.graded_weight=0.5", "--config.train.crop_px=32",
        "--config.train.crop_lesion_share=0.8", "--config.train.oversample=1", "--config.grader.oversample=0.5",
        "--config.data.augment.elastic=0.01", "--config.data.augment.blur_px=1", "--config.data.enhance=clahe",
    ]  # fmt: skip
    assert run(command) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(line["graded_loss"] > 0 for line in lines if line["phase"] == "theta")
    assert any(line["phase"] == "label" and line["indirect_norm"] > 0 and line["direct_norm"] == 0 for line in lines)
    capsys.readouterr()
    assert run(command) == 0
    assert capsys.readouterr().out.count("skipped") == 7

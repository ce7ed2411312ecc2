"""`compare` and `evaluate --predictions` as a user runs them, on the tiny table; and tables that are wrong."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from faults.runs import ROOT
from faults.tiny_table import get_table
from PIL import Image

from configs.tables import rows as rows_of
from pldmlt_jax.cli.app import VERBS, run
from pldmlt_jax.cli.flags import parse
from pldmlt_jax.config import Config
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.io.locks import locked
from pldmlt_jax.method.losses import SEGMENTATION_LOSSES
from pldmlt_jax.table_config import Table, list_runs
from pldmlt_jax.workflow.comparison.results import portable_command
from pldmlt_jax.workflow.comparison.table_checks import add_starting_rows, table_errors
from pldmlt_jax.workflow.options import LOCK, RunOptions, lock_output_folder
from pldmlt_jax.workflow.stages.train_graders import grader_weight_names

pytestmark = pytest.mark.slow

TABLE = "tests/faults/tiny_table.py"


def arguments(root: Path, *more: str) -> list[str]:
    places = [f"--workdir={root / 'table'}", f"--config.data.cache_dir={root / 'cache'}"]
    return ["main.py", "compare", f"--config={TABLE}", *places, *more]


def compiled(folder: Path) -> list[str]:
    """Compiled steps of a persistent cache."""
    return sorted(path.name for path in folder.glob("jit_program-*-cache"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the workdir of the whole table on one seed, its cache, and what was compiled for it."""
    root = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(root / "compiled"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        assert run(arguments(root)) == 0
    return root


@pytest.fixture
def table(root: Path) -> dict:
    return json.loads((root / "table" / "table.json").read_text())


def test_every_row_is_scored_beside_its_baselines_and_the_published_row(root: Path, table: dict) -> None:
    rows = {row["name"]: row for row in table["rows"]}
    assert [cell["state"] for row in table["rows"] for cell in row["cells"]] == ["complete"] * 3
    for name, row in rows.items():
        (cell,) = row["cells"]
        folder = root / "table" / name / "fold0_seed0"
        metrics = json.loads((folder / ("graders/vgg16/metrics.json" if name == "vgg16" else "metrics.json")).read_text())
        assert cell["metrics"] == metrics and cell["workdir"] == f"{name}/fold0_seed0"
        for figure, value in metrics.items():
            if isinstance(value, float):
                assert row["figures"][figure] == {"mean": value, "sd": None, "n": 1}, figure
        assert row["cost"]["peak_memory_bytes"]["mean"] > 1e8 and row["parameters"] > 0
    assert rows["lesions"]["images"] == {"train": 8, "val": 2, "scored": 3}
    trained_on = rows["vgg16"]["cells"][0]["metrics"]["images/train"]
    assert rows["vgg16"]["images"] == {"graded_train": trained_on, "graded_scored": 5}
    assert rows["ours"]["images"] == rows["lesions"]["images"] | rows["vgg16"]["images"]
    assert "grade/accuracy" not in rows["lesions"]["figures"] and "seg/foreground/dice" not in rows["vgg16"]["figures"]
    assert rows["ours"]["cost"]["training_s"]["mean"] > 0 and rows["ours"]["differences"] == {}
    assert rows["vgg16"]["differences"]["grade/accuracy"]["images"] == 5
    difference = rows["lesions"]["differences"]["seg/micro_bg/dice_original_size"]
    means = [rows[name]["figures"]["seg/micro_bg/dice_original_size"]["mean"] for name in ("lesions", "ours")]
    assert difference["difference"] == pytest.approx(means[0] - means[1], abs=1e-9)
    assert difference["low"] <= difference["difference"] <= difference["high"]
    text = (root / "table" / "table.md").read_text()
    baseline = rows["ours"]["figures"]["seg/micro_bg/dice_all_background_original_size"]["mean"]
    assert all(f"| `{name}` |" in text for name in ("grade/accuracy_low", "labels/spoilt", "train/grad_norm/grade_encoder"))
    assert f"({baseline:.4f})" in text and "| *published: lesions* |  |  | *mDice 94.96 %* |" in text
    with open(root / "table" / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    published = [(line["figure"], line["mean"]) for line in lines if line["source"].startswith("published")]
    assert published == [("mDice (%)", "94.96"), ("mIOU (%)", "91.02"), ("Accuracy (%)", "53.01")]


def test_stage_1_of_the_same_inputs_is_taken_over_and_the_start_is_the_other_rows_network(root: Path) -> None:
    grader, ours = (root / "table" / name / "fold0_seed0" for name in ("vgg16", "ours"))
    weights = [next((folder / "graders/vgg16/checkpoints").glob("*/_CHECKPOINT_METADATA")) for folder in (grader, ours)]
    assert weights[0].samefile(weights[1])
    start = json.loads((ours / "weights.json").read_text())
    assert start["init_from"] == str(root / "table/lesions/fold0_seed0") and start["kept_at_start"] == []


def test_the_second_call_runs_nothing_and_writes_the_same(root: Path, capsys) -> None:
    before = (root / "table" / "table.json").read_bytes()
    assert run(arguments(root)) == 0
    assert capsys.readouterr().out.count("complete and unchanged, skipped") == 3
    assert (root / "table" / "table.json").read_bytes() == before


def test_one_compilation_of_each_step_serves_all_runs_of_one_shape(root: Path, monkeypatch) -> None:
    """Each run is a process of its own, and finds in the cache what the first of its shape has compiled."""
    before = compiled(root / "compiled")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(root / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    more = [word for word in arguments(root, "--rows=lesions", "--seeds=1") if not word.startswith("--workdir")]
    assert run([*more, f"--workdir={root / 'other_seed'}"]) == 0
    assert len(before) > 5 and compiled(root / "compiled") == before


def test_a_run_that_cannot_run_is_said_and_takes_nothing_with_it(root: Path, capfd) -> None:
    """Another process holds its workdir: it fails, so does the one that starts from it, and the table says so."""
    copy = root / "failing"
    shutil.copytree(root / "table", copy / "table")
    (copy / "cache").symlink_to(root / "cache")
    for name in ("lesions", "ours"):
        (copy / f"table/{name}/fold0_seed0/metrics.json").unlink()
    with locked(copy / "table/lesions/fold0_seed0" / LOCK):
        assert run(arguments(copy)) == 1
    captured = capfd.readouterr()
    assert "failed: 2 of 3 runs" in captured.err
    rows = {row["name"]: row["cells"][0] for row in json.loads((copy / "table/table.json").read_text())["rows"]}
    assert {name: cell["state"] for name, cell in rows.items()} == {
        "lesions": "failed", "vgg16": "complete", "ours": "failed"
    }  # fmt: skip
    assert "in use by process" in rows["lesions"]["why"] and rows["ours"]["why"].startswith("lesions, from which it starts")
    assert "**failed**: lesions, fold 0, seed 0: error: --workdir" in (copy / "table/table.md").read_text()


def start_long_run(root: Path, folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """`compare` in a process of its own whose run has begun to train and does not end; and the workdir of that run."""
    command = [sys.executable, *arguments(root, "--rows=lesions", "--config.train.max_rounds=100000")]
    command = [word if not word.startswith("--workdir") else f"--workdir={folder}" for word in command]
    with open(folder / "errors", "w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors, text=True)
    workdir, until = folder / "lesions/fold0_seed0", time.monotonic() + 120
    while not (workdir / "log.jsonl").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    return process, workdir


def test_a_signal_reaches_the_run_and_both_end_in_good_order(root: Path, tmp_path: Path) -> None:
    process, workdir = start_long_run(root, tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    errors = (tmp_path / "errors").read_text()
    assert "saved at step" in errors and errors.count("the same command resumes from there") == 2
    with lock_output_folder(RunOptions(Config(), workdir)):  # which raises if the run still holds it
        pass


def test_a_run_whose_compare_was_killed_keeps_others_out_until_it_ends(root: Path, tmp_path: Path) -> None:
    """Nothing ends a run with `compare`, because its lock is enough: no second process can write to its workdir."""
    process, workdir = start_long_run(root, tmp_path)
    process.kill()
    process.wait()
    holder = (workdir / LOCK).read_text().strip()
    with pytest.raises(ConfigError, match=f"in use by {holder}"), lock_output_folder(RunOptions(Config(), workdir)):
        pass
    os.kill(int(holder.split()[1]), signal.SIGTERM)
    until = time.monotonic() + 60
    while "saved at step" not in (tmp_path / "errors").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    with locked(workdir / LOCK):  # waits for its end
        assert any(path.name.isdigit() for path in (workdir / "checkpoints").iterdir())


OWN_LOSS = """
from dataclasses import replace
from pldmlt_jax.method.losses import SEGMENTATION_LOSSES
from tests.faults import tiny_table
SEGMENTATION_LOSSES["own"] = SEGMENTATION_LOSSES["dice_ce"]
def get_table():
    table = tiny_table.get_table()
    row = table.rows[0]
    config = replace(row.config, loss=replace(row.config.loss, segmentation="own"))
    return replace(table, rows=(replace(row, config=config),))
"""


def test_a_run_knows_what_the_file_of_its_table_defines(tmp_path: Path, monkeypatch) -> None:
    """Its process has executed the file as well: it gets as far as the lock of its workdir."""
    monkeypatch.setitem(SEGMENTATION_LOSSES, "own", SEGMENTATION_LOSSES["dice_ce"])
    file, workdir = tmp_path / "own_loss.py", tmp_path / "table/lesions/fold0_seed0"
    file.write_text(OWN_LOSS)
    words = [f"--config={file}" if word.startswith("--config=") else word for word in arguments(tmp_path)]
    with locked(workdir / LOCK):
        assert run(words) == 1
    assert "in use by process" in json.loads((workdir / "failure.json").read_text())["message"]


def test_one_run_is_selected_by_row_fold_and_seed(tmp_path: Path, capsys) -> None:
    assert run(arguments(tmp_path, "--one_run", "--rows=lesions,ours")) == 2
    assert "--one_run: 2 runs" in capsys.readouterr().err


def wrong(table: Table, *overrides: str) -> str:
    return "\n".join(map(str, table_errors(table, overrides)))


def test_all_that_is_wrong_with_a_table_is_told_at_once() -> None:
    table = get_table()
    lesions, grader, ours = table.rows
    bad = dataclasses.replace(ours.config, loss=dataclasses.replace(ours.config.loss, beta=-1.0))
    two = dataclasses.replace(grader.config.grader, architectures=("vgg16", "resnet18"), weights=("", ""))
    rows = (
        dataclasses.replace(lesions, starts_from="ours", published={"Dice": 1.0}),
        dataclasses.replace(grader, config=dataclasses.replace(bad, grader=two)),
        dataclasses.replace(ours, config=bad, part="network"),
        dataclasses.replace(ours, config=bad, part="nothing"),
    )
    text = wrong(dataclasses.replace(table, rows=rows, folds=(0, 1), seeds=(3, 3), reference="nobody"), "seed", "data.fold")
    for part in (
        "row lesions: starts_from: 'ours'", "row lesions: published: Dice", "row vgg16: grader.architectures",
        "loss.beta (row vgg16, ours): -1.0", "part: 'nothing'", "rows: 'ours' twice", "reference: 'nobody'",
        "seeds: (3, 3)", "2 folds of 'official'", "--config.seed", "use --seeds", "--config.data.fold", "use --folds",
    ):  # fmt: skip
        assert part in text, part
    assert wrong(table) == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def get_table():\n    return 3\n", "get_table() returns a int"),
        ("from pldmlt_jax.table_config import Table\ndef get_table():\n    return Table('a', 'A', ())\n", "no rows"),
        ("raise SystemExit\n", "get_table() -> Table"),
        ("def get_config():\n    return 3\n", "has no attribute 'get_table'"),
    ],
)
def test_files_that_make_no_table_are_told(capsys, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(text)
    assert run(["main.py", "compare", f"--config={file}"]) == 2
    message = capsys.readouterr().err
    assert str(file) in message and told in message and "Traceback" not in message


def test_the_command_that_a_table_keeps_names_no_place_of_this_machine() -> None:
    files = ("--config.model.weights=/a b/own.pth", "--config.grader.weights=('/a/x.pth','y.pth')")
    words = ("compare", f"--config={TABLE}", "--workdir=/w", "--config.data.root=/d", "--config.loss.beta=2.0", *files)
    kept = (
        f"--config={TABLE} --config.loss.beta=2.0 --config.model.weights=own.pth --config.grader.weights=('x.pth','y.pth')"
    )
    assert portable_command(words) == f"python main.py compare {kept}"


def test_flags_of_a_table_are_checked_and_a_table_is_no_config(capsys) -> None:
    assert run(["main.py", "compare", f"--config={TABLE}", "--rows=ous,lesions", "--folds=x"]) == 2
    message = capsys.readouterr().err
    assert "did you mean ours?" in message and "--folds: 'x'" in message
    assert run(["main.py", f"--config={TABLE}"]) == 2
    assert "it is a table: python main.py compare" in capsys.readouterr().err
    assert run(["main.py", "compare", f"--config={TABLE}", "--config.loss.bta=1", "--config.loss.alpha=7"]) == 2
    message = capsys.readouterr().err
    assert "did you mean --config.loss.beta?" in message and "loss.alpha (every row): 7.0" in message


def test_a_row_brings_the_one_that_it_starts_from_and_a_cell_has_what_the_table_sets() -> None:
    parsed = parse(["main.py", *arguments(Path("r"), "--rows=ours", "--seeds=4", "--config.loss.beta=2")[1:]], tuple(VERBS))
    assert parsed is not None and parsed.table is not None
    assert tuple(add_starting_rows(parsed.table, parsed.rows)) == ("lesions", "ours")
    last = list_runs(parsed.table, parsed.workdir)[-1]
    assert last.workdir == Path("r/table/ours/fold0_seed4")
    config = last.config
    assert (config.name, config.seed, config.loss.beta) == ("ours", 4, 2.0)
    assert config.train.init_from == "r/table/lesions/fold0_seed4"


def test_missing_sets_and_weights_of_all_rows_are_told_before_anything_runs(capsys, tmp_path: Path) -> None:
    command = ["main.py", "compare", "--config=configs/tables/table1_laptop.py", f"--config.data.root={tmp_path}"]
    assert run([*command, f"--workdir={tmp_path / 'w'}", "--config.model.weights=nowhere.pth"]) == 2
    message = capsys.readouterr().err
    assert "A. Segmentation" in message and message.count("nowhere.pth") == 1
    assert not (tmp_path / "w").exists()


TABLES = sorted(path.stem for path in Path("configs/tables").glob("*.py") if "def get_table" in path.read_text())


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_configs_are_valid(name: str) -> None:
    parsed = parse(["main.py", "compare", f"--config=configs/tables/{name}.py"], tuple(VERBS))
    assert parsed is not None and parsed.table is not None
    assert wrong(parsed.table) == "" and parsed.table.name == name


PRINTED = {
    "unet": "UNet", "linknet": "LinkNet", "deeplabv3plus": "DeepLabv3+", "fpn": "FPN", "mtunet": "MTUnet", "ours": "Ours",
    "nasnet_mobile": "NASNet", "densenet201": "DenseNet-201", "resnext50_32x4d": "ResNeXt-50",
    "resnext101_32x8d": "ResNeXt-101",
    "ls": "✓", "beta1_fixed": "✓✓", "beta1_update": "✓✓✓", "beta08_update": "✓✓✓✓",
}  # fmt: skip
"""Row -> what its line in the paper is about, without citations; in Table 3 the marks."""


def test_published_figures_are_those_of_the_papers_own_line() -> None:
    paper = ROOT.parent / "shared" / "paper.txt"
    if not paper.exists():
        pytest.skip("../shared/paper.txt is not there")
    lines = [[cell.split(" [")[0].strip() for cell in line.split("\t")] for line in paper.read_text("utf-8").splitlines()]
    for name in TABLES:
        parsed = parse(["main.py", "compare", f"--config=configs/tables/{name}.py"], tuple(VERBS))
        assert parsed is not None and parsed.table is not None
        for row in parsed.table.rows:
            for together in (("mDice", "mIOU"), ("Accuracy",)):
                printed = [{f"{row.published[f]:.2f}", f"{row.published[f]:.3f}"} for f in together if f in row.published]
                if printed:
                    (line,) = [line for line in lines if all(texts & set(line) for texts in printed)]
                    assert PRINTED[row.name] in [*line, "".join(cell for cell in line if cell == "✓")], (name, row.name)


def test_table_2_has_every_line_of_the_papers_grading() -> None:
    """All of Table 1's lower half on the same images, and all of Table 2."""
    for name, rows in (("table2", set(rows_of.GRADERS) | {"mtunet", "ours"}), ("table2_ddr", set(rows_of.DDR))):
        parsed = parse(["main.py", "compare", f"--config=configs/tables/{name}.py"], tuple(VERBS))
        assert parsed is not None and parsed.table is not None
        assert {row.name for row in parsed.table.rows if row.published} == rows


def test_one_file_of_vgg16_is_enough_for_the_rows_that_have_no_other_network() -> None:
    """The command line of table1_laptop.py for a machine without a network: its grader starts from the same file."""
    command = ["main.py", "compare", "--config=configs/tables/table1_laptop.py", "--config.model.weights=own.pth"]
    parsed = parse([*command, "--rows=unet,mtunet,ours"], tuple(VERBS))
    assert parsed is not None and parsed.table is not None
    for name in parsed.rows:
        config = parsed.table.row(name).config
        assert {config.model.weights, *grader_weight_names(config)} == {"own.pth"}


def threshold_without_pixels(masks: Path) -> float:
    """In the widest gap between the probabilities around one half: `evaluate` and `predict` ask other batches, which moves a
    probability by rounding, and one that is the threshold to 1e-7 would fall on either side of it.
    """
    pictures = [np.asarray(Image.open(path)).ravel() for path in masks.glob("*_lesion_probability.png")]
    values = np.unique(np.concatenate(pictures)) / 65535
    values = values[(values > 0.3) & (values < 0.7)]
    i = int(np.argmax(np.diff(values)))
    assert values[i + 1] - values[i] > 1e-4
    return float(values[i : i + 2].mean())


def test_masks_from_files_score_as_the_network_that_wrote_them(root: Path, tmp_path: Path, capsys) -> None:
    """What `predict --probabilities` writes, fed back as any other method's files, at the photographs' own size."""
    trained, cache = root / "table/ours/fold0_seed0", root / "cache"
    photographs = next(cache.glob("synthetic-*")) / "A. Segmentation/1. Original Images/b. Testing Set"
    predicted = ["main.py", "predict", f"--checkpoint={trained}", f"--input={photographs}", f"--output={tmp_path / 'masks'}"]
    assert run([*predicted, "--probabilities"]) == 0
    threshold = f"--config.evaluation.threshold={threshold_without_pixels(tmp_path / 'masks')}"
    assert run(["main.py", "evaluate", f"--checkpoint={trained}", f"--workdir={tmp_path / 'ours'}", threshold]) == 0
    config = [
        "--config=tests/faults/tiny.py",
        f"--config.data.cache_dir={cache}",
        f"--output={tmp_path / 'scores'}",
        threshold,
    ]
    score = ["main.py", "evaluate", f"--predictions={tmp_path / 'masks'}", *config]
    assert run(score) == 0
    ours, theirs = (json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in ("ours", "scores"))
    shared = [name for name in theirs if name.endswith("_original_size")]
    assert {"seg/foreground/dice_original_size", "baseline/channel_threshold/dice_original_size"} <= set(shared)
    for name in shared:  # 16 bits of a probability move what is computed of probabilities a little
        of_probabilities = "soft" in name or "/ap" in name or "/aupr" in name
        assert theirs[name] == pytest.approx(ours[name], abs=1e-4 if of_probabilities else 1e-9), name
    curves = [json.loads((tmp_path / x / "curves.json").read_text())["original_size"] for x in ("ours", "scores")]
    assert curves[0]["lesion"]["ap"] == pytest.approx(curves[1]["lesion"]["ap"], abs=1e-4)
    (tmp_path / "masks/IDRiD_99.png").write_bytes(b"")
    lacking = sorted((tmp_path / "masks").glob("*_lesion_probability.png"))
    lacking[0].unlink()
    lacking[1].write_bytes(lacking[1].read_bytes()[:100])
    capsys.readouterr()
    assert run(score) == 2
    message = capsys.readouterr().err
    assert "no image of the set has this name" in message and "no file of" in message and lacking[1].name in message
    assert run([*score, "--checkpoint=x"]) == 2
    assert "remove one of the two" in capsys.readouterr().err

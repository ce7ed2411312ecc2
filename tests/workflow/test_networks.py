"""The program with other networks than the paper's, as a user would run them."""

import json

import pytest

from pldmlt_jax.cli.app import run

pytestmark = pytest.mark.slow

SMALL = (
    "--config.data.synthetic.height_px=96", "--config.data.synthetic.num_segmentation_train=12",
    "--config.data.synthetic.num_segmentation_test=4", "--config.data.synthetic.num_grading_train=20",
    "--config.data.synthetic.num_grading_test=6", "--config.data.size_px=64", "--config.train.batch_size=2",
    "--config.train.theta_units=2", "--config.train.max_rounds=1", "--config.evaluation.batch_size=2",
    "--config.evaluation.num_examples=1", "--config.evaluation.original_size=False",
    "--config.model.encoder_norm=False", "--config.model.full_res_skip=False",
    "--config.model.encoder_base_filters=8", "--config.model.encoder_max_blocks=1", "--config.meta.enabled=False",
)  # fmt: skip


def test_mtunet_is_a_segmentation_network_trained_on_with_graded_images(tmp_path, capsys):
    """MTUnet's way, with another network: lesions alone first, then grades and the network's own masks of graded images."""
    shared = ["main.py", f"--config.data.cache_dir={tmp_path / 'cache'}", *SMALL]
    shared += ["--config.model.encoder=resnet18", "--config.model.decoder=linknet"]
    lesions = ["--config.data.grading=none", "--config.loss.grading=False", f"--workdir={tmp_path / 'lesions'}"]
    assert run([shared[0], "train", *shared[1:], *lesions]) == 0
    both = [
        *shared, f"--workdir={tmp_path / 'both'}", f"--config.train.init_from={tmp_path / 'lesions'}",
        "--config.pseudo.source=none", "--config.loss.beta=0", "--config.loss.graded_weight=1",
        "--config.loss.self_training=1", "--config.model.grade_head=ordinal",
    ]  # fmt: skip
    capsys.readouterr()
    assert run(both) == 0
    assert "kept at their initial values, since they differ: head\n" in capsys.readouterr().out
    record = json.loads((tmp_path / "both" / "weights.json").read_text())
    assert record["init_from"] == str(tmp_path / "lesions")
    assert record["kept_at_start"] == ["head"]
    lines = [json.loads(line) for line in (tmp_path / "both" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["phase"] == "theta"]
    assert steps
    assert all(line["self_training_loss"] > 0 and line["graded_loss"] > 0 and line["grade_loss"] == 0 for line in steps)
    metrics = json.loads((tmp_path / "both" / "metrics.json").read_text())
    assert 0 <= metrics["grade/accuracy"] <= 1
    assert not (tmp_path / "both" / "graders").exists()
    assert run(both) == 0
    assert capsys.readouterr().out.count("skipped") == 5


def test_a_start_from_nowhere_is_told_before_anything_runs(tmp_path, capsys):
    assert run(["main.py", f"--workdir={tmp_path / 'run'}", f"--config.train.init_from={tmp_path}"]) == 2
    assert "no checkpoint in it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

"""Two processes on this machine do what one does: trained and scored through the command line, on a tiny drawn set."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from pldmlt_jax.cli.app import run
from pldmlt_jax.cli.flags import parse
from pldmlt_jax.io.csv_files import write_rows
from pldmlt_jax.training.checkpoint import Checkpoints
from pldmlt_jax.training.log import read_log
from pldmlt_jax.workflow.context import Context
from tests.workflow.test_end_to_end import TINY

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

SMALL = (
    "--config.data.size_px=32", "--config.train.max_rounds=1",
    "--config.model.encoder_filters=(4,8)", "--config.model.encoder_convs=(1,1)",
    "--config.model.decoder_filters=(8,4)", "--config.optim.optimizer=sgd", "--config.optim.schedule=constant",
    "--config.meta.optimizer=sgd", "--config.train.theta_units=3", "--config.train.label_units=3",
    "--config.evaluation.batch_size=3",
)  # fmt: skip
"""Both kinds of step under SGD, because Adam hides gradients of a wrong size. Three images do not divide by two."""

OVERRIDDEN = tuple(flag.split("=")[0] + "=" for flag in SMALL)
FLAGS = [*(flag for flag in TINY if not flag.startswith(OVERRIDDEN)), *SMALL]

TWO_VERBS = """
import sys
from pldmlt_jax.cli.app import run
sys.exit(run(["main.py", "train", *sys.argv[1:]]) or run(["main.py", "evaluate", *sys.argv[1:]]))
"""


def arguments(workdir: Path, *verb: str) -> list[str]:
    return ["main.py", *verb, f"--workdir={workdir}", f"--config.data.cache_dir={workdir.parent / 'cache'}", *FLAGS]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(workdir: Path, process: int, port: int) -> subprocess.Popen:
    flags = [
        *arguments(workdir)[1:], f"--config.parallel.coordinator=127.0.0.1:{port}", "--config.parallel.num_processes=2",
        f"--config.parallel.process_id={process}",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TWO_VERBS, *flags]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path, list[str]]:
    """Workdirs of one process, by pmap, and of two, by a mesh, and what each of the two printed."""
    folder = tmp_path_factory.mktemp("runs")
    one, two = folder / "one", folder / "two"
    assert run(arguments(one, "prepare")) == 0
    parsed = parse(arguments(one), ("run",))
    assert parsed is not None
    segmented = Context(parsed).segmented
    splits = {id(selection.split): selection.split for selection in segmented.values()}.values()
    ids = [image_id for split in splits for image_id in split.image_ids]
    for directory in (one, two):
        directory.mkdir(exist_ok=True)
        table = [{"image": name, "before": i % 5, "after": i % 5, "true_grade": ""} for i, name in enumerate(ids)]
        write_rows(directory / "pseudo_labels.csv", table)
    port = free_port()
    processes = [start(two, i, port) for i in (0, 1)]
    try:
        for verb in ("train", "evaluate"):
            assert run([*arguments(one, verb), "--config.parallel.mode=pmap"]) == 0
        ended = [(process.communicate(timeout=300), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for (_, err), status in ended:
        assert status == 0, err
    printed = [out for (out, _), _ in ended]
    return one, two, printed


def test_two_processes_train_what_one_does(runs):
    states = []
    for workdir in runs[:2]:
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            assert checkpoints.latest_step is not None
            states.append(checkpoints.restore_raw(checkpoints.latest_step))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), *states)
    one, two = (read_log(workdir / "log.jsonl") for workdir in runs[:2])
    assert [line["phase"] for line in two] == [line["phase"] for line in one]
    for name in one[-1].keys() - {"seconds", "phase"}:
        assert two[-1][name] == pytest.approx(one[-1][name], rel=1e-3, abs=1e-5), name


def test_two_processes_score_what_one_does(runs):
    one, two = (json.loads((workdir / "metrics.json").read_text()) for workdir in runs[:2])
    assert two.keys() == one.keys()
    for name, value in one.items():
        expected = value if isinstance(value, str | list) or value is None else pytest.approx(value, rel=1e-2, abs=1e-3)
        assert two[name] == expected, name
    rows = [(workdir / "per_image.csv").read_text().splitlines() for workdir in runs[:2]]
    assert [row.split(",")[0] for row in rows[1]] == [row.split(",")[0] for row in rows[0]]


def test_the_first_process_alone_writes_and_prints(runs):
    one, two, printed = runs
    assert "train:" in printed[0] and "train:" not in printed[1]
    names = [sorted(path.name.split(".")[0] for path in workdir.iterdir()) for workdir in (one, two)]
    assert set(names[1]) <= set(names[0])
    assert len(list(two.glob("events.*"))) == 1

"""What makes a stage run anew, and what names predictions get."""

import shutil
from collections import Counter

import cv2
import numpy as np
import pytest
from data.count_listings import count_listings
from data.idrid_files import SHAPE, write_grading, write_segmentation

from pldmlt_jax.cli.app import run
from pldmlt_jax.cli.flags import parse
from pldmlt_jax.data.datasets.idrid import IdridGrading, IdridSegmentation
from pldmlt_jax.data.datasets.registry import RawListings
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.fingerprints import compute_fingerprint, fingerprint_raw_files, fingerprint_raw_sets
from pldmlt_jax.workflow.method_stages import STAGES
from pldmlt_jax.workflow.options import RunOptions


@pytest.fixture
def config(tmp_path):
    write_segmentation(tmp_path / "IDRiD", {"IDRiD_01": ["MA"]})
    write_grading(tmp_path / "IDRiD", {"IDRiD_001": 2, "IDRiD_002": 0})
    arguments = parse(["main.py", "--config=configs/idrid.py", f"--config.data.root={tmp_path}"], ("run",))
    assert arguments is not None
    return arguments.config


def contents(config):
    listings = RawListings(config.data)
    return "\n".join(fingerprint_raw_files(name, config.data, listings, []) for name in ("idrid_s", "idrid_d"))


STAGE = {stage.name: stage for stage in STAGES}


def context_of(config, tmp_path):
    return Context(RunOptions(config, tmp_path / "run"))


def begun(stage, config, tmp_path):
    """The fingerprint that decides whether a stage goes on from what it has begun."""
    raw = fingerprint_raw_sets(config.data, RawListings(config.data), [], defer_errors=False)
    return compute_fingerprint(STAGE[stage], context_of(config, tmp_path), raw).begun


def test_a_stage_begins_anew_for_what_it_depends_on_and_nothing_else(config, tmp_path):
    def of(stage):
        return begun(stage, config, tmp_path)

    stages = ("train-grader", "pseudo-label", "train")
    weights = tmp_path / "vgg.pth"
    weights.write_bytes(b"weights")
    config.model.weights = str(weights)
    before = {stage: of(stage) for stage in stages}
    config.model.weights = str(weights.rename(tmp_path / "moved.pth"))
    assert {stage: of(stage) for stage in stages} == before
    (tmp_path / "moved.pth").write_bytes(b"others")
    assert [of(stage) == before[stage] for stage in stages] == [True, True, False]  # the graders start at random
    (tmp_path / "moved.pth").write_bytes(b"weights")

    config.data.mask_reduction, config.data.size_px = "area", 512
    assert [of(stage) == before[stage] for stage in stages] == [True, True, False]
    config.data.mask_reduction, config.data.size_px = "max", 1024

    write_grading(tmp_path / "IDRiD", {"IDRiD_001": 3, "IDRiD_002": 0})  # counts for stage 2 by the pseudo-labels only
    assert [of(stage) == before[stage] for stage in stages] == [False, False, True]


def test_raw_files_are_listed_once_for_fingerprints_preparation_and_every_opening(config, tmp_path, monkeypatch):
    """At several sizes and reductions, each of which is packed by a builder of its own."""
    write_segmentation(tmp_path / "IDRiD", {f"IDRiD_{i:02d}": ["MA"] for i in range(1, 9)})
    write_grading(tmp_path / "IDRiD", {f"IDRiD_{i:03d}": i % 5 for i in range(1, 11)}, first_seed=100)
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.size_px, config.grader.size_px, config.data.mask_reduction = 32, 48, "area"
    listed = Counter()
    for builder in (IdridSegmentation, IdridGrading):
        count_listings(builder, listed, monkeypatch)
    context = context_of(config, tmp_path)
    fingerprint_raw_sets(config.data, context.listings, [], defer_errors=True)
    context.prepare_sets()
    context.open_sets(("segmented", "segmented_for_graders", "graded_for_graders", "truly_graded"))
    assert listed == {"IdridSegmentation": 1, "IdridGrading": 1}
    assert len(list((tmp_path / "cache").rglob("*-train.array_record*"))) == 4
    assert not any((tmp_path / "cache" / "photographs").iterdir())


def test_longer_training_goes_on_unless_its_rate_follows_a_plan(config, tmp_path):
    for schedule, goes_on in (("constant", True), ("cosine", False)):
        config.optim.schedule, config.train.max_rounds = schedule, 10
        before = begun("train", config, tmp_path)
        config.train.max_rounds = 20
        assert (begun("train", config, tmp_path) == before) == goes_on
        config.train.max_minutes = 5.0
        config.train.max_rounds = 10
        assert begun("train", config, tmp_path) == before


def test_what_is_wrong_with_both_sets_and_the_weights_is_told_at_once(config, tmp_path, capsys):
    (tmp_path / "IDRiD" / "A. Segmentation").rename(tmp_path / "IDRiD" / "A")
    write_grading(tmp_path / "IDRiD", {"IDRiD_001": 7, "IDRiD_002": 0})
    more = (f"--config.data.root={tmp_path}", f"--workdir={tmp_path / 'run'}", "--config.model.weights=none.pth")
    assert run(["main.py", "--config=configs/idrid.py", *more]) == 2
    message = capsys.readouterr().err
    for part in ("no images in", "grade '7' of IDRiD_001", "none.pth: no such file"):
        assert part in message


def test_corrected_grade_changes_the_fingerprint(config, tmp_path):
    before = contents(config)
    assert contents(config) == before
    write_grading(tmp_path / "IDRiD", {"IDRiD_001": 3, "IDRiD_002": 0})
    assert contents(config) != before


def test_stray_mask_changes_the_fingerprint_of_what_is_prepared_already(config, tmp_path):
    before = contents(config)
    mask = next((tmp_path / "IDRiD").rglob("IDRiD_01_MA.tif"))
    shutil.copy(mask, mask.with_name("IDRiD_09_MA.tif"))
    assert contents(config) != before


def test_redrawn_mask_of_the_same_size_changes_the_fingerprint(config, tmp_path):
    path = next((tmp_path / "IDRiD").rglob("IDRiD_01_MA.tif"))
    masks = []
    for column in (40, 41):
        mask = np.zeros((*SHAPE, 3), np.uint8)
        mask[20:22, column] = (0, 0, 255)
        cv2.imwrite(str(path), mask, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
        masks.append((path.stat().st_size, contents(config)))
    assert masks[0][0] == masks[1][0]
    assert masks[0][1] != masks[1][1]


def test_moved_data_root_keeps_the_fingerprint(config, tmp_path):
    before = contents(config)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "IDRiD").rename(tmp_path / "elsewhere" / "IDRiD")
    config.data.root = str(tmp_path / "elsewhere")
    assert contents(config) == before

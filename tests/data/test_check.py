"""`check`: every kind of damage is found, in the right file, with the right severity, in one pass; sound sets are silent."""

import dataclasses
import json
import shutil
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from data import ddr_files, diaretdb1_files
from data.idrid_files import SHAPE, photograph, write_grading, write_segmentation

from pldmlt_jax.cli.app import run
from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.check import DIAMETER_BINS, check_dataset, diameter_histogram, find_leakage
from pldmlt_jax.data.findings import Finding
from pldmlt_jax.data.plan import suggest_size, summarise_lesion_sizes

NAMES = [f"IDRiD_{i:02d}" for i in range(1, 13)]


@pytest.fixture
def data(tmp_path) -> DataConfig:
    write_segmentation(tmp_path / "IDRiD", {name: ["MA", "HE", "OD"] for name in NAMES})
    write_grading(tmp_path / "IDRiD", {f"IDRiD_{i:03d}": i % 5 for i in range(1, 16)})
    return DataConfig(root=str(tmp_path), cache_dir=str(tmp_path / "cache"), size_px=64, num_threads=2)


def images(data: DataConfig) -> Path:
    return Path(data.root) / "IDRiD" / "A. Segmentation" / "1. Original Images" / "a. Training Set"


def masks(data: DataConfig) -> Path:
    return Path(data.root) / "IDRiD" / "A. Segmentation" / "2. All Segmentation Groundtruths" / "a. Training Set"


def graded_images(data: DataConfig) -> Path:
    return Path(data.root) / "IDRiD" / "B. Disease Grading" / "1. Original Images" / "a. Training Set"


def found(findings: list[Finding], severity: str = "") -> dict[str, set[str]]:
    """Kind -> names of the files, but for the numbers of photographs, which are small here, and the palette's note."""
    kinds: dict[str, set[str]] = {}
    for finding in findings:
        if finding.kind not in ("count", "mask_dark") and severity in ("", finding.severity):
            kinds.setdefault(finding.kind, set()).add(Path(finding.file).name)
    return kinds


def test_sound_set_has_nothing_but_notes(data):
    report = check_dataset("idrid_s", data)
    assert found(report.findings) == {}
    dark = [finding for finding in report.findings if finding.kind == "mask_dark"]
    assert len(dark) == 3 * len(NAMES)
    assert {finding.severity for finding in dark} == {"note"}
    assert "76 at most" in dark[0].found


def test_every_damage_is_found_in_one_pass(data):
    base, lesions = images(data), masks(data)
    (base / f"{NAMES[0]}.jpg").write_bytes(b"")
    broken = base / f"{NAMES[1]}.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    (base / f"{NAMES[2]}.jpg").write_bytes(b"no picture")
    cv2.imwrite(str(base / f"{NAMES[3]}.jpg"), photograph(3) // 16)
    microaneurysms = lesions / "1. Microaneurysms"
    (microaneurysms / f"{NAMES[4]}_MA.tif").write_bytes(b"no mask")
    cv2.imwrite(str(microaneurysms / f"{NAMES[5]}_MA.tif"), np.zeros((30, 40), np.uint8))
    cv2.imwrite(str(microaneurysms / f"{NAMES[6]}_MA.tif"), np.zeros(SHAPE, np.uint8))
    cv2.imwrite(str(microaneurysms / f"{NAMES[7]}_MA.tif"), 255 - np.eye(*SHAPE, dtype=np.uint8) * 255)
    soft = np.zeros(SHAPE, np.uint8)
    soft[30, 40:45] = (60, 255, 255, 130, 9)
    cv2.imwrite(str(microaneurysms / f"{NAMES[8]}_MA.tif"), soft)
    corner = np.zeros((*SHAPE, 4), np.uint8)
    corner[..., 3] = 255
    corner[:3, :3, 2] = 255
    cv2.imwrite(str(microaneurysms / f"{NAMES[9]}_MA.tif"), corner)
    cv2.imwrite(str(microaneurysms / "IDRiD_99_MA.tif"), soft)
    (lesions / "5. Optic Disc" / f"{NAMES[10]}_OD.tif").write_bytes(b"")
    report = check_dataset("idrid_s", data)
    assert found(report.findings, "error") == {
        "listing": {"IDRiD_99_MA.tif"},
        "image": {f"{NAMES[i]}.jpg" for i in (0, 1, 2)},
        "mask": {f"{NAMES[4]}_MA.tif", f"{NAMES[5]}_MA.tif", f"{NAMES[10]}_OD.tif"},
    }
    assert found(report.findings, "warning") == {
        "dark": {f"{NAMES[3]}.jpg"},
        "mask_black": {f"{NAMES[6]}_MA.tif"},
        "mask_inverted": {f"{NAMES[7]}_MA.tif"},
        "mask_levels": {f"{NAMES[8]}_MA.tif"},
        "mask_outside": {f"{NAMES[9]}_MA.tif"},
    }
    assert found(report.findings, "note") == {"mask_alpha": {f"{NAMES[9]}_MA.tif"}}


def test_repeated_photographs_within_and_across_splits_and_sets(data):
    base = graded_images(data)
    write_grading(Path(data.root) / "IDRiD", {"IDRiD_001": 1, "IDRiD_002": 2}, "test", first_seed=300)
    shutil.copy(base / "IDRiD_001.jpg", base / "IDRiD_006.jpg")  # both of grade 1
    shutil.copy(base / "IDRiD_003.jpg", base / "IDRiD_004.jpg")  # grades 3 and 4
    larger = cv2.resize(cv2.imread(str(base / "IDRiD_002.jpg")), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(base / "IDRiD_007.jpg"), larger)  # both of grade 2
    test = base.with_name("b. Testing Set")
    shutil.copy(base / "IDRiD_012.jpg", test / "IDRiD_002.jpg")  # both of grade 2
    shutil.copy(images(data) / f"{NAMES[0]}.jpg", base / "IDRiD_015.jpg")
    graded, segmented = check_dataset("idrid_d", data), check_dataset("idrid_s", data)
    assert found(graded.findings, "warning") == {
        "duplicate": {"IDRiD_006.jpg"},
        "near_duplicate": {"IDRiD_007.jpg"},
        "conflicting_grades": {"IDRiD_004.jpg"},
        "duplicate_across_splits": {"IDRiD_002.jpg"},
    }
    assert found(graded.findings, "error") == {}
    assert found(list(find_leakage(segmented, graded, data.leakage_distance))) == {"leakage": {"IDRiD_015.jpg"}}


def test_missing_set_is_one_error_and_wrong_grades_are_all_told(data, tmp_path):
    write_grading(Path(data.root) / "IDRiD", {"IDRiD_001": 7, "IDRiD_002": "x"})
    report = check_dataset("idrid_d", data)
    kinds = found(report.findings, "error")
    assert len([finding for finding in report.findings if finding.kind == "listing"]) == 2 + 13  # and rows of 13 images
    assert set(kinds) == {"listing"}
    (finding,) = check_dataset("diaretdb1", DataConfig(root=str(tmp_path / "nowhere"))).findings
    assert (finding.kind, finding.severity) == ("layout", "error")
    assert "no such folder" in finding.found


def test_numbers_of_photographs_are_compared_with_the_release(data):
    counts = [finding for finding in check_dataset("idrid_s", data).findings if finding.kind == "count"]
    assert [(finding.found, finding.expected) for finding in counts] == [
        ("12 photographs in the train part", "54, as released"), ("0 photographs in the test part", "27, as released"),
    ]  # fmt: skip


def test_renumbered_markings_are_noticed_by_their_discs(tmp_path):
    dot = diaretdb1_files.marking(diaretdb1_files.circle(31, 31, 6), "High", "Disc")
    diaretdb1_files.write_set(tmp_path / "DiaRetDB1", {i: [(dot,)] * 4 for i in (1, 2)})
    for number, brightness in ((1, 250), (2, 45)):
        image = photograph(number)
        cv2.circle(image, (30, 30), 9, (brightness,) * 3, -1)
        cv2.imwrite(str(tmp_path / "DiaRetDB1" / "images" / f"diaretdb1_image{number:03d}.png"), image)
    report = check_dataset("diaretdb1", DataConfig(root=str(tmp_path), cache_dir=str(tmp_path / "cache")))
    assert found(report.findings, "warning") == {"no_lesions": {"DiaRetDB1"}, "disc_marks": {"diaretdb1_image002.png"}}


def test_black_masks_are_no_warning_where_they_mean_that_there_is_none(tmp_path):
    ddr_files.write_segmentation(tmp_path / "DDR-dataset", {"a": ["MA"], "b": []})
    report = check_dataset("ddr_s", DataConfig(root=str(tmp_path), cache_dir=str(tmp_path / "cache")))
    assert found(report.findings) == {}


def test_a_folder_whose_masks_are_all_black_is_noticed(tmp_path):
    for name, value in (("a", 0), ("b", 255)):
        for part in ("images", "masks/MA"):
            (tmp_path / part).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), photograph(ord(name)))
        mask = np.zeros(SHAPE, np.uint8)
        mask[30, 40] = value
        cv2.imwrite(str(tmp_path / "masks" / "MA" / f"{name}.png"), mask)
    data = DataConfig(folder_root=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert found(check_dataset("folder_s", data).findings) == {"mask_black": {"a.png"}}
    (tmp_path / "masks" / "MA" / "b.png").unlink()
    findings = check_dataset("folder_s", data).findings
    assert found(findings, "warning") == {"no_lesions": {tmp_path.name}}
    assert found(findings, "note") == {"mask_black": {"a.png"}}


def test_diameters_are_those_of_circles_of_the_same_area():
    mask = np.zeros((1000, 1000), bool)
    for i, diameter in enumerate((4, 8, 40)):
        cv2.circle(canvas := mask.astype(np.uint8), (100 + 200 * i, 500), diameter // 2, 1, -1)
        mask = canvas.astype(bool)
    counts = diameter_histogram(mask, 1000)
    centres = 2.0 ** ((DIAMETER_BINS[:-1] + DIAMETER_BINS[1:]) / 2)
    found_px = np.repeat(centres, counts) * 1000
    np.testing.assert_allclose(found_px, [4.1, 7.9, 40.0], rtol=0.1)
    everything = np.zeros((5, len(counts)), np.int64)
    everything[0] = counts
    at_250 = summarise_lesion_sizes(everything, 250)
    assert set(at_250) == {"MA"}
    assert at_250["MA"].number == 3
    assert at_250["MA"].median_px == pytest.approx(2.0, rel=0.1)
    assert at_250["MA"].below_1_px == 0
    assert summarise_lesion_sizes(everything, 200)["MA"].below_1_px == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("available_gib", "field_px", "size", "batch", "wide"),
    [(1000, 4000, 512, 16, True), (3, 4000, 512, 2, True), (1, 4000, 384, 1, False), (1000, 400, 384, 16, False)],
)
def test_suggestion_is_the_smallest_size_that_shows_the_lesions_and_fits(available_gib, field_px, size, batch, wide):
    """Lesions of 1/200 of the field are 2 px wide at 400 px; an image of 512 px takes 1 GiB."""
    diameters = np.zeros((5, len(DIAMETER_BINS) - 1), np.int64)
    diameters[0, np.searchsorted(DIAMETER_BINS, np.log2(1 / 200)) - 1] = 10
    chosen = suggest_size(diameters, field_px, 0, 2**30 / 512**2, int(available_gib * 2**30), 32)
    assert chosen == (size, batch, int(batch * 2**30 * (size / 512) ** 2), wide)


def test_memory_does_not_grow_with_the_pictures(data):
    """Four times the photographs, and no more kept of them than a hash and a record."""
    peaks, shape = [], (240, 360)
    data = dataclasses.replace(data, num_threads=1)  # two now and then have their largest arrays at the same moment
    for number in (15, 60):
        write_grading(Path(data.root) / "IDRiD", {f"IDRiD_{i:03d}": i % 5 for i in range(1, number + 1)}, shape=shape)
        tracemalloc.start()
        report = check_dataset("idrid_d", data)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(report.photographs) == number
    assert peaks[1] - peaks[0] < 45 * shape[0] * shape[1] / 4  # the pictures have three bytes a pixel


def check(data: DataConfig, *more: str) -> int:
    small = ("--config.model.encoder_filters=(4,4,8,8,8)", "--config.model.decoder_filters=(8,8,4,4,4)")
    return run(
        ["main.py", "check", "--config=configs/idrid_laptop.py", f"--config.data.root={data.root}",
         f"--config.data.cache_dir={data.cache_dir}", f"--workdir={data.root}/run", *small, *more]
    )  # fmt: skip


def test_command_line_ends_with_a_plan_or_with_status_2(data, capsys):
    assert check(data) == 0
    out = capsys.readouterr().out
    for part in ("lesions at 320 px", "at 320 px and batch 2: a training step", "suggested: --config.data.size_px="):
        assert part in out
    report = json.loads((Path(data.root) / "run" / "data_report.json").read_text())
    assert report["plan"]["lesions"]["MA"]["number"] == len(NAMES)
    assert set(report["findings"][0]) == {"file", "kind", "severity", "found", "expected", "action"}

    (images(data) / f"{NAMES[0]}.jpg").write_bytes(b"")
    (graded_images(data) / "IDRiD_003.jpg").write_bytes(b"")
    assert check(data) == 2
    captured = capsys.readouterr()
    assert "2 errors" in captured.err
    assert f"{NAMES[0]}.jpg: an empty file" in captured.out
    assert "IDRiD_003.jpg: an empty file" in captured.out
    assert json.loads((Path(data.root) / "run" / "data_report.json").read_text())["counts"]["error"] == 2


def test_sets_without_grades_are_checked_alone(data, capsys):
    shutil.rmtree(Path(data.root) / "IDRiD" / "B. Disease Grading")
    assert check(data) == 2
    assert check(data, "--config.data.grading=none", "--config.loss.grading=False", "--config.meta.enabled=False") == 0
    assert "meta step" not in capsys.readouterr().out.split("suggested")[-2].split("lesions at")[-1]

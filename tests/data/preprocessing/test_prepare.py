"""From raw files to array_record and back: bits, counts, reuse, and every bad file at once."""

import dataclasses
import errno
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from data.idrid_files import SHAPE, photograph, write_grading, write_segmentation

from pldmlt_jax.config import DataConfig, SyntheticConfig
from pldmlt_jax.data import store
from pldmlt_jax.data.datasets.base import FundusConfig
from pldmlt_jax.data.datasets.idrid import IdridSegmentation
from pldmlt_jax.data.preprocessing.geometry import read_image
from pldmlt_jax.data.preprocessing.masks import fuse_lesions, mask_to_network, read_mask
from pldmlt_jax.data.preprocessing.prepare import prepare_record
from pldmlt_jax.data.splits.near_duplicates import find_duplicates_across_sets
from pldmlt_jax.data.splits.selection import known_grades, official_splits, select_graded, select_segmented
from pldmlt_jax.data.splits.summary import dataset_summary
from pldmlt_jax.data.store import open_prepared
from pldmlt_jax.data.synthetic.dataset import SyntheticGrading
from pldmlt_jax.errors import DataError, ErrorGroup
from pldmlt_jax.io.files import partial_path, remove_leftovers
from pldmlt_jax.types import LESIONS, MASK_BITS

LESION_FILES = {
    "IDRiD_01": ["MA", "OD"], "IDRiD_02": ["MA", "HE", "EX", "SE", "OD"], "IDRiD_03": [], "IDRiD_04": ["EX"],
    "IDRiD_05": ["MA", "HE"], "IDRiD_06": ["HE", "OD"],
}  # fmt: skip


@pytest.fixture
def data(tmp_path) -> DataConfig:
    write_segmentation(tmp_path / "IDRiD", LESION_FILES)
    write_grading(tmp_path / "IDRiD", {f"IDRiD_{i:03d}": i % 5 for i in range(1, 16)})
    return DataConfig(root=str(tmp_path), cache_dir=str(tmp_path / "cache"), size_px=48, num_threads=2)


def masks_folder(data: DataConfig) -> Path:
    return Path(data.root) / "IDRiD" / "A. Segmentation" / "2. All Segmentation Groundtruths" / "a. Training Set"


def images_folder(data: DataConfig) -> Path:
    return masks_folder(data).parents[1] / "1. Original Images" / "a. Training Set"


def test_prepared_sample_holds_what_the_raw_files_say(data):
    split = open_prepared("idrid_s", data, 48)["train"]
    assert split.image_ids == list(LESION_FILES)
    for i, (record, kinds) in enumerate(zip(split.records, LESION_FILES.values(), strict=True)):
        sample, row = split[i], split.metadata[i]
        raw = {lesion: read_mask(path, SHAPE) for lesion, path in record.masks.items()}
        fused, before, after = fuse_lesions(raw, SHAPE, data)
        assert row.fused_px.tolist() == [before, after]
        assert row.lesion_px.tolist() == [6 if lesion in kinds else 0 for lesion in LESIONS]
        assert row.evidence_px.tolist() == [*row.lesion_px, 0]
        expected = mask_to_network(fused, sample.geometry, "max")
        np.testing.assert_array_equal((sample.mask_bits & MASK_BITS["fused"]) != 0, expected)
        for lesion in LESIONS:
            found = (sample.mask_bits & MASK_BITS[lesion]) != 0
            assert found.any() == (lesion in kinds)
            assert found.sum() == row.reduced_px[LESIONS.index(lesion)]
        assert ((sample.mask_bits & MASK_BITS["OD"]) != 0).any() == ("OD" in kinds)
        assert (sample.geometry.original_height_px, sample.geometry.original_width_px) == SHAPE


def test_inflation_is_the_ratio_of_areas_in_original_pixels(data):
    row = open_prepared("idrid_s", data, 48)["train"].metadata[1]
    g = row.geometry
    area = (g.crop_height_px / g.resized_height_px) * (g.crop_width_px / g.resized_width_px)
    for i, lesion in enumerate(LESIONS):
        assert row.inflation[lesion] == pytest.approx(row.reduced_px[i] * area / 6)


def test_set_without_masks_has_unknown_evidence(data):
    split = open_prepared("idrid_d", data, 48)["train"]
    assert [row.grade for row in split.metadata] == [i % 5 for i in range(1, 16)]
    assert (split.metadata[0].evidence_px == -1).all()


def test_second_opening_reads_no_raw_file_twice(data, monkeypatch):
    open_prepared("idrid_s", data, 48)
    monkeypatch.setattr("pldmlt_jax.data.preprocessing.prepare.prepare_record", lambda *_: pytest.fail("prepared again"))
    assert len(open_prepared("idrid_s", data, 48)["train"]) == 6


def test_changed_mask_is_prepared_anew(data):
    assert open_prepared("idrid_s", data, 48)["train"].metadata[3].lesion_px.tolist() == [0, 0, 6, 0]
    mask = np.zeros((*SHAPE, 3), np.uint8)
    mask[20:30, 40] = (0, 0, 255)
    cv2.imwrite(str(masks_folder(data) / "3. Hard Exudates" / "IDRiD_04_EX.tif"), mask)
    assert open_prepared("idrid_s", data, 48)["train"].metadata[3].lesion_px.tolist() == [0, 0, 10, 0]


@pytest.mark.parametrize("change", [{"resize": "stretch"}, {"mask_reduction": "area"}, {"fov_crop": False}])
def test_changed_preparation_is_prepared_anew(data, change):
    before = open_prepared("idrid_s", data, 48)["train"][1]
    after = open_prepared("idrid_s", dataclasses.replace(data, **change), 48)["train"][1]
    assert (before.mask_bits != after.mask_bits).any()


def test_every_bad_file_is_named_at_once_and_the_good_ones_are_kept(data):
    (images_folder(data) / "IDRiD_01.jpg").write_bytes(b"")
    broken = images_folder(data) / "IDRiD_03.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    cv2.imwrite(str(masks_folder(data) / "2. Haemorrhages" / "IDRiD_05_HE.tif"), np.zeros((7, 9), np.uint8))
    (masks_folder(data) / "1. Microaneurysms" / "IDRiD_02_MA.tif").write_bytes(b"none")
    with pytest.raises(ErrorGroup) as caught:
        open_prepared("idrid_s", data, 48)
    text = str(caught.value)
    assert len(caught.value.errors) == 4
    for part in ("IDRiD_01.jpg: an empty file", "IDRiD_03.jpg: a truncated image", "IDRiD_05_HE.tif: a mask 7 px high",
                 "IDRiD_02_MA.tif: not a readable mask"):  # fmt: skip
        assert part in text
    assert len(list((Path(data.cache_dir) / "photographs").glob("*.npz"))) == 2


def test_one_bad_file_is_one_plain_message(data):
    (images_folder(data) / "IDRiD_04.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"IDRiD_04\.jpg"):
        open_prepared("idrid_s", data, 48)


def test_jpeg_storage_stays_close_to_png(data):
    exact = open_prepared("idrid_s", data, 48)["train"][0].image.astype(int)
    lossy = open_prepared("idrid_s", dataclasses.replace(data, image_format="jpeg"), 48)["train"][0].image.astype(int)
    assert 0 < np.abs(exact - lossy).mean() < 6


def write_grading_copy(data: DataConfig, source: str, target: str, source_split: str = "a", target_split: str = "a") -> None:
    folders = {"a": "a. Training Set", "b": "b. Testing Set"}
    base = Path(data.root) / "IDRiD" / "B. Disease Grading" / "1. Original Images"
    content = (base / folders[source_split] / f"{source}.jpg").read_bytes()
    (base / folders[target_split] / f"{target}.jpg").write_bytes(content)


def test_leaking_photograph_of_a_split_is_not_mistaken_for_its_namesake_in_the_other(data):
    """B names its images alike in both of its splits: one leaks as IDRiD_002 of the test part, another trains as that."""
    write_grading(Path(data.root) / "IDRiD", {"IDRiD_001": 4, "IDRiD_002": 3}, "test", first_seed=300)
    base = Path(data.root) / "IDRiD"
    leaking = base / "B. Disease Grading" / "1. Original Images" / "b. Testing Set" / "IDRiD_002.jpg"
    leaking.write_bytes((images_folder(data) / "IDRiD_04.jpg").read_bytes())
    segmented = select_segmented(data)
    graded = select_graded(data, 48, segmented)
    for name in ("test", "official_test"):
        assert graded[name].image_ids == ["IDRiD_001"]
    trained = {*graded["train"].image_ids, *graded["val"].image_ids}
    assert trained == {f"IDRiD_{i:03d}" for i in range(1, 16)}


def test_photograph_that_stands_twice_is_used_once_and_not_at_all_if_its_grades_differ(data):
    write_grading(Path(data.root) / "IDRiD", {"IDRiD_001": 2, "IDRiD_002": 3}, "test", first_seed=300)
    write_grading_copy(data, "IDRiD_001", "IDRiD_006")  # both of grade 1
    write_grading_copy(data, "IDRiD_003", "IDRiD_004")  # grades 3 and 4
    write_grading_copy(data, "IDRiD_001", "IDRiD_012", source_split="b")  # both of grade 2, one to be scored
    segmented = select_segmented(data)
    graded = select_graded(data, 48, segmented)
    trained = {*graded["train"].image_ids, *graded["val"].image_ids}
    expected = {f"IDRiD_{i:03d}" for i in range(1, 16)} - {"IDRiD_006", "IDRiD_003", "IDRiD_004", "IDRiD_012"}
    assert trained == expected
    assert graded["test"].image_ids == ["IDRiD_001", "IDRiD_002"]
    repeated = dataset_summary(segmented, graded, data)["leakage"]["repeated"]["grading"]
    assert repeated == {"test": [], "train": ["IDRiD_003", "IDRiD_004", "IDRiD_006", "IDRiD_012"]}


def test_graders_never_see_a_photograph_of_the_segmentation_set(data):
    """One of A's photographs stands in B at another size, under another name."""
    original = read_image(images_folder(data) / "IDRiD_02.jpg")
    twin = masks_folder(data).parents[2] / "B. Disease Grading" / "1. Original Images" / "a. Training Set" / "IDRiD_007.jpg"
    bigger = cv2.resize(original[..., ::-1], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(twin), bigger)
    segmented = select_segmented(data)
    graded = select_graded(data, 48, segmented)
    (pair,) = find_duplicates_across_sets([graded["train"].split], official_splits(segmented), data.leakage_distance)
    assert pair[:3] == ("train", "IDRiD_007", "IDRiD_02")
    assert pair.differing_bits <= data.leakage_distance
    ids = {image_id for name in ("train", "val") for image_id in graded[name].image_ids}
    assert ids == {f"IDRiD_{i:03d}" for i in range(1, 16)} - {"IDRiD_007"}
    facts = dataset_summary(segmented, graded, data)["leakage"]
    assert (facts["images"], facts["excluded"], facts["pairs"]) == (1, 1, [pair._asdict()])
    grades = known_grades(segmented, graded)
    assert grades == {images_folder(data) / "IDRiD_02.jpg": 7 % 5}

    as_paper = dataclasses.replace(data, leakage="as_paper")
    kept = select_graded(as_paper, 48, segmented)
    assert sum(len(kept[name]) for name in ("train", "val")) == 15
    assert dataset_summary(segmented, kept, as_paper)["leakage"]["excluded"] == 0


def test_photographs_that_move_to_the_test_folder_keep_their_names_and_pixels(data):
    root = Path(data.root) / "IDRiD"
    train = open_prepared("idrid_s", data, 48)["train"]
    before = {train[i].image_id: train[i].image for i in range(len(train))}
    write_segmentation(root, {}, split="test")
    for path in root.glob("A. Segmentation/**/a. Training Set/**/IDRiD_0[56]*"):
        path.rename(str(path).replace("a. Training Set", "b. Testing Set"))
    splits = open_prepared("idrid_s", data, 48)
    assert [len(splits[name]) for name in ("train", "test")] == [4, 2]
    for split in splits.values():
        for i, record in enumerate(split.records):
            assert split[i].image_id == record.image_id
            np.testing.assert_array_equal(split[i].image, before[record.image_id])


def test_builder_serves_tfds_users_from_their_own_folder(data, tmp_path):
    """Without this program's cache or config: a manual_dir, a size, array_record files."""
    prepared = open_prepared("idrid_s", data, 48)["train"]
    elsewhere = dataclasses.replace(data, root="", cache_dir=str(tmp_path / "other_cache"))
    builder = IdridSegmentation(config=FundusConfig(size_px=48, data=elsewhere), data_dir=tmp_path / "tfds")
    there = tfds.download.DownloadConfig(manual_dir=Path(data.root) / "IDRiD")
    builder.download_and_prepare(download_config=there, file_format="array_record")
    assert list((tmp_path / "tfds").glob("idrid_segmentation/*/3.0.0/*train.array_record*"))
    assert "Porwal" in builder.info.citation
    samples = builder.as_data_source(split="train")
    assert len(samples) == 6
    for i, example in enumerate(samples):
        assert example["image_id"].decode() == prepared.image_ids[i]
        np.testing.assert_array_equal(example["image"], prepared[i].image)
        np.testing.assert_array_equal(example["mask_bits"][..., 0], prepared[i].mask_bits)


def test_drawn_set_has_a_builder_that_needs_no_folder(tmp_path):
    drawn = SyntheticConfig(96, num_segmentation_train=2, num_segmentation_test=1, num_grading_train=5, num_grading_test=1)
    config = FundusConfig(size_px=48, data=DataConfig(cache_dir=str(tmp_path), synthetic=drawn))
    builder = SyntheticGrading(config=config, data_dir=tmp_path / "tfds")
    builder.download_and_prepare(file_format="array_record")
    assert [len(builder.as_data_source(split=name)) for name in ("train", "test")] == [5, 1]


KILLED = """
import os, signal, sys
from pathlib import Path
from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.preprocessing import prepare
from pldmlt_jax.data import store as prepared

done = prepare.np.savez
def savez(file, **arrays):
    if len(list(Path(file.name).parent.glob("*.npz"))) >= 4:  # with the one that is being written
        file.write(b"half of it")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    done(file, **arrays)
prepare.np.savez = savez
prepared.open_prepared("idrid_s", DataConfig(root=sys.argv[1], cache_dir=sys.argv[2], num_threads=1), 48)
"""


def prepared_files(data: DataConfig) -> list[Path]:
    """Prepared files that are not packed yet, whole or half written."""
    return sorted((Path(data.cache_dir) / "photographs").glob("*"))


def count_prepared(monkeypatch) -> list[str]:
    """The images that are prepared from now on."""
    names: list[str] = []

    def counted(record, *arguments):
        names.append(record.image_id)
        return prepare_record(record, *arguments)

    monkeypatch.setattr("pldmlt_jax.data.preprocessing.prepare.prepare_record", counted)
    return names


def test_killed_preparation_resumes_and_leaves_nothing_behind(data, monkeypatch):
    """Killed while it writes the fourth of six images."""
    killed = subprocess.run([sys.executable, "-c", KILLED, data.root, data.cache_dir], check=False)
    assert killed.returncode == -signal.SIGKILL
    before = [path.name for path in prepared_files(data)]
    assert len([name for name in before if ".part" in name]) == 1
    assert len(before) == 4
    names = count_prepared(monkeypatch)
    split = open_prepared("idrid_s", data, 48)["train"]
    assert split.image_ids == list(LESION_FILES)
    assert names == list(LESION_FILES)[3:]
    assert not prepared_files(data)


def test_packed_set_is_stored_once_and_opened_again_without_work(data, monkeypatch):
    first = open_prepared("idrid_s", data, 48)["train"]
    assert not prepared_files(data)
    names = count_prepared(monkeypatch)
    packed = {path: path.stat().st_mtime_ns for path in Path(data.cache_dir).rglob("*.array_record*")}
    again = open_prepared("idrid_s", data, 48)["train"]
    assert not names and packed
    assert packed == {path: path.stat().st_mtime_ns for path in Path(data.cache_dir).rglob("*.array_record*")}
    np.testing.assert_array_equal(first[2].image, again[2].image)


def test_kill_between_packing_and_removing_is_cleaned_up_as_is_an_older_cache(data, monkeypatch):
    """Older versions kept both forms of each image."""

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pldmlt_jax.data.store.sync_tree", killed)
        open_prepared("idrid_s", data, 48)
    assert len(prepared_files(data)) == 6
    names = count_prepared(monkeypatch)
    assert len(open_prepared("idrid_s", data, 48)["train"]) == 6
    assert not names and not prepared_files(data)


def test_full_disk_while_packing_keeps_what_is_prepared(data, monkeypatch):
    def full(*_: object) -> Iterator:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(IdridSegmentation, "_generate_examples", full)
        open_prepared("idrid_s", data, 48)
    assert len(prepared_files(data)) == 6
    names = count_prepared(monkeypatch)
    assert len(open_prepared("idrid_s", data, 48)["train"]) == 6
    assert not names and not prepared_files(data)
    assert not list(Path(data.cache_dir).rglob("*incomplete*"))


def test_file_that_another_process_has_packed_and_removed_is_prepared_again(data, monkeypatch):
    expected = open_prepared("idrid_s", data, 48)["train"]
    other = dataclasses.replace(data, cache_dir=f"{data.cache_dir}_2")

    def removed(builder) -> None:
        for path in prepared_files(other)[:3]:
            path.unlink()
        pack(builder)

    pack = store._pack
    monkeypatch.setattr(store, "_pack", removed)
    split = open_prepared("idrid_s", other, 48)["train"]
    for i in range(6):
        np.testing.assert_array_equal(split[i].image, expected[i].image)
        np.testing.assert_array_equal(split[i].mask_bits, expected[i].mask_bits)


OPENED = """
import sys
from pldmlt_jax.config import DataConfig
from pldmlt_jax.data import store
from pldmlt_jax.data.preprocessing.prepare import prepare_record
from pldmlt_jax.data.store import open_prepared
print(len(open_prepared("idrid_s", DataConfig(root=sys.argv[1], cache_dir=sys.argv[2], num_threads=1), 48)["train"]))
"""


def test_two_processes_prepare_the_same_set_at_once(data):
    command = [sys.executable, "-c", OPENED, data.root, data.cache_dir]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [output.split()[-1] for output in outputs] == ["6", "6"]
    assert sum("prepare idrid_s at 48 px: 6 done" in output for output in outputs) == 1
    assert not prepared_files(data)


def test_set_that_shares_images_with_a_packed_one_is_prepared_beside_it(data):
    first = open_prepared("idrid_s", data, 48)["train"]
    image, before = first[4].image, len(first)
    cv2.imwrite(str(images_folder(data) / "IDRiD_07.jpg"), photograph(77))
    second = open_prepared("idrid_s", data, 48)["train"]
    assert (before, len(second)) == (6, 7)
    np.testing.assert_array_equal(second[4].image, image)
    assert not prepared_files(data)


def test_left_out_images_are_reported_at_every_opening(data, monkeypatch):
    skipping = dataclasses.replace(data, on_bad_file="skip")
    (images_folder(data) / "IDRiD_04.jpg").write_bytes(b"")
    first = open_prepared("idrid_s", skipping, 48)["train"]
    names = count_prepared(monkeypatch)
    again = open_prepared("idrid_s", skipping, 48)["train"]
    assert names == ["IDRiD_04"]  # the bad one alone is read again
    assert first.image_ids == again.image_ids == [name for name in LESION_FILES if name != "IDRiD_04"]
    assert first.skipped == again.skipped
    assert len(first.skipped) == 1 and "IDRiD_04.jpg: an empty file" in first.skipped[0]
    with pytest.raises(DataError, match=r"IDRiD_04\.jpg"):
        open_prepared("idrid_s", data, 48)


def test_image_that_can_be_read_now_is_not_missing_in_silence(data, monkeypatch):
    skipping = dataclasses.replace(data, on_bad_file="skip")

    def unreadable(record, *arguments):
        if record.image_id == "IDRiD_02":
            raise DataError(record.image, "an unknown codec", "", "")
        return prepare_record(record, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("pldmlt_jax.data.preprocessing.prepare.prepare_record", unreadable)
        open_prepared("idrid_s", skipping, 48)
    (message,) = open_prepared("idrid_s", skipping, 48)["train"].skipped
    assert "IDRiD_02.jpg, which can be read now" in message and "remove that folder" in message
    assert not prepared_files(data)


def test_leftovers_of_running_processes_stay(tmp_path):
    running, finished = partial_path(tmp_path / "a.npz"), tmp_path / f"b.{platform.node()}.999999999.part.npz"
    elsewhere, old = tmp_path / "c.other.host.5.part.npz", tmp_path / "d.other.7.part.npz"
    for path in (running, finished, elsewhere, old):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([running.name, elsewhere.name])

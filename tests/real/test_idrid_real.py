"""The traps of the real IDRiD files, each met on the files themselves."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from data.mask_statistics import recorded, statistics
from data.valid_records import valid_records

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.datasets.idrid import list_grading, list_segmentation
from pldmlt_jax.data.preprocessing.difference_hash import difference_hash
from pldmlt_jax.data.preprocessing.field_of_view import field_of_view
from pldmlt_jax.data.preprocessing.geometry import make_geometry, read_image
from pldmlt_jax.data.preprocessing.masks import fuse_lesions, mask_to_network, read_mask
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.data.splits.near_duplicates import SAME_IMAGE_BITS, find_near_duplicates
from pldmlt_jax.types import LESIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def segmented(shared_data: Path) -> list[RawRecord]:
    return valid_records(list_segmentation(shared_data / "IDRiD"))["train"]


@pytest.fixture(scope="module")
def graded(shared_data: Path) -> list[RawRecord]:
    return valid_records(list_grading(shared_data / "IDRiD"))["train"]


@pytest.fixture(scope="module")
def originals(shared_data: Path) -> list[Path]:
    files = sorted((shared_data / "IDRiD_original_files").rglob("*.jpg"))
    assert len(files) == 3
    return files


def hashes(paths: list[Path]) -> list[np.ndarray]:
    def one(path: Path) -> np.ndarray:
        image = read_image(path)
        return difference_hash(image, field_of_view(image))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, paths))


@pytest.fixture(scope="module")
def segmented_hashes(segmented: list[RawRecord]) -> list[np.ndarray]:
    return hashes([record.image for record in segmented])


@pytest.fixture(scope="module")
def graded_hashes(graded: list[RawRecord]) -> list[np.ndarray]:
    return hashes([record.image for record in graded])


def test_palette_masks_are_zero_and_76_in_grey_and_are_read_all_the_same(segmented):
    for record in segmented[:6]:
        shape = read_image(record.image).shape[:2]
        for path in (record.masks or {}).values():
            grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            assert set(np.unique(grey)) == {0, 76}
            assert not (grey > 127).any()
            np.testing.assert_array_equal(read_mask(path, shape), grey > 0)


def test_absent_files_say_which_images_lack_a_lesion(segmented):
    assert len(segmented) == 54
    counts = Counter(lesion for record in segmented for lesion in record.masks or {})
    assert counts == {"MA": 54, "HE": 53, "EX": 54, "SE": 26}
    assert all(record.disc for record in segmented)


def test_lesions_overlap_so_that_the_union_is_smaller_than_the_sum(segmented):
    overlapping = 0
    for record in segmented[:20]:
        shape = read_image(record.image).shape[:2]
        masks = {lesion: read_mask(path, shape) for lesion, path in (record.masks or {}).items()}
        _, union, closed = fuse_lesions(masks, shape, DataConfig())
        assert union <= sum(int(mask.sum()) for mask in masks.values())
        assert union <= closed < 1.1 * union
        overlapping += union < sum(int(mask.sum()) for mask in masks.values())
    assert overlapping > 0


def test_table_with_nine_empty_columns_and_a_trailing_space_is_read(shared_data, graded):
    table = shared_data / "IDRiD/B. Disease Grading/2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv"
    header = table.read_text(encoding="utf-8-sig").splitlines()[0]
    assert len(header.split(",")) == 12
    assert "Risk of macular edema " in header
    assert len(graded) == 383
    assert {record.grade for record in graded} == set(range(5))


def test_true_grades_are_known_for_42_images_and_are_never_training_grades(segmented):
    known = [record.true_grade for record in segmented if record.true_grade >= 0]
    assert Counter(known) == {2: 27, 3: 9, 4: 6}
    assert all(record.grade == -1 for record in segmented)


def test_42_photographs_stand_in_both_parts_under_other_names(segmented, graded, segmented_hashes, graded_hashes):
    """And the grade that the hash finds for each is the one that was found by hand."""
    pairs = find_near_duplicates(segmented_hashes, graded_hashes, SAME_IMAGE_BITS)
    assert len(pairs) == 42
    assert len({i for i, _, _ in pairs}) == len({j for _, j, _ in pairs}) == 42
    assert max(distance for _, _, distance in pairs) <= 21
    assert {i for i, _, _ in pairs} == {i for i, record in enumerate(segmented) if record.true_grade >= 0}
    assert all(segmented[i].true_grade == graded[j].grade for i, j, _ in pairs)
    assert sum(segmented[i].image_id == graded[j].image_id for i, j, _ in pairs) == 0


def test_second_photographs_of_an_eye_are_found_and_no_others(segmented, graded, segmented_hashes, graded_hashes):
    """Three pairs, looked at: the same vessels, in another light or moved a little."""
    distance = DataConfig().leakage_distance
    across = [pair for pair in find_near_duplicates(segmented_hashes, graded_hashes, distance) if pair[2] > SAME_IMAGE_BITS]
    assert {(segmented[i].image_id, graded[j].image_id) for i, j, _ in across} == {
        ("IDRiD_26", "IDRiD_299"), ("IDRiD_39", "IDRiD_271"),
    }  # fmt: skip
    within = [pair for pair in find_near_duplicates(graded_hashes, graded_hashes, distance) if pair[2] > SAME_IMAGE_BITS]
    assert {(graded[i].image_id, graded[j].image_id) for i, j, _ in within if i < j} == {("IDRiD_013", "IDRiD_397")}
    assert min(bits for _, _, bits in across + within) > 50
    assert max(bits for _, _, bits in across + within) < 67


def test_no_two_photographs_of_the_segmentation_part_are_taken_for_one(segmented_hashes):
    pairs = find_near_duplicates(segmented_hashes, segmented_hashes, DataConfig().leakage_distance)
    assert all(i == j for i, j, _ in pairs)


def test_released_files_and_their_smaller_copies_are_the_same_photographs(originals, segmented, segmented_hashes):
    names = [record.image_id for record in segmented]
    for i, j, distance in find_near_duplicates(hashes(originals), segmented_hashes, DataConfig().leakage_distance):
        assert originals[i].stem == names[j]
        assert distance <= 21
    assert len(find_near_duplicates(hashes(originals), segmented_hashes, DataConfig().leakage_distance)) == 3


def test_released_masks_fit_their_photographs_and_reduce_as_documented(originals):
    """A factor of 11: max-pooling inflates by 1.6 to 1.9 (fused) and keeps every lesion; areas keep theirs and lose some."""
    config = DataConfig(size_px=320)
    for path in originals:
        image = read_image(path)
        assert image.shape == (2848, 4288, 3)
        fov = field_of_view(image)
        geometry = make_geometry(fov, config, config.size_px)
        masks = {}
        for lesion in LESIONS:
            for file in path.parents[3].rglob(f"{path.stem}_{lesion}.tif"):
                masks[lesion] = read_mask(file, image.shape[:2])
        assert masks
        fused, _, _ = fuse_lesions(masks, image.shape[:2], config)
        scale = geometry.crop_width_px / geometry.resized_width_px
        inflation = mask_to_network(fused, geometry, "max").sum() * scale**2 / fused.sum()
        assert 1.4 < inflation < 2.1
        for mask in masks.values():
            number, labels = cv2.connectedComponents(mask.astype(np.uint8))
            reduced = mask_to_network(mask, geometry, "max")
            for i in np.linspace(1, number - 1, 12).astype(int):  # some of them: each costs a pass over 12 megapixels
                one = mask_to_network(labels == i, geometry, "max")
                assert one.any()
                assert not (one & ~reduced).any()


def test_field_of_view_of_every_image_is_the_camera_s(segmented):
    """IDRiD's field is cut above and below and 50 degrees wide: always about the same share of the frame."""
    for record in segmented:
        image = read_image(record.image)
        fov = field_of_view(image)
        assert 0.60 < fov.mean() < 0.80
        assert image[~fov].mean() < 12 < 40 < image[fov].mean()
        for path in (record.masks or {}).values():
            mask = read_mask(path, fov.shape)
            assert (mask & ~fov).sum() < 0.002 * mask.sum()


def test_recorded_statistics_are_those_of_the_images(segmented):
    def photographs():
        for record in segmented:
            image = read_image(record.image)
            yield image, {lesion: read_mask(path, image.shape[:2]) for lesion, path in (record.masks or {}).items()}

    found = statistics(photographs())
    for group, columns in recorded().items():
        for name, values in columns.items():
            np.testing.assert_allclose(found[group][name], values, rtol=2e-3, err_msg=f"{group} {name}")

"""The stream of batches: what is in it, in which order, and what it depends on."""

import copy
import dataclasses
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from pldmlt_jax.config import AugmentConfig, DataConfig
from pldmlt_jax.data.loader import (
    GradeLabels,
    Shard,
    eval_batches,
    given_labels,
    oversample_grades,
    steps_per_epoch,
    train_batches,
    true_labels,
)
from pldmlt_jax.data.preprocessing.prepared_split import PreparedSplit
from pldmlt_jax.data.records import RawRecord
from pldmlt_jax.errors import DataError
from pldmlt_jax.types import MASK_BITS, UNKNOWN_GRADE, Batch, Geometry

SIZE_PX = 16
NUM_IMAGES = 11
INDICES = np.array([0, 2, 3, 5, 7, 8, 10])  # a fold: neither all images nor without gaps
DATA = DataConfig(num_threads=2)
PLAIN = dataclasses.replace(DATA, augment=AugmentConfig(flip=False, rotation_deg=0.0, min_scale=1.0))


@pytest.fixture(scope="module")
def split() -> PreparedSplit:
    """Images of noise, stored as in the prepared files; red is ten times the position in the whole image."""
    stored, records = [], []
    for i in range(NUM_IMAGES):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8)
        image[..., 0] = 10 * i
        bits = rng.integers(0, 2, (SIZE_PX, SIZE_PX), np.uint8) * MASK_BITS["MA"] + MASK_BITS["valid"]
        stored.append(
            {
                "image": cv2.imencode(".png", image[..., ::-1])[1].tobytes(),
                "mask_bits": cv2.imencode(".png", bits)[1].tobytes(),
                "grade": i % 5,
                "evidence_px": np.zeros(5, np.int64),
                "geometry": Geometry(*[SIZE_PX] * 11).as_array(),
            }
        )
        records.append(RawRecord(f"image_{i}", Path(f"image_{i}.png"), grade=i % 5))
    return PreparedSplit(stored, records)


@pytest.fixture(scope="module")
def labels() -> GradeLabels:
    """Pseudo-labels: not the true grades, and with some grades ruled out."""
    return GradeLabels((np.arange(NUM_IMAGES, dtype=np.int32) + 3) % 5, np.arange(NUM_IMAGES * 5).reshape(-1, 5) % 3 > 0)


def _stream(split: PreparedSplit, labels: GradeLabels, **changes: object) -> Iterator[Batch]:
    arguments = {"batch_size": 3, "config": DATA, "seed": 7} | changes
    return train_batches(split, INDICES, labels, **arguments)  # pyright: ignore[reportArgumentType]


def _samples(batches: list[Batch]) -> list[tuple[int, bytes, bytes]]:
    """Position, image and masks of every sample in order."""
    return [
        (int(position), image.tobytes(), bits.tobytes())
        for batch in batches
        for position, image, bits in zip(batch.index, batch.image, batch.mask_bits, strict=True)
    ]


def _equal(a: Batch, b: Batch) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name)) and getattr(a, field.name).dtype
        == getattr(b, field.name).dtype for field in dataclasses.fields(Batch) if field.name != "graded"
    )  # fmt: skip


def test_every_epoch_holds_each_chosen_image_once_in_an_order_of_its_own(split: PreparedSplit, labels: GradeLabels) -> None:
    n = len(INDICES)
    positions = [position for position, _, _ in _samples(list(islice(_stream(split, labels), 5 * n)))]
    epochs = [positions[start : start + n] for start in range(0, len(positions), n)]
    assert len(epochs) == 15
    assert all(sorted(epoch) == sorted(INDICES) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 12


@pytest.mark.parametrize("start_step", [1, 2, 5, 12])  # inside, across and far behind the first epoch of 7 images
def test_resumed_at_a_step_is_the_uninterrupted_stream(split: PreparedSplit, labels: GradeLabels, start_step: int) -> None:
    whole = list(islice(_stream(split, labels), 20))
    resumed = list(islice(_stream(split, labels, start_step=start_step), 20 - start_step))
    assert all(_equal(a, b) for a, b in zip(whole[start_step:], resumed, strict=True))


@pytest.mark.parametrize("changes", [{"config": dataclasses.replace(DATA, num_threads=1)}, {"batch_size": 1},
                                     {"config": dataclasses.replace(DATA, num_threads=8)}, {"batch_size": 7}])  # fmt: skip
def test_threads_and_batch_size_change_no_sample(split: PreparedSplit, labels: GradeLabels, changes: dict) -> None:
    num_samples = 21
    stream = _samples(list(islice(_stream(split, labels), num_samples // 3)))
    other = _samples(list(islice(_stream(split, labels, **changes), num_samples // changes.get("batch_size", 3))))
    assert stream == other


def test_an_image_is_augmented_anew_in_each_epoch_and_by_each_seed(split: PreparedSplit, labels: GradeLabels) -> None:
    def views(seed: int) -> set[bytes]:
        batches = list(islice(_stream(split, labels, seed=seed), 7))  # three epochs
        return {image for position, image, _ in _samples(batches) if position == 5}

    assert len(views(7)) == 3
    assert not views(7) & views(8)


def test_the_augmentation_of_an_image_does_not_depend_on_the_other_images(split: PreparedSplit, labels: GradeLabels) -> None:
    """Its randomness is of the seed, the epoch and the position alone: another fold sees the same view of it."""
    alone = train_batches(split, np.array([5]), labels, batch_size=1, config=DATA, seed=7)
    views = [image for _, image, _ in _samples(list(islice(alone, 3)))]
    among = [image for position, image, _ in _samples(list(islice(_stream(split, labels), 7))) if position == 5]
    assert views == among


def test_a_batch_joins_image_masks_and_labels_of_its_positions(split: PreparedSplit, labels: GradeLabels) -> None:
    batch = next(_stream(split, labels, config=PLAIN))
    assert batch.image.dtype == np.uint8 and batch.index.dtype == batch.grade.dtype == np.int32
    np.testing.assert_array_equal(batch.image[:, 0, 0, 0], 10 * batch.index)
    np.testing.assert_array_equal(batch.grade, (batch.index + 3) % 5)
    np.testing.assert_array_equal(batch.admissible, labels.admissible[batch.index])
    np.testing.assert_array_equal(batch.sample_mask, 1.0)
    for position, image, bits in zip(batch.index, batch.image, batch.mask_bits, strict=True):
        np.testing.assert_array_equal(image, split[int(position)].image)
        np.testing.assert_array_equal(bits, split[int(position)].mask_bits)


def test_a_fold_without_images_is_a_users_error(split: PreparedSplit, labels: GradeLabels) -> None:
    with pytest.raises(DataError, match="no training image"):
        train_batches(split, np.array([], int), labels, batch_size=1, config=DATA, seed=0)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_evaluation_sees_each_image_once_in_order_unchanged(
    split: PreparedSplit, labels: GradeLabels, batch_size: int
) -> None:
    batches = list(eval_batches(split, INDICES, labels, batch_size=batch_size))
    assert len(batches) == steps_per_epoch(len(INDICES), batch_size)
    assert {batch.image.shape[0] for batch in batches} == {batch_size}  # one shape, so that a step compiles once
    counted = np.concatenate([batch.sample_mask for batch in batches]) > 0
    samples = [sample for sample, counts in zip(_samples(batches), counted, strict=True) if counts]
    expected = [(int(i), split[int(i)].image.tobytes(), split[int(i)].mask_bits.tobytes()) for i in INDICES]
    assert samples == expected


def test_rows_that_fill_up_a_batch_are_not_valid_and_have_no_grade(split: PreparedSplit, labels: GradeLabels) -> None:
    *_, last = eval_batches(split, INDICES, labels, batch_size=4)
    np.testing.assert_array_equal(last.sample_mask, [1, 1, 1, 0])
    assert last.grade[3] == UNKNOWN_GRADE and last.admissible[3].all()
    assert not last.mask_bits[3].any() and not last.image[3].any()
    assert last.grade.dtype == np.int32 and last.mask_bits.dtype == np.uint8


def test_labels_of_a_split(split: PreparedSplit) -> None:
    labels = given_labels(split)
    np.testing.assert_array_equal(labels.grade, np.arange(NUM_IMAGES) % 5)
    assert labels.admissible.shape == (NUM_IMAGES, 5)
    assert labels.admissible.all()
    assert labels.grade.dtype == np.int32


def test_true_grades_go_before_given_ones_where_the_set_keeps_them(split: PreparedSplit) -> None:
    kept = [dataclasses.replace(record, true_grade=4) for record in split.records[:2]]
    corrupted = copy.copy(split)
    corrupted.records = [*kept, *split.records[2:]]
    np.testing.assert_array_equal(given_labels(corrupted).grade, given_labels(split).grade)
    np.testing.assert_array_equal(true_labels(corrupted).grade, [4, 4, *given_labels(split).grade[2:]])


@pytest.mark.parametrize(("num_images", "batch_size", "steps"), [(7, 3, 3), (6, 3, 2), (1, 4, 1), (43, 2, 22)])
def test_an_epoch_is_rounded_up(num_images: int, batch_size: int, steps: int) -> None:
    assert steps_per_epoch(num_images, batch_size) == steps


@pytest.mark.parametrize(("count", "start_step"), [(2, 0), (3, 2)])
def test_shards_together_are_one_process_with_their_batches_put_together(split, labels, count, start_step) -> None:
    """Over more than two epochs, also where the number of images is no multiple of the number of processes."""
    common = {"config": DataConfig(num_threads=2), "seed": 3, "start_step": start_step}
    indices = np.arange(NUM_IMAGES - 1)
    whole = train_batches(split, indices, labels, batch_size=2 * count, **common)
    parts = [train_batches(split, indices, labels, batch_size=2, shard=Shard(i, count), **common) for i in range(count)]
    for _ in range(NUM_IMAGES):
        one, several = next(whole), [next(part) for part in parts]
        together = {(int(i), image.tobytes()) for b in several for i, image in zip(b.index, b.image, strict=True)}
        assert together == {(int(i), image.tobytes()) for i, image in zip(one.index, one.image, strict=True)}
        assert len(together) == 2 * count


@pytest.mark.parametrize(("num", "count", "batch_size"), [(7, 2, 2), (7, 3, 3), (2, 4, 2), (6, 2, 3)])
def test_shards_of_evaluation_are_disjoint_equally_long_and_cover_the_set(split, labels, num, count, batch_size) -> None:
    indices = np.arange(num)
    parts = [list(eval_batches(split, indices, labels, batch_size=batch_size, shard=Shard(i, count))) for i in range(count)]
    assert len({len(part) for part in parts}) == 1
    seen = [int(i) for part in parts for batch in part for i, w in zip(batch.index, batch.sample_mask, strict=True) if w]
    assert sorted(seen) == list(range(num))
    assert {batch.image.shape[0] for part in parts for batch in part} == {batch_size}


def test_repeated_positions_are_augmented_apart(split, labels) -> None:
    batches = train_batches(split, np.array([2, 2, 5]), labels, batch_size=3, config=DataConfig(num_threads=2), seed=0)
    batch = next(batches)
    first, second = (batch.image[i] for i in np.flatnonzero(batch.index == 2))
    assert (first != second).any()
    assert sorted(batch.index.tolist()) == [2, 2, 5]


@pytest.mark.parametrize(("strength", "counts"), [(0.0, [8, 2, 1]), (0.5, [8, 4, 3]), (1.0, [8, 8, 8])])
def test_rarer_grades_are_drawn_more_often(strength, counts) -> None:
    grades = np.array([0] * 8 + [1] * 2 + [3])
    drawn = oversample_grades(np.arange(11) + 100, grades, strength)
    assert [int((grades[drawn - 100] == grade).sum()) for grade in (0, 1, 3)] == counts
    assert set(drawn.tolist()) == set(range(100, 111))

"""Makes batches with grain: positions -> shuffle -> decode and augment -> batch.

The randomness of sample i in epoch e depends only on the seed, e and i, and not on threads, batch size or resuming.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import grain
import numpy as np
from jaxtyping import Bool, Int

from pldmlt_jax.config import DataConfig
from pldmlt_jax.data.augment import Window, augment
from pldmlt_jax.data.preprocessing.prepared_split import PreparedSplit
from pldmlt_jax.errors import DataError
from pldmlt_jax.types import NUM_GRADES, UNKNOWN_GRADE, Batch, Sample

PREFETCH_BATCHES = 2


@dataclass(frozen=True)
class GradeLabels:
    """The grades that a stage trains on, by position in the split."""

    grade: Int[np.ndarray, "n"]  # 0..4, or UNKNOWN_GRADE
    admissible: Bool[np.ndarray, "n 5"]  # grades that the masks allow; all True if nothing is known


def given_labels(split: PreparedSplit) -> GradeLabels:
    """Returns the grades to train on that the set gives, or else the true ones; every grade is admissible."""
    return _labels_of_first_known([(record.grade, record.true_grade) for record in split.records])


def true_labels(split: PreparedSplit) -> GradeLabels:
    """Returns the true grades, without any corruption, or else the grades to train on; every grade is admissible."""
    return _labels_of_first_known([(record.true_grade, record.grade) for record in split.records])


def _labels_of_first_known(choices: Sequence[tuple[int, int]]) -> GradeLabels:
    """Makes labels of the first grade of each pair, or of the second if the first is unknown."""
    grades = np.array([second if first == UNKNOWN_GRADE else first for first, second in choices], np.int32)
    return GradeLabels(grades, np.ones((len(grades), NUM_GRADES), bool))


def unknown_labels(split: PreparedSplit) -> GradeLabels:
    """Returns labels without any grade, so that each grading loss is zero."""
    num = len(split.records)
    return GradeLabels(np.full(num, UNKNOWN_GRADE, np.int32), np.ones((num, NUM_GRADES), bool))


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Returns the number of batches in an epoch, rounded up."""
    return -(-num_images // batch_size)


@dataclass(frozen=True)
class Shard:
    """The share of the images that one of several processes reads."""

    process: int  # counted from 0
    num_processes: int


SINGLE_PROCESS = Shard(process=0, num_processes=1)


def train_samples(
    split: PreparedSplit,
    indices: Int[np.ndarray, "m"],
    *,
    config: DataConfig,
    seed: int,
    window: Window | None = None,
) -> grain.MapDataset[tuple[int, Sample]]:
    """Makes an endless data set of positions and augmented samples, shuffled again in each epoch and computed lazily.

    Args:
        split: The prepared images.
        indices: Positions in the split. An epoch has each as often as it occurs here.
        config: The augmentation.
        seed: Seed of order and augmentation.
        window: Crop to sample from each image; None for whole images.

    Raises:
        DataError: `indices` is empty.
    """
    if not len(indices):
        raise DataError("data.split", "no training image", "at least one", "check data.split and what data.leakage excludes")
    cv2.setNumThreads(1)  # the pipeline's own threads work on one image each

    def load(index: int, item: tuple[int, int]) -> tuple[int, Sample]:
        epoch, (position, repetition) = index // len(indices), item
        sample = split[position]
        rng = sample_rng(seed, epoch, position, repetition)
        image, mask_bits = augment(sample.image, sample.mask_bits, config.augment, rng, window)
        return position, dataclasses.replace(sample, image=image, mask_bits=mask_bits)

    return grain.MapDataset.source(number_repetitions(indices)).seed(seed).shuffle().repeat().map_with_index(load)


def train_batches(
    split: PreparedSplit,
    indices: Int[np.ndarray, "m"],
    labels: GradeLabels,
    *,
    batch_size: int,
    config: DataConfig,
    seed: int,
    start_step: int = 0,
    window: Window | None = None,
    shard: Shard = SINGLE_PROCESS,
) -> Iterator[Batch]:
    """Makes an endless stream of training batches from `train_samples`. A batch may span two epochs.

    Args:
        split: The prepared images.
        indices: Positions in the split. An epoch has each as often as it occurs here.
        labels: Grades of the whole split.
        batch_size: Images per batch in this process.
        config: Augmentation and number of threads.
        seed: Seed of order and augmentation, the same in all processes.
        start_step: Number of batches to skip; the stream then continues exactly like an uninterrupted one.
        window: Crop to sample from each image; None for whole images.
        shard: The share of this process. Batch s of all processes together has the images of batch s of a single process
            with `num_processes` times the batch size.

    Returns:
        An iterator over batches of uint8 images [b, s, s, 3] and their masks and grades.

    Raises:
        DataError: `indices` is empty.
    """
    samples = train_samples(split, indices, config=config, seed=seed, window=window)
    own = samples[start_step * batch_size * shard.num_processes + shard.process :: shard.num_processes]
    buffer_size = max(PREFETCH_BATCHES * batch_size, config.num_threads)  # a smaller one would leave threads idle
    stream = own.to_iter_dataset(grain.ReadOptions(num_threads=config.num_threads, prefetch_buffer_size=buffer_size))
    return iter(stream.batch(batch_size, batch_fn=lambda chunk: stack_batch(chunk, labels, batch_size)))


def sample_rng(seed: int, epoch: int, position: int, repetition: int = 0) -> np.random.Generator:
    """Returns the random generator of one image in one epoch.

    Args:
        seed: The run's seed.
        epoch: Counted from 0.
        position: Position of the image in the split.
        repetition: How often the image occurred before in this epoch, if it is oversampled.
    """
    return np.random.default_rng((seed, epoch, position, repetition) if repetition else (seed, epoch, position))


def attach_graded(batches: Iterator[Batch], graded: Iterator[Batch]) -> Iterator[Batch]:
    """Yields each batch with a batch of truly graded images in its field `graded`."""
    for batch, graded_batch in zip(batches, graded, strict=False):
        yield dataclasses.replace(batch, graded=graded_batch)


def number_repetitions(indices: Int[np.ndarray, "m"]) -> list[tuple[int, int]]:
    """Returns each position together with the number of its earlier occurrences."""
    seen: Counter[int] = Counter()
    numbered = []
    for position in map(int, indices):
        numbered.append((position, seen[position]))
        seen[position] += 1
    return numbered


def oversample_grades(indices: Int[np.ndarray, "m"], grades: Int[np.ndarray, "m"], strength: float) -> Int[np.ndarray, "k"]:
    """Repeats positions with rare grades.

    Args:
        indices: Positions in the split.
        grades: The grade of each position.
        strength: In 0..1. A grade that is r times rarer than the most frequent one is repeated r ** strength times, so that
            0 changes nothing and 1 makes all grades equally frequent.

    Returns:
        The positions, each at least once. Where a repetition is fractional, the first positions are repeated once more.
    """
    counts = Counter(grades.tolist())
    most = max(counts.values(), default=0)
    repeated = []
    for grade, count in sorted(counts.items()):
        members = indices[grades == grade]
        repeated.append(np.resize(members, round(count * (most / count) ** strength)))
    return np.concatenate(repeated) if repeated and strength else indices


def eval_batches(
    split: PreparedSplit,
    indices: Int[np.ndarray, "m"],
    labels: GradeLabels,
    *,
    batch_size: int,
    shard: Shard = SINGLE_PROCESS,
) -> Iterator[Batch]:
    """Yields batches in order and without augmentation, the same number in each process.

    Args:
        split: The prepared images.
        indices: Positions in the split, of all processes together.
        labels: Grades of the whole split.
        batch_size: Images per batch in this process. Missing rows have a `sample_mask` of 0.
        shard: The share of this process: each `num_processes`-th image, starting at `process`.
    """
    own = [int(i) for i in indices[shard.process :: shard.num_processes]]
    longest = -(-len(indices) // shard.num_processes)
    for start in range(0, longest, batch_size):
        chunk = [(i, split[i]) for i in own[start : start + batch_size]]
        if chunk:
            yield stack_batch(chunk, labels, batch_size)
        else:
            filler = stack_batch([(i := int(indices[0]), split[i])], labels, batch_size)
            yield dataclasses.replace(filler, sample_mask=np.zeros_like(filler.sample_mask))


def stack_batch(samples: Sequence[tuple[int, Sample]], labels: GradeLabels, batch_size: int) -> Batch:
    """Stacks samples to a batch.

    Args:
        samples: At least one position with its sample.
        labels: Grades of the whole split.
        batch_size: Rows of the batch. Missing rows are black, have no grade, and have a `sample_mask` of 0.

    Returns:
        A batch of arrays on the host.
    """
    positions = np.array([position for position, _ in samples], np.int32)
    missing = batch_size - len(samples)

    def padded(rows: np.ndarray, fill: int = 0) -> np.ndarray:
        return np.concatenate([rows, np.full((missing, *rows.shape[1:]), fill, rows.dtype)]) if missing else rows

    return Batch(
        image=padded(np.stack([sample.image for _, sample in samples])),
        mask_bits=padded(np.stack([sample.mask_bits for _, sample in samples])),
        grade=padded(labels.grade[positions].astype(np.int32), UNKNOWN_GRADE),
        admissible=padded(labels.admissible[positions], True),
        sample_mask=padded(np.ones(len(samples), np.float32)),
        index=padded(positions),
    )

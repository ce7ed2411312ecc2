"""The grain pipeline: positions -> shuffle -> decode and augment -> batch.

The randomness of sample i in epoch e depends on the seed, e and i alone: not on threads, batches or where a run resumed.
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
from pldmlt_jax.data.preprocessing.store import PreparedSplit
from pldmlt_jax.errors import DataError
from pldmlt_jax.types import NUM_GRADES, UNKNOWN_GRADE, Batch, Sample

PREFETCH_BATCHES = 2


@dataclass(frozen=True)
class GradeLabels:
    """The grades that a stage trains on, by position in the split."""

    grade: Int[np.ndarray, "n"]  # 0..4, UNKNOWN_GRADE where there is none
    admissible: Bool[np.ndarray, "n 5"]  # grades that the masks admit; all True where nothing is known


def given_labels(split: PreparedSplit) -> GradeLabels:
    """The set's own grades, of pixel-labelled images the true ones where it gives no other; every grade is admissible."""
    grades = np.array([r.true_grade if r.grade == UNKNOWN_GRADE else r.grade for r in split.records], np.int32)
    return GradeLabels(grades, np.ones((len(grades), NUM_GRADES), bool))


def true_labels(split: PreparedSplit) -> GradeLabels:
    """The same before any corruption, where the set keeps the true ones: of images that guide or add to the given ones."""
    grades = np.array([r.grade if r.true_grade == UNKNOWN_GRADE else r.true_grade for r in split.records], np.int32)
    return GradeLabels(grades, np.ones((len(grades), NUM_GRADES), bool))


def unknown_labels(split: PreparedSplit) -> GradeLabels:
    """No image has a grade: a loss against the one-hot of an unknown one is zero."""
    num = len(split.records)
    return GradeLabels(np.full(num, UNKNOWN_GRADE, np.int32), np.ones((num, NUM_GRADES), bool))


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Batches that an epoch of the continuous stream takes, rounded up."""
    return -(-num_images // batch_size)


@dataclass(frozen=True)
class Shard:
    """The part of the images that one of several processes takes."""

    process: int  # from 0
    num_processes: int


SINGLE_PROCESS = Shard(0, 1)


def train_samples(
    split: PreparedSplit,
    indices: Int[np.ndarray, "m"],
    *,
    config: DataConfig,
    seed: int,
    window: Window | None = None,
) -> grain.MapDataset[tuple[int, Sample]]:
    """An endless series of positions and augmented samples, shuffled anew in each epoch; each is made when it is asked for.

    Args:
        split: Of the images.
        indices: Positions to draw from, each as often as it stands here in an epoch.
        config: Augmentation.
        seed: Of order and augmentation.
        window: Parts of the images in place of whole ones.

    Raises:
        DataError: There is no image to draw from.
    """
    if not len(indices):
        raise DataError("data.split", "no training image", "at least one", "check the split and what leakage excludes")
    cv2.setNumThreads(1)  # the pipeline's own threads work on one image each

    def load(place: int, drawn: tuple[int, int]) -> tuple[int, Sample]:
        epoch, (position, repetition) = place // len(indices), drawn
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
    """An endless stream of batches of `train_samples`, which see; a batch may span two epochs.

    Args:
        split: Of the images.
        indices: Positions to draw from.
        labels: Of the whole split.
        batch_size: Images a batch, of this process.
        config: Augmentation and threads.
        seed: Of order and augmentation, the same in all processes.
        start_step: Batches to leave out: the stream goes on exactly as an uninterrupted one would.
        window: Parts of the images in place of whole ones.
        shard: Batch s of all processes together holds the images of batch s of a single process with as many times the
            batch size: no image twice, and none left out.

    Raises:
        DataError: There is no image to draw from.
    """
    samples = train_samples(split, indices, config=config, seed=seed, window=window)
    own = samples[start_step * batch_size * shard.num_processes + shard.process :: shard.num_processes]
    buffer_size = max(PREFETCH_BATCHES * batch_size, config.num_threads)  # a smaller one would leave threads idle
    stream = own.to_iter_dataset(grain.ReadOptions(num_threads=config.num_threads, prefetch_buffer_size=buffer_size))
    return iter(stream.batch(batch_size, batch_fn=lambda chunk: stack_batch(chunk, labels, batch_size)))


def sample_rng(seed: int, epoch: int, position: int, repetition: int = 0) -> np.random.Generator:
    """All randomness of one image in one epoch; `repetition` counts where an epoch holds it more than once."""
    return np.random.default_rng((seed, epoch, position, repetition) if repetition else (seed, epoch, position))


def attach_graded(batches: Iterator[Batch], graded: Iterator[Batch]) -> Iterator[Batch]:
    """Each batch with a batch of truly graded images beside it."""
    for batch, beside in zip(batches, graded, strict=False):
        yield dataclasses.replace(batch, graded=beside)


def number_repetitions(indices: Int[np.ndarray, "m"]) -> list[tuple[int, int]]:
    """Each position, and how often it stood before."""
    seen: Counter[int] = Counter()
    drawn = []
    for position in map(int, indices):
        drawn.append((position, seen[position]))
        seen[position] += 1
    return drawn


def oversample_grades(indices: Int[np.ndarray, "m"], grades: Int[np.ndarray, "m"], strength: float) -> Int[np.ndarray, "k"]:
    """The positions, those of rarer grades more than once.

    Args:
        indices: Positions.
        grades: Of each position.
        strength: 0: as they are; 1: every grade as often as the most frequent one; a grade that is r times as rare is drawn
            r ** strength times as often as it stands there.

    Returns:
        Each position at least once; which ones stand once more than others follows from their order.
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
    """Batches in order, without augmentation, as many in each process; filled up with rows of weight 0.

    Args:
        split: Of the images.
        indices: Positions, of all processes together.
        labels: Of the whole split.
        batch_size: Images a batch, of this process.
        shard: Every `num_processes`-th image from `process` on.
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
    """Stacks samples; missing rows are black, of no known grade and of weight 0."""
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

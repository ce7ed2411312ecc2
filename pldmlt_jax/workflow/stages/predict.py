"""`predict`: masks, overlay, grade and its map of any image files, at their own size."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from pldmlt_jax.data.input_images import exclude_predictions, find_images, unique_names
from pldmlt_jax.data.preprocessing.geometry import read_image
from pldmlt_jax.data.preprocessing.prepare import NetworkView
from pldmlt_jax.data.splits.selection import choose_splits
from pldmlt_jax.errors import ConfigError, DataError
from pldmlt_jax.evaluation.predictor import Predictor
from pldmlt_jax.io.files import write_rows
from pldmlt_jax.io.progress import Task, progress
from pldmlt_jax.io.signals import Interrupted
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.stages.load_checkpoint import load_predictor
from pldmlt_jax.workflow.stages.predictions_table import TABLE, write_prediction

EXAMPLES = "predictions/examples"

SAVE_INTERVAL_S = 30.0
"""The table is written anew this often, so that what is done is not lost with a run that is stopped."""

MAX_WARNINGS = 20
"""Printed: a folder from another camera may have one for each photograph, and the table has them all."""

MAX_THREADS = 4
"""Each holds a photograph and its probabilities at their own size: half a gigabyte for 12 megapixels."""


def main(options: RunOptions) -> None:
    context = Context(options)
    if not options.input:
        expected = "image files, folders or patterns, with commas between them"
        raise ConfigError("--input", "nothing given", expected, "add --input=PATH")
    found = find_images(options.input)
    paths = exclude_predictions(found)
    if len(paths) < len(found):
        print(f"  {len(found) - len(paths)} pictures of an earlier prediction are passed over")
    if not paths:
        raise DataError(options.input, f"only what {TABLE} lists", "photographs, not what was predicted", "check --input")
    output = Path(options.output or context.workdir / "predictions")
    predictor = load_predictor(context)
    num_threads = context.config.data.num_threads
    with progress("predict", len(paths)) as task:
        try:
            outcome = predict_files(predictor, paths, output, task, num_threads, options.probabilities)
        except Interrupted as stop:
            done = f"{task.done} of {len(paths)} images are done, see {output}"
            raise Interrupted(stop.signum, done, "the same command begins with the first one") from stop
    print_outcome(outcome, output)
    if outcome.unreadable:
        raise DataError(options.input, f"{len(outcome.unreadable)} of {len(paths)} images not read", "whole images",
                        "see the list above; the others are done")  # fmt: skip


def predict_examples(context: Context) -> None:
    """The pipeline's stage: predicts raw photographs of the evaluated split, as a user would.

    They have a folder of their own, for a user's predictions are in `predictions` unless the command line says where.
    """
    sets = {"segmentation": context.segmented, "grading": context.graded_for_network}
    key, split = next(iter(choose_splits(sets, context.options.split).items()))
    selection = sets[key][split]
    paths = [selection.split.records[int(i)].image for i in selection.indices][: context.config.evaluation.num_examples]
    with progress("predict", len(paths)) as task:
        predict_files(load_predictor(context), paths, context.workdir / EXAMPLES, task, context.config.data.num_threads)


@dataclass
class Outcome:
    """What came of some image files."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # of the table
    unreadable: list[DataError] = field(default_factory=list)


class _Photograph(NamedTuple):
    path: Path
    name: str
    image: np.ndarray
    view: NetworkView


def predict_files(
    predictor: Predictor, paths: Sequence[Path], output: Path, task: Task, num_threads: int, probabilities: bool = False
) -> Outcome:
    """Predicts files batch by batch; what cannot be read is listed, and the rest is done.

    Reading and writing are spread over threads, and the next batch is read while the network works on this one.
    """
    output.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)  # the threads work on one photograph each
    outcome, saved = Outcome(), float("-inf")
    batch_size = predictor.choose_batch_size(len(paths))
    named = list(zip(paths, unique_names(paths), strict=True))
    batches = [named[start : start + batch_size] for start in range(0, len(named), batch_size)]

    def read(place: tuple[Path, str]) -> _Photograph | DataError:
        try:
            image = read_image(place[0])
        except DataError as error:
            return error
        return _Photograph(*place, image, predictor.prepare(image))

    with save_table_on_exit(outcome, output), ThreadPoolExecutor(min(num_threads, MAX_THREADS)) as pool:
        reading = pool.map(read, batches[0])
        for following in [*batches[1:], []]:
            found = list(reading)
            reading = pool.map(read, following)
            outcome.unreadable += [each for each in found if isinstance(each, DataError)]
            photographs = [each for each in found if isinstance(each, _Photograph)]
            if photographs:
                answer = predictor(np.stack([each.view.image for each in photographs]), batch_size)

                def write(row: int, photographs: list = photographs, answer: Any = answer) -> dict[str, Any]:
                    path, name, image, view = photographs[row]
                    prediction = predictor.build_prediction(image, view, answer, row)
                    return write_prediction(path, name, image, prediction, output, probabilities)

                outcome.rows += pool.map(write, range(len(photographs)))
            task.update(task.done + len(found))
            if outcome.rows and time.monotonic() - saved > SAVE_INTERVAL_S:
                write_rows(output / TABLE, outcome.rows)
                saved = time.monotonic()
    return outcome


@contextlib.contextmanager
def save_table_on_exit(outcome: Outcome, output: Path) -> Iterator[None]:
    """Writes the table, of what is done, also where the block is stopped or fails."""
    try:
        yield
    finally:
        if outcome.rows:
            write_rows(output / TABLE, outcome.rows)


def print_outcome(outcome: Outcome, output: Path) -> None:
    """Says where the results are, and lists what to look at and what was not read."""
    if outcome.rows:
        print(f"  {len(outcome.rows)} predicted, see {output / TABLE}")
        if "grade" in outcome.rows[0] and not outcome.rows[0]["calibrated"]:
            print("  the grades' probabilities are not calibrated: there were no truly graded validation images")
    odd = [row for row in outcome.rows if row["warning"]]
    for row in odd[:MAX_WARNINGS]:
        print(f"  warning: {row['image']}: {row['warning']}")
    if more := odd[MAX_WARNINGS:]:
        print(f"  {len(more)} more have a warning, see the column of that name")
    for error in outcome.unreadable:
        print(f"  not read: {error}")

"""`predict`: predicts image files at their own size; writes masks, overlays, grades and grade maps."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from pldmlt_jax.data.input_images import find_images, unique_names
from pldmlt_jax.data.preprocessing.geometry import read_image
from pldmlt_jax.data.preprocessing.prepare import PreparedImage
from pldmlt_jax.data.splits.selection import choose_splits
from pldmlt_jax.errors import ConfigError, DataError
from pldmlt_jax.evaluation.predictor import Predictor
from pldmlt_jax.io.csv_files import write_rows
from pldmlt_jax.io.progress import ProgressTask, show_progress
from pldmlt_jax.io.signals import Interrupted
from pldmlt_jax.reporting.predictions_table import TABLE, exclude_predictions, write_prediction
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.load_checkpoint import load_predictor
from pldmlt_jax.workflow.options import RunOptions

EXAMPLES = "predictions/examples"

SAVE_INTERVAL_S = 30.0
"""Interval at which the table is rewritten, so that a killed run keeps its results."""

MAX_WARNINGS = 20
"""Number of warnings to print; a folder from another camera may have one per photograph. The table has all of them."""

MAX_THREADS = 4
"""Number of threads that read and write. Each holds a photograph and its probabilities, 0.5 GB for 12 megapixels."""


def main(options: RunOptions) -> None:
    """Predicts the images of `--input`.

    Raises:
        ConfigError: There is no `--input`.
        DataError: It names no image, or some images could not be read; the others are predicted.
    """
    context = Context(options)
    if not options.input:
        expected = "image files, folders or patterns, with commas between them"
        raise ConfigError("--input", "nothing given", expected, "add --input=PATH")
    found = find_images(options.input)
    paths = exclude_predictions(found)
    if len(paths) < len(found):
        print(f"  {len(found) - len(paths)} pictures of an earlier prediction are skipped")
    if not paths:
        raise DataError(options.input, f"only pictures that {TABLE} lists", "photographs, not predictions", "check --input")
    output = Path(options.output or context.workdir / "predictions")
    predictor = load_predictor(context)
    num_threads = context.config.data.num_threads
    with show_progress("predict", len(paths)) as task:
        try:
            outcome = predict_files(predictor, paths, output, task, num_threads, options.probabilities)
        except Interrupted as stop:
            done = f"{task.done} of {len(paths)} images are done, see {output}"
            raise Interrupted(stop.signum, done, "the same command starts again with the first image") from stop
    print_outcome(outcome, output)
    if outcome.unreadable:
        raise DataError(options.input, f"{len(outcome.unreadable)} of {len(paths)} images not read", "whole images",
                        "see the list above; the others are done")  # fmt: skip


def predict_examples(context: Context) -> None:
    """Runs the stage `predict`, which predicts raw photographs of the evaluated split as a user would.

    They have their own folder, because a user's predictions go to `predictions` by default.
    """
    sets = {"segmentation": context.segmented, "grading": context.graded_for_network}
    key, split = next(iter(choose_splits(sets, context.options.split).items()))
    selection = sets[key][split]
    paths = [selection.split.records[int(i)].image for i in selection.indices][: context.config.evaluation.num_examples]
    with show_progress("predict", len(paths)) as task:
        predict_files(load_predictor(context), paths, context.workdir / EXAMPLES, task, context.config.data.num_threads)


@dataclass
class Outcome:
    """The results of predicting some image files.

    Attributes:
        rows: The rows of the table, one for each predicted image.
        unreadable: An error for each file that could not be read.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[DataError] = field(default_factory=list)


class _Photograph(NamedTuple):
    path: Path
    name: str
    image: np.ndarray
    view: PreparedImage


def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    output: Path,
    task: ProgressTask,
    num_threads: int,
    probabilities: bool = False,
) -> Outcome:
    """Predicts image files batch by batch; files that cannot be read are listed in the outcome.

    Reading and writing use threads, and the next batch is read while the network computes.

    Args:
        predictor: The networks.
        paths: The image files.
        output: The folder for the results.
        task: Shown progress.
        num_threads: Number of threads that read and write; MAX_THREADS at most.
        probabilities: Whether to write the probabilities of each lesion as well.
    """
    output.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)  # the threads work on one photograph each
    outcome, saved = Outcome(), float("-inf")
    batch_size = predictor.choose_batch_size(len(paths))
    named = list(zip(paths, unique_names(paths), strict=True))
    batches = [named[start : start + batch_size] for start in range(0, len(named), batch_size)]

    def read(file: tuple[Path, str]) -> _Photograph | DataError:
        try:
            image = read_image(file[0])
        except DataError as error:
            return error
        return _Photograph(*file, image, predictor.prepare(image))

    with save_table_on_exit(outcome, output), ThreadPoolExecutor(min(num_threads, MAX_THREADS)) as pool:
        reading = pool.map(read, batches[0])
        for following in [*batches[1:], []]:
            found = list(reading)
            reading = pool.map(read, following)
            outcome.unreadable += [result for result in found if isinstance(result, DataError)]
            photographs = [result for result in found if isinstance(result, _Photograph)]
            if photographs:
                batch = predictor(np.stack([photograph.view.image for photograph in photographs]), batch_size)

                def write(row: int, photographs: list = photographs, batch: Any = batch) -> dict[str, Any]:
                    path, name, image, view = photographs[row]
                    prediction = predictor.build_prediction(image, view, batch, row)
                    return write_prediction(path, name, image, prediction, output, probabilities)

                outcome.rows += pool.map(write, range(len(photographs)))
            task.update(task.done + len(found))
            if outcome.rows and time.monotonic() - saved > SAVE_INTERVAL_S:
                write_rows(output / TABLE, outcome.rows)
                saved = time.monotonic()
    return outcome


@contextlib.contextmanager
def save_table_on_exit(outcome: Outcome, output: Path) -> Iterator[None]:
    """Writes the table of the predicted images when the block ends, also if it is stopped or fails."""
    try:
        yield
    finally:
        if outcome.rows:
            write_rows(output / TABLE, outcome.rows)


def print_outcome(outcome: Outcome, output: Path) -> None:
    """Prints where the results are, the warnings, and the files that could not be read."""
    if outcome.rows:
        print(f"  {len(outcome.rows)} predicted, see {output / TABLE}")
        if "grade" in outcome.rows[0] and not outcome.rows[0]["calibrated"]:
            print("  the grades' probabilities are not calibrated, because there were no truly graded validation images")
    warned = [row for row in outcome.rows if row["warning"]]
    for row in warned[:MAX_WARNINGS]:
        print(f"  warning: {row['image']}: {row['warning']}")
    if more := warned[MAX_WARNINGS:]:
        print(f"  {len(more)} more have a warning, see the column of that name")
    for error in outcome.unreadable:
        print(f"  not read: {error}")

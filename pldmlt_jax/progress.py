"""Progress on the terminal: one bar a stage, or plain lines where the output is not a terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_INTERVAL_S = 15.0
"""Least time between two lines of one stage where the output is not a terminal."""


class Task:
    """One stage's progress; `update` says how much is done and, in a few words, what it looks like."""

    def __init__(self, description: str, bar: Progress | None, total: int):
        self.description, self.total, self.done = description, total, 0
        self._bar = bar
        self._id = bar.add_task(description, total=total, note="") if bar else None
        self._start = self._last = time.monotonic()

    def update(self, done: int, note: str = "", *, total: int | None = None) -> None:
        self.done, self.total = done, total if total is not None else self.total
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, completed=done, total=self.total, note=note)
            return
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL_S:
            self._last = now
            print(f"  {self.description}: {done}/{self.total} ({now - self._start:.0f} s) {note}", flush=True)

    def advance(self, note: str = "") -> None:
        self.update(self.done + 1, note)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """The form that callbacks of the data package take."""
        self.update(done, note, total=total)


@contextmanager
def progress(description: str, total: int = 1) -> Iterator[Task]:
    """Shows a bar while the block runs, and leaves one line with the time it took."""
    start = time.monotonic()
    if sys.stdout.isatty():
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(), transient=True) as bar:
            task = Task(description, bar, total)
            yield task
    else:
        task = Task(description, None, total)
        yield task
    print(f"  {description}: {task.done} done in {time.monotonic() - start:.1f} s", flush=True)

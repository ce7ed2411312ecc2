"""Progress on the terminal: one line a stage, redrawn, or plain lines now and then where the output is not a terminal."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

PLAIN_INTERVAL_S = 15.0
"""Least time between two lines of one stage where the output is not a terminal."""

RATE_WINDOW_S = 30.0
"""The speed shown is that of so many last seconds."""


OnProgress = Callable[[int, int, str], None]
"""Called with the number of units done, the number in all and a note, such as the name of the image."""


class Task:
    """One stage's progress; `update` says how much is done and, in a few words, what it looks like.

    Args:
        description: What is done.
        bar: Draws it; None: plain lines.
        total: Units of work in all.
        images: Photographs that a unit is; 0: it is none, and no speed is shown.
    """

    def __init__(self, description: str, bar: Progress | None, total: int, images: int = 1):
        self.description, self.total, self.done, self.images = description, total, 0, images
        self._bar = bar
        self._id = bar.add_task(description, total=total, said="") if bar else None
        self._start = self._last = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque()
        self._first: tuple[float, int] | None = None

    def update(self, done: int, note: str = "", *, total: int | None = None, most_s: float = float("inf")) -> None:
        """Shows how far it is.

        Args:
            done: Units done.
            note: In a few words.
            total: In all, where that was not known before.
            most_s: It will not go on for longer than this.
        """
        self.done, self.total = done, total if total is not None else self.total
        now = time.monotonic()
        self._mark(now)
        said = ", ".join(part for part in (self._speed(), self._left(now, most_s), note) if part)
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, completed=done, total=self.total, said=said)
        elif now - self._last >= PLAIN_INTERVAL_S:
            self._last = now
            print(f"  {self.description}: {done}/{self.total} ({now - self._start:.0f} s) {said}", flush=True)

    def advance(self, note: str = "") -> None:
        self.update(self.done + 1, note)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """The form that callbacks of the data package take."""
        self.update(done, note, total=total)

    def _mark(self, now: float) -> None:
        """Remembers when how much was done, from the first unit's end on: that one compiles, or follows an earlier run."""
        if self._first is None or self.done < self._marks[-1][1]:
            self._first = (now, self.done)
            self._marks.clear()
        self._marks.append((now, self.done))
        while self._marks[0][0] < now - RATE_WINDOW_S and len(self._marks) > 2:
            self._marks.popleft()

    def _speed(self) -> str:
        (begin, before), (end, after) = self._marks[0], self._marks[-1]
        if not self.images or end <= begin:
            return ""
        speed = self.images * (after - before) / (end - begin)
        return f"{speed:.0f} images/s" if speed >= 100 else f"{speed:.3g} images/s"

    def _left(self, now: float, most_s: float) -> str:
        """By the mean speed, validation and all."""
        begin, before = self._first or (now, self.done)
        seconds = (self.total - self.done) * (now - begin) / (self.done - before) if self.done > before else float("inf")
        seconds = min(seconds, most_s)
        return f"{duration(seconds)} left" if 0 < seconds < float("inf") else ""


def duration(seconds: float) -> str:
    """In the unit that a person would take."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def on_terminal() -> bool:
    """Whether a line can be drawn again."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def progress(description: str, total: int = 1, images: int = 1) -> Iterator[Task]:
    """Shows a line while the block runs, and leaves one with the time it took; see `Task`."""
    start = time.monotonic()
    if on_terminal():
        columns = (
            TextColumn("  {task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[said]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        )
        with Progress(*columns, console=Console(), transient=True, expand=True) as bar:
            task = Task(description, bar, total, images)
            yield task
    else:
        task = Task(description, None, total, images)
        yield task
    print(f"  {description}: {task.done} done in {time.monotonic() - start:.1f} s", flush=True)

"""Progress of a stage: one line that is redrawn in a terminal, or plain lines now and then in a log."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

OnProgress = Callable[[int, int, str], None]
"""Reports progress: called with the units done, the total, and a short note ("" for none)."""

PLAIN_INTERVAL_S = 15.0
"""Shortest time between two plain lines of one stage."""

RATE_WINDOW_S = 30.0
"""The speed is averaged over this many seconds."""


class ProgressTask:
    """The progress of one stage, shown with its speed and the time left; made by `show_progress`.

    Args:
        description: Name of the stage.
        bar: Draws the line; None: print plain lines.
        total: Units of work.
        images: Images per unit, for the speed; 0: show no speed.
    """

    def __init__(self, description: str, bar: Progress | None, total: int, images: int = 1):
        self.description, self.total, self.done, self.images = description, total, 0, images
        self._bar = bar
        self._id = bar.add_task(description, total=total, note="") if bar else None
        self._start = self._last = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque()
        self._first: tuple[float, int] | None = None

    def update(self, done: int, note: str = "", *, total: int | None = None, limit_s: float = float("inf")) -> None:
        """Shows how much is done.

        Args:
            done: Completed units.
            note: A few words at the end of the line.
            total: Units of work, if it was not known before.
            limit_s: Longest time in seconds until the end.
        """
        self.done, self.total = done, total if total is not None else self.total
        now = time.monotonic()
        self._mark(now)
        text = ", ".join(part for part in (self._speed(), self._left(now, limit_s), note) if part)
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, completed=done, total=self.total, note=text)
        elif now - self._last >= PLAIN_INTERVAL_S:
            self._last = now
            print(f"  {self.description}: {done}/{self.total} ({now - self._start:.0f} s) {text}", flush=True)

    def advance(self, note: str = "") -> None:
        """Shows that one more unit is done."""
        self.update(self.done + 1, note)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Shows progress as an `OnProgress` callback."""
        self.update(done, note, total=total)

    def _mark(self, now: float) -> None:
        """Records the time, from the end of the first unit on, since that one compiles or follows an earlier session."""
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

    def _left(self, now: float, limit_s: float) -> str:
        """Returns the time left by the mean speed, which includes validation."""
        begin, before = self._first or (now, self.done)
        seconds = (self.total - self.done) * (now - begin) / (self.done - before) if self.done > before else float("inf")
        seconds = min(seconds, limit_s)
        return f"{format_duration(seconds)} left" if 0 < seconds < float("inf") else ""


def format_duration(seconds: float) -> str:
    """Formats a duration in seconds, minutes or hours, whichever reads best."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def is_terminal() -> bool:
    """Returns whether the output is a terminal in which a line can be redrawn."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def show_progress(description: str, total: int = 1, images: int = 1) -> Iterator[ProgressTask]:
    """Shows the progress of a stage while the block runs, and prints the time it took at the end.

    Args:
        description: Name of the stage.
        total: Units of work.
        images: Images per unit, for the speed; 0: show no speed.
    """
    start = time.monotonic()
    if is_terminal():
        columns = (
            TextColumn("  {task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        )
        with Progress(*columns, console=Console(), transient=True, expand=True) as bar:
            task = ProgressTask(description, bar, total, images)
            yield task
    else:
        task = ProgressTask(description, None, total, images)
        yield task
    print(f"  {description}: {task.done} done in {time.monotonic() - start:.1f} s", flush=True)

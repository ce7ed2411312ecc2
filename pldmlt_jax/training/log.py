"""What a run writes while it trains: one JSON object a line, and the same scalars for TensorBoard."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pldmlt_jax.io.files import atomic_write
from pldmlt_jax.io.processes import is_first_process
from pldmlt_jax.training.tensorboard import EventFile


def to_json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays and numpy scalars as JSON-able numbers and lists, with six significant digits; None where not finite."""
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool | int | None):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return array.tolist()
    numbers = [float(f"{x:.6g}") if np.isfinite(x) else None for x in np.atleast_1d(array).astype(float)]
    return numbers if array.ndim else numbers[0]


class RunLog:
    """`log.jsonl` and `events.*` in one folder.

    Args:
        workdir: Where both go.
        after_step: What was written for later steps is removed: a resumed run writes it again.
        text: Of the config, for TensorBoard.
    """

    def __init__(self, workdir: Path, after_step: int = 0, text: str = ""):
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "log.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= after_step]
        with atomic_write(path) as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        self._file = open(path, "a", encoding="utf-8")
        self._events = EventFile(workdir, after_step, text)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._events.close()

    def _write_line(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Brings what was written to the disk, before a checkpoint that counts on it."""
        os.fsync(self._file.fileno())
        self._events.sync()

    def write(
        self, step: int, phase: str, values: Mapping[str, Any], seconds: float | None = None, **more: Any
    ) -> dict[str, Any]:
        """Writes one line: the step, the phase (`theta`, `label` or `val`), the values, which it returns as written.

        The time goes to TensorBoard alone: `log.jsonl` is the same, byte for byte, whenever and however often it stopped.
        """
        plain = to_json_values(values)
        self._write_line({"step": step, "phase": phase} | to_json_values(more) | plain)
        timed = plain if seconds is None else plain | {"seconds": seconds}
        for name, value in timed.items():
            for i, scalar in enumerate(value if isinstance(value, list) else [value]):
                suffix = f"_{i}" if isinstance(value, list) else ""
                if scalar is not None:
                    self._events.add_scalar(f"{phase}/{name.removeprefix(f'{phase}/')}{suffix}", scalar, step)
        self._events.flush()
        return plain

    def write_images(self, step: int, phase: str, pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
        """Shows pictures in TensorBoard."""
        for name, picture in pictures.items():
            self._events.add_picture(f"{phase}/{name}", picture, step)
        self._events.flush()


class NullLog(RunLog):
    """What the other processes write: nothing."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def sync(self) -> None:
        pass

    def write(
        self, step: int, phase: str, values: Mapping[str, Any], seconds: float | None = None, **more: Any
    ) -> dict[str, Any]:
        return {}

    def write_images(self, step: int, phase: str, pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
        pass


def open_log(workdir: Path, after_step: int = 0, text: str = "") -> RunLog:
    """The run's log in its first process, none in others; see `RunLog`."""
    return RunLog(workdir, after_step, text) if is_first_process() else NullLog()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a `log.jsonl`, up to one that an interruption cut off; empty where there is no file."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        lines.append(line)
    return lines

"""The training log of a run: one JSON object per line, and the same scalars for TensorBoard."""

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
    """Converts arrays and NumPy scalars to numbers and lists of six significant digits; values not finite become None."""
    return {key: _to_json_value(value) for key, value in values.items()}


def _to_json_value(value: Any) -> Any:
    if isinstance(value, str | bool | int | None):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return array.tolist()
    numbers = [float(f"{x:.6g}") if np.isfinite(x) else None for x in np.atleast_1d(array).astype(float)]
    return numbers if array.ndim else numbers[0]


class RunLog:
    """Writes `log.jsonl` and `events.*` in one folder. Use it as a context manager.

    Args:
        workdir: The folder.
        after_step: Step that the run resumes from. Lines of later steps are removed, since they will be written again.
        text: The config as text, for TensorBoard; "" for none.
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

    def sync(self) -> None:
        """Writes everything to disk; called before a checkpoint, so that a resumed run finds all lines up to it."""
        os.fsync(self._file.fileno())
        self._events.sync()

    def write(
        self, step: int, phase: str, values: Mapping[str, Any], seconds: float | None = None, **more: Any
    ) -> dict[str, Any]:
        """Writes one line: the step, the phase and the values.

        Args:
            step: Number of the step, from 1.
            phase: Name of the phase (`theta`, `label`, `grader`), or `val` for a validation.
            values: Scalars and vectors by name; TensorBoard shows each under `phase/name`.
            seconds: Training time so far. It goes to TensorBoard only, so that `log.jsonl` is the same, byte for byte,
                however often a run was stopped.
            more: Further values for `log.jsonl` only.

        Returns:
            The values as they were written.
        """
        plain = to_json_values(values)
        self._file.write(json.dumps({"step": step, "phase": phase} | to_json_values(more) | plain) + "\n")
        self._file.flush()
        timed = plain if seconds is None else plain | {"seconds": seconds}
        for name, value in timed.items():
            for i, scalar in enumerate(value if isinstance(value, list) else [value]):
                suffix = f"_{i}" if isinstance(value, list) else ""
                if scalar is not None:
                    self._events.add_scalar(f"{phase}/{name.removeprefix(f'{phase}/')}{suffix}", scalar, step)
        return plain

    def write_images(self, step: int, phase: str, images: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
        """Writes RGB images for TensorBoard, each under `phase/name`."""
        for name, image in images.items():
            self._events.add_image(f"{phase}/{name}", image, step)


class NullLog(RunLog):
    """The log of all processes except the first: it writes nothing."""

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

    def write_images(self, step: int, phase: str, images: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
        pass


def open_log(workdir: Path, after_step: int = 0, text: str = "") -> RunLog:
    """Opens the run's log in the first process, and one that writes nothing in the others; see `RunLog`."""
    return RunLog(workdir, after_step, text) if is_first_process() else NullLog()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads the lines of a `log.jsonl`, up to one that was cut off by a kill; returns no lines if there is no file."""
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

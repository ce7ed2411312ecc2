"""What a run writes while it trains: one JSON object a line, and the same scalars for TensorBoard."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from pldmlt_jax.training.processes import is_first


def to_plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays and numpy scalars as JSON-able numbers and lists, with six significant digits."""
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool | int | None):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return array.tolist()
    return [float(f"{x:.6g}") for x in array] if array.ndim else float(f"{float(array):.6g}")


class RunLog:
    """`log.jsonl` and `events.*` in one folder.

    Args:
        workdir: Where both go.
        after_step: Lines of later steps are removed: a resumed run writes them again.
    """

    def __init__(self, workdir: Path, after_step: int = 0):
        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / "log.jsonl"
        kept = [line for line in read_log(self._path) if line["step"] <= after_step]
        self._file = open(self._path, "w", encoding="utf-8")
        for line in kept:
            self._write_line(line)
        self._events = SummaryWriter(str(workdir), purge_step=after_step + 1)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._events.close()

    def _write_line(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def write(self, step: int, phase: str, values: Mapping[str, Any], **more: Any) -> None:
        """Writes one line: the step, the phase (`theta`, `label`, `both` or `val`), the values."""
        plain = to_plain(values)
        self._write_line({"step": step, "phase": phase} | to_plain(more) | plain)
        for name, value in plain.items():
            for i, scalar in enumerate(value if isinstance(value, list) else [value]):
                suffix = f"_{i}" if isinstance(value, list) else ""
                self._events.add_scalar(f"{phase}/{name}{suffix}", scalar, step)


class NoLog(RunLog):
    """What the other processes write: nothing."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def write(self, step: int, phase: str, values: Mapping[str, Any], **more: Any) -> None:
        pass


def open_log(workdir: Path, after_step: int = 0) -> RunLog:
    """The run's log in its first process, none in others."""
    return RunLog(workdir, after_step) if is_first() else NoLog()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a `log.jsonl`, without a last one that an interruption cut off; empty where there is no file."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines

"""Small files that are written whole or not at all."""

import contextlib
import csv
import json
import os
import platform
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PARTIAL = ".part"


def visible(paths: Iterable[Path]) -> list[Path]:
    """Sorted, without hidden files: archives made on a Mac hold one of the same suffix beside each photograph."""
    return sorted(path for path in paths if not path.name.startswith("."))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON through a temporary sibling, so that a half-written file is never read as whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(path)
    temporary.write_text(json.dumps(value, indent=1, default=_jsonable) + "\n", encoding="utf-8")
    temporary.replace(path)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a CSV whole or not at all."""
    temporary = partial_path(path)
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def partial_path(path: Path) -> Path:
    """A sibling to write to before it is renamed: its name says which process of which machine writes it."""
    return path.with_name(f"{path.stem}.{platform.node()}.{os.getpid()}{PARTIAL}{path.suffix}")


def remove_leftovers(directory: Path, max_age_s: float = 86400.0) -> None:
    """Removes what killed processes have left half written: those of this machine, and of any that are a day old."""
    for path in directory.glob(f"*{PARTIAL}*"):
        *_, machine, process = path.name.partition(PARTIAL)[0].rsplit(".", 2)
        with contextlib.suppress(OSError):  # another process removes it, or has finished it, at the same time
            dead = machine == platform.node() and not Path(f"/proc/{process}").exists()
            if dead or time.time() - path.stat().st_mtime > max_age_s:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _jsonable(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)

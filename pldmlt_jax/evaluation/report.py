"""One self-contained page of everything that a run left in its workdir."""

from pathlib import Path


def write_report(workdir: Path) -> Path:
    raise NotImplementedError

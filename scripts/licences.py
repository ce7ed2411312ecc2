"""Lists the licence of every locked package, from its installed metadata: python scripts/licences.py >docs/licences.md

Run it in .venv after `make install-dev`, and again after `make lock`.
"""

import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = {"To run": "requirements.lock", "To test and check, besides": "requirements-dev.lock"}
ELSEWHERE = {"colorama": "BSD License (on Windows)", "nest-asyncio": "BSD License (on Windows)"}
"""Locked for other systems or Pythons than this one may be."""

UNKNOWN = "not installed here"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked_names(lock: Path) -> list[str]:
    """Returns the packages of a lock file."""
    return sorted({canonical(name) for name in re.findall(r"^([\w.-]+)==", lock.read_text(), re.MULTILINE)})


def licence(name: str) -> str:
    """Returns the licence from the metadata: the expression, else the classifiers, else the first line of the free text."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    try:
        facts = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN
    classified = [line.split(" :: ")[-1] for line in facts.get_all("Classifier", []) if line.startswith("License ::")]
    named = [each for each in classified if each != "OSI Approved"]
    text = (facts["License-Expression"] or ", ".join(named) or facts["License"] or "").strip()
    return text.splitlines()[0].strip() if text else "not stated in its metadata"


def table() -> str:
    """Returns the page as Markdown."""
    lines = [
        "# Licences of the dependencies",
        "",
        "Made by `python scripts/licences.py`; this project itself is Apache-2.0.",
    ]
    seen: set[str] = set()
    for title, lock in LOCKS.items():
        lines += ["", f"## {title} (`{lock}`)", "", "| package | licence |", "| --- | --- |"]
        names = [name for name in locked_names(ROOT / lock) if name not in seen]
        lines += [f"| {name} | {licence(name)} |" for name in names]
        seen.update(names)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")

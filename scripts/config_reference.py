"""Writes docs/configs.md, every field of a config, from the code: python scripts/config_reference.py, or make docs."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pldmlt_jax.config import Config, Part  # noqa: E402
from pldmlt_jax.config_checks import CHOICES, RANGES  # noqa: E402
from pldmlt_jax.config_text import field_comments  # noqa: E402  (after the path)

PAGE = ROOT / "docs" / "configs.md"

HEAD = """# Every field of a config

Made by `make docs` from `pldmlt_jax/config.py` and `pldmlt_jax/config_checks.py`; a test holds it to them.

A file under `configs/` defines `get_config() -> Config` and sets values; the command line sets them on top:
`--config.train.batch_size=4 --config.meta.hidden='(64,32)'`. `python main.py --config=FILE --print_config` shows what comes
of both, with these meanings, and marks what differs from the defaults below. Defaults are the paper's own setting where it
gives one. Wrong names, values and pairs of values are all told at once, with the nearest name.

"Values" are the least and the greatest that are allowed, or the names; of each item where the field is a tuple.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(f"\n{section}" for section in sections(Config(), ""))


def sections(part: Part, prefix: str) -> Iterator[str]:
    """A heading and a table for a part of the config, then those of its own parts."""
    types = {field.name: field.type for field in dataclasses.fields(type(part))}  # pyright: ignore[reportArgumentType]
    own = {name: value for name, value in vars(part).items() if not isinstance(value, Part)}
    lines = [f"## {prefix.rstrip('.') or 'The run'}", ""]
    said = (type(part).__doc__ or "").strip()
    if said and not said.startswith(type(part).__name__ + "("):  # which is what dataclass writes where nothing is said
        lines += [said, ""]
    lines += ["| field | type | default | values | meaning |", "| --- | --- | --- | --- | --- |"]
    for name, value in own.items():
        path = prefix + name
        kind = types[name].__name__ if isinstance(types[name], type) else str(types[name])
        cells = [f"`{path}`", kind, f"`{value!r}`", values_of(path, value), field_comments()[path]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    yield "\n".join(lines) + "\n"
    for name, value in vars(part).items():
        if isinstance(value, Part):
            yield from sections(value, f"{prefix}{name}.")


def values_of(path: str, value: object) -> str:
    """What a field may be, as `validation.py` knows it."""
    if path in CHOICES:
        return ", ".join(f"`{name}`" for name in CHOICES[path])
    if path in RANGES:
        return " to ".join(f"{end:g}" if isinstance(end, float) else str(end) for end in RANGES[path])
    return "`True`, `False`" if isinstance(value, bool) else "text"


if __name__ == "__main__":
    PAGE.write_text(page())

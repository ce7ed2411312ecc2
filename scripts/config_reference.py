"""Writes docs/configs.md, the reference of all config fields: python scripts/config_reference.py, or make docs."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pldmlt_jax.config import NO_SET, Config, ConfigSection, FieldInfo  # noqa: E402  (after the path)

PAGE = ROOT / "docs" / "configs.md"

HEAD = """# Config fields

`make docs` writes this page from the declarations in `pldmlt_jax/config/`. A test checks that it is up to date.

A file under `configs/` defines `get_config() -> Config` and sets values. The command line overrides them:
`--config.train.batch_size=4 --config.meta.hidden='(64,32)'`. `python main.py --config=FILE --print_config` prints the
result with the meaning of each field, and marks the values that differ from the defaults. Defaults are the paper's setting
where the paper gives one. All wrong names, values and combinations are reported at once, each with the nearest name.

The column "values" has the smallest and largest allowed number, or the allowed names. For a tuple they hold for each item.

Fields that this version no longer has are listed in `RETIRED_FIELDS` (`pldmlt_jax/config/saved.py`), each with its last
default: the config.json of an older run still loads if it holds that default, and else the error says what to do.
"""


def page() -> str:
    """Returns the whole page."""
    return HEAD + "".join(f"\n{section}" for section in sections(Config(), ""))


def sections(config: ConfigSection, prefix: str) -> Iterator[str]:
    """Yields a heading and a table for a section of the config, then those of the sections in it."""
    lines = [f"## {prefix.rstrip('.') or 'The run'}", "", (type(config).__doc__ or "").partition("\n\n    Example:")[0], ""]
    lines += ["| field | type | default | values | meaning |", "| --- | --- | --- | --- | --- |"]
    own = [field for field in dataclasses.fields(config) if "info" in field.metadata]
    for field in own:
        kind = field.type.__name__ if isinstance(field.type, type) else str(field.type)
        info = field.metadata["info"]
        columns = [f"`{prefix}{field.name}`", kind, f"`{field.default!r}`", allowed_values(info, field.default), info.doc]
        lines.append("| " + " | ".join(column.replace("|", "\\|") for column in columns) + " |")
    yield "\n".join(lines) + "\n"
    for name, value in vars(config).items():
        if isinstance(value, ConfigSection):
            yield from sections(value, f"{prefix}{name}.")


def allowed_values(info: FieldInfo, default: Any) -> str:
    """Returns the allowed values as text."""
    if info.choices:
        names = [*info.load_choices(), *([NO_SET] if info.or_none else [])]
        return ", ".join(f"`{name}`" for name in names)
    return info.range_text() or ("`True`, `False`" if isinstance(default, bool) else "text")


if __name__ == "__main__":
    PAGE.write_text(page())

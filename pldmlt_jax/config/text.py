"""A config as text: one line per field, with its meaning and what differs from the default."""

from pldmlt_jax.config.run import Config
from pldmlt_jax.config.section import FieldInfo, field_infos, fields

DIFFERS = "*"
"""Mark of a field that differs from its default."""


def config_lines(config: Config) -> list[str]:
    """Returns one line per field: mark, path, value, meaning, allowed values, and the default if the value differs."""
    infos, defaults = field_infos(Config), dict(fields(Config()))
    lines = []
    for path, value in fields(config):
        differs = value != defaults[path]
        notes = [infos[path].doc, *_allowed(infos[path]), *([f"(default: {defaults[path]!r})"] if differs else [])]
        lines.append(f"{DIFFERS if differs else ' '} {path} = {value!r}  # {' '.join(notes)}")
    return lines


def config_text(config: Config) -> str:
    """Returns the lines of `config_lines` as Markdown, for TensorBoard."""
    return "\n".join(f"    {line}" for line in config_lines(config))


def _allowed(info: FieldInfo) -> list[str]:
    """Returns the range or the choices in brackets. A table is named but not imported: that would take a second."""
    if isinstance(info.choices, str):
        return [f"[a key of {info.choices.partition(':')[2]}]"]
    allowed = ", ".join(info.choices) or info.range_text()
    return [f"[{allowed}]"] if allowed else []

"""Configs as `config.json`, and the fields that old files may still hold."""

import dataclasses
from typing import Any, NamedTuple

from pldmlt_jax.config.run import Config
from pldmlt_jax.config.section import ConfigSection
from pldmlt_jax.errors import ConfigError


class RetiredField(NamedTuple):
    """A field that the config no longer has."""

    default: Any  # the last default, in JSON types (a list, not a tuple): what the program does now without the field
    action: str  # what to do about a saved config with another value


RETIRED_FIELDS: dict[str, RetiredField] = {
    "train.same_batch": RetiredField(
        False, "train again with separate phases; benchmarks/meta_gradients.py still has the shared step"
    ),
}
"""Dotted path -> the field that went. A saved config that holds one with its old default still loads."""


def to_dict(config: ConfigSection) -> dict[str, Any]:
    """Returns the config as nested plain dictionaries, as written to `config.json`."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any], kind: type[ConfigSection] = Config, prefix: str = "") -> Any:
    """Makes the config, or one section of it, from the content of a `config.json`.

    Args:
        values: As `to_dict` returns it. Lists become tuples, absent fields take their defaults, and fields of
            `RETIRED_FIELDS` are dropped if they hold their old default.
        kind: The class of the section.
        prefix: Dotted path of the section with a dot at the end; "" for the config.

    Raises:
        ConfigError: A retired field has another value than its old default.
        ValueError: A field is unknown: the file was written by another version.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    arguments, unknown = {}, []
    for name, value in values.items():
        path = prefix + name
        if name in known:
            if isinstance(value, dict):
                value = from_dict(value, known[name].default_factory, f"{path}.")  # pyright: ignore[reportArgumentType]
            arguments[name] = tuple(value) if isinstance(value, list) else value
        elif path in RETIRED_FIELDS:
            _check_retired_value(path, value)
        else:
            unknown.append(path)
    if unknown:
        raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
    return kind(**arguments)


def _check_retired_value(path: str, value: Any) -> None:
    default, action = RETIRED_FIELDS[path]
    if value != default:
        expected = f"{default!r}: this version no longer has the field and always does what that value did"
        raise ConfigError(path, repr(value), expected, action)

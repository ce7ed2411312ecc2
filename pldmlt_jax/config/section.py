"""How a section of the config and its fields are declared.

    @dataclass(unsafe_hash=True)
    class DataConfig(ConfigSection):
        size_px: int = field(1024, "Side of the square image that the network sees.", min=32, max=8192, unit="px")

All that is known about a field is written there, once. `config_checks` checks values against it, and `--print_config` and
docs/configs.md print it.
"""

import dataclasses
import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Value = TypeVar("Value")
Section = TypeVar("Section", bound="ConfigSection")
Preparation = Literal["", "images", "markings"]


@dataclass(frozen=True)
class FieldInfo:
    """What a config field means and which values it allows; `field` describes the attributes."""

    doc: str
    unit: str = ""
    min: float | None = None
    max: float | None = None
    choices: str | tuple[str, ...] = ()
    separator: str = ""
    or_none: bool = False
    prepares: Preparation = ""

    def load_choices(self) -> tuple[str, ...]:
        """Returns the names that are allowed now; imports the module of the table that holds them, if there is one."""
        if isinstance(self.choices, tuple):
            return self.choices
        module, _, table = self.choices.partition(":")
        return tuple(getattr(importlib.import_module(module), table))

    def range_text(self) -> str:
        """Returns the range as text, such as "32 to 8192 px"; "" without a range."""
        if self.min is None or self.max is None:
            return ""
        limits = (f"{limit:g}" if isinstance(limit, float) else str(limit) for limit in (self.min, self.max))
        return " to ".join(limits) + (f" {self.unit}" if self.unit else "")


def field(
    default: Value,
    doc: str,
    *,
    min: float | None = None,
    max: float | None = None,
    unit: str = "",
    choices: str | tuple[str, ...] = (),
    separator: str = "",
    or_none: bool = False,
    prepares: Preparation = "",
) -> Value:
    """Declares a field of a config section.

    Args:
        default: The default value. The type is the annotation of the field.
        doc: The meaning, in one or two sentences of plain English.
        min: Smallest allowed number; for a tuple, of each item.
        max: Largest allowed number; for a tuple, of each item. A number field needs both limits.
        unit: Unit of the number, such as "px".
        choices: The allowed names; for a tuple, of each item. Either the names themselves, or "module:TABLE" for a table
            that has them as keys. A table is imported only when a config is checked, so that users can add entries to it.
        separator: Joins several names in one value, as in "idrid_s+diaretdb1". "" = a value is one name.
        or_none: Also allow the value "none", on its own.
        prepares: The prepared images that depend on the field, and so are prepared anew when it changes: "images" for all,
            "markings" for those whose masks are made from experts' markings, "" for none.

    Returns:
        A `dataclasses.field`. It is typed as the value, which is how type checkers read the default of a dataclass.
    """
    info = FieldInfo(doc, unit, min, max, choices, separator, or_none, prepares)
    return dataclasses.field(default=default, metadata={"info": info})  # pyright: ignore[reportReturnType]


@dataclass(unsafe_hash=True)
class ConfigSection:
    """A group of config fields. It can be changed until `frozen` makes a copy that cannot.

    Sections compare and hash by value: frozen copies are static arguments of the jitted steps.
    """

    __slots__ = ("_is_frozen",)  # a slot is neither a field nor an entry of `vars`

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_is_frozen", False):
            raise dataclasses.FrozenInstanceError(f"{name}: the config has been validated and can no longer be changed")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)
        object.__delattr__(self, name)


def frozen(config: Section) -> Section:
    """Returns a copy of a config or section that can no longer be changed, nor any section in it."""
    sections = {name: frozen(value) for name, value in vars(config).items() if isinstance(value, ConfigSection)}
    copy = dataclasses.replace(config, **sections)
    object.__setattr__(copy, "_is_frozen", True)
    return copy


def fields(config: ConfigSection, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted path and the value of every field, depth first, in order of declaration."""
    for name, value in vars(config).items():
        if isinstance(value, ConfigSection):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@functools.cache
def field_infos(kind: type[ConfigSection], prefix: str = "") -> dict[str, FieldInfo]:
    """Maps the dotted path of every field of a config class to what is known about it, in the order of `fields`."""
    infos = {}
    for one in dataclasses.fields(kind):
        if "info" in one.metadata:
            infos[prefix + one.name] = one.metadata["info"]
        else:
            infos |= field_infos(one.default_factory, f"{prefix}{one.name}.")
    return infos

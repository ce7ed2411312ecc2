"""Every field of the config has what its declaration must have, and configs behave as values."""

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from typing import Any, get_args, get_origin

import pytest

from pldmlt_jax.config import Config, ConfigSection, DataConfig, field, field_infos, fields, from_dict, frozen, to_dict
from pldmlt_jax.config_checks import config_errors, validate_config

INFOS = field_infos(Config)
DEFAULTS = dict(fields(Config()))
UNITS = {
    "_px": "px",
    "_s": "s",
    "_deg": "degrees",
    "_minutes": "minutes",
    "_steps": "steps",
    "_rounds": "rounds",
    "_epochs": "epochs",
}
"""End of a field's name -> its unit."""


def declared_types(kind: Any = Config, prefix: str = "") -> dict[str, Any]:
    """Dotted path -> the annotation of the field."""
    types = {}
    for one in dataclasses.fields(kind):
        is_section = isinstance(one.type, type) and issubclass(one.type, ConfigSection)
        types |= declared_types(one.type, f"{prefix}{one.name}.") if is_section else {prefix + one.name: one.type}
    return types


TYPES = declared_types()


def item_type(path: str) -> type:
    """The type of a field; of a tuple's items."""
    return get_args(TYPES[path])[0] if get_origin(TYPES[path]) is tuple else TYPES[path]


def test_every_field_is_declared_once_and_in_order():
    assert list(INFOS) == list(DEFAULTS) == list(TYPES)


@pytest.mark.parametrize("path", INFOS)
def test_field_has_a_sentence_a_unit_and_a_range_or_choices(path):
    info, kind = INFOS[path], item_type(path)
    assert info.doc[0] == info.doc[0].upper() and info.doc.endswith("."), info.doc
    assert "\n" not in info.doc and "  " not in info.doc
    assert info.unit == next((unit for end, unit in UNITS.items() if path.endswith(end)), "")
    has_range = info.min is not None and info.max is not None and info.min < info.max
    assert has_range == (kind in (int, float)) and (has_range or info.min is info.max is None)
    assert not info.choices or kind is str


@pytest.mark.parametrize("path", [path for path, info in INFOS.items() if info.choices])
def test_choices_are_several_names_and_hold_the_default(path):
    info, default = INFOS[path], DEFAULTS[path]
    choices = info.load_choices()
    assert len(set(choices)) == len(choices) >= 2 and all(isinstance(name, str) for name in choices)
    assert set(default if isinstance(default, tuple) else [default]) <= set(choices)


def test_defaults_are_valid():
    assert config_errors(Config()) == []


def test_sections_compare_and_hash_by_value():
    config, other = Config(), Config()
    assert config == other and hash(config) == hash(other) and config.data != config.model
    other.train.batch_size = 3
    assert config != other and Config().train.batch_size == 2
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), dataclasses.replace(config)):
        assert twin == config and hash(twin) == hash(config)
    assert dataclasses.replace(config.data, size_px=64) == DataConfig(size_px=64)


def test_frozen_config_cannot_be_changed():
    config: Any = frozen(Config())
    validate_config(config)
    assert config == Config() and hash(config.loss) == hash(Config().loss)
    for change in (
        lambda: setattr(config, "seed", 1),
        lambda: setattr(config.data.augment, "flip", False),
        lambda: setattr(config.train, "no_such_field", 1),
        lambda: delattr(config.loss, "beta"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError, match="validated"):
            change()
    assert config == Config()
    assert dataclasses.replace(config.data, size_px=64).size_px == 64
    original = Config()
    assert frozen(original).data is not original.data
    original.data.size_px = 64  # the original can still be changed


def test_config_file_can_declare_a_section_of_its_own():
    @dataclasses.dataclass(unsafe_hash=True)
    class Extra(ConfigSection):
        depth_px: int = field(3, "Depth.", min=1, max=2.5, unit="px")
        names: tuple[str, ...] = field(("a",), "Names.", choices=("a", "b"))

    assert Extra() == Extra(3, ("a",)) and list(fields(Extra(4))) == [("depth_px", 4), ("names", ("a",))]
    assert field_infos(Extra)["depth_px"].range_text() == "1 to 2.5 px"
    assert from_dict(json.loads(json.dumps(to_dict(Extra(4)))), Extra) == Extra(4)


def test_config_imports_nothing_heavy():
    check = "import sys, pldmlt_jax.config.text; assert not {'jax', 'numpy', 'flax', 'cv2'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0

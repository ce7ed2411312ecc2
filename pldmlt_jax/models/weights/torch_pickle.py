"""Reads the tensors of a PyTorch file (`torch.save` of a state dict) without PyTorch and without running its pickle.

A pickle may name any function to be called. Here only those in `_ALLOWED` can be named, and each only records where a
tensor's numbers are in the file; everything else is refused. Both of PyTorch's file formats are read: the zip archive
(since 1.6), and the older sequence of pickles followed by the numbers (torchvision's older files).
"""

import collections
import dataclasses
import math
import mmap
import pickle
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pldmlt_jax.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DAMAGED = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, RecursionError),
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, AssertionError, ImportError),
)
"""Exceptions of the standard library for a damaged or disguised file."""


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    num_elements: int


@dataclasses.dataclass(frozen=True)
class _TensorPlace:
    """Position of a tensor in its storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: object) -> _TensorPlace:
    """Records a tensor. Only integers are accepted: a string times a number could be arbitrarily long."""
    if not isinstance(storage, _Storage) or not all(type(number) is int for number in (offset, *shape, *strides)):
        raise pickle.UnpicklingError("it has a tensor whose position is not in integers")
    return _TensorPlace(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: _TensorPlace, *_: object) -> _TensorPlace:
    return data


def _ordered(items: Iterable[tuple[str, Any]] = ()) -> collections.OrderedDict[str, Any]:
    pairs = [(name, value) for name, value in items]
    _require_names([name for name, _ in pairs])
    return collections.OrderedDict(pairs)


def _require_names(keys: Sequence[object]) -> None:
    """Refuses keys other than strings and integers: hashing a tuple nested in itself many times would never end."""
    if not all(isinstance(key, str | int) for key in keys):
        raise pickle.UnpicklingError("it has keys that are not names")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("torch", "DoubleStorage"): "<f8",
    ("torch", "FloatStorage"): "<f4",
    ("torch", "HalfStorage"): "<f2",
    ("torch", "LongStorage"): "<i8",
    ("torch", "IntStorage"): "<i4",
}


_REFUSED_OPCODES = (
    *(pickle.DICT, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    pickle.BYTEARRAY8,
)
"""Opcodes that no state dict needs, and those that allocate as much memory as the file claims."""

_SET_ITEM: Any = pickle._Unpickler.dispatch[pickle.SETITEM[0]]
_SET_ITEMS: Any = pickle._Unpickler.dispatch[pickle.SETITEMS[0]]

_DTYPES = [value for value in _ALLOWED.values() if isinstance(value, str)]


class _TensorUnpickler(pickle._Unpickler):
    """The standard library's unpickler in Python. The one in C allocates as much memory as a file claims to need."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if bytes([code]) not in _REFUSED_OPCODES
    }

    def _load_build(self) -> None:
        """Ignores attributes that older files add to a tensor or a dictionary."""
        self._stack.pop()
        if not isinstance(self._stack[-1], _TensorPlace | collections.OrderedDict):
            raise pickle.UnpicklingError("it changes something other than a tensor")

    def _load_setitem(self) -> None:
        _require_names([self._stack[-2]])
        _SET_ITEM(self)

    def _load_setitems(self) -> None:
        _require_names(self._stack[::2])
        _SET_ITEMS(self)

    @property
    def _stack(self) -> list[Any]:
        return self.stack  # pyright: ignore[reportAttributeAccessIssue]

    dispatch |= {pickle.BUILD[0]: _load_build, pickle.SETITEM[0]: _load_setitem, pickle.SETITEMS[0]: _load_setitems}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not part of a tensor")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, num_elements, *view = pid
        plain = isinstance(key, str) and isinstance(num_elements, int) and not any(view)
        if kind != "storage" or dtype not in _DTYPES or not plain:
            raise pickle.UnpicklingError(f"it refers to {reprlib.repr(pid)}, not to plain numbers")
        return _Storage(key, dtype, num_elements)


def _read_zip(path: Path) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        _require_plain(archive, path.stat().st_size)
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        with archive.open(pickled) as file:
            content = _TensorUnpickler(file).load()
        folder = root + "data/"
        names = [name for name in archive.namelist() if name.startswith(folder)]
        return content, {name.removeprefix(folder): archive.read(name) for name in names}


def _require_plain(archive: zipfile.ZipFile, num_bytes: int) -> None:
    """Raises ValueError unless the archive is like those of torch.save: nothing compressed, nothing stored twice."""
    members = archive.infolist()
    if climbing := [m.filename for m in members if ".." in m.filename.split("/") or m.filename[:1] in "/\\"]:
        raise ValueError(f"a path that leaves the archive: {climbing[0]!r}")
    if packed := [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]:
        raise ValueError(f"{packed[0]!r} is compressed, which torch.save does not do")
    if sum(m.file_size for m in members) > num_bytes:
        raise ValueError("its members are larger than itself")


def _read_legacy(path: Path) -> tuple[Any, dict[str, bytes]]:
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        if _TensorUnpickler(file).load() != _LEGACY_MAGIC:
            raise ValueError("it does not begin as a file of torch.save does")
        _protocol, _machine = _TensorUnpickler(file).load(), _TensorUnpickler(file).load()
        content = _TensorUnpickler(file).load()
        keys = _TensorUnpickler(file).load()
        _require_names(keys)
        itemsize = {place.storage.key: np.dtype(place.storage.dtype).itemsize for place in _places(content).values()}
        return content, {key: _read_legacy_storage(file, itemsize[key]) for key in keys}


def _read_legacy_storage(file: mmap.mmap, itemsize: int) -> bytes:
    num_bytes = int.from_bytes(file.read(8), "little") * itemsize
    if num_bytes > file.size() - file.tell():
        raise ValueError("its numbers are cut off")
    return file.read(num_bytes)


def _places(content: Any) -> dict[str, _TensorPlace]:
    if not isinstance(content, dict) or not all(isinstance(place, _TensorPlace) for place in content.values()):
        raise ValueError("it holds something other than a state dict (names and tensors)")
    return content


MAX_SHARED = 4
"""How many times larger than the file its tensors may be: tied layers share their numbers, but few layers are tied."""


def _require_size(places: Iterable[_TensorPlace], num_bytes: int) -> None:
    """Raises ValueError if many tensors share the same numbers, since each would be copied."""
    if sum(math.prod(place.shape) * np.dtype(place.storage.dtype).itemsize for place in places) > MAX_SHARED * num_bytes:
        raise ValueError("its tensors are far larger than itself")


def _to_array(place: _TensorPlace, storages: dict[str, bytes]) -> np.ndarray:
    numbers = np.frombuffer(storages[place.storage.key], place.storage.dtype)
    last = place.offset + sum((size - 1) * stride for size, stride in zip(place.shape, place.strides, strict=True))
    outside = min((place.offset, *place.shape, *place.strides)) < 0 or (0 not in place.shape and last >= numbers.size)
    if outside or math.prod(place.shape) > numbers.size:  # with strides of 0 it could have any number of elements
        raise ValueError("a tensor reaches beyond its numbers; the file is damaged")
    strides_bytes = tuple(stride * numbers.itemsize for stride in place.strides)
    return np.lib.stride_tricks.as_strided(numbers[place.offset :], place.shape, strides_bytes).copy()


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
        path: A `.pth` or `.pt` file as written by `torch.save(model.state_dict(), path)`.

    Returns:
        Name -> array, in the file's own layout and dtype.

    Raises:
        CheckpointError: The file is damaged, or holds anything but tensors of floats or integers.
    """
    try:
        content, storages = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        places = _places(content)
        _require_size(places.values(), path.stat().st_size)
        return {str(name): _to_array(place, storages) for name, place in places.items()}
    except _DAMAGED as error:
        raise CheckpointError(
            path,
            f"not readable as tensors: {error}",
            "a state dict of tensors, as torchvision and timm publish them",
            "save it with torch.save(model.state_dict(), path), or as .safetensors",
        ) from error

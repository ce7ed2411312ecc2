"""How large an image claims to be, from its first bytes: decoding allocates that much, whatever the file holds."""

import re
import struct
from collections.abc import Callable

MAX_PIXELS = 2**26
"""Of a photograph or a mask: 8192 x 8192. Fundus cameras have up to a quarter of it."""

MAX_SCANS = 100
"""Of a progressive JPEG; each goes over all pixels. Cameras and programs write ten or so."""

_SIZE_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = {0x01, *range(0xD0, 0xD8)}
_PNG_SIZES = {b"IHDR": 0, b"fcTL": 4}
"""Chunk -> where in it width and height are: of the image, and of the frames of a moving one."""

_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_WIDTH_TAG, _HEIGHT_TAG = 256, 257
_TIFF_TILES = (322, 323)

Size = tuple[int, int]
"""Height and width."""


def _png(content: bytes) -> Size:
    """The largest of all that it declares; OpenCV allocates what a chunk claims to hold, and so none may claim too much."""
    sizes, at = [(0, 0)], 8
    while at < len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        if at + 12 + length > len(content):
            raise ValueError("a chunk that is cut off")
        if kind in _PNG_SIZES:
            start = at + 8 + _PNG_SIZES[kind]
            width, height = struct.unpack(">II", content[start : start + 8])
            sizes.append((height, width))
        at += 12 + length
        if kind == b"IEND":
            break
    return max(sizes, key=lambda size: size[0] * size[1])


def _bmp(content: bytes) -> Size:
    if struct.unpack("<I", content[14:18])[0] == 12:
        width, height = struct.unpack("<HH", content[18:22])
    else:
        width, height = struct.unpack("<ii", content[18:26])
    return abs(height), abs(width)


def _jpeg(content: bytes) -> Size:
    """The largest of all frames that it declares."""
    if content.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"more than {MAX_SCANS} scans")
    sizes, at = [(0, 0)], 2
    while at + 4 <= len(content):
        marker = content.find(b"\xff", at)
        if marker < 0 or marker + 4 > len(content):
            break
        kind, length = content[marker + 1], int.from_bytes(content[marker + 2 : marker + 4])
        if kind in (0x00, 0xFF) or kind in _BARE_MARKERS:
            at = marker + 1
        elif kind in _SIZE_MARKERS and marker + 9 <= len(content):
            sizes.append(struct.unpack(">HH", content[marker + 5 : marker + 9]))
            at = marker + 2 + max(length, 2)
        else:
            at = marker + 2 + max(length, 2)
    return max(sizes, key=lambda size: size[0] * size[1])


def _tiff(content: bytes) -> Size:
    """Of its first image; tiles count as well, which may be larger than the image."""
    order = "<" if content[:2] == b"II" else ">"
    big = struct.unpack(f"{order}H", content[2:4])[0] == 43
    start = struct.unpack(f"{order}Q", content[8:16])[0] if big else struct.unpack(f"{order}I", content[4:8])[0]
    count_format, entry_bytes, value_at = (f"{order}Q", 20, 12) if big else (f"{order}H", 12, 8)
    count_bytes = struct.calcsize(count_format)
    count = struct.unpack(count_format, content[start : start + count_bytes])[0]
    values: dict[int, int] = {}
    for i in range(min(count, 4096)):
        entry = content[start + count_bytes + i * entry_bytes :][:entry_bytes]
        if len(entry) < entry_bytes:
            break
        tag, kind = struct.unpack(f"{order}HH", entry[:4])
        if kind in _TIFF_TYPES:
            form = f"{order}{_TIFF_TYPES[kind]}"
            values[tag] = struct.unpack(form, entry[value_at : value_at + struct.calcsize(form)])[0]
    tile = tuple(values.get(tag, 0) for tag in _TIFF_TILES)
    return max((values.get(_HEIGHT_TAG, 0), values.get(_WIDTH_TAG, 0)), (tile[1], tile[0]), key=lambda s: s[0] * s[1])


def _gif(content: bytes) -> Size:
    width, height = struct.unpack("<HH", content[6:10])
    return height, width


def _webp(content: bytes) -> Size:
    """Of the canvas, or of the one image."""
    kind = content[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack("<I", content[21:25])[0]
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (size & 0x3FFF for size in struct.unpack("<HH", content[26:30]))
    return height, width


def _pnm(content: bytes) -> Size:
    fields = re.match(rb"P\d(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s", content[:4096])
    if fields is None:
        raise ValueError("a header that is cut off")
    return int(fields[2]), int(fields[1])


def _jpeg2000(content: bytes) -> Size:
    """By its header box and by its code itself, whichever is the larger."""
    sizes = [(0, 0)]
    if (box := content.find(b"ihdr")) >= 0:
        sizes.append(struct.unpack(">II", content[box + 4 : box + 12]))
    code = content.find(b"\xff\x4f\xff\x51")
    width, height = struct.unpack(">II", content[code + 8 : code + 16]) if code >= 0 else (0, 0)
    return max([*sizes, (height, width)], key=lambda size: size[0] * size[1])


def _avif(content: bytes) -> Size:
    """The largest of the images that it holds."""
    sizes = [(0, 0)]
    for box in re.finditer(rb"ispe", content):
        width, height = struct.unpack(">II", content[box.end() + 4 : box.end() + 12])
        sizes.append((height, width))
    return max(sizes, key=lambda size: size[0] * size[1])


FORMATS: dict[bytes, Callable[[bytes], Size]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"BM": _bmp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"II+\0": _tiff,
    b"MM\0+": _tiff,
    b"GIF8": _gif,
    b"RIFF": _webp,
    **{b"P%d" % number: _pnm for number in range(1, 7)},
    b"\0\0\0\x0cjP  ": _jpeg2000,
    b"\xff\x4f\xff\x51": _jpeg2000,
}
"""First bytes -> what reads the size behind them."""


def declared_size(content: bytes) -> Size:
    """Height and width that an image file declares.

    Raises:
        ValueError: It is of none of FORMATS, its header is cut off, or it is made to take long.
    """
    read = next((reader for start, reader in FORMATS.items() if content.startswith(start)), None)
    if content[4:8] == b"ftyp":
        read = _avif
    if read is None:
        raise ValueError("not of a format that is read")
    try:
        return read(content)
    except struct.error as error:
        raise ValueError("a header that is cut off") from error

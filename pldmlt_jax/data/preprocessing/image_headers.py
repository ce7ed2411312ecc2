"""Reads the size that an image file declares, without decoding: a decoder allocates that much, whatever the file holds."""

import io
import struct
import threading
import warnings

from PIL import Image

MAX_PIXELS = 2**26
"""Largest image that is decoded: 8192 x 8192. Fundus cameras reach a quarter of it."""

MAX_SCANS = 100
"""Most scans of a progressive JPEG, each of which goes over all pixels. Cameras and programs write about ten."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""Pillow's names of the formats that OpenCV decodes here."""

_WARNINGS_LOCK = threading.Lock()
"""`warnings.catch_warnings` changes the whole process, and images are read in several threads."""


class TooLargeError(ValueError):
    """The image declares more than `MAX_PIXELS` pixels."""


def declared_size(content: bytes) -> tuple[int, int]:
    """Returns the height and width in pixels that an image file declares.

    Args:
        content: The whole file.

    Raises:
        TooLargeError: It declares more than `MAX_PIXELS`.
        ValueError: It is in none of FORMATS, its header is damaged, or decoding it would take unusually long.
    """
    if content.startswith(b"\x89PNG"):
        _require_whole_chunks(content)
    if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"more than {MAX_SCANS} scans")
    try:
        with _WARNINGS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, which nothing here reads
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise TooLargeError("far too many pixels") from error
    except Exception as error:  # damaged headers make Pillow's readers raise all kinds
        raise ValueError("no header of an image format that is read") from error
    if height * width > MAX_PIXELS:
        raise TooLargeError(f"{height} x {width} px")
    return height, width


def _require_whole_chunks(content: bytes) -> None:
    """Checks that no chunk of a PNG claims more bytes than follow; OpenCV allocates what a chunk claims."""
    start, kind = 8, b""
    while start < len(content) and kind != b"IEND":
        if start + 8 > len(content):
            raise ValueError("a chunk that is cut off")
        length, kind = struct.unpack_from(">I4s", content, start)
        start += 12 + length
        if start > len(content):
            raise ValueError("a chunk that is cut off")

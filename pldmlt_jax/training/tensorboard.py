"""TensorBoard's file of a run: scalars, pictures and the text of the config.

tensorboardX encodes them. Its own writer does not serve here: it queues what it is given, so that a run that is killed would
lack what was logged before its last checkpoint, and it never goes on with a file.
"""

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from google.protobuf.message import DecodeError
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  (made when it is imported)
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c

from pldmlt_jax.io.files import atomic_write, name_file_in_errors

PATTERN = "events.*"
FORMAT = "brain.Event:2"
"""The version that TensorBoard wants to see first."""

CONFIG = "config"
"""Tag of the text."""

QUALITY = 88
RGB = 3
"""TensorBoard's number of that colour space."""

HEAD_BYTES, CHECKSUM_BYTES = 12, 4
"""Of a record: its length with the length's checksum, and the content's."""


class EventFile:
    """The one `events.*` of a folder, with what earlier sessions have written up to a step.

    Args:
        folder: Where it is.
        after_step: What was written for later steps is left away: a resumed run writes it again.
        text: Of the config, at step 0; "" for none.
    """

    def __init__(self, folder: Path, after_step: int, text: str = ""):
        before = sorted(folder.glob(PATTERN))
        kept: dict[tuple[int, str], bytes] = {}
        for path in before:
            for event, record in read_events(path):
                for value in event.summary.value:
                    if event.step <= after_step and not value.tag.startswith(f"{CONFIG}/"):
                        kept[event.step, value.tag] = record
        path = folder / f"events.out.tfevents.{time.time_ns()}"
        first = [encoded(Event(wall_time=time.time(), file_version=FORMAT))]
        if text:
            first.append(encoded(Event(wall_time=time.time(), step=0, summary=summary.text(CONFIG, text))))
        with atomic_write(path, "wb") as file:
            file.writelines([*first, *kept.values()])
        for old in before:
            old.unlink()
        self._path, self._file = path, open(path, "ab")

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Adds one point of a curve."""
        self._add(step, summary.scalar(tag, value))

    def add_picture(self, tag: str, picture: UInt8[np.ndarray, "h w 3"], step: int) -> None:
        """Adds an RGB picture, as JPEG: a PNG's checksum, in plain Python, would take a tenth of a second."""
        height, width, _ = picture.shape
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        image = Summary.Image(height=height, width=width, colorspace=RGB, encoded_image_string=jpeg.tobytes())
        self._add(step, Summary(value=[Summary.Value(tag=tag, image=image)]))

    def _add(self, step: int, what: Summary) -> None:
        with name_file_in_errors(self._path):
            self._file.write(encoded(Event(wall_time=time.time(), step=step, summary=what)))

    def flush(self) -> None:
        """Lets others read what was added."""
        with name_file_in_errors(self._path):
            self._file.flush()

    def sync(self) -> None:
        """Brings it to the disk."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def encoded(event: Event) -> bytes:
    """A record as TFRecord has it: length and content, each with its checksum."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))


def read_events(path: Path) -> Iterator[tuple[Event, bytes]]:
    """The events of a file with their records, up to one that an interruption cut off."""
    content, start = path.read_bytes(), 0
    while start + HEAD_BYTES <= len(content):
        length, checksum = struct.unpack_from("<QI", content, start)
        end = start + HEAD_BYTES + length + CHECKSUM_BYTES
        if end > len(content) or checksum != masked_crc32c(content[start : start + HEAD_BYTES - CHECKSUM_BYTES]):
            return
        try:
            event = Event.FromString(content[start + HEAD_BYTES : end - CHECKSUM_BYTES])
        except DecodeError:
            return
        yield event, content[start:end]
        start = end

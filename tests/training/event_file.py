"""Reads TensorBoard's file of a run as its format says, by a way of its own."""

import struct
from pathlib import Path
from typing import Any

from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c


def written(directory: Path) -> list[tuple[int, str, Any]]:
    """Step, tag and content of each event of the folder's one file, in order: a number, the bytes of a picture, or text.

    Times differ between two runs, and so are left out.
    """
    (path,) = directory.glob("events.*")
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        data = content[12 : 12 + length]
        checksums = struct.unpack("<I", content[8:12]) + struct.unpack("<I", content[12 + length : 16 + length])
        assert checksums == (masked_crc32c(content[:8]), masked_crc32c(data))
        events.append(event_pb2.Event.FromString(data))
        content = content[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    contents = {
        "simple_value": lambda value: value.simple_value,
        "image": lambda value: value.image.encoded_image_string,
        "tensor": lambda value: value.tensor.string_val[0].decode(),
    }
    return [
        (event.step, value.tag, contents[value.WhichOneof("value")](value))
        for event in events[1:]
        for value in event.summary.value
        if not value.tag.endswith("/seconds")
    ]

"""Reads TensorBoard's files of a run as their format says, independently of the code that wrote them."""

import struct
from pathlib import Path
from typing import Any

from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c


def read_records(path: Path) -> list[Any]:
    """The events of one file, up to a record that is cut off at its end."""
    content, events = path.read_bytes(), []
    while len(content) >= 12:
        (length,) = struct.unpack("<Q", content[:8])
        if len(content) < 16 + length:
            break
        data = content[12 : 12 + length]
        checksums = struct.unpack("<I", content[8:12]) + struct.unpack("<I", content[12 + length : 16 + length])
        assert checksums == (masked_crc32c(content[:8]), masked_crc32c(data))
        events.append(event_pb2.Event.FromString(data))
        content = content[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    return events


def written(directory: Path) -> list[tuple[int, str, Any]]:
    """Step, tag and content of each event that TensorBoard shows, in order: a number, the bytes of an image, or text.

    A session that starts at a step hides what earlier ones wrote for it and later steps. Times differ between two runs, and
    so are left out; of a text only the last one is shown.
    """
    contents = {
        "simple_value": lambda value: value.simple_value,
        "image": lambda value: value.image.encoded_image_string,
        "tensor": lambda value: value.tensor.string_val[0].decode(),
    }
    shown: dict[tuple[int, str], Any] = {}
    for event in (event for path in sorted(directory.glob("events.*")) for event in read_records(path)):
        if event.session_log.status == event_pb2.SessionLog.START:
            shown = {(step, tag): content for (step, tag), content in shown.items() if step < event.step}
        for value in event.summary.value:
            if not value.tag.endswith("/seconds"):
                repeated = (event.step, value.tag) in shown
                assert not repeated or value.tag.startswith("config/"), (event.step, value.tag)
                shown[event.step, value.tag] = contents[value.WhichOneof("value")](value)
    return [(step, tag, content) for (step, tag), content in shown.items()]

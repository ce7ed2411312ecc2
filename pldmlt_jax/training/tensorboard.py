"""TensorBoard event files of a run: scalars, images and the text of the config.

tensorboardX encodes the events and writes the records. Its `SummaryWriter` is not used: `flush` does not wait for its queue,
so a run that is killed right after a checkpoint would lack some of what it logged before it.
"""

import time
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from pldmlt_jax.io.files import name_file_in_errors

FLUSH_INTERVAL_S = 10.0
"""A flush calls `fsync`, so events are flushed no more often than this, except before a checkpoint."""

JPEG_QUALITY = 88

RGB = 3
"""TensorBoard's number for this color space."""


class EventFile:
    """A new `events.*` file in a folder, in which earlier sessions of the same run may have left theirs.

    Args:
        folder: The folder of the log.
        after_step: Step that the run resumes from. TensorBoard hides what earlier sessions wrote for later steps.
        text: The config as text, shown for step 0; "" for none.
    """

    def __init__(self, folder: Path, after_step: int, text: str = ""):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._flushed_s = folder, time.monotonic()
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")  # unique, also within one second
        restart = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=after_step + 1, session_log=restart))
        if text:
            self._write(0, summary.text("config", text))
        self.sync()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Adds one point of a curve."""
        self._write(step, summary.scalar(tag, value))

    def add_image(self, tag: str, image: UInt8[np.ndarray, "h w 3"], step: int) -> None:
        """Adds an RGB image as JPEG, since tensorboardX computes the checksum of a larger PNG in slow plain Python."""
        height, width, _ = image.shape
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        encoded = Summary.Image(height=height, width=width, colorspace=RGB, encoded_image_string=jpeg.tobytes())
        self._write(step, Summary(value=[Summary.Value(tag=tag, image=encoded)]))

    def _write(self, step: int, content: Summary) -> None:
        with name_file_in_errors(self._folder / "events"):
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=content))
        if time.monotonic() - self._flushed_s > FLUSH_INTERVAL_S:
            self.sync()

    def sync(self) -> None:
        """Writes everything that was added to disk."""
        with name_file_in_errors(self._folder / "events"):
            self._writer.flush()
        self._flushed_s = time.monotonic()

    def close(self) -> None:
        """Writes everything to disk and closes the file."""
        with name_file_in_errors(self._folder / "events"):
            self._writer.close()

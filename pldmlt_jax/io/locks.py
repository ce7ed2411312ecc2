"""File locks between processes."""

import contextlib
import errno
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pldmlt_jax.errors import UserError

LOCKS_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems without locks, where no process is kept out."""


@contextlib.contextmanager
def locked(path: Path, refused: Callable[[str], UserError] | None = None) -> Iterator[None]:
    """Holds a file lock during the block; the system releases it even if the process is killed.

    Args:
        path: The lock file. It stays, and says who holds the lock.
        refused: Maps the text of who holds the lock already to the error to raise. None: wait for the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refused else 0))
        except BlockingIOError:
            file.seek(0)
            raise refused(file.read().strip() or "another process") if refused else RuntimeError from None
        except OSError as error:
            if error.errno not in LOCKS_UNSUPPORTED:
                raise
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {platform.node()} since {since}\n")
        file.flush()
        yield

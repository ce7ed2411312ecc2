"""Ctrl-C and SIGTERM: the first signal ends a run cleanly, a second one at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal has ended the run.

    Args:
        signum: Number of the signal; `128 + signum` is the exit status that shells expect.
        done: What was saved, for the last line that the user sees.
        then: What the same command will do.
    """

    def __init__(self, signum: int, done: str = "", then: str = "the same command resumes from there"):
        super().__init__(signum, done, then)
        self.signum, self.done, self.then = signum, done, then

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}{self.done and ': '}{self.done}"


class Stop:
    """The signal that this process has received, if any.

    Attributes:
        signum: Number of the signal; 0 for none.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.num_deferring = 0  # nested blocks that handle the signal themselves

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Makes the first signal raise nothing inside the block, which checks `signum` itself.

        Raises:
            Interrupted: The block has ended without handling the signal.
        """
        self.num_deferring += 1
        try:
            yield
        finally:
            self.num_deferring -= 1
        if self.signum and not self.num_deferring:
            raise Interrupted(self.signum)


STOP = Stop()
"""The one instance, since signals belong to the process."""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Makes the first signal raise `Interrupted` unless it is deferred, and a second one end the process at once.

    Python runs handlers only between two of its own instructions, and compiling a step can take a minute. So a thread, which
    the system notifies at once, handles the second signal. In any thread except the main one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(signum: int, _frame: FrameType | None) -> None:
        if not STOP.num_deferring:
            raise Interrupted(signum)

    STOP.signum = 0
    sender, receiver = socket.socketpair()
    sender.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(receiver,), name="signals", daemon=True)
    watcher.start()
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    handlers = {signum: signal.signal(signum, handler) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, before in handlers.items():
            signal.signal(signum, before)
        signal.set_wakeup_fd(wakeup)
        sender.close()
        watcher.join()
        receiver.close()


def _watch(receiver: socket.socket, leave: Callable[[int], None] = os._exit) -> None:
    """Records the first signal and exits at the second; returns when the other end of the socket is closed."""
    while numbers := receiver.recv(64):
        for signum in numbers:
            if signum not in SIGNALS:
                continue
            if STOP.signum:
                leave(128 + signum)
            STOP.signum = signum
            name = signal.Signals(signum).name
            print(f"{name}: stopping cleanly; press Ctrl-C again to stop immediately", file=sys.stderr, flush=True)

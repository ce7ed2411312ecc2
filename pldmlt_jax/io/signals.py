"""Ctrl-C and SIGTERM: the first one stops in good order, a second one at once."""

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
    """A signal has asked for the end.

    Args:
        signum: The signal; `128 + signum` is the exit status that shells expect.
        done: What was done about it, for the last line that the user sees.
        then: What comes of the same command.
    """

    def __init__(self, signum: int, done: str = "", then: str = "the same command goes on from there"):
        super().__init__(signum, done, then)
        self.signum, self.done, self.then = signum, done, then

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}{self.done and ': '}{self.done}"


class Stop:
    """Whether a signal has come, and which."""

    def __init__(self) -> None:
        self.signum = 0
        self.num_deferring = 0  # blocks that end in good order by themselves when they are asked to

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """In this block the first signal raises nothing: the block looks at `signum` by itself, or ends before that.

        Raises:
            Interrupted: It has ended without having looked.
        """
        self.num_deferring += 1
        try:
            yield
        finally:
            self.num_deferring -= 1
        if self.signum and not self.num_deferring:
            raise Interrupted(self.signum)


STOP = Stop()
"""Of this process; signals are the process's own as well."""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """The first signal raises `Interrupted`, where it is not postponed; a second one ends the process at once.

    Python runs handlers between two of its own instructions, and the compilation of a step can take a minute: the second
    signal is seen by a thread, which is told of signals as they come. Outside of the main thread nothing is changed.
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
    """Notes the first signal and leaves with the second; ends with the other end of the socket."""
    while numbers := receiver.recv(64):
        for signum in numbers:
            if signum not in SIGNALS:
                continue
            if STOP.signum:
                leave(128 + signum)
            STOP.signum = signum
            name = signal.Signals(signum).name
            print(f"{name}: stopping in good order; once more stops at once", file=sys.stderr, flush=True)

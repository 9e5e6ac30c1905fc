"""An event that a signal handler may set, too.

`threading.Event` may not be: a handler that runs while the same thread is inside of `wait` or `clear` waits for ever for
the lock that this thread holds. Here is no lock: to ring is to write into a pipe, to wait is to poll it.
"""

from __future__ import annotations

import contextlib
import os
import select
import weakref

_MOST = 65536  # bytes, more than one read leaves in a pipe that nobody reads


class Bell:
    """As `threading.Event`; `set` may be called from any thread and any signal handler, all else by one thread."""

    def __init__(self) -> None:
        """Raises OSError where the process can open no more files."""
        self._reads, self._writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._reads, select.POLLIN)
        for fd in (self._reads, self._writes):
            weakref.finalize(self, os.close, fd)

    def fileno(self) -> int:
        """What can be read while it rings, for `select`."""
        return self._reads

    def set(self) -> None:
        """Ring: who waits goes on."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so it rings already
            os.write(self._writes, b"!")

    def is_set(self) -> bool:
        """Whether it was rung since it was cleared."""
        return bool(self._poll.poll(0))

    def wait(self, seconds: float) -> bool:
        """Wait until it rings, `seconds` at most; tells whether it did."""
        return bool(self._poll.poll(seconds * 1000))

    def clear(self) -> None:
        """Let it ring no more."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._reads, _MOST)) == _MOST:
                pass

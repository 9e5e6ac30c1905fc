"""A thread that hands one mail at a time to the peer's server, while something else goes on."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from vmctl.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.outbox import Parcel

_PATIENCE = 5.0  # seconds


class Carrier:
    """Carries mails by `carry`, which raises SyncError for one that is not taken; `wake` is called at the end of each."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._work: queue.SimpleQueue[Parcel | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Parcel, SyncError | None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def is_started(self) -> bool:
        """Whether it can be given a mail."""
        return self._thread is not None

    def start(self, carry: Callable[[Parcel], None]) -> None:
        """Begin. Raises RuntimeError where there can be no further thread."""
        thread = threading.Thread(target=self._run, args=(carry,), name="vmctl carrier", daemon=True)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """Stop after the mail that is on its way; a peer that hangs is not waited for."""
        self._work.put(None)
        if self._thread is not None:
            self._thread.join(timeout=_PATIENCE)

    def carry(self, parcel: Parcel) -> None:
        """Take a mail along; nobody waits for its end but who asks for the `result`."""
        self._work.put(parcel)

    def result(self, *, wait: bool = False) -> tuple[Parcel, SyncError | None] | None:
        """A mail that has come to its end, and why it was not taken; None where none has, unless it is to `wait` for one."""
        try:
            return self._done.get(block=wait)
        except queue.Empty:
            return None

    def _run(self, carry: Callable[[Parcel], None]) -> None:
        while (parcel := self._work.get()) is not None:
            try:
                carry(parcel)
                error: SyncError | None = None
            except SyncError as fault:
                error = fault
            except Exception as fault:  # noqa: BLE001 - whatever it is, who waits must hear of it
                error = SyncError("a mail could not be sent", why=f"{type(fault).__name__}: {fault}")
            self._done.put((parcel, error))
            self._wake()

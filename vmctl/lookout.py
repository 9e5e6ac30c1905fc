"""When a daemon looks at its store: at what somebody hints at, when it is time, and when a person or the peer asks for it.

A look at the whole store is made in parts of a moment each, and the daemon does all else between them: in a store of a
million messages a full one takes minutes, in which no heartbeat may be missing. The least part is one mailbox's messages, or
one question to the index about all mailboxes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.watch import Debounce

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmctl.clock import Clock
    from vmctl.config import Scan
    from vmctl.replica import Replica

_MOST_FOLDERS = 100  # that are looked into by themselves: with more a look at the whole store is as quick
_PART = 0.1  # seconds
_OVER = object()
_A_LITTLE_MORE = 0.01  # seconds: a file has stood still for `settle` then


class _Look(NamedTuple):
    """A look at the whole store that goes on: its parts, what persons want of it, and which request was the last before it."""

    parts: Iterator[None]
    wanted: list[dict[str, Any]]
    request: int


class Lookout:
    """Of one store that is served. Only `hint` is for other threads; it calls `wake`."""

    def __init__(self, scan: Scan, clock: Clock, wake: Callable[[], object]) -> None:
        self._scan = scan
        self._clock = clock
        self._wake = wake
        self._hinted = threading.Event()
        self._written: set[str] = set()  # message folders
        self._writing = threading.Lock()
        self._look_again: dict[str, float] = {}  # those in which something had not stood still
        self._debounce = Debounce(scan.debounce, scan.debounce_max)
        self._next = 0.0
        self._look: _Look | None = None
        self._wanted: list[dict[str, Any]] = []
        self._requests = self._granted = 0
        self._in_haste = False  # whether what is asked for must not wait for a full look that is due
        self._accepted = False

    def begin(self) -> None:
        """The store was opened, anew perhaps: it is looked at with the next turn."""
        self._next = 0.0
        self._look = None
        self._look_again.clear()

    def hint(self, folder: str | None, *, done: bool) -> None:
        """A file in a message folder was written, and its writer may be done with it; or something else has changed."""
        if folder is None:
            self._hinted.set()
        elif not done:
            return  # a call that is recorded; the end of it is told
        else:
            with self._writing:
                self._written.add(folder)
        self._wake()

    def request(self, words: dict[str, Any] | None = None, *, urgent: bool = False) -> int:
        """Somebody waits for the end of a look that begins from now on; the number by which it `is_granted`.

        A person says how: `full`, `accept` (deletions), and `until` which time (microseconds) that counts. Where it is
        `urgent`, and nobody has asked for more, one that goes on is left, and that a full one is due has time.
        """
        if words:
            self._wanted.append(words)
        if urgent and not self._wanted:
            self._look = None
            self._in_haste = True
        self._requests += 1
        return self._requests

    def is_granted(self, request: int) -> bool:
        """Whether the look that this request waits for is over."""
        return self._granted >= request

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits."""
        return self._requests > self._granted

    def put_off(self) -> None:
        """The store could not be used: not at once again."""
        self._next = self._clock.steady() + self._scan.settle

    @property
    def goes_on(self) -> bool:
        """Whether a look is between two of its parts."""
        return self._look is not None

    def take_accepted(self) -> bool:
        """Whether a person has let deletions go since this was asked last: then what goes for its age need not wait, either."""
        accepted, self._accepted = self._accepted, False
        return accepted

    def is_busy(self, now: float) -> bool:
        """Whether there is something to look at."""
        return self.goes_on or now >= self._next or self._debounce.due is not None

    def _is_due(self, now: float) -> bool:
        return now >= self._next or (self._debounce.due is not None and now >= self._debounce.due)

    def due(self) -> Iterator[float]:
        """The moments, by the steady clock, at which there will be something to look at."""
        yield 0.0 if self._look is not None else self._next
        if self._debounce.due is not None:
            yield self._debounce.due
        yield from self._look_again.values()

    def turn(self, replica: Replica, now: float) -> bool:
        """Look at what there is to be looked at; tells whether something was granted."""
        self._look_at_written(replica, now)
        if self._hinted.is_set():
            self._hinted.clear()
            self._debounce.hit(now)
        if self._look is None:
            if not (self._is_due(now) or self.is_awaited or not replica.index.was_scanned):
                return False
            self._look = self._begin(replica)
        look, self._look = self._look, None  # where it ends by an error, the next one begins anew
        if next(look.parts, _OVER) is _OVER:
            return self._ended(replica, look)
        self._look = look
        return False

    def _begin(self, replica: Replica) -> _Look:
        self._debounce.clear()
        wall = self._clock.wall()
        self._wanted = [words for words in self._wanted if wall < words.get("until", 0)]
        full, accept = (any(words.get(name) for words in self._wanted) for name in ("full", "accept"))
        how = None if self._in_haste and not full else full
        parts = replica.parts(full=how, accept_deletions=accept, seconds=_PART)
        return _Look(parts, list(self._wanted), self._requests)

    def _ended(self, replica: Replica, look: _Look) -> bool:
        """Say when the next look is due. What was asked for since this one began is not granted by it."""
        again = replica.report.again
        self._accepted = self._accepted or any(words.get("accept") for words in look.wanted)
        self._next = self._clock.steady() + (self._scan.settle + _A_LITTLE_MORE if again else self._scan.every)
        if again:
            for words in look.wanted:
                words.pop("full", None)  # what has to stand still is seen without that
            return False
        self._wanted = [words for words in self._wanted if not any(words is done for done in look.wanted)]
        self._in_haste = self._in_haste and self._requests != look.request
        before, self._granted = self._granted, look.request
        return before != self._granted

    def _look_at_written(self, replica: Replica, now: float) -> None:
        """Look into the message folders into which something was put: a message is complete or not, and need not settle."""
        with self._writing:
            folders, self._written = self._written, set()
        folders |= {folder for folder, due in self._look_again.items() if due <= now}
        if not folders:
            return
        report = None if len(folders) > _MOST_FOLDERS else replica.scan_folders(folders)
        self._look_again = {folder: due for folder, due in self._look_again.items() if folder not in folders}
        if report is None:
            self._hinted.set()
            return
        for path in report.unsettled:
            self._look_again[path.rpartition("/")[0]] = now + self._scan.settle + _A_LITTLE_MORE

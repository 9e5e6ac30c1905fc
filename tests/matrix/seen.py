"""What is seen of two servers from outside: their journals, and the routes.json that each writes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.clock import Clock, parse_rfc3339
from vmctl.errors import VmctlError
from vmctl.journal import Journal
from vmctl.routes_file import read

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vmctl.journal import Entry

_SAMPLE, _BEAT = 0.02, 0.1  # seconds


class Decision(NamedTuple):
    """A transition that a server decided, not one that it adopted: wall time in microseconds, and the journal's entry."""

    at: int
    server: str
    service: str
    entry: Entry

    @property
    def words(self) -> str:
        """As the rows say it: who decided, the state, the cause."""
        after = self.entry["to"]
        return f"{self.server} {after['state']} {after['cause']}"


class Span(NamedTuple):
    """A time, in wall microseconds, in which a server served."""

    server: str
    begin: int
    end: int


class Notebook:
    """The lines that the journal of one server got since a mark."""

    def __init__(self, path: Path, server: str, homes: dict[str, str]) -> None:
        self._journal = Journal(path)
        self._server = server
        self._homes = homes
        self._seq = 0
        self.before: dict[str, Any] = {}
        self.mark()

    def mark(self) -> None:
        """From now on."""
        self._seq = self._journal.newest()
        self.before = {name: view.serving for name, view in self._journal.views(self._homes).items()}

    def entries(self) -> list[Entry]:
        """The lines since the mark; none while they cannot be read."""
        with contextlib.suppress(OSError, VmctlError):
            return list(self._journal.entries(since=self._seq))
        return []

    def verify(self) -> list[str]:
        """What is wrong with the whole journal."""
        return self._journal.verify()

    def views(self) -> dict[str, Any]:
        """The present views."""
        return self._journal.views(self._homes)

    def transitions(self) -> list[Entry]:
        """The transitions since the mark."""
        return [entry for entry in self.entries() if entry["kind"] == "transition"]

    def decisions(self) -> list[Decision]:
        """Those that this server decided."""
        return [
            Decision(parse_rfc3339(entry["at"]), self._server, entry["service"], entry)
            for entry in self.transitions()
            if entry["by"] != "peer"
        ]

    def spans(
        self, service: str, begin: int, end: int, *, ends: Iterable[int], gone: Iterable[tuple[int, int]]
    ) -> list[Span]:
        """When this server served, as its journal says.

        Its daemon was killed at `ends`; `gone` are the times in which it stood still, or its store was not there.
        """
        moments = [(begin, self.before.get(service) == self._server)]
        for entry in self.entries():
            at = parse_rfc3339(entry["at"])
            if entry["kind"] == "start":
                moments.append((at, False))
            elif entry["kind"] == "transition" and entry["service"] == service:
                moments.append((at, entry["to"]["serving"] == self._server))
        moments = sorted([*moments, *((at, False) for at in ends)], key=lambda moment: moment[0])
        found: list[Span] = []
        for (at, serves), (until, _) in zip(moments, [*moments[1:], (end, False)], strict=True):
            if serves:
                found += _without(Span(self._server, at, until), gone)
        return found


def _without(span: Span, gone: Iterable[tuple[int, int]]) -> list[Span]:
    spans = [span]
    for begin, end in gone:
        pieces = [(one.server, one.begin, min(one.end, begin)) for one in spans]
        pieces += [(one.server, max(one.begin, end), one.end) for one in spans]
        spans = [Span(*piece) for piece in pieces if piece[1] < piece[2]]
    return spans


def together(spans: list[Span]) -> int:
    """The microseconds in which two servers served."""
    pairs = [(one, other) for one in spans for other in spans if one.server < other.server]
    return sum(max(0, min(one.end, other.end) - max(one.begin, other.begin)) for one, other in pairs)


def nobody(spans: list[Span], begin: int, end: int) -> int:
    """The microseconds in which no server served."""
    reached, lost = begin, 0
    for span in sorted(spans, key=lambda one: one.begin):
        lost += max(0, span.begin - reached)
        reached = max(reached, span.end)
    return lost + max(0, end - reached)


class Watch:
    """Looks at something again and again, in a thread of its own, until it is closed."""

    def __init__(self, every: float) -> None:
        self._every = every  # seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._look()

    def _look(self) -> None:
        raise NotImplementedError


class Sampler(Watch):
    """Looks at the routes.json of both servers all the time, and keeps each moment at which both say that they serve."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files
        self.twice: list[str] = []
        self.looks = 0
        super().__init__(_SAMPLE)

    def _look(self) -> None:
        one, other = self._files
        # what holds before and after a look at the other file held meanwhile, too
        before, there, after = self._says(one), self._says(other), self._says(one)
        self.twice += [f"{time.time():.3f}: {name}" for name in before & after & there]
        self.looks += 1

    def _says(self, server: str) -> frozenset[str]:
        """The services that a server says it serves, by a file that counts."""
        clock = Clock()
        try:
            document = read(self._files[server])
        except (VmctlError, OSError):
            return frozenset()
        end = document["valid_until"]
        if end and (end["boot"] != clock.boot() or clock.steady() >= end["steady"]):
            return frozenset()
        services = document["services"].items()
        return frozenset(name for name, each in services if each["serving"] == server)


class Pulse(Watch):
    """How long this machine let a process wait: for the processor, and for the disk, which it writes to at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.longest = 0.0  # seconds
        self._looked = time.monotonic()
        super().__init__(_BEAT)

    def _look(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            file.write(b"1")
            os.fsync(file.fileno())
        now = time.monotonic()
        self.longest, self._looked = max(self.longest, now - self._looked - _BEAT), now

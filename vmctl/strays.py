"""What came and was not taken, counted by kind and named: `.vmctl/strays.json`, for `vmctl status`.

An attack must not become work: in a process that goes on, what comes is counted in memory and written once a second at
the most. The counts are for people; nothing that is decided rests on them.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from vmctl import beneath, durable
from vmctl.clock import rfc3339
from vmctl.errors import StoreBusy, StoreError
from vmctl.lines import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.clock import Clock
    from vmctl.errors import MailError

_FILE, _LOCK = "strays.json", "strays.lock"
_EVERY = 1.0  # seconds
_LARGEST_FILE = 65_536
_PATIENCE = 1.0


class Strays:
    """The counts of one server. For any thread."""

    def __init__(self, state: Path, clock: Clock) -> None:
        self._path = state / _FILE
        self._lock = state / _LOCK
        self._clock = clock
        self._counting, self._writing = threading.Lock(), threading.Lock()  # who counts never waits for a disk
        self._new: dict[str, dict[str, Any]] = {}
        self._written: float | None = None

    def note(self, error: MailError, source: str) -> None:
        """Count one, and write it unless something was written a moment ago."""
        self.count(error, source)
        if self._written is None or self._clock.steady() - self._written >= _EVERY:
            self.flush()

    def count(self, error: MailError, source: str) -> None:
        """Count one, in memory; `source` says where it came from, as far as that is known. It waits for nobody."""
        why = one_line(f"{error.what}: {error.why}" if error.why else error.what, 200)
        told = {"last": rfc3339(self._clock.wall()), "from": one_line(source, 100), "why": why}
        with self._counting:
            self._new[error.kind] = {"count": self._new.get(error.kind, {}).get("count", 0) + 1, **told}

    def flush(self) -> None:
        """Write what was counted since the last time. A disk that refuses is no reason to fail for it."""
        with self._writing:
            with self._counting:
                new, self._new = self._new, {}
            if not new:
                return
            self._written = self._clock.steady()
            try:
                with durable.lock(self._lock, timeout=_PATIENCE, what="the counts of strays"):
                    text = json.dumps(_together(read(self._path.parent), new), indent=2) + "\n"
                    durable.write(self._path, text.encode(), mode=0o600)
            except (StoreBusy, StoreError):
                with self._counting:
                    self._new = _together(new, self._new)


def _together(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sum of two counts; of each kind the last one is that of `after`."""
    sums = {
        kind: {**each, "count": each["count"] + before.get(kind, {}).get("count", 0)} for kind, each in after.items()
    }
    return before | sums


def read(state: Path) -> dict[str, dict[str, Any]]:
    """What is counted, by kind: `count`, and of the last one `last` (RFC 3339), `from` and `why`."""
    try:
        with beneath.file(state / _FILE) as file:
            value = json.loads(file.read(_LARGEST_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    kinds = value.items() if isinstance(value, dict) else ()
    return {kind: each for kind, each in kinds if isinstance(each, dict) and type(each.get("count")) is int}

"""What keeps a server from its work as a whole, and since when: a full disk, a read-only one, a store that went away.

A running daemon says so in the lock that it holds: that needs neither room nor an index, and is forgotten with the
process. What a daemon cannot say, as on a read-only disk, or where none runs, `probe` sees by itself.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from vmctl.clock import rfc3339

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.errors import VmctlError

_ROOM = 256 * 1024  # bytes: the least in which a daemon can do anything at all


class Trouble(NamedTuple):
    """What is wrong, why, what to do, and since when (microseconds since 1970; None where nobody saw it begin)."""

    error: str  # the name of its class
    what: str
    why: str
    hint: str
    since: int | None = None

    @classmethod
    def of(cls, error: VmctlError) -> Self:
        """The trouble that an error means."""
        return cls(type(error).__name__, error.what, error.why, error.hint)

    @property
    def words(self) -> str:
        """What is wrong and why, in one line."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def as_json(self) -> dict[str, Any]:
        """As `vmctl status --json` shows it."""
        return {**self._asdict(), "since": None if self.since is None else rfc3339(self.since)}

    def as_text(self) -> str:
        """As it stands in a lock, on one line."""
        return json.dumps(self)


def from_text(text: str) -> Trouble | None:
    """The trouble in the text of a lock; None where there is none, or half of one: it was too long for the lock."""
    try:
        *words, since = json.loads(text)
        error, what, why, hint = map(str, words)
        return Trouble(error, what, why, hint, None if since is None else int(since))
    except (ValueError, TypeError):
        return None


def probe(store: Path) -> Trouble | None:
    """What can be seen of the disk under a store without writing: that it is read-only, or has no room."""
    try:
        disk = os.statvfs(store)
    except OSError as error:
        return Trouble("StoreUnusable", f"cannot look at the disk of {store}", error.strerror or str(error), _MEND)
    if disk.f_flag & os.ST_RDONLY:
        return Trouble("StoreUnusable", f"the disk of {store} is read-only", "nothing can be taken or changed", _MEND)
    room = disk.f_bavail * disk.f_frsize
    if room < _ROOM and disk.f_blocks:
        return Trouble(
            "DiskFull", f"the disk of {store} is full", f"{room} bytes are left", "make room: work goes on by itself"
        )
    return None


_MEND = "mend the disk or the mount: work goes on by itself"

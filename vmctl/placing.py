"""Tells a message that was never written from one that was, and that the application has deleted since.

What was written is noted in the index with one commit for many files. A process that is killed before it leaves files
that the index knows nothing of, and the application may delete one before the next start. To write it again would bring
back what somebody has deleted. So each new document has a mark below `.vmctl/placing` until the commit: see
`durable.place`. A mark means something only until the machine starts anew, as nobody waits for it to be durable.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from vmctl import beneath, durable
from vmctl.errors import StoreUnusable
from vmctl.rights import AS_BESIDE

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.clock import Clock
    from vmctl.model import Record
    from vmctl.store.format import Format

_UNKNOWN = "unknown"


class Placing:
    """The marks of one store."""

    def __init__(self, store: Format, clock: Clock) -> None:
        self._store = store
        self._folder = store.state / "placing"
        self._boot = clock.boot()
        self._suffix = f".{hashlib.sha256(self._boot.encode()).hexdigest()[:12]}"
        self._marks: list[Path] = []

    def write(self, record: Record, path: str, data: bytes) -> None:
        """Write the document of a message that is not there; `noted` is to be called when the index has it."""
        if self._boot == _UNKNOWN:
            durable.write(self._store.root / path, data, mode=AS_BESIDE)
            return
        durable.make_directory(self._folder)
        mark = self._folder / (record.key.replace("/", "%") + self._suffix)
        durable.place(mark, self._store.root / path, data, record.version.encode(), mode=AS_BESIDE)
        self._marks.append(mark)

    def noted(self) -> None:
        """The index knows of all that was written."""
        marks, self._marks = self._marks, []
        for mark in marks:
            durable.unmark(mark)

    def left(self) -> list[tuple[str, str]]:
        """Key and version of what a killed process has written without a note, whether it is there still or not."""
        marks = [self._folder / name for name in beneath.names(self._folder) if name.endswith(self._suffix)]
        return [
            (mark.name.removesuffix(self._suffix).replace("%", "/"), beneath.read(mark).decode("ascii", "replace"))
            for mark in marks
            if durable.was_placed(mark)
        ]

    def clear(self) -> None:
        """What a killed process left was looked at."""
        self._marks.clear()
        for name in beneath.names(self._folder):  # a mark sorts before the file that waits beside it
            with contextlib.suppress(StoreUnusable):
                durable.discard(self._folder / name)

"""Tells a message that was never written from one that was, and that the application has deleted since.

What was written is noted in the index with one commit for many files. A process that is killed before it leaves files
that the index knows nothing of, and the application may delete one before the next start. To write it again would bring
back what somebody has deleted. So before new documents take their places a mark names them, and where each waits: all of
that lies in `.vmctl/placing`, where nobody else removes anything. Who does not wait there any more was at its place, be it
there still or not. Of one that waits still the recording may have taken its place already: that goes back into the pool. A
mark means something only until the machine starts anew, as nobody waits for it to be durable.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING

from vmctl import beneath, durable
from vmctl.errors import StoreUnusable
from vmctl.rights import Rights
from vmctl.together import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from vmctl.clock import Clock
    from vmctl.model import Record
    from vmctl.store.format import Format

_UNKNOWN = "unknown"


class Placing:
    """The marks of one store."""

    def __init__(self, store: Format, clock: Clock) -> None:
        self._root = store.root
        self._folder = store.state / FOLDER
        self._boot = clock.boot()
        self._suffix = f".{hashlib.sha256(self._boot.encode()).hexdigest()[:12]}.marks"
        self._marks: list[Path] = []

    def mark(self, waiting: Iterable[tuple[Record, str, str]]) -> None:
        """New documents are about to take their places, after their recordings; `noted` is to be called when the index has them.

        Of each the record, where its document waits, and the path of its recording.
        """
        lines = [[record.key, record.version, staged.rpartition("/")[2], sound] for record, staged, sound in waiting]
        if self._boot == _UNKNOWN or not lines:
            return
        durable.make_directory(self._folder, needs=self._folder.parent)
        mark = self._folder / (os.urandom(8).hex() + self._suffix)
        durable.take_place(durable.stage(str(self._folder), json.dumps(lines).encode(), Rights(0o600)), str(mark))
        self._marks.append(mark)

    def noted(self) -> None:
        """The index knows of all that was written."""
        marks, self._marks = self._marks, []
        for mark in marks:
            durable.discard(mark)

    def left(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """What a killed process has not noted: key and version of what was at its place; key and recording of what was not."""
        placed, not_placed = [], []
        for mark in self._left():
            for key, version, staged, sound in _lines(mark):
                if beneath.is_there(self._folder / staged):
                    not_placed.append((key, sound))
                else:
                    placed.append((key, version))
        return placed, not_placed

    def clear(self) -> None:
        """What a killed process left was looked at."""
        self._marks.clear()
        names = beneath.names(self._folder)
        for name in sorted(names, key=lambda name: name.startswith(durable.TEMP_PREFIX)):  # marks before what waits
            with contextlib.suppress(StoreUnusable):
                durable.discard(self._folder / name)

    def _left(self) -> Iterator[Path]:
        return (self._folder / name for name in beneath.names(self._folder) if name.endswith(self._suffix))


def _lines(mark: Path) -> list[tuple[str, str, str, str]]:
    """What a mark says; nothing where it cannot be read."""
    try:
        return [(key, version, staged, sound) for key, version, staged, sound in json.loads(beneath.read(mark))]
    except (OSError, ValueError, TypeError):
        return []

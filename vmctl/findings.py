"""What one look at a store finds besides edits: what has to be looked at again, what is a fault, what is to be durable."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmctl import durable
from vmctl.fault_list import NO_FILE
from vmctl.store.format import STATE, Format

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.clock import Clock
    from vmctl.entry import Look
    from vmctl.index import Index


@dataclass(slots=True)
class Report:
    """What a scan found: keys that changed, files that have to stand still first, deletions that wait for a word."""

    changed: list[str] = field(default_factory=list)
    unsettled: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    held: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    opened: int = 0

    @property
    def again(self) -> bool:
        """Whether a second look is owed."""
        return bool(self.unsettled or self.absent)


class Findings:
    """The findings of one look. Call inside a transaction of the index."""

    def __init__(self, store: Format, index: Index, clock: Clock) -> None:
        self._store = store
        self._index = index
        self._clock = clock
        self._faulty: set[str] = set()
        self._before: set[str] = set()  # what was at fault when the look began
        self._new: list[str] = []
        self.report = Report()

    @property
    def unwell(self) -> int:
        """How much is not as it should be, yet: it is to be looked at again."""
        return len(self._faulty) + len(self.report.unsettled) + len(self.report.damaged)

    def seen(self, path: str, look: Look, digest: str, known: tuple[Look, str] | None) -> None:
        """A file holds what the index now has of it, and did not at its last look, by which it is `known`."""
        if known is None or known[1] != digest:
            self._new.append(path)
        self._index.looks.set_file(path, look, digest)

    def remember_faults(self) -> None:
        """What is at fault now may turn out to be mended."""
        self._before = {fault["path"] for fault in self._index.faults.all()}

    def keep_new(self) -> None:
        """What was taken in is accepted, so it is made durable first: whoever wrote it may not have waited for the disk."""
        durable.keep(self._new, self._store.root)
        self._new.clear()

    def fault(self, path: str, why: str, mend: str) -> None:
        """Name what is wrong with a file."""
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        self._faulty.add(shown)
        self._index.faults.set(shown, why, mend, self._clock.wall())

    def forget_mended(self, was_looked_at: Callable[[str], bool]) -> None:
        """Forget the faults that a look has not found again, though it was in their folder.

        What others have named since it began is theirs.
        """
        for path in self._before:
            if path.startswith(NO_FILE):
                continue  # whoever named it knows when it is mended
            if path in self._faulty or (path.startswith(f"{STATE}/") and self._store.look(path) is not None):
                continue
            if was_looked_at(path.rpartition("/")[0]):
                self._index.faults.drop(path)

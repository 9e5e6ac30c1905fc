"""A look at a whole store: what has changed, come and gone since the last one.

A file that is gone counts as deleted only at a second look, `scan.settle` seconds after the first, and not when so much is
gone that a fault is more likely than a wish. A look may be made in parts: each is a transaction, and between two of them
others may use the store. So what was seen in an earlier part is never taken for what is there now: a file is looked at
again before anything is made of it, and one that is gone before that counts.
"""

from __future__ import annotations

import contextlib
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from vmctl import beneath
from vmctl.absence import Absences, Missing
from vmctl.clock import Deadline
from vmctl.errors import StoreUnusable
from vmctl.model import MAILBOX, parse_key
from vmctl.setback import Listing, Regress, many, older, older_files

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterator

    from vmctl.clock import Clock
    from vmctl.entry import Look
    from vmctl.findings import Report
    from vmctl.index import Index
    from vmctl.scan import Scanner
    from vmctl.store.format import Format

PART = 500  # records: a mail of them
_PATHS = 500  # in one statement
# A directory changed as lately as this before it was listed may change again without a new mtime.
_RACY_NS = 2_000_000_000
WITHOUT_END = float("inf")


class Sweeper:
    """Looks at one store, again and again; remembers between two looks what was absent, or older, at the first."""

    def __init__(self, store: Format, index: Index, clock: Clock, settle: float, scanner: Scanner) -> None:
        self._store = store
        self._index = index
        self._clock = clock
        self._scanner = scanner
        self._absences = Absences(store, index, clock, settle)
        self._regress = Regress()
        self.report: Report = scanner.findings.report  # of the newest look

    def sweep(self) -> Report:
        """One look, in one transaction of the index."""
        for _ in self.parts(full=False, accept_deletions=False):
            pass
        return self.report

    def parts(
        self, *, full: bool, accept_deletions: bool, size: float = WITHOUT_END, seconds: float = WITHOUT_END
    ) -> Iterator[None]:  # fmt: skip
        """The same in parts, each of so many records that are found, or of so many seconds. What is gone is judged in the last.

        With `full` no folder is trusted to be as it was for its times.
        """
        findings = self._scanner.begin()
        self.report = findings.report
        sweep = _Sweep(self._store, self._index, self._clock, self._scanner, full=full, accept=accept_deletions)
        steps = sweep.steps(self._absences, self._regress)
        while True:
            self._scanner.findings = findings  # files may have been looked at in between
            deadline = Deadline(self._clock, seconds)
            with self._index.transaction():
                goes_on = False
                for _ in steps:
                    if len(self._scanner.edits.changed) >= size or deadline.over:
                        goes_on = True
                        break
                findings.keep_new()
            self._scanner.reported()
            if not goes_on:
                return
            yield
            sweep.interrupted()


class _Sweep:
    """One look. It is in no hurry: `steps` ends each of its steps where it may be left for a while."""

    def __init__(
        self, store: Format, index: Index, clock: Clock, scanner: Scanner, *, full: bool, accept: bool
    ) -> None:  # fmt: skip
        self._store = store
        self._index = index
        self._clock = clock
        self._scanner = scanner
        self._findings = scanner.findings
        self._full = full
        self._accept = accept
        self._listings: dict[str, tuple[int, dict[str, os.stat_result]]] = {}
        self._was_left = False  # whether others may have used the store
        self._late = False  # whether they may have put something back since that was looked for
        self._older: set[str] = set()  # paths of what was found to be so then, be it held or taken as an edit

    def interrupted(self) -> None:
        """Others may have used the store."""
        self._listings.clear()
        self._was_left = self._late = True

    def steps(self, absences: Absences, regress: Regress) -> Iterator[None]:
        """Look at everything. Each step is inside a transaction, and the store is this process's meanwhile."""
        self._findings.remember_faults()
        before = {} if self._full else self._index.looks.listed()
        looked = self._clock.wall() * 1000

        def known_names(folder: str, look: Look) -> list[str] | None:
            seen = before.get(folder)
            return None if seen is None or _changed(look, seen[0]) else seen[1]

        yield  # of many mailboxes these rows alone take a moment
        self._walk = yield from self._store.walking(known_names)
        for path, why in {**self._walk.odd, **self._walk.unread}.items():
            if path in self._walk.unread or not self._is_gone(path):
                self._findings.fault(path, why, "move it out of the store, or mend its name or permissions")
            yield
        folders = self._folders_to_list()
        known = yield from self._known_files()
        waiting = yield from self._find_set_back(folders, known, regress)
        yield from self._files(known)
        yield from self._remember_listed(looked, before)
        while waiting:
            with beneath.holding():
                self._message_folder(waiting.popleft())
            if waiting:
                yield
        yield from self._end(absences, {*folders, *(self._index.looks.folders().keys() - self._walk.folders.keys())})

    def _is_gone(self, path: str) -> bool:
        """Whether somebody has taken it away since the walk."""
        try:
            return self._store.look(path) is None
        except StoreUnusable:
            return False

    def _folders_to_list(self) -> list[str]:
        known = self._index.looks.folders()
        return [
            folder
            for folder, (_, look) in self._walk.folders.items()
            if self._full or _changed(look, known.get(folder))
        ]

    def _known_files(self) -> Generator[None, None, dict[str, tuple[Look, str]]]:
        """What the index has of the files of the walk."""
        known: dict[str, tuple[Look, str]] = {}
        paths = iter(self._walk.files)
        while some := list(islice(paths, _PATHS)):
            known |= self._index.looks.files(some)
            yield
        return known

    def _find_set_back(
        self, folders: list[str], known: dict[str, tuple[Look, str]], regress: Regress
    ) -> Generator[None, None, deque[str]]:  # fmt: skip
        """Hold what was put back from a backup, which takes a list of every folder; those that are to be looked into.

        Of the others all is known as it is. A new index knows of nothing that was there before. A look that was left may
        have been where the rest of it lies before that was put back: then it counts at a second look only.
        """
        if self._accept or self._index.is_new:
            self._hold({})
            return deque(folders)
        found = self._older_files(known)
        self._late = False
        waiting: deque[str] = deque()
        for folder in folders:
            looked = self._clock.wall() * 1000
            try:
                listing = Listing(folder, self._store.messages(folder), self._index.looks.files_in(folder))
            except StoreUnusable:  # the second look will name it
                waiting.append(folder)
                continue
            found |= older(self._store, self._index, listing)
            if self._scanner.is_quiet(self._walk.folders[folder][0], listing.there, listing.known):
                self._seen(folder, looked)
            else:
                waiting.append(folder)
                self._listings[folder] = looked, listing.there
            yield
        self._older = set(found)
        self._hold(many(found))
        if not regress.is_as_before(found) and self._was_left and not self._scanner.set_back:
            self._scanner.set_back = found
            self._findings.report.unsettled |= found.keys()
        return waiting

    def _older_files(self, known: dict[str, tuple[Look, str]]) -> dict[str, str]:
        """What was put back of what people edit, looked at again: others may have written or deleted it since the walk."""
        found = older_files(self._index, self._walk.files, known)
        if not found:
            return found
        now: dict[str, tuple[str, Look]] = {}
        for path, key in found.items():
            with contextlib.suppress(StoreUnusable):  # who reads it names the fault
                if (look := self._store.look(path)) is not None:
                    now[path] = key, look
        return older_files(self._index, now, self._index.looks.files(now))

    def _files(self, known: dict[str, tuple[Look, str]]) -> Iterator[None]:
        """Look at what people edit."""
        for path, (key, look) in self._walk.files.items():
            before = known.get(path)
            if path not in self._scanner.set_back and (self._full or before is None or before[0] != look):
                self._file(key, path, look, before)
            yield

    def _file(self, key: str, path: str, look: Look, known: tuple[Look, str] | None) -> None:
        """Look at one file, unless others have written or deleted it since the walk: then what is in it is known."""
        if self._was_left:
            try:
                now = self._store.look(path)
            except StoreUnusable as error:
                self._findings.fault(path, error.words, error.hint)
                return
            known = self._index.looks.file(path)
            if now is None and known is None and not self._index.is_new:
                return
            if now is None or (now != look and (known is None or known[0] != now)):
                self._findings.report.unsettled.add(path)  # what that means takes a look at all else
                return
            look = now
        if known is None or known[0] != look or (self._full and self._scanner.settled(look)):
            self._scanner.hand_file(key, path, look)

    def _remember_listed(
        self, looked: int, before: dict[str, tuple[tuple[int, int, int, int], list[str]]]
    ) -> Iterator[None]:  # fmt: skip
        """Remember the folders that need not be listed again: those of which all is known as it is."""
        looks, walk = self._index.looks, self._walk
        for folder, (look, names) in walk.listed.items():
            if folder not in before or _changed(look, before[folder][0]):
                files = [f"{folder}/{name}" for name in names if f"{folder}/{name}" in walk.files]
                if names and all(
                    (known := looks.file(path)) is not None and known[0] == walk.files[path][1] for path in files
                ):
                    looks.set_listed(folder, (look.mtime, look.ctime, look.inode, looked), names)
                elif folder in before:
                    looks.drop_listed(folder)
            yield
        for folder in before.keys() - walk.listed.keys():
            looks.drop_listed(folder)

    def _message_folder(self, folder: str) -> None:
        looked = self._clock.wall() * 1000
        try:
            if folder in self._listings:
                looked, found = self._listings.pop(folder)
            else:
                found = self._store.messages(folder)
            late = self._set_back_since(folder, found)
            self._findings.report.unsettled |= late
            well = not late and self._scanner.messages(self._walk.folders[folder][0], folder, found)
        except StoreUnusable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return  # it went since the walk: the next one sees what that means
            self._walk.unread[folder], well = error.words, False
            self._findings.fault(folder, error.words, error.hint)
        self._seen(folder, looked if well else 0)

    def _seen(self, folder: str, looked: int) -> None:
        """A folder looked so when it was walked, and at `looked` (nanoseconds; 0: never) all in it was known as it is."""
        look = self._walk.folders[folder][1]
        self._index.looks.set_folder(folder, look.mtime, look.ctime, look.inode, looked)

    def _set_back_since(self, folder: str, found: dict[str, os.stat_result]) -> set[str]:
        """What was put back from a backup after this look has looked for that: the next one is to judge it, with all else."""
        if not self._late or self._accept or self._index.is_new:
            return set()
        listing = Listing(folder, found, self._index.looks.files_in(folder))
        return older(self._store, self._index, listing).keys() - self._older

    def _end(self, absences: Absences, listed: set[str]) -> Iterator[None]:
        """Judge what is gone, now that all has been looked at."""
        walk, scanner = self._walk, self._scanner
        distrust = bool(scanner.set_back)
        self._missing((yield from absences.look(walk, listed, accept=self._accept, distrust=distrust)))
        for fault in scanner.edits.clashes():
            self._findings.fault(*fault)
        self._findings.forget_mended(lambda folder: folder in listed or folder not in walk.folders)
        if self._full:
            self._index.set_meta("full_scan", str(self._clock.wall()))
        if self._index.is_new and self._index.was_scanned:
            # a file that this scan could not read, or that had not stood still, is looked at by each until it is known
            self._index.set_meta("seen_all", str(int(not walk.unread and not self._is_old_unsettled())))

    def _is_old_unsettled(self) -> bool:
        """Whether a file that has not stood still, or is away for a moment, may have been there before this index."""
        born = int(self._index.meta("born", "0"))
        looks = (self._store.look(path) for path in self._findings.report.unsettled)
        return any(look is None or look.mtime // 1000 < born for look in looks)

    def _hold(self, found: dict[str, str]) -> None:
        """What was put back from a backup is not read: it would undo on both servers what was done since."""
        self._scanner.set_back = found
        held = self._findings.report.held = sorted(found.values())
        if held != (self._index.note("set_back") or []):
            self._index.set_note("set_back", held)
        for path in found:
            why = f"older than what was here before, as {len(found) - 1} others are: was it put back from a backup?"
            mend = "'vmctl reindex' joins it with the other server, 'vmctl sync --accept-deletions' takes it as an edit"
            self._findings.fault(path, why, mend)

    def _missing(self, missing: Missing) -> None:
        report, edits = self._findings.report, self._scanner.edits
        report.absent = missing.again
        report.held += missing.held
        for key in missing.held:
            why = f"gone, with {len(missing.held) - 1} more at once: its deletion waits for a person's word"
            self._findings.fault(
                self._store.path(key),
                why,
                "put it back, or 'vmctl reindex' for the other server's, or 'vmctl sync --accept-deletions'",
            )
        edits.gone(missing.gone)
        for box in [parse_key(key).name for key in missing.gone if parse_key(key).kind == MAILBOX]:
            edits.bring_back(box, missing.again | set(missing.held))


def _changed(look: Look, before: tuple[int, int, int, int] | None) -> bool:
    """Whether a folder is another than at the last look, or may have changed at that very moment."""
    if before is None or before[:3] != (look.mtime, look.ctime, look.inode):
        return True
    return before[3] - max(look.mtime, look.ctime) <= _RACY_NS

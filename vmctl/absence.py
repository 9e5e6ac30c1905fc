"""Tells a deletion from a fault: what is gone for a moment, what is gone for good, and what is too much to believe.

A file that an editor renames away for a moment, or a store that is not mounted, must not delete anything. So absence
counts at a second look only, and a mass of it waits for a person's word. `gone` has what commands say meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmctl.errors import StoreError
from vmctl.gone import file_of
from vmctl.model import MAILBOX, MESSAGE, parse_key

if TYPE_CHECKING:
    from collections.abc import Generator

    from vmctl.clock import Clock
    from vmctl.index import Index
    from vmctl.store.format import Format, Walk

_MOST_GONE = 20
_SMALL_MAILBOX = 4


class Missing(NamedTuple):
    """Keys of records whose files are not there."""

    gone: list[str]
    again: set[str]
    held: list[str]


class Absences:
    """Remembers between two looks what was not there at the first."""

    def __init__(self, store: Format, index: Index, clock: Clock, settle: float) -> None:
        self._store = store
        self._index = index
        self._clock = clock
        self._settle = settle
        self._since: dict[str, float] = {}

    def look(
        self, walk: Walk, listed: set[str], *, accept: bool, distrust: bool
    ) -> Generator[None, None, Missing]:  # fmt: skip
        """What is gone for good, what owes a second look, and what waits for a person; `accept` lets everything go.

        `distrust` lets nothing go: there are other signs of a fault. `listed` are the message folders that this scan has
        listed. Where it yields it may be left for a while.
        """
        candidates = yield from self._not_seen(walk, listed)
        now = self._clock.steady()
        missing = self._missing(candidates, walk)
        self._since = {key: self._since.get(key, now) for key in missing}
        gone = [key for key, since in self._since.items() if now - since >= self._settle]
        held = set() if accept else set(gone) if distrust else self._suspicious(gone, missing)
        before, found = self._index.note("file_systems") or {}, self._store.file_systems()
        if gone and not accept and any(found.get(folder) != device for folder, device in before.items()):
            held = set(gone)  # another file system is mounted there, or a folder is gone with all that was in it
        if found != before and not held and missing == set(gone):  # no absence is left to be judged by it
            self._index.set_note("file_systems", found)
        for key in gone:
            if key not in held:
                del self._since[key]
        return Missing([key for key in gone if key not in held], missing - set(gone), sorted(held))

    def _not_seen(self, walk: Walk, listed: set[str]) -> Generator[None, None, list[str]]:
        """The keys whose files this scan has not seen although what holds them could be read."""
        there = {key for key, _ in walk.files.values()}
        before, after = (f"shown IS NOT NULL AND key {where}" for where in ("< 'message/'", ">= 'message0'"))
        keys = [key for key in (*self._index.keys(before), *self._index.keys(after)) if key not in there]
        for folder in sorted(listed):
            extension = self._store.mailbox_of(folder)
            inside = self._index.keys("mailbox = ? AND kind = 'message' AND shown IS NOT NULL", (extension,))
            if not inside and folder not in walk.folders:  # else it is asked for until it is known to be gone
                self._index.looks.drop_folder(folder)
            keys += self._not_among_names(inside, extension)
            yield
        return keys

    def _missing(self, candidates: list[str], walk: Walk) -> set[str]:
        """Of these keys those whose files are not there now."""
        missing = {key for key in candidates if self._is_shown(key) and not self._is_there(key, walk)}
        for key in missing:  # to be listed again, by another process too, until the absence is decided
            if parse_key(key).kind == MESSAGE:
                self._index.looks.set_folder(self._store.folder(str(parse_key(key).mailbox)), 0, 0, 0, 0)
        return missing

    def _not_among_names(self, keys: list[str], extension: str) -> list[str]:
        """Of these messages of a mailbox those that a list of its messages does not show."""
        try:
            names = set(self._store.names(MESSAGE, extension))
        except StoreError:
            return keys
        return [key for key in keys if parse_key(key).name not in names]

    def _is_shown(self, key: str) -> bool:
        """Whether a file is still to be there: the peer may have deleted it since the look began."""
        entry = self._index.get(key)
        return entry is not None and entry.shown is not None

    def _is_there(self, key: str, walk: Walk) -> bool:
        path = self._store.path(key)
        if any(path.startswith(f"{folder}/") or folder == "." for folder in walk.unread):
            return True  # what cannot be read is not known to be absent
        try:
            return self._store.look(file_of(self._store, key, self._index.get(key))) is not None
        except StoreError:
            return True

    def _suspicious(self, gone: list[str], missing: set[str]) -> set[str]:
        """The deletions that look like a fault: too many at once, a whole mailbox, or a great part of one.

        What is missing for the first time counts, too: a look that takes long sees one and the same fault in portions.
        """
        if len(missing) > _MOST_GONE:
            return set(gone)
        held = {parts.name for parts in map(parse_key, gone) if parts.kind == MAILBOX}
        boxes: dict[str, list[str]] = {}
        for key in missing:
            parts = parse_key(key)
            if parts.kind == MESSAGE:
                boxes.setdefault(str(parts.mailbox), []).append(key)
        for extension, keys in boxes.items():
            before = self._index.count("mailbox = ? AND kind = 'message' AND shown IS NOT NULL", (extension,))
            if before >= _SMALL_MAILBOX and len(keys) * 4 > before:
                held.add(extension)
        return {key for key in gone if (parse_key(key).mailbox or parse_key(key).name) in held}

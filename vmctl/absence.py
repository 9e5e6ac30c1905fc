"""Tells a deletion from a fault: what is gone for a moment, what is gone for good, and what is too much to believe.

A file that an editor renames away for a moment, or a store that is not mounted, must not delete anything. So absence
counts at a second look only, and a mass of it waits for a person's word. Here is also what commands say while it waits,
what may be written meanwhile, and what becomes of it when the peer overwrites this server.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.entry import audio_of
from vmctl.errors import DeletionsHeld, NotFound, StoreError, StoreUnusable
from vmctl.model import MAILBOX, MESSAGE, mailbox_key, parse_key

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.entry import Entry
    from vmctl.index import Index
    from vmctl.store.format import Format, Walk

OVERWRITTEN = "overwritten"
_OBEYED = "obeyed"
_TOLD_FOR = 86_400_000_000  # microseconds
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

    def look(self, walk: Walk, listed: set[str], *, accept: bool, distrust: bool) -> Missing:
        """What is gone for good, what owes a second look, and what waits for a person; `accept` lets everything go.

        `distrust` lets nothing go: there are other signs of a fault. `listed` are the message folders that this scan has listed.
        """
        now = self._clock.steady()
        missing = self._missing(walk, listed)
        self._since = {key: self._since.get(key, now) for key in missing}
        gone = [key for key, since in self._since.items() if now - since >= self._settle]
        held = set() if accept else set(gone) if distrust else self._suspicious(gone)
        before, found = self._index.note("file_systems") or {}, self._store.file_systems()
        if gone and not accept and any(found.get(folder) != device for folder, device in before.items()):
            held = set(gone)  # another file system is mounted there, or a folder is gone with all that was in it
        if found != before and not held and missing == set(gone):  # no absence is left to be judged by it
            self._index.set_note("file_systems", found)
        for key in gone:
            if key not in held:
                del self._since[key]
        return Missing([key for key in gone if key not in held], missing - set(gone), sorted(held))

    def _missing(self, walk: Walk, listed: set[str]) -> set[str]:
        """The keys whose files are not there although what holds them could be read."""
        there = {key for key, _ in walk.files.values()}
        keys = self._index.keys("shown IS NOT NULL AND kind <> 'message'")
        keys = [key for key in keys if key not in there]
        for folder in sorted(listed):
            extension = self._store.mailbox_of(folder)
            inside = self._index.keys("mailbox = ? AND kind = 'message' AND shown IS NOT NULL", (extension,))
            if not inside and folder not in walk.folders:  # else it is asked for until it is known to be gone
                self._index.looks.drop_folder(folder)
            keys += inside
        missing = {key for key in keys if not self._is_there(key, walk)}
        for key in missing:  # to be listed again, by another process too, until the absence is decided
            if parse_key(key).kind == MESSAGE:
                self._index.looks.set_folder(self._store.folder(str(parse_key(key).mailbox)), 0, 0, 0, 0)
        return missing

    def _is_there(self, key: str, walk: Walk) -> bool:
        path = self._store.path(key)
        if any(path.startswith(f"{folder}/") or folder == "." for folder in walk.unread):
            return True  # what cannot be read is not known to be absent
        try:
            return self._store.look(_path(self._store, key, self._index.get(key))) is not None
        except StoreError:
            return True

    def _suspicious(self, gone: list[str]) -> set[str]:
        """The deletions that look like a fault: too many at once, a whole mailbox, or a great part of one."""
        if len(gone) > _MOST_GONE:
            return set(gone)
        held = set()
        boxes: dict[str, list[str]] = {}
        for key in gone:
            parts = parse_key(key)
            if parts.kind == MAILBOX:
                held.add(parts.name)
            elif parts.kind == MESSAGE:
                boxes.setdefault(str(parts.mailbox), []).append(key)
        for extension, keys in boxes.items():
            before = self._index.count("mailbox = ? AND kind = 'message' AND shown IS NOT NULL", (extension,))
            if before >= _SMALL_MAILBOX and len(keys) * 4 > before:
                held.add(extension)
        return {key for key in gone if (parse_key(key).mailbox or parse_key(key).name) in held}


# What commands say of it


def is_gone(store: Format, index: Index, key: str) -> bool:
    """Whether the file of a living record that was there is not. Raises StoreUnusable."""
    entry = index.get(key)
    if entry is None or entry.shown is None or not entry.record.lives:
        return False
    return store.look(_path(store, key, entry)) is None


def refuse_gone(store: Format, index: Index, key: str) -> None:
    """Raises DeletionsHeld where the file of a living record is gone and its deletion waits for a person's word."""
    if not is_gone(store, index, key):
        return
    parts = parse_key(key)
    if parts.kind == MAILBOX:
        raise DeletionsHeld(f"the files of mailbox {parts.name} are gone: its deletion waits for your word")
    if parts.mailbox is not None:
        refuse_gone(store, index, mailbox_key(parts.mailbox))
    if key in (index.note("held") or []):
        raise DeletionsHeld(f"the file of {key} is gone, with others: its deletion waits for your word")


def check_mailbox(store: Format, index: Index, extension: str) -> None:
    """Raises NotFound unless the mailbox has its file, DeletionsHeld where that is gone, and BadName."""
    try:
        store.check_mailbox(extension)
    except NotFound:
        refuse_gone(store, index, mailbox_key(extension))
        raise


def check_takes(store: Format, index: Index, extension: str) -> None:
    """As `check_mailbox`, but a mailbox that lives and whose files are gone takes a message all the same.

    Not where another file system lies there than before: what is put into it is hidden when the right one is mounted.
    """
    try:
        check_mailbox(store, index, extension)
    except (NotFound, DeletionsHeld):
        key = mailbox_key(extension)
        entry = index.get(key)
        if entry is None or not entry.record.lives or is_elsewhere(store, index, key):
            raise


def is_elsewhere(store: Format, index: Index, key: str) -> bool:
    """Whether a new file would lie on another file system than the last scan without a doubt found there.

    It would be hidden when the right one is mounted again, and taken for deleted. A mailbox that has its file is there.
    """
    box = parse_key(key).mailbox
    if box is not None and store.look(store.path(mailbox_key(box))) is not None:
        return False
    path, before, found = store.path(key), index.note("file_systems") or {}, store.file_systems()
    folder = max((name for name in before if path.startswith(f"{name}/")), key=len, default=".")
    return folder in before and found.get(folder, found["."]) != before[folder]


def refuse_elsewhere(store: Format, index: Index, key: str) -> None:
    """Raises StoreUnusable for a change whose file is not written for that."""
    if is_elsewhere(store, index, key):
        raise StoreUnusable(
            f"another file system lies in the place of {key} than before",
            hint="the change is kept: mount the right one, or let 'vmctl sync --accept-deletions' take it as it is",
        )


# What the peer says of it: it overwrites this server


def overwritten(index: Index, wall: int) -> int | None:
    """The change by which this server overwrote the peer, to be told it for a day; None without one."""
    number = index.note(OVERWRITTEN)
    return number if number and 0 <= wall - number < _TOLD_FOR else None


def obey(store: Format, index: Index, number: Any, wall: int) -> None:
    """The peer overwrote this server by its change `number`: what is gone and waits is to be written again, once."""
    if type(number) is not int or number <= (index.note(_OBEYED) or 0):
        return
    with index.transaction():
        index.set_note(_OBEYED, number)
        stay = waiting_on(store, index)
        for key in set(index.note("held") or []) - stay:
            entry = index.get(key)
            if entry is not None and entry.shown is not None:
                index.put(replace(entry, shown=None), wall)
        index.set_note("held", sorted(stay))


def waiting_on(store: Format, index: Index) -> set[str]:
    """The records that wait for a person's word also when the peer overwrites this server.

    These are files that look put back from a backup, and what is gone from another file system than before.
    """
    return {key for key in index.note("held") or [] if not _is_to_come_back(store, index, key)}


def _is_to_come_back(store: Format, index: Index, key: str) -> bool:
    try:
        return is_gone(store, index, key) and not is_elsewhere(store, index, key)
    except StoreError:
        return False


def _path(store: Format, key: str, entry: Entry | None) -> str:
    shown = audio_of(entry.shown.document) if entry and entry.shown else None
    return store.path(key, shown["format"] if shown else "wav")

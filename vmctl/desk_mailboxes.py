"""What commands do to a whole mailbox: bring a deleted one back with all that went with it, or give it another extension."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vmctl.desk import Desk, refuse_purged
from vmctl.entry import Entry
from vmctl.errors import AlreadyExists, BadValue, NotFound, StoreBusy
from vmctl.gone import refuse_gone
from vmctl.merge import deletions
from vmctl.model import (
    CALLFLOW,
    GREETING,
    MAILBOX,
    MESSAGE,
    Record,
    Tick,
    deleted,
    greeting_key,
    mailbox_key,
    message_key,
    moved,
    parse_key,
    restored,
)
from vmctl.names import check_extension

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Whole:
    """What came or went with a mailbox.

    How many messages and greetings, and how many of these lie in their place only when their recording has come from
    the peer; keys of what names a mailbox by the extension that it does not have any more.
    """

    inside: int
    waiting: int
    named: list[str]


class MailboxDesk(Desk):
    """A desk at which whole mailboxes are brought back and renumbered."""

    def restore_mailbox(self, extension: str) -> Whole:
        """Bring back a deleted mailbox with the messages and greetings that were deleted in the same act.

        What was deleted before stays deleted. Raises NotFound, and AlreadyExists where it is there, made anew or not.
        """
        key = mailbox_key(check_extension(extension))
        self._know_all()
        with self._locked(key):
            self._ready(key)
            entry = self._index.get(key)
            if entry is None:
                raise NotFound(f"there never was a mailbox {extension}")
            if entry.record.lives:
                refuse_gone(self._store, self._index, key)
                raise AlreadyExists(
                    f"mailbox {extension} is there",
                    why="it was not deleted, or something brought it back, or it was made anew since",
                    hint=f"single messages come back with 'vmctl message restore {extension} ID'",
                )
            refuse_purged(entry.record, f"mailbox {extension}")
            acts = deletions(entry.record)
            inside = [one for one in self._index.in_mailbox(extension) if _went_with(one.record, acts)]
            for one in inside:
                if parse_key(one.record.key).kind == MESSAGE:
                    self._refuse_moved(one.record.key)
            with self._index.transaction():
                tick = self._tick()
                for each in [entry, *inside]:
                    self._put(replace(each, record=restored(each.record, tick)))
            return Whole(len(inside), self._apply(key, inside), [])

    def renumber(self, old: str, new: str) -> Whole:
        """Give a mailbox another extension: it, its greetings and its messages move, the deleted ones stay behind.

        Raises NotFound, BadName, BadValue, AlreadyExists, StoreBusy.
        """
        here, there = mailbox_key(check_extension(old)), mailbox_key(check_extension(new))
        if here == there:
            raise BadValue(f"mailbox {old} has this extension already", hint="name another one")
        self._know_all()
        with self._locked(here):
            for key in (here, there):
                self._ready(key)
            self._alive(here, f"mailbox {old}")
            refuse_gone(self._store, self._index, here)
            self._check_free(new)
            inside = self._looked_at(old)
            made = []
            with self._index.transaction():
                birth, end = self._tick(), self._tick()
                for key in [here, *inside]:
                    entry = self._index.get(key)
                    assert entry is not None, "under the lock nothing vanishes"  # noqa: S101
                    made.append(self._move(entry.record, _key_in(key, new), birth))
                    self._put(replace(entry, record=deleted(entry.record, end)))
            for key in [here, *inside]:  # the old file first takes its recording to where the new one finds it
                self._replica.applier.apply(key)
            return Whole(len(inside), self._apply(there, made), self._naming(old))

    def _move(self, record: Record, key: str, tick: Tick) -> Entry:
        former = self._index.get(key)
        record = moved(record, key, tick, former.record if former else None)
        entry = replace(former, record=record) if former else Entry(record)
        self._put(entry)
        return entry

    def _check_free(self, extension: str) -> None:
        entries = [self._index.get(mailbox_key(extension)), *self._index.in_mailbox(extension)]
        if any(entry is not None and entry.record.lives for entry in entries):
            raise AlreadyExists(f"there is a mailbox {extension} already", hint="delete it first, or name another one")

    def _looked_at(self, extension: str) -> list[str]:
        """The keys of what lives in a mailbox, after a look at each file: a person may have changed it a moment ago."""
        keys = [entry.record.key for entry in self._index.in_mailbox(extension) if entry.record.lives]
        for key in keys:
            if self._replica.scanner.look_at(key).unsettled:
                raise StoreBusy(f"the file of {key} is being edited", hint="try again when it stands still")
        return [key for key in keys if (entry := self._index.get(key)) is not None and entry.record.lives]

    def _apply(self, mailbox: str, inside: Iterable[Entry]) -> int:
        """Write the files; tells how many wait for their recordings."""
        self._replica.applier.apply(mailbox)
        keys = [entry.record.key for entry in inside if entry.record.key != mailbox]
        return sum(not self._replica.applier.apply(key) for key in keys)

    def _naming(self, extension: str) -> list[str]:
        """What names a mailbox in a distribution list, or in a callflow as a word of its text."""
        word = re.compile(rf"(?<![\w.-]){re.escape(extension)}(?![\w.-])")
        found = []
        for entry in self._index.entries("kind IN (?, ?) AND lives", (MAILBOX, CALLFLOW)):
            document = entry.record.document
            lists = document.get("lists")
            members = [each for each in lists.values() if isinstance(each, list)] if isinstance(lists, dict) else []
            text = str(document.get("text", "")) if entry.record.kind == CALLFLOW else ""
            if any(extension in each for each in members) or word.search(text):
                found.append(entry.record.key)
        return found


def _went_with(record: Record, acts: set[Tick]) -> bool:
    """Whether a record is dead by one of these changes, and can be restored."""
    return not record.lives and not record.is_purged and not acts.isdisjoint(deletions(record))


def _key_in(key: str, extension: str) -> str:
    kind, mailbox, name = parse_key(key)
    if mailbox is None:
        return mailbox_key(extension)
    return greeting_key(extension, name) if kind == GREETING else message_key(extension, name)

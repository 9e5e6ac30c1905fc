"""Taking back: an earlier version of a record, or a value that lost, becomes a new edit, which both servers follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmctl.delta import changed_fields
from vmctl.desk import check_section
from vmctl.entry import Entry, audio_of
from vmctl.errors import AlreadyExists, BadValue, NotFound, StoreBusy
from vmctl.gone import check_mailbox
from vmctl.merge import AUDIO, namesake_key
from vmctl.model import (
    ABSENT,
    CALLFLOW,
    CONFLICT,
    GREETING,
    KINDS,
    MAILBOX,
    MESSAGE,
    PROMPT,
    SETTINGS,
    Record,
    Tick,
    deleted,
    edited,
    field_from_json,
    parse_key,
    restored,
)

if TYPE_CHECKING:
    from vmctl.desk import Desk
    from vmctl.history import Version
    from vmctl.replica import Replica

_WHOLE = {CALLFLOW, GREETING, PROMPT}  # records of one field, which is all that there is of them


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a restored version changes: the documents before (None: deleted) and after."""

    key: str
    before: dict[str, Any] | None
    after: dict[str, Any]


class Undo:
    """Brings back earlier versions and values that lost, at one server."""

    def __init__(self, replica: Replica, desk: Desk) -> None:
        self._replica = replica
        self._index = replica.index
        self._desk = desk

    # Earlier versions

    def restore(self, key: str, number: int, *, dry_run: bool = False) -> Restoration:
        """Set a record to what it was in a version; one that was deleted comes back to life.

        Raises NotFound without that version, or where its recording is gone; AlreadyExists where nothing would change;
        BadValue for the version of a deletion; CallflowFaults.
        """
        version = self._version(key, number)
        document = version.document
        if document is None:
            raise BadValue(
                f"in version {number} {key} was deleted", hint="restore another version, or delete it with its command"
            )
        self._check(key, document, version)
        before: list[dict[str, Any] | None] = []

        def act(entry: Entry | None, tick: Tick, at: int) -> Record:
            assert entry is not None, "what has versions has a record"  # noqa: S101
            alive = entry.record if entry.record.lives else restored(entry.record, tick)
            before.append(entry.record.document if entry.record.lives else None)
            changes = changed_fields(alive.document, document)
            if alive is entry.record and not changes:
                raise AlreadyExists(f"{key} is as it was in version {number}", hint="nothing to do")
            return edited(alive, changes, tick, at)

        (self._desk.rehearse if dry_run else self._desk.change)(key, act)
        return Restoration(key, before[0], document)

    def _version(self, key: str, number: int) -> Version:
        versions = self._index.history.of(key)
        if not versions:
            raise NotFound(f"there is no history of {key}", hint="'vmctl history list --all' shows what there is")
        found = next((version for version in versions if version.number == number), None)
        if found is None:
            raise NotFound(
                f"{key} has no version {number}",
                why=f"the versions {versions[-1].number} to {versions[0].number} are kept on this server",
                hint=f"'vmctl history list {key}' shows them",
            )
        return found

    def _check(self, key: str, document: dict[str, Any], version: Version) -> None:
        kind, mailbox, name = parse_key(key)
        if kind == GREETING:
            check_mailbox(self._replica.store, self._index, str(mailbox))
        if kind == CALLFLOW:
            self._replica.store.check_callflow(str(document.get("text", "")), f"callflow {name}")
        audio = audio_of(document)
        if audio is not None and self._replica.recordings.find(audio["sha256"]) is None:
            other = self._replica.peer.name
            raise NotFound(
                f"the recording of version {version.number} of {key} is not on this server any more",
                why="it was replaced by hand, and nobody had a copy of it here",
                hint=f"{other} may hold it: restore it there, by the number that 'vmctl history list {key}' gives there",
            )

    # What lost

    def take(self, ident: str) -> str:
        """Set what lost as a new edit, and be done with the conflict; the key of the record.

        Raises NotFound, StoreBusy while the recording that lost has not come.
        """
        conflict = self._conflict(ident)
        document = conflict.document
        key, field = str(document["record"]), document.get("field")
        if parse_key(key).kind not in KINDS:
            raise BadValue(f"{key} is of a kind that this vmctl does not know", hint="update vmctl on this machine")
        if field is None:
            self._delete(key, conflict.key)
            return key
        audio = audio_of(document) if field == AUDIO else None
        if audio is not None and parse_key(key).kind == MESSAGE:
            raise AlreadyExists(
                f"nothing is lost: the other recording is the message {namesake_key(key, audio['sha256'])}",
                hint=f"'vmctl conflicts drop {ident}' is done with the conflict",
            )
        lost = field_from_json(conflict.key, document["lost"]).value
        if audio is not None and self._replica.recordings.find(audio["sha256"]) is None:
            raise StoreBusy(f"the recording that lost in {ident} has not come yet", hint="'vmctl sync' fetches it")
        if parse_key(key).kind == GREETING:
            check_mailbox(self._replica.store, self._index, str(parse_key(key).mailbox))
        self._desk.change(key, lambda entry, tick, at: _with(entry, key, field, lost, tick, at), settles=conflict.key)
        return key

    def drop(self, ident: str) -> str:
        """Be done with a conflict: what won stays; the key of the record. Raises NotFound."""
        conflict = self._conflict(ident)
        self._desk.settle(conflict.key)
        return str(conflict.document["record"])

    def listed(self) -> list[Record]:
        """The conflicts that nobody is done with, those that lost first before the others."""
        found = [entry.record for entry in self._index.entries(f"kind = '{CONFLICT}' AND lives")]
        return sorted(found, key=lambda record: (record.document["lost"]["at"], record.key))

    def _conflict(self, ident: str) -> Record:
        entry = self._index.get(f"{CONFLICT}/{ident}")
        if entry is None:
            raise NotFound(f"there is no conflict {ident[:40]!r}", hint="'vmctl conflicts list' shows them")
        if not entry.record.lives:
            raise NotFound(f"conflict {ident} is done with", why="what lost was taken back or dropped before")
        return entry.record

    def _delete(self, key: str, conflict: str) -> None:
        """The deletion that lost is made again; of a mailbox with all that is in it now."""
        entry = self._index.get(key)
        if entry is None or not entry.record.lives:
            self._desk.settle(conflict)
        elif parse_key(key).kind == MAILBOX:
            self._desk.delete_mailbox(parse_key(key).name)
            self._desk.settle(conflict)
        else:
            self._desk.change(key, lambda entry, tick, _at: deleted(_there(entry, key), tick), settles=conflict)


def _with(entry: Entry | None, key: str, field: str, value: Any, tick: Tick, at: int) -> Record:
    record = _there(entry, key)
    if not record.lives and record.kind not in _WHOLE:
        again = {
            MESSAGE: "'vmctl message restore' brings it back",
            MAILBOX: f"'vmctl history list {key}' shows what can be restored",
            SETTINGS: "'vmctl history list settings' shows what can be restored",
        }
        raise NotFound(f"{key} was deleted", hint=again[record.kind])
    alive = record if record.lives else restored(record, tick)
    if record.kind == SETTINGS and value is not ABSENT:
        check_section(field, alive.document)
    return edited(alive, {field: value}, tick, at)


def _there(entry: Entry | None, key: str) -> Record:
    if entry is None:
        raise NotFound(f"there is no {key} any more", hint="'vmctl conflicts drop' is done with the conflict")
    return entry.record

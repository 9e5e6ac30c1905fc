"""What came from the peer: a mail of the spool into the index, in one transaction, as often as it may come.

Merging is a join, so a mail that comes twice, late or out of order changes nothing that it should not. Nothing is
acknowledged here: the acknowledgement leaves with the next mail, after the transaction, when the audio is durable.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vmctl.answers import Answers
from vmctl.entry import Entry
from vmctl.lines import one_line
from vmctl.merge import (
    check_conflict,
    conflicts,
    deletions,
    holds,
    is_deleted_already,
    left_in_deleted,
    merge,
    merge_fields,
)
from vmctl.model import (
    CONFLICT,
    Record,
    Tick,
    Vector,
    check_numbers,
    deleted,
    mailbox_key,
    parse_key,
    restored,
    server_of,
    vector_from_json,
)
from vmctl.ranges import without
from vmctl.rollback import Rollback

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.contact import Contact
    from vmctl.doubt import Doubt
    from vmctl.index import Index
    from vmctl.mail import Audio, SyncMail
    from vmctl.outbox import Outbox
    from vmctl.parked import Lot
    from vmctl.recordings import Recordings
    from vmctl.store.pool import Pool

log = logging.getLogger("vmctl.inbox")

_PAST_INCARNATIONS = 100
_LONGEST_REASON = 200


@dataclass(slots=True)
class Taken:
    """What a mail changed: keys of records, conflicts that it brought to light, whether it came `again`, and whether this server was rolled back."""

    changed: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    acked: list[str] = field(default_factory=list)
    forgotten: list[str] = field(
        default_factory=list
    )  # living ones that came in as deleted: they were so here, long ago
    fresh: bool = False
    again: bool = False
    rolled_back: bool = False
    request: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def answers(self) -> list[Any]:
        """The rounds that the peer answers."""
        found = self.status.get("answers")
        return found if isinstance(found, list) else []


class Inbox:
    """Takes mails of the peer into the index of one server."""

    def __init__(
        self,
        index: Index,
        pool: Pool,
        recordings: Recordings,
        contact: Contact,
        outbox: Outbox,
        lot: Lot,
        doubt: Doubt,
        clock: Clock,
    ) -> None:
        self._index = index
        self._pool = pool
        self._recordings = recordings
        self._contact = contact
        self._clock = clock
        self._outbox = outbox
        self._answers = Answers(index, recordings, outbox, lot, clock)
        self._doubt = doubt
        self._rollback = Rollback(index)

    def take(self, mail: SyncMail) -> Taken:
        """Take one mail, whole or not at all.

        Nothing of it is taken where it shows that this server was rolled back: it is to be taken again after the
        start under a new incarnation, when no number means two changes any more.
        """
        taken = Taken(request=mail.request, status=mail.status)
        known = self._recordings.may_be_here({audio.sha256 for audio in mail.audio})
        here = [audio.sha256 for audio in mail.audio if self._sound(audio, known)]
        with self._index.transaction():
            self._index.replies.came(here)
            current = self._peer_incarnation(mail)
            speaks_of_us = current or self._rollback.is_refuted(mail)
            if speaks_of_us and self._rollback.rolled_back_here(mail):
                taken.rolled_back = True
                return taken
            forgetful = current and self._rollback.rolled_back_there(mail)
            if current and not forgetful:
                self._rollback.take(mail)
            for value in mail.records if not forgetful else ():
                self._record_or_hold(value, taken, current=current)
            if current:
                taken.fresh = self._heard(mail)
                if mail.peer_incarnation == self._index.meta("incarnation") and not forgetful:
                    self._bound(mail)
                    taken.acked += self._answers.take(mail.status)
                if taken.fresh:
                    self._doubt.take(mail)
                self._journal(mail)
            taken.again = self._index.seen.again(mail.checkpoint)
        return taken

    def listen(self, mail: SyncMail) -> None:
        """Hear that the peer lives and what it says of itself, by a mail whose turn has not come."""
        if mail.incarnation == self._index.meta("peer_incarnation"):
            with self._index.transaction():
                self._heard(mail)

    def bring_mailboxes_back(self) -> Taken:
        """What was put into a mailbox while it was being deleted on the other server brings the mailbox back.

        Not before all is here that was deleted with it: that comes in many mails, in any order.
        """
        taken = Taken()
        if self._index.is_new:  # the mailbox may be there: nobody has looked yet
            return taken
        with self._index.transaction():
            for extension in self._index.deleted_with_content():
                entry = self._index.get(mailbox_key(extension))
                if entry is None or not all(map(self._holds_up_to, deletions(entry.record))):
                    continue
                inside = (inner.record for inner in self._index.living_in(extension))
                if (conflict := left_in_deleted(entry.record, inside)) is not None:
                    self._put(replace(entry, record=restored(entry.record, self._tick())), taken)
                    self._list(conflict, taken)
                    log.warning("mailbox %s is back: something was put into it while it was deleted", extension)
        return taken

    def _heard(self, mail: SyncMail) -> bool:
        """Whether the mail is fresh. A peer that was away may have got nothing of what left meanwhile."""
        was_heard = self._contact.heard
        fresh = self._contact.take(mail)
        if fresh and not was_heard:
            self._outbox.heard_again()
        return fresh

    def _journal(self, mail: SyncMail) -> None:
        """Keep the greatest length of the peer's journal that was seen, with its hash: a cut tail shows by that."""
        seen = self._index.note("peer_journal") or [0, ""]
        if mail.journal is not None and mail.journal[0] > seen[0]:
            self._index.set_note("peer_journal", list(mail.journal))

    # Who speaks

    def _peer_incarnation(self, mail: SyncMail) -> bool:
        """Whether the mail is from the peer's present incarnation; a new one voids what was believed of the peer.

        One that is not known is taken for new. It may be an old one, of which this server has lost the memory, in a mail
        that was long under way: so it is proven only by an answer to what was asked since it is taken for the present one.
        Until then such an answer from another life shows that the peer lives on as that.
        """
        name, current = mail.incarnation, self._index.meta("peer_incarnation")
        past = self._index.note("peer_past") or []
        if name == current:
            unproven = name != self._index.meta("peer_proven")
            if unproven and self._contact.answers_since(mail, self._index.note("peer_since")):
                self._index.set_meta("peer_proven", name)
            return True
        if name in past:
            if current == self._index.meta("peer_proven"):
                self._rollback.refute(mail)
                return False
            self._contact.asked(mail)  # it is answered, so that its sender can prove that it lives
            if not self._contact.answers_since(mail, self._index.note("peer_since")):
                return False  # a delayed mail: its records still count, what it says of the peer does not
        if current:
            past = [*(one for one in past if one != name), current]
            self._index.set_note("peer_past", past[-_PAST_INCARNATIONS:])
            self._index.forget_bases()
            self._outbox.forget_sent()
            log.warning("the peer has a new incarnation: everything is offered to it again")
        self._index.set_meta("peer_incarnation", name)
        self._index.set_note("peer_since", [self._clock.steady(), self._clock.boot()])
        return True

    # Records

    def _record_or_hold(self, value: dict[str, Any], taken: Taken, *, current: bool) -> None:
        """One record that cannot be merged is held back: it must not keep back all others in its mail."""
        try:
            self._record(value, taken, current=current)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            log.exception("a record of the peer cannot be merged")
            self._hold(value, f"it cannot be merged: {type(error).__name__}: {error}")

    def _hold(self, value: dict[str, Any], why: str) -> None:
        key, version = value.get("key"), value.get("version")
        log.error("a record of the peer is held back: %s", one_line(f"{key}: {why}", _LONGEST_REASON))
        if isinstance(key, str) and isinstance(version, str) and f"{key}{version}".isascii():
            self._index.shelf.hold(key, version, one_line(why, _LONGEST_REASON))

    def _record(self, value: dict[str, Any], taken: Taken, *, current: bool) -> None:
        """One record; `current` says that it is from the present life of the peer, which so holds what it sent."""
        try:
            key = str(value["key"])
            parse_key(key)
            part = Record.from_json(key, value)
            base = value.get("base")
            vector: Vector | None = None if base is None else vector_from_json(key, base["vector"])
            version = str(value["version"])
            based_on = "" if base is None else str(base["version"])
            check_numbers(part)
            if part.kind == CONFLICT and base is None:
                check_conflict(part)
            part.check_whole()
            version.encode()
        except (ValueError, KeyError, TypeError) as error:
            self._hold(value, f"it cannot be read: {error}")
            return
        self._index.witness(max(part.vector.values(), default=0))
        entry = self._index.get(key)
        mine = entry.record if entry else None
        if vector is not None and not holds(mine, vector, based_on):
            self._index.replies.add_want(key)
            if entry is not None:
                self._list_conflicts(entry.record, part, taken)
                self._put(replace(entry, record=merge_fields(entry.record, part)), taken)
            return
        self._index.replies.drop_want(key)
        if entry is None and self._was_dropped(part):
            self._put(Entry(deleted(part, self._tick())), taken)
            taken.forgotten.append(key)
            log.warning("%s came back from a copy that is older than its tombstone: it stays deleted", key)
        elif entry is None:
            self._put(Entry(part, base=part if current and part.version == version else None), taken)
        else:
            self._list_conflicts(entry.record, part, taken)
            if entry.record.vector == part.vector and vector is None and entry.record.version != version:
                log.error("%s: equal vectors over different content: merged alike", key)
            merged = merge(entry.record, part)
            if is_deleted_already(entry.record, part) or is_deleted_already(part, entry.record):
                merged = deleted(merged, self._tick())
            known = current and merged.version == version
            self._put(replace(entry, record=merged, base=merged if known else entry.base), taken)
        self._index.replies.add_ack(key, version)

    def _was_dropped(self, part: Record) -> bool:
        return self._index.tombstones.was_dropped(part, self._index.meta("incarnation"), self._index.last_number)

    def _bound(self, mail: SyncMail) -> None:
        """The peer says up to which number this server has acknowledged all of its changes, so they were all here."""
        settled = mail.status.get("settled")
        if type(settled) is int:
            self._index.tombstones.set_bound(mail.incarnation, settled)

    def _list_conflicts(self, mine: Record, part: Record, taken: Taken) -> None:
        for conflict in conflicts(mine, part):
            self._list(conflict, taken)

    def _list(self, conflict: Record, taken: Taken) -> None:
        if self._index.get(conflict.key) is None:  # else it is listed, or was taken back or dropped
            self._put(Entry(conflict), taken)
            taken.conflicts.append(conflict.key)

    def _holds_up_to(self, change: Tick) -> bool:
        """Whether everything is here that the server of a change had done by then.

        What it did in a past life it offers anew in the present one, so all that it has offered has to be here.
        """
        mine, peer = self._index.meta("incarnation"), self._index.meta("peer_incarnation")
        if server_of(change.by) == server_of(mine):
            return True
        return self._index.tombstones.bound(peer) >= (change.number if change.by == peer else 1)

    def _tick(self) -> Tick:
        return self._index.next_tick(self._clock.wall())

    def _put(self, entry: Entry, taken: Taken) -> None:
        self._index.put(entry, self._clock.wall())
        taken.changed.append(entry.record.key)

    # Recordings

    def _sound(self, audio: Audio, known: set[str]) -> bool:
        """A recording, or a piece of one, before the record that names it; tells whether it is whole.

        A piece is durable in the pool then. A whole one is held there until the caller has it put down, and lets the mail go.
        """
        if (audio.sha256 in known or not audio.whole) and self._recordings.find(audio.sha256):
            return True  # a mail that came twice must not leave a second copy
        if audio.whole:
            good = audio.counted == audio.sha256
            if good:
                self._pool.hold(audio.data, audio.sha256)
            return good
        self._pool.put_part(audio.sha256, audio.offset, audio.data)
        with self._index.transaction():
            self._index.parts.add(audio.sha256, audio.offset, audio.offset + len(audio.data))
            if without([(0, audio.size)], self._index.parts.of(audio.sha256)):
                return False
            self._index.parts.drop(audio.sha256)
        good = self._pool.finish(audio.sha256)
        if not good:
            log.error("a recording in pieces had other bytes than its digest: it is asked for again")
        return good

"""Housekeeping at one server: deletes messages for their age, purges what cannot be restored any more, and forgets.

A message is deleted for its age as a person deletes it: it can be restored, and the deletion is replicated. A purge is
a change like any other, too; the files of what was purged go only when the peer has acknowledged it, so that a restore
it had not heard of still finds the recording. All of that is done by the server that serves the mailbox. Each server
drops its own tombstones.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from vmctl import durable
from vmctl.agreement import Agreed
from vmctl.clocks import Reading, why_untrusted
from vmctl.errors import JournalError
from vmctl.fields import STATUSES
from vmctl.graves import Graves
from vmctl.housekeeping import AT_ONCE, Aged, Timers, due, latest, plan
from vmctl.model import CONFLICT, KINDS, MAILBOX, SETTINGS, SETTINGS_KEY, Record, Tick, deleted, parse_key, purged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmctl.entry import Entry
    from vmctl.replica import Replica
    from vmctl.tombstones import Dead

log = logging.getLogger("vmctl.purge")

_FAULT: Final = "vmctl:housekeeping"
_READING, _ACCEPTED, _POOL_SWEPT = "housekept", "deletions_accepted", "pool_swept"
_HOUR: Final = 3_600_000_000  # microseconds
_SHORTEST_STAY: Final = 24  # hours that a recording which nothing names stays in the pool: its record may be on its way


@dataclass(slots=True)
class Kept:
    """What one run did, or would do.

    Keys of messages deleted for their age, keys purged, how many tombstones were dropped and recordings removed; how
    many deletions wait for a person's word, and why nothing was done at all; the services whose mailboxes were looked
    at, and whether there is more than one run does.
    """

    deleted: list[str] = field(default_factory=list)
    purged: list[str] = field(default_factory=list)
    dropped: int = 0
    recordings: int = 0
    held: int = 0
    stopped: str | None = None
    services: list[str] = field(default_factory=list)
    more: bool = False

    @property
    def changed(self) -> bool:
        """Whether there is something for the peer."""
        return bool(self.deleted or self.purged)


class Housekeeper:
    """Keeps the house of one server in order."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._index = replica.index
        self._config = replica.config
        self._service_of: dict[str | None, str] = {}

    def run(self, *, accept: bool = False, trust_clock: bool = False, dry_run: bool = False) -> Kept:
        """One run. `accept` lets go what is due now, however much; `trust_clock` takes the clock as it is.

        With `dry_run` it says what it would do, and changes nothing.
        """
        with self._replica.locked():
            kept = Kept(stopped=self._why_not(trust=trust_clock))
            now = self._replica.clock.wall()
            if kept.stopped is None:
                if not dry_run:
                    self._begin(now, accept=accept)
                accepted = now if accept else int(self._index.note(_ACCEPTED) or 0)
                timers = self._timers()
                self._plan(kept, timers, now, accepted)
            if not dry_run:
                self._say(kept)
                if kept.deleted:
                    self._delete(kept, timers, now)
                self._purge(kept)
                self._replica.applier.apply_all()
                self._sweep(kept, now)
            return kept

    def runs(self, *, accept: bool = False, trust_clock: bool = False) -> Iterator[Kept]:
        """One run after the other until all that is due is done: where nobody waits for this process."""
        kept = self.run(accept=accept, trust_clock=trust_clock)
        yield kept
        while kept.more and kept.changed:
            kept = self.run()
            yield kept

    # Whether, and what

    def _why_not(self, *, trust: bool) -> str | None:
        contact, peer = self._replica.contact, self._replica.peer
        last = None if trust else Reading.of_note(self._index.note(_READING))
        return why_untrusted(
            last, Reading.now(self._replica.clock), limit=self._config.clock.skew, skew=contact.skew(),
            witnessed=contact.heard and not peer.here,  # on the same host it has the same clock
        )  # fmt: skip

    def _begin(self, now: int, *, accept: bool) -> None:
        with self._index.transaction():
            self._index.set_note(_READING, list(Reading.now(self._replica.clock)))
            self._index.tombstones.not_after(now)
            if accept:
                self._index.set_note(_ACCEPTED, now)

    def _plan(self, kept: Kept, timers: Timers, now: int, accepted: int) -> None:
        kept.services = self._services()
        if not kept.services:
            return
        deletions = due(self._aging(timers, kept.services, now), now)
        purges = due(self._dead(timers, kept.services, now), now)
        living = self._index.count("kind = 'message' AND lives") if deletions else 0
        kept.deleted, kept.purged, kept.held, kept.more = plan(deletions, purges, living=living, accepted=accepted)

    def _services(self) -> list[str]:
        """The services that this server serves in normal operation; none where its journal cannot be trusted."""
        journal = self._replica.journal
        try:
            views = journal.views(Agreed.by(journal, self._config).homes)
        except JournalError:
            return []
        me = self._replica.server.name
        return [name for name, view in views.items() if view.state == "normal" and view.serving == me]

    def _timers(self) -> Timers:
        settings = self._index.get(SETTINGS_KEY)
        timers: dict[str, dict[str, Any]] = {}
        for extension, service, own in self._index.mailboxes():
            self._service_of[extension] = self._config.service_of(extension, service)
            timers[extension] = own
        document = settings.record.document if settings and settings.record.lives else {}
        return Timers(self._config.housekeeping._asdict(), document, timers)

    def _served(self, extension: str | None, services: list[str]) -> bool:
        """Whether one of the services is that of a mailbox; what lies in none belongs to the first of all."""
        found = self._service_of.get(extension) or self._config.service_of(extension, None)
        return found in services

    def _aging(self, timers: Timers, services: list[str], now: int) -> list[Aged]:
        found = []
        for status in STATUSES:
            shortest = timers.shortest(status)
            if not shortest:
                continue
            for key, extension, since in self._index.aging(status, latest(shortest, now)):
                if self._served(extension, services):
                    found.append(Aged(key, since, timers.hours(status, extension)))
        return found

    def _dead(self, timers: Timers, services: list[str], now: int) -> list[Aged]:
        shortest = timers.shortest("deleted")
        if not shortest:
            return []
        dead = self._index.tombstones.purgeable(latest(shortest, now))
        named = ((one, one.mailbox or (one.key.partition("/")[2] if one.kind == MAILBOX else None)) for one in dead)
        return [
            Aged(one.key, one.since, timers.hours("deleted", extension))
            for one, extension in named
            if _ends(one) and self._served(extension, services)
        ]

    def _say(self, kept: Kept) -> None:
        """Name what keeps the house from being kept, until it does not any more."""
        why, mend = "", ""
        if kept.held:
            why = f"{kept.held} messages at once are due to be deleted for their age: they wait for a person's word"
            mend = "look at the clock and at the timers, then 'vmctl sync --accept-deletions'"
        elif kept.stopped is not None and not kept.stopped.startswith("the peer's"):  # that one has a fault of its own
            why = f"{kept.stopped}: nothing is deleted for its age"
            mend = f"set the clock right; if it is, 'vmctl housekeeping --trust-clock --server {self._replica.server.name}'"
        with self._index.transaction():
            if why:
                self._index.faults.set(_FAULT, why, mend, self._replica.clock.wall())
            else:
                self._index.faults.drop(_FAULT)

    # Doing it

    def _delete(self, kept: Kept, timers: Timers, now: int) -> None:
        """Delete each message that is still as old as it was, after a look at its file: a person may have saved it."""
        well = [key for key in kept.deleted if not self._replica.scanner.look_at(key).unsettled]
        kept.deleted = []
        with self._index.transaction():
            for key in well:
                entry = self._index.get(key)
                if entry is not None and entry.record.lives and due([_aged(entry.record, timers)], now):
                    self._put(entry, deleted(entry.record, self._tick()))
                    kept.deleted.append(key)
        log.info("housekeeping: %d messages deleted for their age", len(kept.deleted))

    def _purge(self, kept: Kept) -> None:
        with self._index.transaction():
            for key in kept.purged:
                entry = self._index.get(key)
                assert entry is not None, "under the lock nothing vanishes"  # noqa: S101
                self._put(entry, purged(entry.record, self._tick()))
        if kept.purged:
            log.info("housekeeping: %d records purged: they cannot be restored any more", len(kept.purged))

    def _put(self, entry: Entry, record: Record) -> None:
        self._index.put(replace(entry, record=record), self._replica.clock.wall())

    def _tick(self) -> Tick:
        return self._index.next_tick(self._replica.clock.wall())

    # What is left of it

    def _sweep(self, kept: Kept, now: int) -> None:
        """Remove the files of what both servers have purged; with a clock that is right also what is old."""
        graves = self._index.tombstones
        for key, sha256 in graves.unswept(AT_ONCE):
            if key.partition("/")[0] in KINDS:
                grave = Graves(self._replica.store).document(key)
                Graves(self._replica.store).fill(key)
                durable.remove(grave)
                durable.remove_empty(grave.parent)
            if sha256 is not None:
                kept.recordings += self._drop_recording(sha256, besides=key)
            graves.swept(key)
        if kept.stopped is None:
            self._sweep_pool(kept, now)
            with self._index.transaction():
                for key in graves.droppable(now - int(self._config.tombstones.keep * 1_000_000), AT_ONCE):
                    entry = self._index.get(key)
                    if entry is not None:
                        graves.drop(entry.record)
                        kept.dropped += 1

    def _sweep_pool(self, kept: Kept, now: int) -> None:
        """Remove recordings that nothing has named for as long as what is deleted is kept; now and then."""
        if 0 <= now - int(self._index.note(_POOL_SWEPT) or 0) < _HOUR:
            return
        self._index.set_note(_POOL_SWEPT, now)
        if hours := self._config.housekeeping.deleted:
            for sha256, since in self._replica.pool.lying():
                if since < latest(max(hours, _SHORTEST_STAY), now):
                    kept.recordings += self._drop_recording(sha256)
        self._sweep_parts(now)

    def _sweep_parts(self, now: int) -> None:
        """Remove what came of recordings that nothing names, or that are here whole, and forget what was to be sent of them.

        What is known of a part goes before its file: pieces of one that has gone would be missing from it.
        """
        since = dict(self._replica.pool.unfinished())
        parts, offers = self._index.parts, self._index.offers
        old = latest(_SHORTEST_STAY, now)
        gone = [
            sha256
            for sha256 in sorted({*since, *parts.recordings()})
            if since.get(sha256, 0) < old
            and (not self._index.needs_audio(sha256) or self._replica.recordings.find(sha256) is not None)
        ]
        with self._index.transaction():
            for sha256 in gone:
                parts.drop(sha256)
            for sha256 in offers.recordings():
                if not self._index.needs_audio(sha256):
                    offers.drop(sha256)
        for sha256 in gone:
            self._replica.pool.drop_part(sha256)

    def _drop_recording(self, sha256: str, *, besides: str = "") -> bool:
        if self._index.needs_audio(sha256, besides=besides) or not self._replica.pool.holds(sha256):
            return False
        self._replica.pool.drop(sha256)
        return True


def _aged(record: Record, timers: Timers) -> Aged:
    status = record.fields["status"]
    extension = parse_key(record.key).mailbox
    return Aged(record.key, max(status.stamp.at, status.stamp.number), timers.hours(str(status.value), extension))


def _ends(one: Dead) -> bool:
    """Whether it is of a kind that is purged: settings never end, and what a later vmctl knows is its own affair."""
    return one.kind in {*KINDS, CONFLICT} and one.kind != SETTINGS

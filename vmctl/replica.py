"""One server's store, its index and its conversation with the peer: the main path, top to bottom.

    store --scan--> index --delta--> changes --parcels--> mail --smtplib--> ~~ --receive--> spool --take-->
    changes --merge--> index --apply--> store,   and the acknowledgement goes home in the next mail the other way

Everything that changes the store or the index holds the store's lock, for as short as it can.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from vmctl import clocks, durable, identity, overruled, rejoin, reports
from vmctl.apply import Applied, Applier
from vmctl.clock import Deadline, rfc3339
from vmctl.contact import Contact
from vmctl.door import Door, is_of_report
from vmctl.doubt import Doubt
from vmctl.errors import MailError, MailRepeated, MailReport, StoreExchanged, StoreUnusable
from vmctl.inbox import Inbox, Taken
from vmctl.index import Index
from vmctl.journal import Journal
from vmctl.outbox import Outbox
from vmctl.parked import Lot
from vmctl.recordings import Recordings
from vmctl.scan import Scanner
from vmctl.spool import Spool
from vmctl.store.native import NativeStore
from vmctl.store.pool import Pool
from vmctl.strays import Strays
from vmctl.sweep import PART, WITHOUT_END, Sweeper
from vmctl.writing import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vmctl.clock import Clock
    from vmctl.config import Config, Server
    from vmctl.entry import Entry
    from vmctl.findings import Report
    from vmctl.mail import SyncMail

log = logging.getLogger("vmctl.replica")

LOCK_TIMEOUT = 60.0
_MAILDIR = "vmctl:maildir"
_MOST_LOOKS = 3
_LONGEST_WRITING = 3_600_000_000  # microseconds
# What is in memory at once: bytes of mails with their recordings, records; and the last mail of them.
_GULP, _GULP_RECORDS = 32_000_000, 1500
_OVER = object()
_SHARE_OF_DIGESTS = 8  # one part in so many of a mail may be digests


@dataclass(frozen=True, slots=True)
class Intake:
    """What came in and what was written of it; `more` tells that the time was over before all was."""

    taken: list[Taken]
    applied: Applied
    more: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be shipped (entries and their JSON for the wire), what has to stand still first, and what cannot be."""

    pending: list[tuple[Entry, dict[str, Any]]]
    unsettled: list[str]
    faults: list[dict[str, Any]]


class Replica:
    """One server that is here. Not shared between threads, but for `receive`."""

    def __init__(
        self, config: Config, server: Server, index: Index, clock: Clock, *, remembers: bool, why: str = ""
    ) -> None:
        assert server.store is not None, "a replica needs a store on this host"  # noqa: S101
        self.config = config
        self.server = server
        self.peer = config.peer_of(server.name)
        self.clock = clock
        self.patience: float | None = None  # seconds for one intake, of a process that has more to do; None: to the end
        self._merged: set[Path] = set()  # mails of the spool that are in the index, and may not go yet
        self._behind = False  # whether the last intake ended before all that came was in its files
        self.index = index
        self.index.history.keep = config.history.versions
        self.store = NativeStore(server.store, config.audio.formats, config.limits.document)
        self.pool = Pool(self.store.state)
        self.spool = Spool(self.store.state)
        self.strays = Strays(self.store.state, clock)
        self.door = Door(config, server.name, clock)
        self.journal = Journal(self.store.state / "journal.jsonl", config.journal.max)
        self.contact = Contact(index, clock, config.failover.after)
        self.scanner = Scanner(self.store, index, clock, config.scan.settle)
        self._sweeper = Sweeper(self.store, index, clock, config.scan.settle, self.scanner)
        if not remembers:
            with index.transaction():  # together: a new life that did not know the deleted would bring them back
                self.scanner.recall()
                self._start_over(why)
        self.recordings = Recordings(self.store, index, self.pool)
        self.applier = Applier(self.store, index, self.pool, self.recordings, self.scanner, clock)
        doubt = Doubt(index, self.contact, self.journal, clock, server.name, config.mail.max // _SHARE_OF_DIGESTS)
        self.lot = Lot(index, self.spool, clock)
        writer = Writer(config, server.name, index, self.contact, self.journal, clock)
        self.outbox = Outbox(config, self.store, index, self.recordings, writer, self.lot, doubt, clock, self.peer)
        self.inbox = Inbox(index, self.pool, self.recordings, self.contact, self.outbox, self.lot, doubt, clock)

    @classmethod
    def open(cls, config: Config, name: str, clock: Clock, *, why: str = "") -> Replica:
        """Open the store of a server that is here.

        A store whose index is gone, or is not the one of its identity, starts over under a new incarnation: it keeps
        all files, and everything is offered and asked for again; `why` is for its journal. Raises StoreMissing, StoreForeign, StoreNewer, ...
        """
        server = config.servers[name]
        assert server.store is not None, "a replica needs a store on this host"  # noqa: S101
        identity.read(server.store, config.network, name)  # before its lock is made in what may be no store of ours
        with store_lock(server.store) as turn:
            whose = identity.read(server.store, config.network, name)  # another process may have begun a new one
            index = Index.open(server.store / identity.DIRECTORY / "index.db", create=True)
            try:
                replica = cls(config, server, index, clock, remembers=rejoin.remembers(index, whose), why=why)
                replica.recover(turn)
            except BaseException:
                index.close()
                raise
        return replica

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store against other processes. Raises StoreMissing, StoreExchanged, ... for one that is not ours."""
        identity.read(self.store.root, self.config.network, self.server.name)  # no lock is made in what is not ours
        with store_lock(self.store.root) as turn:
            whose = identity.read(self.store.root, self.config.network, self.server.name)
            if not self.index.is_there or whose.incarnation != self.index.meta("incarnation"):
                raise StoreExchanged(f"the store {self.store.root} was exchanged while it was in use")
            if not turn.follows_well:
                self.recover(turn)  # another process may have been killed since
            yield
            turn.ends_well = not self.applier.unfinished

    def recover(self, turn: durable.Turn) -> None:
        """Finish what others left unfinished. The caller holds the store's lock in this turn."""
        if turn.follows_kill:
            durable.keep_all()
        self.applier.recover(kept=turn.follows_kill)

    # From the store into the index

    def scan(
        self, *, full: bool = False, accept_deletions: bool = False, pause: Callable[[], object] | None = None
    ) -> Report:
        """One look at the store; files that lag behind the index are written.

        With `pause`, which is called now and then where much is found, others need not wait for the end of it.
        """
        size = WITHOUT_END if pause is None else PART
        for _ in self.parts(full=full, accept_deletions=accept_deletions, size=size):
            if pause is not None:
                pause()
        return self.report

    def parts(
        self, *, full: bool | None, accept_deletions: bool, size: float = WITHOUT_END, seconds: float = WITHOUT_END
    ) -> Iterator[None]:  # fmt: skip
        """The same in parts of so many records, or seconds; between two of them the store is free. `report` is what it found.

        Without a word on `full` also one that is due waits for the next scan, but the first one of all.
        """
        full = (not self.index.was_scanned) if full is None else (full or self._full_is_due())
        parts = self._sweeper.parts(full=full, accept_deletions=accept_deletions, size=size, seconds=seconds)
        while True:
            with self.locked():
                if next(parts, _OVER) is _OVER:
                    self._scanned()
                    break
            yield
        if full:
            yield from self._clear_leftovers(seconds)

    @property
    def report(self) -> Report:
        """What the newest scan has found."""
        return self._sweeper.report

    def _scanned(self) -> None:
        """What follows on a scan: files are written."""
        self.applier.apply_all(self._deadline())
        if self.report.held != (self.index.note("held") or []):
            self.index.set_note("held", self.report.held)

    def scan_folders(self, folders: set[str]) -> Report | None:
        """A look at some message folders, and at nothing else; None where only a look at the whole store will do."""
        with self.locked():
            report = self.scanner.scan_folders(sorted(folders))
            if report is not None:
                self.applier.apply_all(self._deadline())
        return report

    def _clear_leftovers(self, seconds: float) -> Iterator[None]:
        """Remove what killed processes left half-written; what is written at this moment is younger, so nobody need wait."""
        before = (self.clock.wall() - _LONGEST_WRITING) * 1000
        deadline = Deadline(self.clock, seconds)
        for paths in durable.temporary(self.store.root):
            for path in paths:
                look = self.store.look(path.relative_to(self.store.root).as_posix())
                if look is not None and look.mtime < before:
                    with contextlib.suppress(StoreUnusable):  # it does no harm
                        durable.discard(path)
            if deadline.over:
                yield
                deadline = Deadline(self.clock, seconds)

    def scan_settled(
        self, wait: Callable[[float], object], *, full: bool = False, accept_deletions: bool = False,
        pause: Callable[[], object] | None = None,
    ) -> Report:  # fmt: skip
        """A scan, and the second look that it owes to files that have not stood still or are gone; what all have found."""
        report = self.scan(full=full, accept_deletions=accept_deletions, pause=pause)
        for _ in range(_MOST_LOOKS):
            if not report.again:
                break
            changed = report.changed
            wait(self.config.scan.settle + 0.02)
            report = self.scan(accept_deletions=accept_deletions)
            report.changed[:0] = changed
        return report

    def preview(self) -> Preview:
        """What a scan now would find and what would be shipped, without keeping anything of it."""
        with self.locked(), self.index.transaction(rollback=True):
            report = self._sweeper.sweep()
            return Preview(self.outbox.preview(), sorted(report.unsettled | report.absent), self.index.faults.all())

    def _full_is_due(self) -> bool:
        last = int(self.index.meta("full_scan", "0"))
        return not self.index.was_scanned or not 0 <= self.clock.wall() - last < self.config.scan.full * 1_000_000

    # From the peer into the store

    def receive(self, raw: bytes, sender: str | None = None) -> None:
        """Take a mail into the spool; when this returns it is durable. Raises as `Door.take` does.

        The only method that another thread may call.
        """
        self.door.take(raw, sender)

    def take(self) -> Intake:
        """Merge every mail of the spool into the index, write the files, and let the spool go.

        Where `patience` ends before all of that is done, the newest mail is listened to all the same: what lies between
        is no silence of the peer.
        """
        with self.locked():
            deadline = self._deadline()
            more = self._pick_up(deadline)
            waiting = self.spool.waiting()
            intake = Intake([], Applied())
            while True:
                self._gulp(waiting, intake, deadline)
                if not waiting or (deadline is not None and deadline.over):
                    break
            if waiting:
                self._listen(waiting[-1])
            self._behind = bool(waiting) or intake.applied.more or more
            return replace(intake, more=self._behind)

    @property
    def behind(self) -> bool:
        """Whether less is taken in than has come, or not in its files, yet; or the store was never looked at as a whole."""
        return self._behind or not self.index.was_scanned

    def _gulp(self, waiting: list[Path], intake: Intake, deadline: Deadline | None) -> None:
        """Take some of the mails, as many as memory is for, from the merge to the files; then they may go."""
        taken: list[Taken] = []
        merged: list[Path] = []
        size = 0
        try:
            records = 0
            while waiting and size < _GULP and records < _GULP_RECORDS:
                if merged and deadline is not None and deadline.over:
                    break
                path = waiting.pop(0)
                size += self.spool.size(path)
                if (mail := self._take_one(path)) is not None:
                    taken.append(mail)
                    merged.append(path)
                    records += len(mail.changed)
            if any(mail.fresh for mail in taken):
                self._watch_clock()
            for mail in taken:
                if mail.fresh:
                    overruled.obey(self.store, self.index, mail.status.get("overwritten"), self.clock.wall())
            if (back := self.inbox.bring_mailboxes_back()).changed:
                taken.append(back)
            applied = self.applier.apply_all(deadline)
            self.pool.put_down()
        except BaseException:
            self.pool.let_go()  # the mails are taken again
            self._merged.update(merged)
            raise
        self.spool.let_go(merged)
        self._merged.difference_update(merged)
        intake.taken.extend(taken)
        intake.applied.add(applied)

    def _pick_up(self, deadline: Deadline | None) -> bool:
        """Take what lies in the Maildir; tells whether there is more. One that cannot be read is a fault, and stops nothing."""
        more, trouble = False, None
        try:
            more = self.door.pick_up(lambda error: self.strays.note(error, "the Maildir"), deadline)
        except StoreUnusable as error:
            trouble = error
        if trouble is not None or self.index.faults.has(_MAILDIR):
            with self.index.transaction():
                if trouble is None:
                    self.index.faults.drop(_MAILDIR)
                else:
                    self.index.faults.set(_MAILDIR, trouble.words, trouble.hint, self.clock.wall())
        return more

    def _deadline(self) -> Deadline | None:
        return None if self.patience is None else Deadline(self.clock, self.patience)

    def _listen(self, path: Path) -> None:
        """Hear what a mail says of the peer itself, as if it had brought nothing else; it is taken when it is its turn."""
        with contextlib.suppress(MailError, ValueError, TypeError, LookupError, AttributeError):  # told then
            self.inbox.listen(self.door.read(self.spool.read(path)))

    def _take_one(self, path: Path) -> Taken | None:
        if is_of_report(path):
            self._take_report(path)
            return None
        try:
            mail = self.door.waiting(path)
        except MailError as error:
            kept = self.spool.refuse(path, f"{error.what}: {error.why}" if error.why else error.what)
            log.error("a mail in the spool cannot be taken: %s; it is kept as %s", error, kept)
            return None
        try:
            taken = self._merge(mail, again=path in self._merged)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            # signed by the peer, and still not as it should be: it must not stop every mail behind it for ever
            kept = self.spool.refuse(path, f"it cannot be merged: {type(error).__name__}: {error}")
            log.exception("a mail of the peer cannot be merged; it is kept as %s", kept)
            return None
        return taken

    def _take_report(self, path: Path) -> None:
        try:
            report = reports.read(self.spool.read(path))
        except MailError as error:
            self.strays.note(error, "a mail server")
        else:
            if report.is_bad and not self.outbox.bounced(report):
                self.strays.note(
                    MailReport("a report came on a mail that did not leave here", why=report.why), "a mail server"
                )
        self.spool.done(path)

    def _merge(self, mail: SyncMail, *, again: bool) -> Taken:
        """Merge a mail; `again`: it was merged before, and its files could not be written then."""
        taken = self.inbox.take(mail)
        if taken.again and not again:
            self.strays.note(
                MailRepeated("a mail came again", why=f"it was written {rfc3339(mail.sent)}"), self.peer.name
            )
        if taken.rolled_back:
            with self.index.transaction():
                self.scanner.recall()  # the tombs may be younger than the index; what they say is issued again, too
                self._start_over("the peer holds later changes of this server than this server does")
            self.outbox.forget_sent()
            taken = replace(self.inbox.take(mail), rolled_back=True)
        for key in taken.forgotten:
            self.tell("an old copy of what was deleted", record=key)
        return taken

    def _watch_clock(self) -> None:
        skew, limit, at = self.contact.skew(), self.config.clock.skew, self.clock.wall()
        with self.index.transaction():
            news = clocks.watch(self.index, skew, limit=limit, peer=self.peer.name, at=at)
        if news is not None:
            self.tell(news, skew=skew)

    def _start_over(self, why: str = "") -> None:
        rejoin.start_over(
            self.index,
            self.journal,
            self.store.root,
            self.config.network,
            self.server.name,
            self.clock.wall(),
            why,
        )

    def tell(self, event: str, **facts: Any) -> None:
        """Add an event to the journal, if that can be trusted."""
        self.journal.tell(event, at=self.clock.wall(), server=self.server.name, **facts)


@contextlib.contextmanager
def store_lock(root: Path) -> Iterator[durable.Turn]:
    """Hold a store against other processes. Raises StoreBusy."""
    with durable.lock(
        root / identity.DIRECTORY / "lock", timeout=LOCK_TIMEOUT, what=f"the store {root}", shared_text=_me()
    ) as turn:
        yield turn


def _me() -> str:
    import os

    return f"vmctl, process {os.getpid()}"

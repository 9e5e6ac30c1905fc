"""What goes to the peer: built afresh from the index for each mail, so that nothing depends on an earlier one.

Records that the peer has not acknowledged travel with the fields that changed since the version that it did
acknowledge, or whole. Settings, callflows and mailboxes go first, then the newest messages; every fourth mail of a
backlog takes the oldest, and pieces of long recordings come last. What is refused for good is found out, and parked;
what is put off each time is gone around, and tried alone.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl import beneath
from vmctl.asking import Asker, Word
from vmctl.backoff import backoff
from vmctl.deferrals import Deferrals
from vmctl.mail import MAX_AUDIO, estimate
from vmctl.mail_parts import in_base64
from vmctl.model import MESSAGE
from vmctl.packing import MOST_RECORDS, Load, Packer, TooLarge, record_for
from vmctl.ranges import Span, without
from vmctl.refusals import BARE, STRIKES, Group, Piece, Refusals, Version
from vmctl.reports import TOO_LARGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmctl.clock import Clock
    from vmctl.config import Config, Server
    from vmctl.doubt import Doubt
    from vmctl.entry import Entry
    from vmctl.index import Index
    from vmctl.parked import Lot
    from vmctl.recordings import Recordings
    from vmctl.refusals import Thing
    from vmctl.reports import Report
    from vmctl.store.format import Format
    from vmctl.writing import Writer

log = logging.getLogger("vmctl.outbox")

_OLDEST_EVERY = 4
_LONGEST_RESEND = 3600.0
_PUT_OFF = "put_off"


@dataclass(slots=True)
class Parcel:
    """One mail that is ready to leave, and what it settles when the peer's server has taken it."""

    raw: bytes
    packet: str
    subject: str
    message_id: str
    load: Load = field(default_factory=Load)
    word: Word = field(default_factory=Word)

    @property
    def versions(self) -> dict[str, str]:
        """The records that it brings, by key."""
        return self.load.versions

    @property
    def moves(self) -> bool:
        """Whether it brings or settles anything: a heartbeat and a question do not."""
        return bool(self.load or self.word.answers)


class _Sent(NamedTuple):
    """A record that left: at which version, how often, and when it is to leave again."""

    version: str
    times: int
    due: float


class Outbox:
    """The mails of one server to its peer."""

    def __init__(
        self,
        config: Config,
        store: Format,
        index: Index,
        recordings: Recordings,
        writer: Writer,
        lot: Lot,
        doubt: Doubt,
        clock: Clock,
        peer: Server,
    ) -> None:
        self._resend = config.sync.resend
        self._relayed = config.relay.address is not None
        self._index = index
        self._clock = clock
        self._writer = writer
        self._lot = lot
        self._packer = Packer(config, store, index, recordings, clock, peer.address)
        self._asker = Asker(index, recordings, doubt, clock)
        self._refusals = Refusals()
        self._deferrals = Deferrals()
        self._deferrals.restore(index.note(_PUT_OFF))
        self._evidence: dict[Thing, tuple[Parcel, str]] = {}
        self._sent: dict[str, _Sent] = {}
        self._due: tuple[deque[str], deque[str]] | None = None

    def parcels(
        self, *, always: bool = False, anew: bool = False, eager: bool = False, request: dict[str, Any] | None = None,
        status: Callable[[], dict[str, Any]] = dict,
    ) -> Iterator[Parcel]:  # fmt: skip
        """The mails that are due, each built when it is asked for, inside a transaction of its own.

        `always` makes at least one, a heartbeat; `eager` asks at once for whatever is missing, and `anew` also sends again
        what left and was not acknowledged yet.
        `request`, and what `status` gives at that moment, is added to each. Say what became of one (`left`, `refused`
        `put_off` or `too_large`; none of them: it is tried again) before the next is asked for.
        """
        if anew:
            self._sent.clear()
        self._due, count = None, 0
        if self._packer.renew():
            self._lot.look_again()
        self._asker.look()
        while True:
            urgent, messages = self._due = self._due or self._find_due()
            group = self._group(others=bool(urgent or messages))
            word = self._asker.word(self._packer.bound, eager=eager or anew) if group is None else Word()
            beats = always and count == 0
            if group is None and not (urgent or messages or word or beats or self._index.offers.recordings()):
                return  # as nearly each time: to say how things are takes longer than to see that nobody needs to hear it
            facts = status() | word.as_json()
            load = Load(size=estimate([facts, request or {}]))
            if group is None:
                self._fill(load, urgent, messages, word, oldest=count % _OLDEST_EVERY == _OLDEST_EVERY - 1)
            elif group and not self._fill_with(load, group):
                continue
            if group is None and not (load or word or beats):
                return
            yield Parcel(*self._writer.write(load, facts, request or {}), load, word)
            count += 1
            if group is None and not load and not self._asker.unfinished(word):
                return

    def found(self, above: int, status: Callable[[], dict[str, Any]]) -> Iterator[Parcel]:
        """Mails with what came into the index above a number, and nothing else, while more is being looked for.

        As `parcels` are they built, but one may be under way, and settled later, while the next one is.
        """
        urgent, messages = self._find_due(above)
        while (urgent or messages) and not self._deferrals.asks_for_a_bare_mail:
            facts = status() | Word().as_json()
            load = Load(size=estimate([facts]))
            self._fill_with_records(load, urgent, messages)
            if not load:
                return
            yield Parcel(*self._writer.write(load, facts, {}), load)

    def _group(self, *, others: bool) -> Group | None:
        """What the next mail brings: nothing, a group of suspects, or None for an ordinary mail."""
        if self._deferrals.asks_for_a_bare_mail:
            return BARE
        group = self._refusals.next(others=others)
        return self._deferrals.next(self._clock.steady()) if group is None else group

    # What became of a mail

    def left(self, parcel: Parcel) -> None:
        """The peer's server, or a mail server on the way, has taken it."""
        now = self._clock.steady()
        for key, version in parcel.versions.items():
            before = self._sent.get(key)
            times = before.times + 1 if before is not None and before.version == version else 1
            wait = backoff(self._resend, times, max(self._resend, _LONGEST_RESEND))
            self._sent[key] = _Sent(version, times, now + wait)
        guilty = self._refusals.taken(parcel.load.things)
        late = self._deferrals.taken(parcel.load.things, now, self._clock.wall() / 1_000_000)
        for thing in guilty:
            mail, reply = self._evidence[thing]
            self._lot.keep(in_base64(mail.raw), mail.packet)
        with self._index.transaction():
            if self._relayed:
                self._index.letters.left(parcel.message_id, parcel.subject, len(parcel.raw), self._clock.wall())
            self._asker.settle(parcel.word)
            for sha256, size in parcel.load.long:
                self._index.offers.add(sha256, 0, size)
            for piece in parcel.load.pieces:
                self._index.offers.cut(*piece)
            for thing in guilty:
                mail, reply = self._evidence[thing]
                self._lot.park(thing, mail.packet, reply, STRIKES)
            for thing, times in late:
                mail, reply = self._evidence[thing]
                self._lot.put_off(thing, in_base64(mail.raw), mail.packet, reply, times)
            self._lot.no_longer_put_off(parcel.load.things)
            if (waiting := self._deferrals.as_json()) != (self._index.note(_PUT_OFF) or []):
                self._index.set_note(_PUT_OFF, waiting)
        self._evidence.clear()

    def left_now(self) -> None:
        """The peer could not answer before this moment: what has left since long ago is not due again yet."""
        now = self._clock.steady() + self._resend
        self._sent = {key: sent._replace(due=max(sent.due, now)) for key, sent in self._sent.items()}

    def refused(self, parcel: Parcel, reply: str) -> bool:
        """A server refused it for good; tells whether another mail may go at once, to find out what it was."""
        things = parcel.load.things
        if len(things) == 1:
            self._evidence[things[0]] = parcel, reply
        self._due = None
        self._deferrals.forget(things)
        return self._refusals.refused(things)

    def put_off(self, parcel: Parcel, reply: str) -> bool:
        """A server does not take it now; tells whether another mail may go at once, to find out whether it takes any."""
        things = parcel.load.things
        if len(things) == 1:
            self._evidence[things[0]] = parcel, reply
        self._due = None
        if things:
            self._refusals.loaded(things, BARE)
        return self._deferrals.put_off(things, self._clock.wall() / 1_000_000)

    def too_large(self, parcel: Parcel, limit: int | None, reply: str) -> bool:
        """A server takes mails of `limit` bytes only, or does not say; tells whether another mail may go at once."""
        if self._packer.narrow(len(parcel.raw), limit):
            self._due = None
            return True
        return self.refused(parcel, reply)

    def bounced(self, report: Report) -> bool:
        """A mail server says what became of a mail; tells whether it is one that left here. None larger goes, where that is why."""
        with self._index.transaction():
            size = self._index.letters.bounced(report.message_id, report.action, report.why, self._clock.wall())
            if size and report.status in TOO_LARGE:
                self._packer.narrow(size, None)
                self._due = None
        return size is not None

    def forget_sent(self) -> None:
        """The peer is another one: everything may leave, and be asked for, at once."""
        self._sent.clear()
        self._deferrals = Deferrals()
        self._asker.forget()
        self._due = None

    def heard_again(self) -> None:
        """The peer was away: what left in vain leaves at once, and what is missing may be asked for again."""
        now = self._clock.steady()
        self._sent = {key: sent if sent.times == 1 else _Sent(sent.version, 1, now) for key, sent in self._sent.items()}
        self._asker.forget()
        self._due = None

    def acknowledged(self, key: str) -> None:
        """The peer holds it: no need to remember when it was sent."""
        self._sent.pop(key, None)

    def next_resend(self) -> float | None:
        """Seconds until something that left has to leave again, if nothing acknowledges it."""
        if not self._sent:
            return None
        return max(0.0, min(sent.due for sent in self._sent.values()) - self._clock.steady())

    def preview(self) -> list[tuple[Entry, dict[str, Any]]]:
        """What would be shipped: each pending entry and its JSON for the wire."""
        entries = [self._index.get(key) for key, _, _ in list(self._index.pending())]
        return [(entry, record_for(entry)) for entry in entries if entry is not None]

    # Filling one mail

    def _find_due(self, above: int = -1) -> tuple[deque[str], deque[str]]:
        """The keys of what is to leave now, of the changes above a number: what is urgent, and messages."""
        now = self._clock.steady()
        urgent: deque[str] = deque()
        messages: deque[str] = deque()
        parked = self._lot.versions()
        suspects = {thing for thing in self._suspects() if isinstance(thing, Version)}
        still: dict[str, _Sent] = {}  # a suspect, too: that it left before says that its recording is on its way
        for key, kind, version in self._index.pending(above):  # a hundred thousand of them, in a first copy
            if (key, version) in parked:
                continue
            sent = self._sent.get(key)
            if sent is not None:
                still[key] = sent
            if (key, version) not in suspects and (sent is None or now >= sent.due or sent.version != version):
                (messages if kind == MESSAGE else urgent).append(key)
        if above < 0:
            self._sent = still
        return urgent, messages

    def _suspects(self) -> set[Thing]:
        """What no ordinary mail may bring now; what is put off by name is as the lot has it, whoever changed that."""
        rows = {row.thing: row for row in self._lot.those_put_off()}
        named = self._deferrals.named()
        self._deferrals.forget(tuple(named - rows.keys()))
        for thing in rows.keys() - named:
            self._deferrals.resume(thing, rows[thing].since / 1_000_000, rows[thing].tries)
        return self._refusals.suspects() | self._deferrals.suspects()

    def _fill(self, load: Load, urgent: deque[str], messages: deque[str], word: Word, *, oldest: bool) -> None:
        if not self._fill_with_records(load, urgent, messages, oldest=oldest):
            return
        if not (urgent or messages):
            for piece in self._pieces(word.lost):
                if not self._packer.add_piece(load, piece):
                    return

    def _fill_with_records(
        self, load: Load, urgent: deque[str], messages: deque[str], *, oldest: bool = False
    ) -> bool:  # fmt: skip
        """Fill a mail with the records that are due; False when it is full before one of them."""
        with beneath.holding():
            while len(load.records) < MOST_RECORDS and len(load.audio) < MAX_AUDIO and (urgent or messages):
                queue = urgent or messages
                last = oldest and not urgent
                entry = self._index.get(queue[-1] if last else queue[0])
                if entry is not None and entry.pending and not self._add(load, entry):
                    return False
                if last:
                    queue.pop()
                else:
                    queue.popleft()
        return True

    def _fill_with(self, load: Load, group: Group) -> bool:
        """Fill a mail with suspects, and nothing else; tells whether there are any left."""
        for thing in group:
            if isinstance(thing, Piece):
                added = self._packer.add_piece(load, thing)
            else:
                entry = self._index.get(thing.key)
                pending = entry is not None and entry.pending and entry.record.version == thing.version
                added = not pending or entry is None or self._add(load, entry)
            if not added:
                break
        if not self._deferrals.loaded(group, load.things):
            self._refusals.loaded(group, load.things)
        return bool(load)

    def _add(self, load: Load, entry: Entry) -> bool:
        """Add a record; False when the mail is full. One that fits no mail is named, and all behind it goes on."""
        sent = self._sent.get(entry.record.key)
        try:
            again = sent is not None and sent.version == entry.record.version
            return self._packer.add(load, entry, again=again)
        except TooLarge as error:
            self._lot.park_too_large(entry, error.size, self._packer.bound)
            return True

    def _pieces(self, lost: list[str]) -> Iterator[Piece]:
        """What the peer lacks of long recordings, save what it refuses."""
        idle: dict[str, list[Span]] = {}
        for thing in self._lot.pieces() | self._suspects():
            if isinstance(thing, Piece):
                idle.setdefault(thing.sha256, []).append((thing.start, thing.stop))
        size = self._packer.piece
        for sha256 in self._index.offers.recordings():
            if sha256 in lost:
                continue
            for start, stop in without(self._index.offers.of(sha256), idle.get(sha256, [])):
                yield from (Piece(sha256, at, min(at + size, stop)) for at in range(start, stop, size))

"""What goes to the peer: built afresh from the index for each mail, so that nothing depends on an earlier one.

Records that the peer has not acknowledged travel with the fields that changed since the version that it did
acknowledge, or whole. Settings, callflows and mailboxes go first, then the newest messages; every fourth mail of a
backlog takes the oldest. No mail is larger than `mail.max`: longer recordings go in pieces.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmctl.audio import WAV
from vmctl.entry import Entry, audio_of
from vmctl.errors import JournalError
from vmctl.mail import AUDIO_FRAME, BASE64_GROWTH, FRAME, MAX_AUDIO, Audio, SyncMail, compose, describe, estimate
from vmctl.model import MESSAGE, canonical, field_as_json
from vmctl.store.pool import missing_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vmctl.apply import Applier
    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.contact import Contact
    from vmctl.doubt import Doubt
    from vmctl.index import Index
    from vmctl.journal import Journal
    from vmctl.keys import PrivateKey
    from vmctl.store.format import Format

log = logging.getLogger("vmctl.outbox")

_MOST_RECORDS = 500
_MOST_ACKS = 2000
_ACK_BYTES = 200  # of one in a mail, at most
_MOST_WANTS, _MOST_GAPS = 100, 100
_OLDEST_EVERY = 4
_WANT_AFTER = 2.0


@dataclass(slots=True)
class Parcel:
    """One mail that is ready to leave, and what it settles when the peer's server has taken it."""

    raw: bytes
    packet: str
    subject: str
    versions: dict[str, str] = field(default_factory=dict)
    acks: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[tuple[str, int, int]] = field(default_factory=list)
    tells: bool = False  # digests, which the peer is to compare


@dataclass(slots=True)
class _Load:
    """What one mail carries, while it is filled up to `mail.max`."""

    records: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    audio: list[Audio] = field(default_factory=list)
    pieces: list[tuple[str, int, int]] = field(default_factory=list)
    size: int = FRAME

    def __bool__(self) -> bool:
        return bool(self.records or self.audio)


class Outbox:
    """The mails of one server to its peer."""

    def __init__(
        self,
        config: Config,
        server: str,
        store: Format,
        index: Index,
        applier: Applier,
        contact: Contact,
        journal: Journal,
        doubt: Doubt,
        clock: Clock,
    ) -> None:
        self._config = config
        self._journal = journal
        self._me = config.servers[server]
        self._peer = config.peer_of(server)
        self._store = store
        self._index = index
        self._applier = applier
        self._contact = contact
        self._doubt = doubt
        self._clock = clock
        self._sent: dict[str, tuple[str, float]] = {}
        self._wanted: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._key: PrivateKey | None = None
        overhead = FRAME + 2 * AUDIO_FRAME + 8192
        self._most_acks = min(_MOST_ACKS, config.mail.max // 8 // _ACK_BYTES)
        self._piece = max(4096, int((config.mail.max - overhead) / BASE64_GROWTH))

    def parcels(
        self, *, always: bool = False, anew: bool = False, request: dict[str, Any] | None = None,
        status: Callable[[], dict[str, Any]] = dict,
    ) -> Iterator[Parcel]:  # fmt: skip
        """The mails that are due, each built when it is asked for, inside a transaction of its own.

        `always` makes at least one, a heartbeat; `anew` also sends again what left and was not acknowledged yet.
        `request`, and what `status` gives at that moment, is added to each.
        """
        if anew:
            self._sent.clear()
        urgent, messages = self._due()
        pieces = deque(self._asked_pieces())
        count = 0
        while True:
            acks, wants = self._ripe_acks(), self._wants(eager=anew)
            groups = self._doubt.told()
            facts = status() | {"acks": [list(ack) for ack in acks], "wants": wants} | groups
            load = _Load(size=estimate([facts, request or {}]))
            self._fill(load, urgent, messages, pieces, oldest=count % _OLDEST_EVERY == _OLDEST_EVERY - 1)
            if not (load or acks or any(wants.values()) or groups or (always and count == 0)):
                return
            parcel = self._parcel(load, acks, facts, request or {})
            parcel.tells = bool(groups)
            yield parcel
            count += 1
            if not load and not self._doubt.due:
                return

    def left(self, parcel: Parcel) -> None:
        """The peer's server, or a mail server on the way, has taken it."""
        now = self._clock.steady()
        self._sent |= {key: (version, now) for key, version in parcel.versions.items()}
        with self._index.transaction():
            for key, version in parcel.acks:
                self._index.drop_ack(key, version)
            for sha256, start, _ in parcel.pieces:
                self._index.drop_range("offers", sha256, start)

    def refused(self, parcel: Parcel) -> None:
        """The peer's server will not take it: what it brought is tried again after `sync.resend`, not at once."""
        now = self._clock.steady()
        self._sent |= {key: (version, now) for key, version in parcel.versions.items()}

    def forget_sent(self) -> None:
        """Everything may leave again at once."""
        self._sent.clear()

    def acknowledged(self, key: str) -> None:
        """The peer holds it: no need to remember when it was sent."""
        self._sent.pop(key, None)

    def next_resend(self) -> float | None:
        """Seconds until something that left has to leave again, if nothing acknowledges it."""
        if not self._sent:
            return None
        oldest: float = min(at for _, at in self._sent.values())
        return max(0.0, oldest + self._config.sync.resend - self._clock.steady())

    def preview(self) -> list[tuple[Entry, dict[str, Any]]]:
        """What would be shipped: each pending entry and its JSON for the wire."""
        entries = [self._index.get(key) for key, _, _ in self._index.pending()]
        return [(entry, record_for(entry)) for entry in entries if entry is not None]

    # Filling one mail

    def _due(self) -> tuple[deque[str], deque[str]]:
        now, resend = self._clock.steady(), self._config.sync.resend
        urgent: deque[str] = deque()
        messages: deque[str] = deque()
        pending = self._index.pending()
        still = {key for key, _, _ in pending}
        self._sent = {key: sent for key, sent in self._sent.items() if key in still}
        for key, kind, version in pending:
            sent = self._sent.get(key)
            if sent is None or now - sent[1] >= resend or sent[0] != version:
                (messages if kind == MESSAGE else urgent).append(key)
        return urgent, messages

    def _fill(
        self,
        load: _Load,
        urgent: deque[str],
        messages: deque[str],
        pieces: deque[tuple[str, int, int]],
        *,
        oldest: bool,
    ) -> None:
        while len(load.records) < _MOST_RECORDS and len(load.audio) < MAX_AUDIO and (urgent or messages):
            queue = urgent or messages
            last = oldest and not urgent
            key = queue[-1] if last else queue[0]
            entry = self._index.get(key)
            if entry is not None and entry.pending and not self._add(load, entry, pieces):
                return
            if last:
                queue.pop()
            else:
                queue.popleft()
        while pieces and not urgent and not messages and len(load.audio) < MAX_AUDIO:
            if not self._add_piece(load, *pieces[0]):
                return
            pieces.popleft()

    def _add(self, load: _Load, entry: Entry, pieces: deque[tuple[str, int, int]]) -> bool:
        """Add a record and its recording; False when the mail is full."""
        value = record_for(entry)
        size = estimate([value]) - FRAME
        if FRAME + size > self._config.mail.max:
            self._too_large(entry, FRAME + size)
            return True
        audio = audio_of(entry.record.document) if entry.record.lives else None
        if audio is not None and self._held_there(entry, audio["sha256"]):
            audio = None
        long = audio is not None and audio["size"] > self._piece
        if audio is not None and not long:
            size += estimate([], [audio["size"]]) - FRAME
        if load and load.size + size > self._config.mail.max:
            return False
        if audio is not None:
            if long:
                starts = range(0, audio["size"], self._piece)
                pieces.extend((audio["sha256"], at, min(at + self._piece, audio["size"])) for at in starts)
            elif (sound := self._sound(audio["sha256"], 0, audio["size"])) is not None:
                load.audio.append(sound)
        load.records.append(value)
        load.versions[entry.record.key] = entry.record.version
        load.size += size
        return True

    def _held_there(self, entry: Entry, sha256: str) -> bool:
        """Whether the peer holds a recording: it acknowledged a version with it, of this record or of one that lived."""
        bases = [other.base for other in self._index.with_audio(sha256) if other.base and other.base.lives]
        held = [audio_of(base.document) for base in (entry.base, *bases) if base is not None]
        return any(audio is not None and audio["sha256"] == sha256 for audio in held)

    def _too_large(self, entry: Entry, size: int) -> None:
        """A record that fits no mail is named, and everything behind it goes on."""
        why = f"it needs a mail of up to {size} bytes, mail.max is {self._config.mail.max}"
        mend = "raise 'mail.max' in vmctl.yaml on both servers, or make it shorter"
        self._index.set_fault(entry.record.key, why, mend, self._clock.wall())

    def _add_piece(self, load: _Load, sha256: str, start: int, stop: int) -> bool:
        size = estimate([], [stop - start]) - FRAME
        if load and load.size + size > self._config.mail.max:
            return False
        sound = self._sound(sha256, start, stop)
        if sound is not None:
            load.audio.append(sound)
            load.size += size
        load.pieces.append((sha256, start, stop))
        return True

    def _sound(self, sha256: str, start: int, stop: int) -> Audio | None:
        """The bytes of a recording as an attachment; None where it is not here."""
        path = self._applier.find(sha256)
        if path is None:
            return None
        entry = next(iter(self._index.with_audio(sha256)), None)
        document = entry.record.document if entry else {}
        audio = audio_of(document) or {"size": stop, "format": WAV}
        try:
            with (self._store.root / path).open("rb") as file:
                file.seek(start)
                data = file.read(stop - start)
        except OSError as error:  # gone or unreadable since it was found: the scan will say so
            log.warning("cannot read the recording %s: %s", path, error.strerror or error)
            return None
        if start == 0 and stop == audio["size"] and hashlib.sha256(data).hexdigest() != sha256:
            self._index.drop_file(path)  # it rotted under an unchanged look: the next full scan finds it damaged
            return None
        name = entry.record.key.replace("/", "-") if entry else sha256[:16]
        return Audio(
            sha256=sha256, size=audio["size"], offset=start, data=data, format=audio["format"],
            filename=f"{name}.{audio['format']}", seconds=document.get("seconds"),
        )  # fmt: skip

    def _asked_pieces(self) -> Iterable[tuple[str, int, int]]:
        for sha256 in self._index.offered():
            for start, stop in self._index.ranges("offers", sha256):
                for at in range(start, stop, self._piece):
                    yield sha256, at, min(at + self._piece, stop)

    # What every mail says besides

    def _ripe_acks(self) -> list[tuple[str, str]]:
        """The versions to acknowledge: a record with its recording, once that is durable here."""
        ripe = []
        for key, version in self._index.acks():
            entry = self._index.get(key)
            if entry is None or self._applier.holds_audio(entry):
                ripe.append((key, version))
            if len(ripe) >= self._most_acks:
                break
        return ripe

    def _wants(self, *, eager: bool) -> dict[str, Any]:
        """Records to be sent whole, and ranges of recordings that are missing.

        A recording is asked for only when it has been missing for a moment: its pieces may be on their way.
        """
        now = self._clock.steady()
        missing: list[dict[str, Any]] = []
        seen = set()
        for key in self._index.todo():
            entry = self._index.get(key)
            audio = audio_of(entry.record.document) if entry and entry.record.lives else None
            if audio is None or audio["sha256"] in seen or self._applier.find(audio["sha256"]):
                continue
            sha256 = audio["sha256"]
            seen.add(sha256)
            since = self._wanted.setdefault(sha256, now)
            if len(missing) < _MOST_WANTS and (eager or now - since >= _WANT_AFTER):
                self._wanted[sha256] = now
                gaps = missing_ranges(self._index.ranges("parts", sha256), audio["size"])
                missing.append({"sha256": sha256, "missing": [list(gap) for gap in gaps[:_MOST_GAPS]]})
        self._wanted = {sha256: since for sha256, since in self._wanted.items() if sha256 in seen}
        return {"records": self._wanted_records(now, eager=eager)[:_MOST_WANTS], "audio": missing}

    def _wanted_records(self, now: float, *, eager: bool) -> list[str]:
        """Records to ask for: at once, then now and again, as the peer may not have them any more."""
        wants = self._index.wants()
        due = [key for key in wants if eager or now - self._asked.get(key, -_WANT_AFTER) >= _WANT_AFTER]
        self._asked = {key: now if key in due else self._asked[key] for key in wants}
        return due

    def status(self) -> dict[str, Any]:
        """What the peer needs to know to tell whether both are in step."""
        return {
            "last": self._index.last_number,
            "settled": self._index.settled,
            "pending": self._index.pending_count(),
            "todo": self._index.count("todo"),
            "digest": self._index.digest,
            "journal_seen": self._index.note("peer_journal"),
        }

    def _parcel(
        self,
        load: _Load,
        acks: list[tuple[str, str]],
        facts: dict[str, Any],
        request: dict[str, Any],
    ) -> Parcel:
        with self._index.transaction():
            # a number of its own: two mails with one number could not be told apart when one is echoed
            number, nonce = self._index.next_number(self._clock.wall()), secrets.token_hex(8)
            after = self._index.last_checkpoint()
            self._index.add_checkpoint(number, nonce)
            mail = SyncMail(
                packet=_packet(load, self._index.meta("incarnation")),
                network=self._config.network,
                sender=self._me.name,
                recipient=self._peer.name,
                sent=self._clock.wall(),
                incarnation=self._index.meta("incarnation"),
                peer_incarnation=self._index.meta("peer_incarnation") or None,
                checkpoint={
                    "incarnation": self._index.meta("incarnation"),
                    "number": number,
                    "nonce": nonce,
                    "after": after,
                },
                echo_checkpoint=self._index.note("peer_checkpoint"),
                challenge=self._contact.challenge(),
                echo=self._contact.echo(),
                config=self._config.digest,
                journal=self._journal_end(),
                records=load.records,
                status=self.status() | facts,
                request=request,
                audio=load.audio,
            )
        key = self._private_key()
        subject, summary = describe(mail)
        raw = compose(
            mail,
            sender_address=self._me.mail,
            recipient_address=self._peer.mail,
            message_id=f"<{secrets.token_hex(16)}@{self._me.mail.rpartition('@')[2]}>",
            sign=key.sign,
            public=key.public,
            summary=summary,
            subject=subject,
        )
        return Parcel(raw, mail.packet, subject, load.versions, acks, load.pieces)

    def _journal_end(self) -> tuple[int, str] | None:
        try:
            return self._journal.length_and_hash()
        except JournalError:
            return None  # stores are kept in step whatever the journal of the roles looks like

    def _private_key(self) -> PrivateKey:
        if self._key is None:
            from vmctl import keys

            assert self._me.key is not None  # noqa: S101 - the config has a key for every server that is here
            self._key = keys.load_private(self._me.key)
        return self._key


def _packet(load: _Load, incarnation: str) -> str:
    """The id of what a mail brings: the same when the same is sent again, random where it brings nothing."""
    if not load:
        return secrets.token_hex(12)
    brings = [incarnation, sorted(load.versions.items()), load.pieces]
    return hashlib.sha256(canonical(brings)).hexdigest()[:24]


def record_for(entry: Entry) -> dict[str, Any]:
    """A record for the wire: the fields set since the version that the peer acknowledged, or all of them.

    A field that was set to the value that it had travels too: its stamp is another.
    """
    record, base = entry.record, entry.base
    value = record.as_json() | {"key": record.key, "version": record.version, "base": None}
    if base is not None:
        changed = {name: now for name, now in record.fields.items() if base.fields.get(name) != now}
        value["fields"] = {name: field_as_json(now) for name, now in sorted(changed.items())}
        value["base"] = {"vector": base.vector, "version": base.version}
    return value

"""Fills one mail: records and recordings up to the bound, longer recordings in pieces.

The bound is the least of `mail.max`, the SIZE that the peer's server names, and what a server on the way let pass. What
was found out of an address is remembered for a day, or until `mail.max` is another or a person retries what was too
large.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmctl import beneath
from vmctl.audio import WAV
from vmctl.entry import Entry, audio_of
from vmctl.mail import AUDIO_FRAME, BASE64_GROWTH, FRAME, MAX_AUDIO, Audio, size_of_audio, size_of_text
from vmctl.mail_json import dumps
from vmctl.model import field_as_json
from vmctl.parked import LARGEST_MAIL
from vmctl.refusals import Piece, Version

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.config import Address, Config
    from vmctl.index import Index
    from vmctl.recordings import Recordings
    from vmctl.refusals import Group
    from vmctl.store.format import Format

log = logging.getLogger("vmctl.packing")

MOST_RECORDS = 500
SMALLEST_BOUND = 64_000  # bytes: the least that `mail.max` may be
_FOR = 86_400_000_000  # microseconds
_SHORTEST_PIECE = 4096
# Bytes in one mail: each end has some times as much in memory, and what is urgent waits behind it.
_MOST_IN_PIECES = 4_000_000


@dataclass(slots=True)
class Load:
    """What one mail carries, while it is filled. `long` are recordings that are to follow in pieces: digest and size."""

    size: int = FRAME
    records: list[dict[str, Any]] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)  # of the records
    versions: dict[str, str] = field(default_factory=dict)
    audio: list[Audio] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    long: list[tuple[str, int]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records or self.audio)

    @property
    def things(self) -> Group:
        """What it brings."""
        return (*(Version(key, version) for key, version in sorted(self.versions.items())), *self.pieces)


class TooLarge(Exception):
    """A record that fits no mail; `size` is what it would need, in bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Packer:
    """Fills the mails of one server."""

    def __init__(
        self, config: Config, store: Format, index: Index, recordings: Recordings, clock: Clock, address: Address
    ) -> None:
        self._store = store
        self._index = index
        self._recordings = recordings
        self._clock = clock
        self._address = str(address)
        self._most = self.bound = config.mail.max
        self.renew()

    def renew(self) -> bool:
        """Bound the mails by what is known now; tells whether larger ones may leave than before."""
        note, before = self._index.note(LARGEST_MAIL), self.bound
        counts = note is not None and [note["to"], note["of"]] == [self._address, self._most]
        self.bound = note["bytes"] if counts and 0 <= self._clock.wall() - note["at"] < _FOR else self._most
        return self.bound > before

    @property
    def _bound_of_pieces(self) -> int:
        return min(self.bound, _MOST_IN_PIECES)

    @property
    def piece(self) -> int:
        """Bytes of a piece that fits a mail with nothing else in it."""
        overhead = FRAME + 2 * AUDIO_FRAME + 8192
        return max(_SHORTEST_PIECE, int((self._bound_of_pieces - overhead) / BASE64_GROWTH))

    def narrow(self, size: int, limit: int | None) -> bool:
        """A mail of `size` bytes was too large for a server that takes `limit`, or does not say; tells whether less goes."""
        bound = max(SMALLEST_BOUND, limit or min(self.bound, size) // 2)
        if bound >= self.bound:
            return False
        log.warning("a mail of %d bytes was too large: for a day none is larger than %d", size, bound)
        self.bound = bound
        found = {"to": self._address, "of": self._most, "bytes": bound, "at": self._clock.wall()}
        self._index.set_note(LARGEST_MAIL, found)
        return True

    def add(self, load: Load, entry: Entry, *, again: bool = False) -> bool:
        """Add a record and its recording; False when the mail is full. Raises TooLarge.

        `again`: it left before, so the peer will name the pieces of a long recording that it lacks.
        """
        value = record_for(entry)
        text = self._index.text(entry.record, value) if entry.base is None else b"\\u"
        if b"\\u" in text:  # as UTF-8 it is shorter
            text = dumps(value)
        size = size_of_text(text)
        if FRAME + size > self.bound:
            raise TooLarge(FRAME + size)
        audio, named = self._audio_for(entry)
        long = audio is not None and audio["size"] > self.piece
        if audio is not None and not long:
            size += size_of_audio(audio["size"])
        if load and load.size + size > self.bound:
            return False
        if audio is not None:
            if long and not again:
                load.long.append((audio["sha256"], audio["size"]))
            elif not long and (sound := self._sound(audio["sha256"], 0, audio["size"], named)) is not None:
                load.audio.append(sound)
        load.records.append(value)
        load.texts.append(text)
        load.versions[entry.record.key] = entry.record.version
        load.size += size
        return True

    def add_piece(self, load: Load, piece: Piece) -> bool:
        """Add a piece of a recording, if it is here; False when the mail is full."""
        size = size_of_audio(piece.stop - piece.start)
        if load and (load.size + size > self._bound_of_pieces or len(load.audio) >= MAX_AUDIO):
            return False
        sound = self._sound(*piece, self._index.with_audio(piece.sha256))
        if sound is not None:
            load.audio.append(sound)
            load.size += size
            load.pieces.append(piece)
        return True

    def _audio_for(self, entry: Entry) -> tuple[dict[str, Any] | None, list[Entry]]:
        """The recording that has to travel with a record, if the peer is not known to hold it; and who else names it.

        The peer holds it when it acknowledged a version with it, of this record or of one that lived.
        """
        audio = audio_of(entry.record.document) if entry.record.lives else None
        if audio is None:
            return None, []
        named = self._index.with_audio(audio["sha256"])
        bases = [other.base for other in named if other.base and other.base.lives]
        held = [audio_of(base.document) for base in (entry.base, *bases) if base is not None]
        return (None if any(one is not None and one["sha256"] == audio["sha256"] for one in held) else audio), named

    def _sound(self, sha256: str, start: int, stop: int, named: list[Entry]) -> Audio | None:
        """The bytes of a recording, which these entries name, as an attachment; None where it is not here."""
        entry = next(iter(named), None)
        document = entry.record.document if entry else {}
        audio = audio_of(document) or {"size": stop, "format": WAV}
        whole = start == 0 and stop == audio["size"]
        data = self._recordings.read_in_place(named[0].record, sha256) if whole and named else None
        digest = sha256
        if data is None:
            path = self._recordings.find(sha256, named)
            if path is None:
                return None
            try:
                with beneath.file(self._store.root / path) as file:
                    file.seek(start)
                    data = file.read(stop - start)
            except OSError as error:  # gone or unreadable since it was found: the scan will say so
                log.warning("cannot read the recording %s: %s", path, error.strerror or error)
                return None
            digest = hashlib.sha256(data).hexdigest()
            if whole and digest != sha256:
                # it rotted under an unchanged look: the next full scan finds it damaged
                self._index.looks.drop_file(path)
                return None
        name = entry.record.key.replace("/", "-") if entry else sha256[:16]
        return Audio(
            sha256=sha256, size=audio["size"], offset=start, data=data, format=audio["format"],
            filename=f"{name}.{audio['format']}", seconds=document.get("seconds"), digest=digest,
        )  # fmt: skip


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

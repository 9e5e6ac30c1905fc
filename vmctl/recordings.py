"""Where the recordings of a store lie, by their SHA-256: in the pool, in their own places, in those of others.

Whoever sends a recording or waits for one asks here; what is to lie in the place of its record is put there here.
"""

from __future__ import annotations

import errno
import hashlib
from typing import TYPE_CHECKING, Any

from vmctl import beneath, durable
from vmctl.audio import digest_of
from vmctl.entry import Entry, audio_of
from vmctl.errors import StoreUnusable
from vmctl.model import CONFLICT, KINDS, MESSAGE, parse_key
from vmctl.rights import AS_BESIDE

if TYPE_CHECKING:
    from vmctl.index import Index
    from vmctl.model import Record
    from vmctl.store.format import Format
    from vmctl.store.pool import Pool
    from vmctl.together import Together


_MANY = 20  # recordings: to look for so many one by one takes longer than to ask for all at once


class Recordings:
    """The recordings of one store."""

    def __init__(self, store: Format, index: Index, pool: Pool) -> None:
        self._store = store
        self._index = index
        self._pool = pool

    def are_here(self, entry: Entry) -> bool:
        """Whether the recording that a record names, if it does, is here: in the pool or in its place."""
        audio, record = audio_of(entry.record.document), entry.record
        if audio is None or not record.lives:
            return True
        if entry.shown is not None and record.kind == MESSAGE and audio["format"] in self._store.formats:
            place = self._store.audio_path(record.key, audio["format"])  # where it nearly always lies
            if self.lies_at(place, audio["sha256"], audio["size"]):
                return True
        return self.find(audio["sha256"]) is not None

    def is_in_place(self, key: str, sha256: str) -> bool:
        """Whether a recording lies beside the message of this key, and looks as when it was last read."""
        if parse_key(key).kind != MESSAGE:
            return False
        paths = (self._store.audio_path(key, form) for form in self._store.formats)
        return any(
            (look := self._store.look(path)) and self._index.looks.file(path) == (look, sha256) for path in paths
        )

    def may_be_here(self, recordings: set[str]) -> set[str]:
        """Of these those that `find` may find, where it would take long to look for each."""
        if len(recordings) < _MANY:
            return recordings
        return self._index.named_audio(recordings) | self._pool.those_of(recordings)

    def find(self, sha256: str, named: list[Entry] | None = None) -> str | None:
        """A file with this recording, relative to the store, if any; one in the store is known by its unchanged look.

        `named` are the entries that name it, where the caller has asked for them already.
        """
        if self._pool.holds(sha256):
            return f".vmctl/audio/{sha256}"
        for entry in self._index.with_audio(sha256) if named is None else named:
            audio, key = audio_of(entry.record.document), _place_of(entry.record)
            if audio and audio["format"] in self._store.formats and key is not None:
                path = self._store.audio_path(key, audio["format"])
                try:
                    if self.lies_at(path, sha256, audio["size"]):
                        return path
                except StoreUnusable as error:
                    if getattr(error.__cause__, "errno", None) != errno.ELOOP:
                        raise  # else a link is in the way: the scan names it, and the recording may lie elsewhere
        return None

    def read_in_place(self, record: Record, sha256: str) -> bytes | None:
        """The bytes of the recording that a record names, where they lie in its own place; None where they do not."""
        audio = audio_of(record.document)
        if audio is None or record.kind != MESSAGE or audio["format"] not in self._store.formats:
            return None
        path = self._store.audio_path(record.key, audio["format"])
        try:
            data = beneath.read(f"{self._store.root}/{path}", audio["size"] + 1)
        except OSError:
            return None  # it may lie elsewhere
        return data if hashlib.sha256(data).hexdigest() == sha256 else None

    def lies_at(self, path: str, sha256: str, size: int) -> bool:
        """Whether this file has these bytes; it is read only where it does not look as when it was last read."""
        look, known = self._store.look(path), self._index.looks.file(path)
        if look is None or look.size != size:
            return False
        if known is not None and known[0] == look:
            return known[1] == sha256
        place = self._store.root / path
        if not beneath.is_file(place) or digest_of(place)[0] != sha256:
            return False
        if self._store.look(path) != look:
            return False
        self._index.looks.set_file(path, look, sha256)  # touched, or placed just before a crash
        return True

    def stage(self, entry: Entry, audio: dict[str, Any], target: str, together: Together) -> str | None:
        """Have the recording of a record wait for its place; None where it has to be copied."""
        sha256, place = audio["sha256"], f"{self._store.root}/{target}"
        data = self._pool.in_hand(sha256)
        if data is not None:
            return together.write(place, data)
        if self._pool.holds(sha256) and all(
            other.record.key == entry.record.key for other in self._index.with_audio(sha256)
        ):
            return together.bring(str(self._pool.path(sha256)), place)
        return None

    def staged(self, audio: dict[str, Any], target: str) -> None:
        """What `stage` gave has its place now."""
        self._index.looks.set_file(target, self._store.look_now(target), audio["sha256"])
        self._pool.placed(audio["sha256"])

    def place(self, entry: Entry, audio: dict[str, Any], target: str) -> bool:
        """Put the recording of a record at its place; what was there goes to the pool. False where it has not come yet."""
        sha256 = audio["sha256"]
        place = self._store.root / target
        known, look = self._index.looks.file(target), self._store.look(target)
        if look is not None and known is not None and known == (look, sha256):
            return True
        source = self.find(sha256)
        if source is None:
            self._index.replies.awaits(sha256)
        if source is None or source == target:
            return source is not None
        if look is not None:
            found = digest_of(place)[0]
            if known is not None and found != known[1] and entry.record.kind != MESSAGE:
                return False  # saved at the last moment: it is merged when it stands still
            self._pool.keep(place, found)  # there is always one in its place: a crash must not look like a deletion
        if source.startswith(".vmctl/"):
            others = [other for other in self._index.with_audio(sha256) if other.record.key != entry.record.key]
            self._pool.place(sha256, place, last=not others)
        else:
            durable.copy(self._store.root / source, place, mode=AS_BESIDE)
        self.drop_former_format(entry, target)
        self._index.looks.set_file(target, self._store.look_now(target), sha256)
        return True

    def drop_former_format(self, entry: Entry, target: str) -> None:
        """Take the recording that another one replaced out of the store, where that has another name."""
        former = audio_of(entry.shown.document) if entry.shown else None
        if former is None:
            return
        path = self._store.audio_path(entry.record.key, former["format"])
        place = self._store.root / path
        if path != target and self._store.look(path) is not None and digest_of(place)[0] == former["sha256"]:
            self._pool.take_in(place, former["sha256"])
            self._index.looks.drop_file(path)


def _place_of(record: Record) -> str | None:
    """The key of the record in whose place a recording may lie: what lost lies there until what won has come."""
    key = str(record.document.get("record")) if record.kind == CONFLICT else record.key
    try:
        return key if parse_key(key).kind in KINDS else None
    except ValueError:
        return None

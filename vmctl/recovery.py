"""What a killed process, or one that met a fault of the disk, left half done in a store is finished, or taken back.

It comes before anything else is made of the files, and may be done again and again. Whatever was intended is in the
index: a file that holds it already is noted, all else is written by the next `apply_all`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl import beneath, durable
from vmctl.audio import digest_of
from vmctl.entry import audio_of
from vmctl.errors import RecordError, StoreUnusable
from vmctl.leaving import take_back
from vmctl.model import MESSAGE, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.clock import Clock
    from vmctl.entry import Entry
    from vmctl.index import Index
    from vmctl.placing import Placing
    from vmctl.recordings import Recordings
    from vmctl.replacing import Replacing
    from vmctl.store.format import Format
    from vmctl.store.pool import Pool


class Recovery:
    """Recovers one store. The caller holds the store's lock. `shown` notes that a file, by its digest, shows an entry."""

    def __init__(
        self, store: Format, index: Index, pool: Pool, recordings: Recordings, replacing: Replacing, placing: Placing,
        clock: Clock, shown: Callable[[Entry, str, str], None],
    ) -> None:  # fmt: skip
        self._store = store
        self._index = index
        self._pool = pool
        self._recordings = recordings
        self._replacing = replacing
        self._placing = placing
        self._clock = clock
        self._shown = shown

    def run(self, *, kept: bool) -> None:
        """Finish or take back all that is half done; `kept` says that all files are durable as they are."""
        take_back(self._store, self._index, self._pool)
        self._replacing.recover(kept=kept)
        self._note_written(kept=kept)
        self._note_placed()

    def _note_written(self, *, kept: bool) -> None:
        """Note the files that already hold what was intended: they were written just before a crash, or a full disk.

        Before a newer version comes in: compared with that one they would look like a person's edit. A message has its
        document last, so that most of those that wait for a recording cost one look.
        """
        for key in self._index.todo():
            if parse_key(key).kind == MESSAGE and not self._is_there(self._store.path(key)):
                continue
            entry = self._index.get(key)
            if entry is None or not entry.record.lives or not self._holds(entry):
                continue
            audio = audio_of(entry.record.document)
            path = self._store.path(key, audio["format"] if audio else "wav")
            digest = digest_of(self._store.root / path)[0]
            if not kept:
                durable.keep(self._files(entry), self._store.root)
            if audio is not None:
                self._recordings.drop_former_format(entry, self._store.audio_path(key, audio["format"]))
            self._shown(entry, path, digest)

    def _files(self, entry: Entry) -> set[str]:
        audio = audio_of(entry.record.document)
        form = audio["format"] if audio else "wav"
        return {self._store.path(entry.record.key, form)} | (
            {self._store.audio_path(entry.record.key, form)} if audio else set()
        )

    def _note_placed(self) -> None:
        """Note what was written and has changed or gone since: the next scan finds that out, and what it means."""
        placed, not_placed = self._placing.left()
        for key, sound in not_placed:
            self._take_back(key, sound)
        if placed:
            with self._index.transaction():
                for key, version in placed:
                    entry = self._index.get(key)
                    if entry is None or entry.shown is not None or entry.record.version != version:
                        continue
                    if entry.record.lives:
                        self._index.looks.expect_folder(self._store.folder(str(parse_key(key).mailbox)))
                        self._index.show(entry, self._clock.wall())
        self._placing.clear()

    def _take_back(self, key: str, sound: str) -> None:
        """Put the recording of a message that is none yet back into the pool: the message may never come to be."""
        entry = self._index.get(key)
        audio = None if entry is None or entry.shown is not None else audio_of(entry.record.document)
        place = self._store.root / sound
        if audio is None or self._is_there(self._store.path(key)) or not beneath.is_file(place):
            return
        if self._store.audio_path(key, audio["format"]) == sound and digest_of(place)[0] == audio["sha256"]:
            self._pool.take_in(place, audio["sha256"])
            self._index.looks.drop_file(sound)

    def _is_there(self, path: str) -> bool:
        try:
            return self._store.look(path) is not None
        except StoreUnusable:
            return True

    def _holds(self, entry: Entry) -> bool:
        """Whether the files of a record are byte for byte what would be written."""
        record = entry.record
        kind = parse_key(record.key).kind
        audio = audio_of(record.document)
        try:
            if self._store.is_edited(kind):
                return self._store.read(self._store.path(record.key)) == self._store.text(record)
            if audio is None or audio["format"] not in self._store.formats:
                return False
            place = self._store.audio_path(record.key, audio["format"])
            if not self._recordings.lies_at(place, audio["sha256"], audio["size"]):
                return False
            return kind != MESSAGE or self._store.read(self._store.path(record.key)) == self._store.text(record)
        except (RecordError, StoreUnusable):
            return False

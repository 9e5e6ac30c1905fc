"""Makes the store's files show what the index holds; a person's edit in between is merged, never overwritten.

For each record: the audio first, the document last. The index is committed before a file is touched, so after a crash
the same work is done again, and a file that already holds what was intended is never taken for a person's edit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vmctl import durable
from vmctl.audio import digest_of
from vmctl.entry import audio_of
from vmctl.errors import RecordError, StoreUnusable
from vmctl.gone import is_elsewhere
from vmctl.graves import Graves
from vmctl.model import MESSAGE, canonical, parse_key
from vmctl.placing import Placing
from vmctl.recovery import Recovery
from vmctl.replacing import Replacing
from vmctl.rights import AS_BESIDE

if TYPE_CHECKING:
    from vmctl.clock import Clock, Deadline
    from vmctl.entry import Entry
    from vmctl.errors import VmctlError
    from vmctl.index import Index
    from vmctl.recordings import Recordings
    from vmctl.scan import Scanner
    from vmctl.store.format import Format
    from vmctl.store.pool import Pool

_AT_ONCE = 200


@dataclass(slots=True)
class Applied:
    """What was written, and what was found to wait: for a recording that is not here, or for a file to stand still.

    `more` tells that the time was over before all was looked at.
    """

    written: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    more: bool = False


class Applier:
    """Writes into one store. The caller holds the store's lock."""

    def __init__(
        self, store: Format, index: Index, pool: Pool, recordings: Recordings, scanner: Scanner, clock: Clock
    ) -> None:
        self._store = store
        self._index = index
        self._pool = pool
        self._recordings = recordings
        self._scanner = scanner
        self._clock = clock
        self._graves = Graves(store)
        self._placing = Placing(store, clock)
        self._replacing = Replacing(store, index, scanner.edits, clock)
        self._recovery = Recovery(
            store, index, pool, recordings, self._replacing, self._placing, clock, shown=self._shown
        )
        self.unfinished = False  # whether a file may have been written without being noted

    def recover(self, *, kept: bool) -> None:
        """Finish what a crash or a fault of the disk cut off, before anything else is made of the files.

        `kept` says that all files are durable as they are.
        """
        self.unfinished = False
        self._recovery.run(kept=kept)

    def apply_all(self, deadline: Deadline | None = None) -> Applied:
        """Write every file that lags behind the index and does not wait for its recording; after the deadline no more.

        What was written is noted in one commit for many files: after a crash `recover` finds the others by their
        content, and those that have gone since by their marks.
        """
        done = Applied()
        todo = self._index.writable()
        for start in range(0, len(todo), _AT_ONCE):
            with self._index.transaction():
                for at, key in enumerate(todo[start : start + _AT_ONCE], start):
                    done.more = at > 0 and deadline is not None and deadline.over
                    if done.more:
                        break
                    self._apply_one(key, done)
            self._replacing.noted()
            self._placing.noted()
            if done.more:
                break
        unburied = self._index.tombstones.unburied()
        for start in range(0, len(unburied), _AT_ONCE):
            with self._index.transaction():
                for key in unburied[start : start + _AT_ONCE]:
                    self._bury_one(key)
        return done

    def _bury_one(self, key: str) -> None:
        try:
            self._bury(key)
        except (StoreUnusable, RecordError) as error:
            path = self._graves.tomb(key).relative_to(self._store.root).as_posix()
            self._index.faults.set(path, error.why or error.what, error.hint, self._clock.wall())

    def _bury(self, key: str) -> None:
        """Have the tomb of a record say what the index does, also of one that never had a file here.

        Where the file of the record is not as it should be, yet, the tomb comes with that.
        """
        entry = self._index.get(key)
        if entry is not None and entry.todo:
            return
        if entry is not None and not entry.record.lives and not entry.record.is_purged:
            self._graves.dig(entry.record)
        elif entry is None or entry.record.lives:
            self._graves.fill(key)
        self._index.tombstones.buried(key)

    def _apply_one(self, key: str, done: Applied) -> None:
        try:
            (done.written if self._apply(key, marked=True) else done.waiting).append(key)
        except StoreUnusable as error:  # one odd file must not keep all others from being written
            self.unfinished = True
            self._wait(key, error, done)
        except RecordError as error:
            self._wait(key, error, done)

    def _wait(self, key: str, error: VmctlError, done: Applied) -> None:
        self._index.faults.set(self._store.path(key), error.words, error.hint, self._clock.wall())
        done.waiting.append(key)

    def apply(self, key: str) -> bool:
        """Write the file of one record; tells whether it shows the record now."""
        marked = not self._index.in_transaction  # what is not committed is not written again after a crash
        shows = self._apply(key, marked=marked)
        if marked:
            self._placing.noted()
        return shows

    def _apply(self, key: str, *, marked: bool) -> bool:
        if not self._as_last_seen(key):
            self._scanner.look_at(key)
            if not self._as_last_seen(key):
                return False  # a person is at it: when the file stands still it is merged first
        entry = self._index.get(key)
        if entry is not None and entry.todo:
            shows = self._write(entry, marked=marked) if entry.record.lives else self._remove(entry)
            if not shows:
                return False
        if self._index.tombstones.is_unburied(key):
            self._bury(key)
        return True

    # One record

    def _as_last_seen(self, key: str) -> bool:
        entry = self._index.get(key)
        audio = audio_of(entry.shown.document) if entry and entry.shown else None
        path = self._store.path(key, audio["format"] if audio else "wav")
        look, known = self._store.look(path), self._index.looks.file(path)
        if look is None:
            # a file that somebody took away waits for the verdict of the scans: it may have been deleted
            return entry is None or entry.shown is None or not entry.record.lives
        return known is not None and known[0] == look

    def _write(self, entry: Entry, *, marked: bool) -> bool:
        record = entry.record
        kind = parse_key(record.key).kind
        path = self._store.path(record.key)
        if kind != MESSAGE and entry.shown and canonical(entry.shown.document) == canonical(record.document):
            self._index.put(replace(entry, shown=record), self._clock.wall())  # another version of what is there
            return True
        if entry.shown is None and is_elsewhere(self._store, self._index, record.key):
            return False
        if self._store.is_edited(kind):
            data = self._store.text(record)
            durable.make_directory((self._store.root / path).parent, mode=AS_BESIDE)
            self._replacing.write(entry, path, data)
            return True
        audio = audio_of(record.document)
        if audio is None or audio["format"] not in self._store.formats:
            return False
        target = self._store.audio_path(record.key, audio["format"])
        durable.make_directory((self._store.root / target).parent, mode=AS_BESIDE)
        if not self._recordings.place(entry, audio, target):
            return False
        if kind == MESSAGE:
            self._write_message(entry, path, marked=marked)
        else:
            self._shown(entry, target, audio["sha256"])
        return True

    def _write_message(self, entry: Entry, path: str, *, marked: bool) -> None:
        """Write the document of a message, whose recording is in its place."""
        record = entry.record
        folder = self._store.folder(str(parse_key(record.key).mailbox))
        self._index.looks.expect_folder(folder)  # should all of it go
        data = self._store.text(record)
        if entry.shown is not None:
            self._replacing.write(entry, path, data)  # the application may be at it, too
            return
        if marked and self._store.look(path) is None:
            self._placing.write(record, path, data)
        else:
            durable.write(self._store.root / path, data, mode=AS_BESIDE)
        self._shown(entry, path, hashlib.sha256(data).hexdigest())

    def _remove(self, entry: Entry) -> bool:
        """Take a deleted record's files out of the store; what can be restored stays under .vmctl.

        False where somebody saved into one while its tomb was written: that outlives the deletion, once it is merged.
        """
        key = entry.record.key
        kind = parse_key(key).kind
        # of a damaged message the shown document lacks the recording
        shown = audio_of(entry.shown.document if entry.shown else {}) or audio_of(entry.record.document)
        paths = [self._store.path(key, shown["format"] if shown else "wav")]
        self._graves.dig(entry.record)
        if not self._as_last_seen(key):
            return False
        if kind == MESSAGE:
            durable.remove(self._store.root / paths[0])
        if shown is not None:
            paths.append(self._store.audio_path(key, shown["format"]))
        last = self._store.root / paths[-1]
        if self._store.look(paths[-1]) is None:
            durable.remove(last)  # a power cut must not bring back what somebody else removed
        elif shown is not None:
            self._pool.take_in(last, digest_of(last)[0])
        elif self._store.is_edited(kind):
            durable.move(last, self._graves.document(key))
        with self._index.transaction():
            for path in paths:
                self._index.looks.drop_file(path)
            self._index.put(replace(entry, shown=None), self._clock.wall())
            self._index.tombstones.buried(key)
        self._tidy(paths[0])
        return True

    def _shown(self, entry: Entry, path: str, digest: str) -> None:
        with self._index.transaction():
            self._index.looks.set_file(path, self._store.look_now(self._store.root / path), digest)
            self._index.put(replace(entry, shown=entry.record), self._clock.wall())
            self._index.faults.drop(path)

    def _tidy(self, path: str) -> None:
        """Remove the folders that a deleted mailbox leaves empty."""
        for folder in self._store.emptied(path):
            durable.remove_empty(self._store.root / folder)

"""Makes the store's files show what the index holds; a person's edit in between is merged, never overwritten.

For each record: the audio first, the document last. The index is committed before a file is touched, so after a crash
the same work is done again, and a file that already holds what was intended is never taken for a person's edit.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vmctl import durable
from vmctl.absence import is_elsewhere
from vmctl.audio import digest_of
from vmctl.entry import Entry, audio_of
from vmctl.errors import RecordError, StoreUnusable
from vmctl.graves import Graves
from vmctl.leaving import take_back
from vmctl.model import CONFLICT, KINDS, MESSAGE, canonical, parse_key
from vmctl.placing import Placing

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.clock import Clock
    from vmctl.errors import VmctlError
    from vmctl.index import Index
    from vmctl.model import Record
    from vmctl.scan import Scanner
    from vmctl.store.format import Format
    from vmctl.store.pool import Pool

_AT_ONCE = 200


@dataclass(slots=True)
class Applied:
    """What was written, and what was found to wait: for a recording that is not here, or for a file to stand still."""

    written: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


class Applier:
    """Writes into one store. The caller holds the store's lock."""

    def __init__(self, store: Format, index: Index, pool: Pool, scanner: Scanner, clock: Clock) -> None:
        self._store = store
        self._index = index
        self._pool = pool
        self._scanner = scanner
        self._clock = clock
        self._graves = Graves(store)
        self._placing = Placing(store, clock)
        self._asides: list[Path] = []
        self.unfinished = False  # whether a file may have been written without being noted

    def apply_all(self) -> Applied:
        """Write every file that lags behind the index and does not wait for its recording.

        What was written is noted in one commit for many files: after a crash `reconcile` finds the others by their
        content, and those that have gone since by their marks.
        """
        done = Applied()
        todo = self._index.writable()
        for start in range(0, len(todo), _AT_ONCE):
            with self._index.transaction():
                for key in todo[start : start + _AT_ONCE]:
                    self._apply_one(key, done)
            self._drop_asides()
            self._placing.noted()
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

    def _drop_asides(self) -> None:
        """The files that were put aside and looked at: not before the commit, as one may hold the only copy of an edit."""
        asides, self._asides = self._asides, []
        for aside in asides:
            self._forget_aside(aside)

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
            if not entry.record.lives:
                self._remove(entry)
            elif not self._write(entry, marked=marked):
                return False
        if self._index.tombstones.is_unburied(key):
            self._bury(key)
        return True

    def holds_audio(self, entry: Entry) -> bool:
        """Whether the recording that a record names is here, in the pool or in its place."""
        audio = audio_of(entry.record.document)
        return audio is None or not entry.record.lives or self.find(audio["sha256"]) is not None

    def find(self, sha256: str) -> str | None:
        """A file with this recording, relative to the store, if any; one in the store is known by its unchanged look."""
        if self._pool.holds(sha256):
            return f".vmctl/audio/{sha256}"
        for entry in self._index.with_audio(sha256):
            audio, key = audio_of(entry.record.document), _place_of(entry.record)
            if audio and audio["format"] in self._store.formats and key is not None:
                path = self._store.audio_path(key, audio["format"])
                if self._lies_at(path, sha256, audio["size"]):
                    return path
        return None

    def _lies_at(self, path: str, sha256: str, size: int) -> bool:
        look, known = self._store.look(path), self._index.looks.file(path)
        if look is None or look.size != size:
            return False
        if known is not None and known[0] == look:
            return known[1] == sha256
        place = self._store.root / path
        if place.is_symlink() or not place.is_file() or digest_of(place)[0] != sha256:
            return False
        if self._store.look(path) != look:
            return False
        self._index.looks.set_file(path, look, sha256)  # touched, or placed just before a crash
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
            durable.make_directory((self._store.root / path).parent)
            self._exchange(entry, path, data)
            return True
        audio = audio_of(record.document)
        if audio is None or audio["format"] not in self._store.formats:
            return False
        target = self._store.audio_path(record.key, audio["format"])
        durable.make_directory((self._store.root / target).parent)
        if not self._place(entry, audio, target):
            return False
        if kind == MESSAGE:
            self._index.looks.expect_folder(
                self._store.folder(str(parse_key(record.key).mailbox))
            )  # should all of it go
            data = self._store.text(record)
            if marked and entry.shown is None and self._store.look(path) is None:
                self._placing.write(record, path, data)
            else:
                durable.write(self._store.root / path, data)
            self._shown(entry, path, hashlib.sha256(data).hexdigest())
        else:
            self._shown(entry, target, audio["sha256"])
        return True

    def recover(self) -> None:
        """Finish what a crash cut off, before anything else is made of the files.

        See `_exchange`, `reconcile` and `Placing`.
        """
        self.unfinished = False
        take_back(self._store, self._index, self._pool)
        self._asides.clear()
        folder = self._store.state / "replaced"
        for aside in sorted(folder.iterdir()) if folder.is_dir() else []:
            path, _, rest = aside.name.rpartition(".")[0].rpartition(".")
            self._recover_one(aside, path.replace("%", "/"), rest)
        self.reconcile()
        self._recover_placed()

    def _recover_placed(self) -> None:
        """Note what was written and has changed or gone since: the next scan finds that out, and what it means."""
        placed = self._placing.left()
        if placed:
            with self._index.transaction():
                for key, version in placed:
                    entry = self._index.get(key)
                    if entry is None or entry.shown is not None or entry.record.version != version:
                        continue
                    if entry.record.lives:
                        self._index.looks.expect_folder(self._store.folder(str(parse_key(key).mailbox)))
                        self._index.put(replace(entry, shown=entry.record), self._clock.wall())
        self._placing.clear()

    def _recover_one(self, aside: Path, path: str, expected: str) -> None:
        """A file that was put aside: find out whether it was replaced, and whether a person saved into it before."""
        if self._index.looks.file(_settled_name(aside)) is not None:
            self._forget_aside(aside)  # it was merged, and the commit came before the crash
            return
        key = next((key for key, _ in self._store.walk().files.values() if self._store.path(key) == path), None)
        entry = self._index.get(key) if key else None
        if entry is None:
            self._index.faults.set(
                f".vmctl/replaced/{aside.name}", "a file that was replaced when the index was lost",
                f"take from it what you need into {path}, then remove it", self._clock.wall(),
            )  # fmt: skip
            return
        settled = True  # the file that is still there was not replaced
        if not entry.todo:  # its replacement was committed; what is not as expected was broken, and is named
            settled = digest_of(aside)[0] == expected
        elif not aside.samefile(self._store.root / path):
            with self._index.transaction():
                late, settled = self._merge_late(entry, path, aside, expected)
                if not late:
                    self._index.put(replace(entry, shown=entry.record), self._clock.wall())
                self._index.looks.drop_file(path)  # to be read again: a person may have saved into the new one since
        if settled:
            self._forget_aside(aside)

    def _forget_aside(self, aside: Path) -> None:
        durable.discard(aside)
        self._index.looks.drop_file(_settled_name(aside))

    def reconcile(self) -> None:
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
            if audio is not None:
                self._drop_former_format(entry, self._store.audio_path(key, audio["format"]))
            self._shown(entry, path, digest)

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
            if not self._lies_at(self._store.audio_path(record.key, audio["format"]), audio["sha256"], audio["size"]):
                return False
            return kind != MESSAGE or self._store.read(self._store.path(record.key)) == self._store.text(record)
        except (RecordError, StoreUnusable):
            return False

    def _exchange(self, entry: Entry, path: str, data: bytes) -> None:
        """Replace a file that people edit, and look once more at what was replaced."""
        known = self._index.looks.file(path)
        expected = known[1] if known else "unknown"
        aside = self._aside(path, expected)
        replaced = durable.exchange(self._store.root / path, data, aside)
        with self._index.transaction():
            late, settled = self._merge_late(entry, path, aside, expected) if replaced else (False, False)
            if late and settled:  # known as merged with the commit that merges it
                self._index.looks.set_file(_settled_name(aside), self._store.look_now(aside), "")
            self._index.looks.set_file(
                path, self._store.look_now(self._store.root / path), hashlib.sha256(data).hexdigest()
            )
            if not late:
                self._index.put(replace(entry, shown=entry.record), self._clock.wall())
            self._index.faults.drop(path)
        if settled:
            self._asides.append(aside)
        if not self._index.in_transaction:
            self._drop_asides()

    def _merge_late(self, before: Entry, path: str, aside: Path, expected: str) -> tuple[bool, bool]:
        """If a person saved into the replaced file at the last moment, that is an edit of what it showed before.

        `expected` is the digest of what the file held when it was last looked at. `before` is the entry as it was when the file was replaced by what its record says. Tells whether it was so, and
        whether the file aside has done its work.
        """
        if digest_of(aside)[0] == expected:
            return False, True
        try:
            document = self._store.parse(before.record.key, aside.read_bytes(), path)[0]
        except RecordError as error:
            self._index.faults.set(
                f".vmctl/replaced/{aside.name}", f"saved while it was replaced, and broken: {error.what}",
                f"take from it what you need into {path}, then remove it", self._clock.wall(),
            )  # fmt: skip
            return False, False
        self._scanner.edits.found(before.record.key, document, self._clock.wall())
        merged = self._index.get(before.record.key)
        if merged is not None:
            self._index.put(replace(merged, shown=before.record), self._clock.wall())
        return True, True

    def _place(self, entry: Entry, audio: dict[str, Any], target: str) -> bool:
        """Put the recording at its place; what was there goes to the pool. False where it has not come yet."""
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
            durable.copy(self._store.root / source, place)
        self._drop_former_format(entry, target)
        self._index.looks.set_file(target, self._store.look_now(place), sha256)
        return True

    def _drop_former_format(self, entry: Entry, target: str) -> None:
        """Take the recording that another one replaced out of the store, where that has another name."""
        former = audio_of(entry.shown.document) if entry.shown else None
        if former is None:
            return
        path = self._store.audio_path(entry.record.key, former["format"])
        place = self._store.root / path
        if path != target and self._store.look(path) is not None and digest_of(place)[0] == former["sha256"]:
            self._pool.take_in(place, former["sha256"])
            self._index.looks.drop_file(path)

    def _remove(self, entry: Entry) -> None:
        """Take a deleted record's files out of the store; what can be restored stays under .vmctl."""
        key = entry.record.key
        kind = parse_key(key).kind
        # of a damaged message the shown document lacks the recording
        shown = audio_of(entry.shown.document if entry.shown else {}) or audio_of(entry.record.document)
        paths = [self._store.path(key, shown["format"] if shown else "wav")]
        self._graves.dig(entry.record)
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

    def _shown(self, entry: Entry, path: str, digest: str) -> None:
        with self._index.transaction():
            self._index.looks.set_file(path, self._store.look_now(self._store.root / path), digest)
            self._index.put(replace(entry, shown=entry.record), self._clock.wall())
            self._index.faults.drop(path)

    def _tidy(self, path: str) -> None:
        """Remove the folders that a deleted mailbox leaves empty."""
        for folder in self._store.emptied(path):
            durable.remove_empty(self._store.root / folder)

    def _aside(self, path: str, expected: str) -> Path:
        folder = self._store.state / "replaced"
        durable.make_directory(folder)
        return folder / f"{path.replace('/', '%')}.{expected}.{secrets.token_hex(4)}"


def _settled_name(aside: Path) -> str:
    return f".vmctl/replaced/{aside.name}"


def _place_of(record: Record) -> str | None:
    """The key of the record in whose place a recording may lie: what lost lies there until what won has come."""
    key = str(record.document.get("record")) if record.kind == CONFLICT else record.key
    try:
        return key if parse_key(key).kind in KINDS else None
    except ValueError:
        return None

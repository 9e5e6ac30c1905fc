"""Makes the store's files show what the index holds; a person's edit in between is merged, never overwritten.

For each record: the audio first, the document last. The index is committed before a file is touched, so after a crash
the same work is done again, and a file that already holds what was intended is never taken for a person's edit.
Many files are written at a time (`together`): new ones here, what takes the place of others by `replacing`, and what is
deleted goes by `removing`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vmctl import beneath, durable
from vmctl.entry import Entry, audio_of
from vmctl.errors import DiskFull, RecordError, StoreUnusable
from vmctl.gone import is_elsewhere
from vmctl.graves import Graves
from vmctl.model import MESSAGE, canonical, parse_key
from vmctl.placing import Placing
from vmctl.recovery import Recovery
from vmctl.removing import Removing
from vmctl.replacing import Replacement, Replacing
from vmctl.rights import AS_BESIDE
from vmctl.together import Together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from vmctl.clock import Clock, Deadline
    from vmctl.errors import VmctlError
    from vmctl.index import Index
    from vmctl.recordings import Recordings
    from vmctl.scan import Scanner
    from vmctl.store.format import Format
    from vmctl.store.pool import Pool

_AT_ONCE = 1000


@dataclass(slots=True)
class Applied:
    """What was written, and what was found to wait: for a recording that is not here, or for a file to stand still.

    `more` tells that the time was over before all was looked at.
    """

    written: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    more: bool = False

    def add(self, other: Applied) -> None:
        """What was written next; whether there is more is as it is after that."""
        self.written += other.written
        self.waiting += [key for key in other.waiting if key not in self.waiting]
        self.more = other.more


class _New(NamedTuple):
    """A record with no file yet: the path and the bytes of its document, where its recording is to be, and where both wait."""

    entry: Entry
    path: str
    data: bytes
    target: str
    document: str
    sound: str | None


class Applier:
    """Writes into one store. The caller holds the store's lock."""

    def __init__(
        self, store: Format, index: Index, pool: Pool, recordings: Recordings, scanner: Scanner, clock: Clock
    ) -> None:
        self._store = store
        self._root = str(store.root)
        self._index = index
        self._pool = pool
        self._recordings = recordings
        self._scanner = scanner
        self._clock = clock
        self._graves = Graves(store)
        self._removing = Removing(store, index, pool, clock, self._as_last_seen)
        self._placing = Placing(store, clock)
        self._replacing = Replacing(store, index, scanner.edits, clock, self._as_last_seen)
        self._recovery = Recovery(
            store, index, pool, recordings, self._replacing, self._placing, clock, shown=self._shown
        )
        self._elsewhere: dict[str, bool] = {}
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
            self._apply_some(todo[start : start + _AT_ONCE], done, deadline, begun=start > 0)
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

    def _apply_some(self, keys: list[str], done: Applied, deadline: Deadline | None, *, begun: bool) -> None:
        self._elsewhere.clear()
        with Together(self._store.state) as together:
            with self._index.transaction():
                new, others, full = self._stage_some(keys, done, together, deadline, begun=begun)
                try:
                    self._apply_others(others, done, deadline)
                except DiskFull as error:
                    full = error
                self._place(new, done, together)  # what was written by then may take its place all the same
            self._replacing.noted()
            self._placing.noted()
            together.drop()
        if full is not None:
            raise full

    def _apply_others(self, keys: list[str], done: Applied, deadline: Deadline | None) -> None:
        """Write what is not new until the deadline; what replaces a file and what is deleted all at once."""

        def each(key: str) -> AbstractContextManager[None]:
            return self._one_of_many(key, done)

        changes, dying, full = self._plan(keys, done, deadline)
        for several, act in (
            (len(changes), functools.partial(self._replacing.replace, changes, each, deadline)),
            (len(dying), functools.partial(self._removing.remove, dying, each, deadline)),
        ):
            try:
                ended = act() if several else {}
            except DiskFull as error:  # what there was room for is where it belongs, and makes some, perhaps
                full = error
                continue
            for key, shows in ended.items():
                with each(key):
                    self._ended(key, done, shows=shows)
            done.more = done.more or (len(ended) < several and deadline is not None and deadline.over)
        if full is not None:
            raise full

    def _plan(
        self, keys: list[str], done: Applied, deadline: Deadline | None
    ) -> tuple[list[Replacement], list[Entry], DiskFull | None]:
        """Begin with records, until the deadline or the disk ends that; what is to be replaced, and what to be removed."""
        changes: list[Replacement] = []
        dying: list[Entry] = []
        for at, key in enumerate(keys):
            if at > 0 and deadline is not None and deadline.over:
                done.more = True
                break
            try:
                with self._one_of_many(key, done):
                    begun = self._begin(key, marked=True)
                    if isinstance(begun, Replacement):
                        changes.append(begun)
                    elif isinstance(begun, Entry):
                        dying.append(begun)
                    else:
                        self._ended(key, done, shows=begun)
            except DiskFull as error:
                return changes, dying, error
        return changes, dying, None

    def _ended(self, key: str, done: Applied, *, shows: bool) -> None:
        if shows:
            self._bury_if_need_be(key)
        (done.written if shows else done.waiting).append(key)

    def _stage_some(
        self, keys: list[str], done: Applied, together: Together, deadline: Deadline | None, *, begun: bool
    ) -> tuple[list[_New], list[str], DiskFull | None]:
        """Stage new files, until the deadline or the disk ends that; the keys of all that is not new."""
        new: list[_New] = []
        others: list[str] = []
        with beneath.holding():
            for at, key in enumerate(keys):
                done.more = (begun or at > 0) and deadline is not None and deadline.over
                if done.more:
                    break
                try:
                    with self._one_of_many(key, done):
                        staged = self._stage(key, together)
                        new.append(staged) if staged is not None else others.append(key)
                except DiskFull as error:
                    return new, others, error
        return new, others, None

    def _place(self, new: list[_New], done: Applied, together: Together) -> None:
        """Have the files take their places that wait for them: recordings first, so that a document means a message."""
        together.settle()
        self._placing.mark((one.entry.record, one.document, one.target) for one in new if one.sound is not None)
        for place in (self._place_sound, self._place_document):
            new, late = self._each_in_place(new, place, done, together)
            for one in late:  # somebody was quicker: what lies there is looked at first
                key = one.entry.record.key
                with self._one_of_many(key, done):
                    self._ended(key, done, shows=self._apply(key, marked=True))
            together.close()
        done.written += [one.entry.record.key for one in new]

    def _each_in_place(
        self, new: list[_New], place: Callable[[_New, Together], bool], done: Applied, together: Together
    ) -> tuple[list[_New], list[_New]]:
        """Have a file of each take its place; those of which it did, and those where something lies there."""
        placed: list[_New] = []
        late: list[_New] = []
        with beneath.holding():
            for one in new:
                with self._one_of_many(one.entry.record.key, done):
                    (placed if place(one, together) else late).append(one)
        return placed, late

    @contextlib.contextmanager
    def _one_of_many(self, key: str, done: Applied) -> Iterator[None]:
        """One odd file must not keep all others from being written."""
        try:
            yield
        except StoreUnusable as error:
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
        if shows:
            self._bury_if_need_be(key)
        if marked:
            self._placing.noted()
        return shows

    def _apply(self, key: str, *, marked: bool) -> bool:
        shows = self._begin(key, marked=marked)
        if isinstance(shows, Replacement):
            shows = self._replacing.replace([shows], lambda _: contextlib.nullcontext())[key]
        elif isinstance(shows, Entry):
            shows = self._removing.remove([shows], lambda _: contextlib.nullcontext())[key]
        return shows

    def _begin(self, key: str, *, marked: bool) -> bool | Replacement | Entry:
        """Whether the file of a record shows it now, or what is to be done for that: to replace it, or to remove a dead one.

        That is cheaper for many at a time. All else is written at once.
        """
        if not self._as_last_seen(key):
            self._scanner.look_at(key)
            if not self._as_last_seen(key):
                return False  # a person is at it: when the file stands still it is merged first
        entry = self._index.get(key)
        if entry is None or not entry.todo:
            return True
        return self._write(entry, marked=marked) if entry.record.lives else entry

    def _bury_if_need_be(self, key: str) -> None:
        if self._index.tombstones.is_unburied(key):
            self._bury(key)

    # New files, many at a time

    def _stage(self, key: str, together: Together) -> _New | None:
        """Stage the files of a record, where nothing has these yet; None for any other record."""
        entry = self._index.get(key)
        if entry is None or entry.shown is not None or not entry.record.lives or not entry.todo:
            return None
        kind, path = parse_key(key).kind, self._store.path(key)
        audio = audio_of(entry.record.document) if kind == MESSAGE else None
        if not (self._store.is_edited(kind) or (audio is not None and audio["format"] in self._store.formats)):
            return None
        if self._index.tombstones.is_unburied(key) or self._is_elsewhere(key):
            return None
        data = self._store.text(entry.record)
        sound, target = None, ""
        if audio is not None:
            target = self._store.audio_path(key, audio["format"])
            sound = self._recordings.stage(entry, audio, target, together)
            if sound is None:
                return None
        return _New(entry, path, data, target, together.write(f"{self._root}/{path}", data), sound)

    def _is_elsewhere(self, key: str) -> bool:
        """As `is_elsewhere`, which is asked once of what lies in one mailbox: right before its first file is written."""
        box = parse_key(key).mailbox
        if box is None:
            return is_elsewhere(self._store, self._index, key)
        if box not in self._elsewhere:
            self._elsewhere[box] = is_elsewhere(self._store, self._index, key)
        return self._elsewhere[box]

    def _place_sound(self, new: _New, together: Together) -> bool:
        """Have the recording of a record take its place, if it has one; False where something lies there."""
        if new.sound is not None:
            audio = audio_of(new.entry.record.document)
            assert audio is not None, "a recording waits for the record that names it"  # noqa: S101
            if self._store.look(new.path) is not None:
                return False  # somebody's message waits for its recording there
            if not together.take_place(new.sound, f"{self._root}/{new.target}"):
                return False
            self._recordings.staged(audio, new.target)
        return True

    def _place_document(self, new: _New, together: Together) -> bool:
        """Have the document of a record take its place, and note it; False where something lies there."""
        if not together.take_place(new.document, f"{self._root}/{new.path}", edited=new.sound is None):
            return False
        if new.sound is not None:
            folder = self._store.folder(str(parse_key(new.entry.record.key).mailbox))
            self._index.looks.expect_folder(folder)  # should all of it go
        self._shown(new.entry, new.path, hashlib.sha256(new.data).hexdigest())
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

    def _write(self, entry: Entry, *, marked: bool) -> bool | Replacement:
        record = entry.record
        kind = parse_key(record.key).kind
        path = self._store.path(record.key)
        if kind != MESSAGE and entry.shown and canonical(entry.shown.document) == canonical(record.document):
            self._index.show(entry, self._clock.wall())  # another version of what is there
            return True
        if entry.shown is None and is_elsewhere(self._store, self._index, record.key):
            return False
        if self._store.is_edited(kind):
            return Replacement(entry, path, self._store.text(record))
        return self._write_with_audio(entry, path, marked=marked)

    def _write_with_audio(self, entry: Entry, path: str, *, marked: bool) -> bool | Replacement:
        record = entry.record
        audio = audio_of(record.document)
        if audio is None or audio["format"] not in self._store.formats:
            return False
        target = self._store.audio_path(record.key, audio["format"])
        durable.make_directory((self._store.root / target).parent, mode=AS_BESIDE, needs=self._store.state)
        there = self._recordings.place(entry, audio, target)
        if there and record.kind == MESSAGE:
            return self._write_message(entry, path, marked=marked)
        if there:
            self._shown(entry, target, audio["sha256"])
        return there

    def _write_message(self, entry: Entry, path: str, *, marked: bool) -> bool | Replacement:
        """Write the document of a message, whose recording is in its place.

        Not yet where an application wrote one a moment ago: it may still have it open, and write on into what is replaced.
        """
        if self._scanner.may_be_open(path):
            return False
        record = entry.record
        folder = self._store.folder(str(parse_key(record.key).mailbox))
        self._index.looks.expect_folder(folder)  # should all of it go
        data = self._store.text(record)
        if entry.shown is not None:
            return Replacement(entry, path, data)  # the application may be at it, too
        if marked and self._store.look(path) is None:
            with Together(self._store.state) as alone:
                staged = alone.write(f"{self._root}/{path}", data)
                alone.settle()
                audio = audio_of(record.document) or {"format": ""}
                self._placing.mark([(record, staged, self._store.audio_path(record.key, audio["format"]))])
                if not alone.take_place(staged, f"{self._root}/{path}"):
                    alone.drop()
                    return False
                alone.close()
        else:
            durable.write(self._store.root / path, data, mode=AS_BESIDE)
        self._shown(entry, path, hashlib.sha256(data).hexdigest())
        return True

    def _shown(self, entry: Entry, path: str, digest: str) -> None:
        with self._index.transaction():
            self._index.looks.set_file(path, self._store.look_now(path), digest)
            self._index.show(entry, self._clock.wall())
            self._index.faults.drop(path)

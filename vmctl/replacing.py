"""Replaces files that others edit, and looks once more at what was replaced: somebody may have saved into it meanwhile.

The new file waits in `.vmctl/replaced` and changes places with the old one, which stays there until what a person saved
at the last moment is committed. So of a crash at any moment is left what `recover` needs: what lies there tells whether
the file was replaced, whatever has become of it since. Then it goes for good, before anything else is made of the files:
one that a power cut brought back would tell of an exchange long done with. Many are replaced at a time: one wait for the disk
for the bytes of all of them, one for their names, and one for those that go.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from vmctl import beneath, durable
from vmctl.audio import digest_of
from vmctl.errors import DiskFull, RecordError
from vmctl.model import MESSAGE, message_key
from vmctl.store.format import Walk
from vmctl.together import Together

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from vmctl.clock import Clock, Deadline
    from vmctl.edits import Edits
    from vmctl.entry import Entry, Look
    from vmctl.index import Index
    from vmctl.store.format import Format

_INTENDED, _TOKEN = 16, 8  # hex digits in the name of a file aside


class Replacement(NamedTuple):
    """What the file of an entry is to hold: its path in the store, and its bytes."""

    entry: Entry
    path: str
    data: bytes


class _Exchanged(NamedTuple):
    """What has taken a place: its digest, that of what was expected there, and where that is now, if there was anything.

    `look` is how it looked then; None where it was another one's already.
    """

    change: Replacement
    digest: str
    look: Look | None
    expected: str
    aside: Path | None


class Replacing:
    """The files that were put aside in one store. The caller holds the store's lock.

    `as_last_seen(key)` tells whether nobody has changed the file of a record since the last look.
    """

    def __init__(
        self, store: Format, index: Index, edits: Edits, clock: Clock, as_last_seen: Callable[[str], bool]
    ) -> None:
        self._store = store
        self._index = index
        self._edits = edits
        self._clock = clock
        self._as_last_seen = as_last_seen
        self._folder = store.state / "replaced"
        self._asides: list[Path] = []

    def replace(
        self, changes: list[Replacement], each: Callable[[str], AbstractContextManager[object]], deadline: Deadline | None = None
    ) -> dict[str, bool]:  # fmt: skip
        """Replace files, and look at what was replaced; by key whether it was, of those that were come to.

        False where somebody saved into one in the moment before. What went wrong with one is for `each(key)`. After the
        deadline no more are written. `noted` is to be called after the commit. Raises DiskFull when what there was room for
        is in its place.
        """
        done: dict[str, bool] = {}
        exchanged: list[_Exchanged] = []
        with Together(self._store.state) as together:
            staged, full = self._stage(changes, each, together, deadline)
            together.settle()
            try:
                for change, waiting in staged:
                    key = change.entry.record.key
                    with each(key):
                        if self._as_last_seen(key):
                            exchanged.append(self._exchange(change, waiting, together))
                        else:
                            done[key] = False
            except DiskFull as error:
                full = error  # of what was replaced by then the index is told all the same
            together.close()
            together.drop()
        with self._index.transaction():
            for one in exchanged:
                key = one.change.entry.record.key
                with each(key):
                    self._look(one)
                    done[key] = True
        if not self._index.in_transaction:
            self.noted()
        if full is not None:
            raise full
        return done

    def _stage(
        self, changes: list[Replacement], each: Callable[[str], AbstractContextManager[object]], together: Together,
        deadline: Deadline | None,
    ) -> tuple[list[tuple[Replacement, str]], DiskFull | None]:  # fmt: skip
        """Write new files, until the deadline or the disk ends that, and where each waits."""
        staged: list[tuple[Replacement, str]] = []
        for change in changes:
            if staged and deadline is not None and deadline.over:
                break
            try:
                with each(change.entry.record.key):
                    path = f"{self._store.root}/{change.path}"
                    staged.append((change, together.write(path, change.data, instead=True)))
            except DiskFull as error:
                return staged, error
        return staged, None

    def _exchange(self, change: Replacement, waiting: str, together: Together) -> _Exchanged:
        """Have a file take the place of what is there."""
        known = self._index.looks.file(change.path)
        expected, digest = known[1] if known else "unknown", hashlib.sha256(change.data).hexdigest()
        aside = self._aside(change.path, expected, digest)
        before = self._store.look_now(waiting.removeprefix(f"{self._store.root}/"))
        there = together.exchange(waiting, f"{self._store.root}/{change.path}", str(aside))
        look = self._store.look(change.path)
        # who saves into it, or another over it, from now on is found by the next scan; who has done so before this look, too
        ours = look is not None and (look.size, look.mtime, look.inode) == (before.size, before.mtime, before.inode)
        return _Exchanged(change, digest, look if ours else None, expected, aside if there else None)

    def _look(self, one: _Exchanged) -> None:
        """Note what has come of one, once its name is durable."""
        entry, path, _ = one.change
        late = settled = False
        if one.aside is not None:
            late, settled = self._merge_late(entry, path, one.aside, one.expected)
        if one.look is None:
            self._index.looks.drop_file(path)
        else:
            self._index.looks.set_file(path, one.look, one.digest)
        if not late:
            self._index.show(entry, self._clock.wall())
        self._index.faults.drop(path)
        if settled and one.aside is not None:
            self._asides.append(one.aside)

    def noted(self) -> None:
        """What was found in the files aside is committed: not before that, as one may hold the only copy of an edit."""
        asides, self._asides = self._asides, []
        self._forget(asides)

    def recover(self, *, kept: bool) -> None:
        """Look at what a killed process put aside, before anything else is made of the files.

        `kept` says that all files are durable as they are.
        """
        self._asides.clear()
        found = [self._folder / name for name in beneath.names(self._folder)]
        walk = self._store.walk() if found else Walk()
        if found and not kept:
            durable.keep((_put_aside(aside)[0] for aside in found), self._store.root)
        done = []
        for aside in found:
            path, expected, intended = _put_aside(aside)
            if self._recover_one(aside, path, self._key_of(path, walk), expected, intended):
                done.append(aside)
        self._forget(done)

    def _key_of(self, path: str, walk: Walk) -> str | None:
        """The key of the record whose file this is, if it is there: of a message's document its name tells."""
        if path in walk.files:
            return walk.files[path][0]
        folder = path.rpartition("/")[0]
        part = self._store.part_of(path) if folder in walk.folders else None
        return None if part is None else message_key(self._store.mailbox_of(folder), part.ident)

    def _recover_one(self, aside: Path, path: str, key: str | None, expected: str, intended: str) -> bool:
        """Find out whether a file that was put aside was replaced, and whether a person saved into it before.

        Tells whether it has done its work.
        """
        if self._index.looks.file(_name(aside)) is not None:
            return True  # it was merged, and the commit came before the crash
        held = digest_of(aside)[0]
        if intended and held.startswith(intended):
            return True  # it was not replaced: here is what was to take its place
        entry = self._index.get(key) if key else None
        if entry is None:
            self._name_fault(aside, path, "a file that was replaced when the index was lost")
            return False
        if not entry.todo or self._index.faults.has(_name(aside)):
            # its replacement was committed, this or one before; what is not as expected was broken, and is named
            return held == expected
        if _is_at(aside, self._store.root / path):
            return True  # it was not replaced either
        known = self._index.looks.file(path)  # what was taken in since was lost with the commit
        with self._index.transaction():
            late, settled = self._merge_late(entry, path, aside, known[1] if known else "unknown")
            if not late:
                self._index.show(entry, self._clock.wall())
            self._index.looks.drop_file(path)  # to be read again: a person may have saved into the new one since
        return settled

    def _merge_late(self, before: Entry, path: str, aside: Path, expected: str) -> tuple[bool, bool]:
        """If a person saved into the replaced file at the last moment, that is an edit of what it showed before.

        `before` is the entry as it was when the file was replaced by what its record says, `expected` the digest of
        what the file held when it was last looked at. Tells whether it was so, and whether the file aside has done its
        work.
        """
        if digest_of(aside)[0] == expected:
            return False, True
        try:
            document = self._store.parse(before.record.key, beneath.read(aside), path)[0]
        except RecordError as error:
            self._name_fault(aside, path, f"saved while it was replaced, and broken: {error.what}")
            return False, False
        shown = before.shown.document if before.shown else {}
        if before.record.kind == MESSAGE:  # an application need not write what it cannot change
            document = {name: shown[name] for name in ("audio", "seconds") if name in shown} | document
        key = before.record.key
        self._edits.found(key, self._index.get(key), document, self._store.look_now(_name(aside)).mtime // 1000)
        merged = self._index.get(before.record.key)
        if merged is not None:
            self._index.put(replace(merged, shown=before.record), self._clock.wall())
        # merged, once this is committed
        self._index.looks.set_file(_name(aside), self._store.look_now(_name(aside)), "")
        return True, True

    def _name_fault(self, aside: Path, path: str, why: str) -> None:
        mend = f"take from it what you need into {path}, then remove it"
        self._index.faults.set(_name(aside), why, mend, self._clock.wall())

    def _forget(self, asides: list[Path]) -> None:
        durable.remove_all(asides)
        for aside in asides:
            self._index.looks.drop_file(_name(aside))

    def _aside(self, path: str, expected: str, intended: str) -> Path:
        name = f"{path.replace('/', '%')}.{expected}.{intended[:_INTENDED]}{secrets.token_hex(_TOKEN // 2)}"
        return self._folder / name


def _put_aside(aside: Path) -> tuple[str, str, str]:
    """The path from which a file was put aside, the digest that was expected of it, and how that of the new one begins."""
    rest, _, last = aside.name.rpartition(".")
    place, _, expected = rest.rpartition(".")
    return place.replace("%", "/"), expected, last[:-_TOKEN]


def _name(aside: Path) -> str:
    """The path of a file aside, by which the index knows that it was merged, and a fault names it."""
    return f".vmctl/replaced/{aside.name}"


def _is_at(aside: Path, place: Path) -> bool:
    """Whether a file aside is still in its place, too. A message that was replaced may have been deleted since."""
    try:
        return os.path.samestat(beneath.status(aside), beneath.status(place))
    except FileNotFoundError:
        return False

"""Takes the files of deleted records out of a store, many at a time; what can be restored stays under `.vmctl`.

The tombs of all are durable before the first file goes: by them a new index knows of the deletions. Then of each the document
goes before the recording, as a recording alone is no message. All of it is durable when `remove` returns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vmctl import durable
from vmctl.audio import digest_of
from vmctl.entry import audio_of
from vmctl.graves import Graves
from vmctl.model import MESSAGE, parse_key
from vmctl.together import Together

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from vmctl.clock import Clock, Deadline
    from vmctl.entry import Entry
    from vmctl.index import Index
    from vmctl.store.format import Format
    from vmctl.store.pool import Pool


class Removing:
    """Removes from one store. `as_last_seen(key)` tells whether nobody has changed the file of a record since the last look."""

    def __init__(
        self, store: Format, index: Index, pool: Pool, clock: Clock, as_last_seen: Callable[[str], bool]
    ) -> None:
        self._store = store
        self._root = str(store.root)
        self._index = index
        self._pool = pool
        self._clock = clock
        self._graves = Graves(store)
        self._as_last_seen = as_last_seen

    def remove(
        self, entries: list[Entry], each: Callable[[str], AbstractContextManager[object]], deadline: Deadline | None = None
    ) -> dict[str, bool]:  # fmt: skip
        """Take out the files of dead records; by key whether they are gone, of those that were come to.

        False where somebody saved into one while its tomb was written: that outlives the deletion, once it is merged. What
        went wrong with one is for `each(key)`. After the deadline no more go: to hash long recordings takes a while.
        """
        done: dict[str, bool] = {}
        out: list[tuple[Entry, list[str]]] = []
        with Together(self._store.state) as together:
            for entry in self._dig(entries, each, together, deadline):
                key = entry.record.key
                if out and deadline is not None and deadline.over:
                    break
                with each(key):
                    done[key] = self._as_last_seen(key)
                    if done[key]:
                        out.append((entry, self._take_out(entry, together)))
            together.close()
            together.drop()
        for entry, paths in out:
            with self._index.transaction():
                for path in paths:
                    self._index.looks.drop_file(path)
                self._index.put(replace(entry, shown=None), self._clock.wall())
                self._index.tombstones.buried(entry.record.key)
            for folder in self._store.emptied(paths[0]):  # that a deleted mailbox leaves empty
                durable.remove_empty(self._store.root / folder)
        return done

    def _dig(
        self, entries: list[Entry], each: Callable[[str], AbstractContextManager[object]], together: Together,
        deadline: Deadline | None,
    ) -> list[Entry]:  # fmt: skip
        """Say durably that they are dead, until the deadline; those of which that could be said."""
        staged: list[tuple[Entry, str, str]] = []
        for entry in entries:
            if staged and deadline is not None and deadline.over:
                break
            with each(entry.record.key):
                tomb = str(self._graves.tomb(entry.record.key))
                staged.append((entry, together.write(tomb, self._graves.text(entry.record)), tomb))
        together.settle()
        dug: list[Entry] = []
        for entry, waiting, tomb in staged:
            with each(entry.record.key):
                together.replace(waiting, tomb)
                dug.append(entry)
        together.close()
        return dug

    def _take_out(self, entry: Entry, together: Together) -> list[str]:
        """Take the files of a record out; the paths where they were."""
        key = entry.record.key
        kind = parse_key(key).kind
        # of a damaged message the shown document lacks the recording
        shown = audio_of(entry.shown.document if entry.shown else {}) or audio_of(entry.record.document)
        paths = [self._store.path(key, shown["format"] if shown else "wav")]
        if kind == MESSAGE:
            together.remove(f"{self._root}/{paths[0]}")
        if shown is not None:
            paths.append(self._store.audio_path(key, shown["format"]))
        last = f"{self._root}/{paths[-1]}"
        if self._store.look(paths[-1]) is None:
            together.remove(last)  # a power cut must not bring back what somebody else removed
        elif shown is not None:
            together.replace(last, str(self._pool.path(digest_of(last)[0])))
        elif self._store.is_edited(kind):
            together.replace(last, str(self._graves.document(key)))
        return paths

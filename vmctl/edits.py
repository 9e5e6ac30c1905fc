"""What a file that changed, appeared or vanished means for its record: an edit of this server, or none.

A person edits what the file showed, not what the index has taken in meanwhile, so an edit is made on what was shown and
then merged. Call inside a transaction of the index.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vmctl.delta import changed_fields
from vmctl.entry import Entry, as_in_file
from vmctl.fields import two_things
from vmctl.merge import conflicts, left_in_deleted, merge
from vmctl.model import (
    MESSAGE,
    SETTINGS_KEY,
    Field,
    Record,
    Tick,
    Vector,
    canonical,
    created,
    deleted,
    edited,
    mailbox_key,
    restored,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmctl.clock import Clock
    from vmctl.index import Index


class Edits:
    """Puts what the files say into the index. `changed` collects the keys, until somebody empties it."""

    def __init__(self, index: Index, clock: Clock) -> None:
        self._index = index
        self._clock = clock
        self.changed: list[str] = []

    def found(
        self, key: str, entry: Entry | None, document: dict[str, Any], at: int, state: Record | None = None,
        *, whole: bool = True,
    ) -> None:  # fmt: skip
        """A file holds this document: compare it with what the file held, and take a difference as an edit.

        `entry` is what the index has of the record; `at` is the time of the edit in microseconds. `state` is the record that a message's file brings
        along; it is `whole` when its recording is beside it.
        """
        wall = self._clock.wall()
        if entry is None:
            fresh = self._put_back(state) if state else created(key, document, self._tick(), min(at, wall))
            self._witness(fresh)
            self._put(Entry(fresh, fresh if state else as_in_file(fresh)))
            return
        record, shown_before = entry.record, entry.shown
        if shown_before is None:
            self._appeared(entry, document, min(at, wall), state, whole=whole)
            return
        before = shown_before.document
        audio = document.get("audio")
        if audio is not None and "audio" not in before and audio == record.document.get("audio"):
            before = before | {"audio": audio}  # the recording was lost beside the file, which names it still: no edit
        if _equal(before, document):
            if record.kind == MESSAGE and state is None:
                self._put(replace(entry, shown=as_in_file(shown_before)))
        else:
            if _equal(record.document, document):
                self._put(replace(entry, shown=record if record.kind != MESSAGE else state or shown_before))
                return
            changes = changed_fields(before, document)
            self._edit(entry, edited(shown_before, changes, self._tick(), min(at, wall)), shown_before.vector)

    def gone(self, keys: list[str]) -> None:
        """The files of records are gone for good: their deletion is one change of this server, as somebody's act was one."""
        if keys:
            tick = self._tick()
            for key in keys:
                self._gone(key, tick)

    def _gone(self, key: str, tick: Tick) -> None:
        entry = self._index.get(key)
        if entry is None or entry.shown is None:
            return
        record = entry.record
        if record.lives:
            dead = deleted(entry.shown, tick)
            self._list_conflicts(record, dead)
            record = merge(record, dead)
        # a dead record stays shown until the applier has put its tombstone and what is left of its files aside
        self._put(replace(entry, record=record, shown=None if record.lives else entry.shown))

    def bring_back(self, extension: str, absent: set[str]) -> None:
        """A mailbox that was taken away while something was put into it is there again.

        Whoever removed its folder had not seen what lies in it now. What is in `absent` does not.
        """
        entry = self._index.get(mailbox_key(extension))
        inside = (inner.record for inner in self._index.living_in(extension) if inner.record.key not in absent)
        if entry is None or (conflict := left_in_deleted(entry.record, inside)) is None:
            return
        self._put(replace(entry, record=restored(entry.record, self._tick()), shown=None))
        self._list(conflict)

    def clashes(self) -> Iterator[tuple[str, str, str]]:
        """What two edits made of the settings that nobody can have meant, as faults: path, why, mend."""
        entry = self._index.get(SETTINGS_KEY)
        for name in two_things(entry.record.document) if entry is not None and entry.record.lives else ():
            yield (
                f"{SETTINGS_KEY}: {name}",
                "it was set as a value at one server and as a section at the other: both are kept",
                f"'vmctl settings show' shows both: 'vmctl settings unset {name}', or of the keys '{name}.KEY'",
            )

    def recall(self, dead: Record) -> None:
        """A tombstone that a new index does not know: its record must not come back."""
        entry = self._index.get(dead.key)
        self._witness(dead)
        record = dead if entry is None else merge(entry.record, dead)
        self._put(Entry(record) if entry is None else replace(entry, record=record))
        if record.version == dead.version:
            self._index.tombstones.buried(dead.key)

    def hide_pin(self, key: str) -> None:
        """The file still shows a plain PIN: it is to be written again, with the hash that the record has."""
        entry = self._index.get(key)
        if entry is not None and entry.shown is not None:
            plain = {"pin": Field(None, entry.shown.fields["pin"].stamp)}
            self._index.put(
                replace(entry, shown=replace(entry.shown, fields=entry.shown.fields | plain)), self._clock.wall()
            )

    def lacks_audio(self, key: str) -> None:
        """What the file shows lacks the recording, so it is to be written again, or removed where it is deleted."""
        entry = self._index.get(key)
        if entry is not None and entry.shown is not None:
            fields = {name: field for name, field in entry.shown.fields.items() if name != "audio"}
            self._put(replace(entry, shown=replace(entry.shown, fields=fields)))

    def _put_back(self, state: Record) -> Record:
        """A message's file that the index knows nothing of: what was forgotten here and is there again is restored.

        Else the other server, which has forgotten it, too, would take it for an old copy of what was deleted.
        """
        mine, last = self._index.meta("incarnation"), self._index.last_number
        forgotten = self._index.tombstones.was_dropped(state, mine, last) or 0 < state.kept.get(mine, 0) <= last
        return restored(state, self._tick()) if state.lives and forgotten else state

    def _appeared(self, entry: Entry, document: dict[str, Any], at: int, state: Record | None, *, whole: bool) -> None:
        record = entry.record
        if record.lives:
            if _equal(record.document, document):
                # what the file says of its presence may be younger: a new index heard of it from the peer first
                known = merge(record, state) if state else record
                self._put(replace(entry, record=known, shown=state if record.kind == MESSAGE else record))
                return
            # made here by hand while the peer's was on its way: both were made without knowing the other
            mine = state or _no_younger(created(record.key, document, self._tick(), at), record)
            self._edit(entry, mine, state.vector if state else {})
        elif state is not None and self._index.is_new:
            # a new index meets the file of a message that the peer or a tombstone knows as deleted: nobody put it there
            self._put(replace(entry, record=merge(record, state), shown=state))
        elif state is not None and not whole:
            # an application wrote its older copy back without the recording: an edit of what it held, no restore
            changes = changed_fields(state.document, document)
            self._edit(entry, edited(state, changes, self._tick(), at) if changes else state, state.vector)
        elif record.kind == MESSAGE:
            alive = restored(record, self._tick())
            changes = changed_fields(record.document, document)
            self._put(
                replace(entry, record=edited(alive, changes, self._tick(), at) if changes else alive, shown=state)
            )
        else:
            self._anew(entry, document, at)

    def _anew(self, entry: Entry, document: dict[str, Any], at: int) -> None:
        """A file that people edit is there, and its record was deleted: somebody has made it anew.

        Not where a new index meets it, and it is older than that and than the deletion: then it was always there. What
        it says still counts, as the deletion may not have seen it.
        """
        record = entry.record
        if not self._index.is_new or at >= min(record.changed_at, int(self._index.meta("born") or record.changed_at)):
            alive = created(record.key, document, self._tick(), at, before=record)
            self._put(replace(entry, record=alive, shown=alive))
            return
        shown = created(record.key, document, self._tick(), at)
        said = replace(shown, kept={}, vector={})
        if not _equal(record.document, document):
            self._list_conflicts(record, said)
            record = merge(record, replace(said, vector=shown.vector))
        self._put(replace(entry, record=record, shown=shown))

    def _edit(self, entry: Entry, mine: Record, seen: Vector) -> None:
        """The file shows `mine`, made of what was `seen`, and not of what the index took in meanwhile.

        That may be a change of this very server, whose file was not written yet: so the vector of `mine`, in which its
        own number stands for all that are below, does not tell what was seen. Where a save is among these, it is not the
        vector of what the file shows either: who deletes that has not seen the save.
        """
        self._list_conflicts(entry.record, replace(mine, vector=seen))
        new = {by for by, number in mine.vector.items() if number > seen.get(by, 0)}
        unseen = any(entry.record.kept.get(by, 0) > seen.get(by, 0) for by in new)
        shown = as_in_file(replace(mine, vector=seen) if unseen else mine)
        self._put(replace(entry, record=merge(entry.record, mine), shown=shown))

    def _list_conflicts(self, record: Record, mine: Record) -> None:
        for conflict in conflicts(record, mine):
            self._list(conflict)

    def _list(self, conflict: Record) -> None:
        if self._index.get(conflict.key) is None:
            self._put(Entry(conflict))

    def _put(self, entry: Entry) -> None:
        self._index.put(entry, self._clock.wall())
        self.changed.append(entry.record.key)

    def _tick(self) -> Tick:
        return self._index.next_tick(self._clock.wall())

    def _witness(self, record: Record) -> None:
        self._index.witness(max(record.vector.values(), default=0))


def _no_younger(mine: Record, known: Record) -> Record:
    """A record with the values that are known already as old as they are known: who says the same sets nothing."""

    def field(name: str) -> Field:
        one, other = mine.fields[name], known.fields.get(name)
        return other if other is not None and _equal({name: one.value}, {name: other.value}) else one

    return replace(mine, fields={name: field(name) for name in mine.fields})


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one == other and canonical(one) == canonical(other)

"""A server whose memory was lost or rolled back starts over: under a new incarnation, with everything offered anew.

Its files stay as they are. What it knows of them comes from the files themselves, and the peer tells the rest: the two
are merged as a join, in which nobody's change is undone for being old, and what lost is listed as a conflict.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from vmctl import beneath, identity
from vmctl.entry import as_in_file
from vmctl.errors import IndexDamaged
from vmctl.model import Field, Record, Stamp, Vector, join, server_of
from vmctl.rollback import begun_anew, issue_again_above

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.index import Index
    from vmctl.journal import Journal

log = logging.getLogger("vmctl.rejoin")

ORDERED = "vmctl reindex"


def remembers(index: Index, whose: identity.Identity) -> bool:
    """Whether an index is the memory of the store's present life. Raises IndexDamaged for that of another server."""
    of = index.meta("incarnation")
    if of and server_of(of) != whose.server:
        raise IndexDamaged(f"the index in the store of {whose.server} is that of {server_of(of)}")
    return of == whose.incarnation


def gone(journal: Journal, server: str) -> IndexDamaged | None:
    """What is to be said of a store that has no index: that it is gone; None where it never had one, by its journal."""
    if next(journal.entries(limit=1), None) is None:
        return None
    return IndexDamaged(
        f"the index of {server} is gone",
        why="history, conflicts and what was parked were in .vmctl/index.db alone",
        hint="'vmctl sync' builds it again from the files and the other server, 'vmctl reindex' from the files; "
        "earlier versions are still in the history of the other server",
    )


def to_read(path: Path, journal: Journal, server: str) -> Index | None:
    """The index of a store, for reading; None in one that never had one. Raises IndexDamaged where it is gone.

    One that knows no life of the store is as good as gone: an empty file was put there, or whoever made it was killed.
    """
    from vmctl.index import Index

    if beneath.is_there(path):
        index = Index.to_read(path)
        try:
            if index.meta("incarnation"):
                return index
        except BaseException:
            index.close()
            raise
        index.close()
    if (lost := gone(journal, server)) is not None:
        raise lost
    return None


def start_over(index: Index, journal: Journal, root: Path, network: str, server: str, wall: int, why: str = "") -> None:
    """A new incarnation: what was changed since is issued again under it. `wall` is the time in microseconds.

    That is what was changed above the last confirmed checkpoint: where the peer holds one that this server has forgotten,
    what is confirmed goes back to one that was before it. Where the peer tells a number, it is above that.
    """
    former = index.meta("incarnation")
    why = why or ("the index is not that of this life of the store" if former else "the index is new")
    whose = identity.renew(root, network, server)
    with index.transaction():
        confirmed, above = index.checkpoints.confirmed, issue_again_above(index)
        index.tombstones.set_bound(former, confirmed)
        for entry in index.entries() if former else ():
            numbers = index.next_number(wall), index.next_number(wall)
            shown = entry.shown and reissued(entry.shown, former, confirmed, above, whose.incarnation, numbers)
            if entry.shown is None or entry.shown.version != entry.record.version:
                # what the file does not show yet is not seen by who deletes the file
                numbers = index.next_number(wall), index.next_number(wall)
            record = reissued(entry.record, former, confirmed, above, whose.incarnation, numbers)
            if shown is not entry.shown:
                shown = shown and as_in_file(shown)
            if record is not entry.record or shown is not entry.shown:
                index.put(replace(entry, record=record, shown=shown), wall)
        index.forget_bases()
        begun_anew(index)
        index.set_meta("full_scan", "0")
        index.set_meta("seen_all", "0")
        index.set_meta("born", str(wall))
        index.set_meta("incarnation", whose.incarnation)
    _tell(journal, server, wall, former, whose.incarnation, why)


def _tell(journal: Journal, server: str, wall: int, former: str, now: str, why: str) -> None:
    entry = journal.tell("new incarnation", at=wall, server=server, now=now, before=former, reason=why)
    began = entry is not None and entry["seq"] == 1
    if former:
        log.warning("%s starts over as %s: %s", server, now, why)
    elif not began and why != ORDERED:
        log.warning(
            "%s had no index and builds a new one from its files, as %s: the other server tells the rest", server, now
        )


def reissued(record: Record, former: str, confirmed: int, above: int, now: str, numbers: tuple[int, int]) -> Record:
    """The record with what `former` changed above `above` credited to the incarnation `now`, as its changes `numbers`.

    The second of them is the last save or edit, where there was one since the birth: it may be one that the peer has
    never seen. The numbers of a rolled-back server's later changes mean other changes at the peer, so they are taken
    back. Up to `confirmed` both servers mean the same.
    """
    if record.vector.get(former, 0) <= above:
        return record
    last_kept = record.kept.get(former, 0)
    saved = (last_kept, former) != record.born and any(
        (stamp.number, stamp.by) == (last_kept, former) for _, stamp in record.fields.values()
    )
    earlier, last = numbers if saved and last_kept > above else (numbers[0],) * 2
    counts = [confirmed, last_kept, *(stamp.number for _, stamp in record.fields.values() if stamp.by == former)]
    held = max(count for count in counts if count <= above)

    birth = record.born.number if record.born.by == former and record.born.number <= above else 0

    def moved(vector: Vector, stays: int) -> Vector:
        if vector.get(former, 0) <= above:
            return vector
        rest = {by: count for by, count in vector.items() if by != former} | ({former: stays} if stays else {})
        return join(rest, {now: last})

    def again(stamp: Stamp) -> Stamp:
        if stamp.by != former or stamp.number <= above:
            return stamp
        return stamp._replace(by=now, number=last if stamp.number == last_kept else earlier)

    fields = {name: Field(value, again(stamp)) for name, (value, stamp) in record.fields.items()}
    # The deleters had seen the births and saves that are here, but not what the peer holds under numbers as high.
    seen = max(confirmed, last_kept)
    gone = {by: min(count, seen) if by == former else count for by, count in record.deleted.items()}
    if not record.lives:
        gone = join(gone, {now: last})
    return replace(
        record,
        fields=fields,
        vector=moved(record.vector, held),
        kept=moved(record.kept, birth),
        deleted=gone,
        purged=moved(record.purged, held),
    )

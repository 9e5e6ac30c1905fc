"""Two versions of a record become one, the same on both servers whatever the order: a join.

For each field the later stamp wins, always; a stamp is above the one it replaces, so a causally later state wins
anyhow. Vectors never choose a value: they only tell what was concurrent, hence what to list as a conflict. Presence
(`kept`, `deleted`, `purged`) merges by maximum. A merge raises no counter.
"""

from __future__ import annotations

import hashlib
from typing import Any

from vmctl.model import ABSENT, CONFLICT, Field, Record, Stamp, Tick, Vector, canonical, dominates, field_as_json, join


def merge(one: Record, other: Record) -> Record:
    """The join of two versions of one record: commutative, associative, idempotent."""
    fields = {
        name: _later(one.fields.get(name), other.fields.get(name)) for name in sorted({*one.fields, *other.fields})
    }
    return Record(
        one.key,
        max(one.born, other.born),
        fields,
        join(one.vector, other.vector),
        join(one.kept, other.kept),
        join(one.deleted, other.deleted),
        join(one.purged, other.purged),
    )


def merge_fields(mine: Record, part: Record) -> Record:
    """`mine` with the fields and the presence of a part of a version whose base is not held here.

    The vector stays: this server does not hold all that the part's vector claims, and asks for the record whole.
    """
    whole = merge(mine, part)
    return Record(mine.key, whole.born, whole.fields, mine.vector, whole.kept, whole.deleted, whole.purged)


def holds(mine: Record | None, vector: Vector, version: str) -> bool:
    """Whether this server holds the base of a delta: a version that contains all of `vector`.

    The same vector over other content is a fault (a rollback that nobody noticed), so it does not count.
    """
    if mine is None or not dominates(mine.vector, vector):
        return False
    return mine.vector != vector or mine.version == version


def conflicts(mine: Record, other: Record) -> list[Record]:
    """A record for each field that both sides set to other values without having seen the other's change.

    Both servers make the same records from the same two versions, so each lists what lost even when the other is gone.
    """
    found = []
    for name in sorted(mine.fields.keys() & other.fields.keys()):
        here, there = mine.fields[name], other.fields[name]
        unseen = other.vector.get(here.stamp.by, 0) < here.stamp.number
        unheard = mine.vector.get(there.stamp.by, 0) < there.stamp.number
        if unseen and unheard and _different(here, there):
            winner = _later(here, there)
            found.append(_conflict(mine.key, name, winner, there if winner is here else here))
    return found


def _conflict(key: str, field: str, winner: Field, loser: Field) -> Record:
    name = hashlib.sha256(canonical([key, field, list(winner.stamp), list(loser.stamp)])).hexdigest()[:24]
    stamp: Stamp = max(winner.stamp, loser.stamp)
    document: dict[str, Any] = {
        "record": key,
        "field": field,
        "won": field_as_json(winner),
        "lost": field_as_json(loser),
    }
    seen = join({winner.stamp.by: winner.stamp.number}, {loser.stamp.by: loser.stamp.number})
    fields = {part: Field(value, stamp) for part, value in document.items()}
    return Record(f"{CONFLICT}/{name}", Tick(stamp.number, stamp.by), fields, seen, seen, {})


def _later(one: Field | None, other: Field | None) -> Field:
    if one is None or other is None:
        field = one or other
        assert field is not None  # noqa: S101 - one of the two has the name
        return field
    return one if _rank(one) >= _rank(other) else other


def _rank(field: Field) -> tuple[Stamp, bytes]:
    # equal stamps over different values come only from a rollback that nobody noticed: still the same choice everywhere
    return field.stamp, b"" if field.value is ABSENT else canonical(field.value)


def _different(one: Field, other: Field) -> bool:
    return _rank(one)[1] != _rank(other)[1]

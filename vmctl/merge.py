"""Two versions of a record become one, the same on both servers whatever the order: a join.

For each field the later stamp wins, always; a stamp is above the one it replaces, so a causally later state wins
anyhow. Vectors never choose a value: they only tell what was concurrent, hence what to list as a conflict. Presence
(`kept`, `deleted`, `purged`) merges by maximum. A merge raises no counter.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from vmctl.model import (
    ABSENT,
    CONFLICT,
    MESSAGE,
    Field,
    Record,
    Stamp,
    Tick,
    Vector,
    canonical,
    dominates,
    field_as_json,
    field_from_json,
    join,
    parse_key,
    server_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

KEPT: Final = "kept"
DELETED: Final = "deleted"
AUDIO: Final = "audio"
_LONGEST_ID_PART: Final = 48  # of the 64 characters of an id, with the slash before it


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
    """What lost where both sides changed a record without having seen the other's change.

    That is a record for each field that both set to other values, and one for a deletion that a save, restore or edit
    outlives. Both servers make the same records from the same two versions, so each lists what lost even when the other
    is gone.

    The recording of a message is never changed, so two of them are two messages that were given the same id: the one
    that loses it comes as well, as a message of an id of its own.
    """
    if mine.kind == CONFLICT:
        return []
    found = []
    for name in sorted(mine.fields.keys() & other.fields.keys()):
        here, there = mine.fields[name], other.fields[name]
        unseen = other.vector.get(here.stamp.by, 0) < here.stamp.number
        unheard = mine.vector.get(there.stamp.by, 0) < there.stamp.number
        if unseen and unheard and _different(here, there):
            winner = _later(here, there)
            lost = _lost_value(mine.key, name, winner, there if winner is here else here)
            if (name, mine.kind) == (AUDIO, MESSAGE) and _digest(here) and _digest(there):
                return [lost, _namesake(other if winner is here else mine)]
            found.append(lost)
    if mine.lives != other.lives:
        found += _outlived(other, mine) if mine.lives else _outlived(mine, other)
    return found


def check_conflict(record: Record) -> None:
    """Raise ValueError, KeyError or TypeError for a conflict that nobody can show or take back: it comes from the wire."""
    document = record.document
    parse_key(str(document["record"]))
    if not isinstance(document["field"], str | None):
        raise ValueError(f"{record.key} names no field")  # noqa: TRY004 - one error for every fault of data
    for name in ("won", "lost"):
        field_from_json(record.key, document[name])


def namesake_key(key: str, sha256: str) -> str:
    """The key of the message that lost its id to another one, by the recording that it has."""
    return f"{key[: _LONGEST_ID_PART + key.rindex('/')]}-{sha256[:16]}"


def _namesake(loser: Record) -> Record:
    return replace(loser, key=namesake_key(loser.key, _digest(loser.fields[AUDIO])))


def _digest(audio: Field) -> str:
    """The SHA-256 of a recording; "" where the field is none: it may come from the wire."""
    sha256 = audio.value.get("sha256") if isinstance(audio.value, dict) else None
    return sha256 if isinstance(sha256, str) and sha256.isascii() and sha256.isalnum() else ""


def deletions(dead: Record) -> set[Tick]:
    """The changes that deleted a record: they are above what its deleters had seen."""
    return {Tick(number, by) for by, number in dead.vector.items() if number > dead.deleted.get(by, 0)}


def is_deleted_already(dead: Record, living: Record) -> bool:
    """Whether a living record is only what `dead` was, under the number of another life of a rolled-back server.

    What such a server issues again keeps the birth and all values with their times, under one number, and what the last
    save or edit set under another. So whoever had deleted just that had seen it, be it as it was issued first or again: of an earlier life of that server
    its deletion then tells, too. A mark on a message since is no reason to keep it.
    """
    if dead.lives or not living.lives or dead.born != living.born:
        return False
    over = {
        (by, number)
        for by, number in living.kept.items()
        if number > max(living.deleted.get(by, 0), dead.deleted.get(by, 0))
    }
    new = {
        name: field.value
        for name, field in living.fields.items()
        if name not in dead.fields
        or (dead.fields[name].value, dead.fields[name].stamp.at) != (field.value, field.stamp.at)
    }
    known = {(server_of(by), by) for by in dead.deleted}
    if not all(any(server == server_of(by) and life != by for server, life in known) for by, _ in over):
        return False  # what its deleter had seen nothing of is no former change
    # a change that restored it and set fields besides has its number in these alone
    issued = {(field.stamp.by, field.stamp.number) for name, field in living.fields.items() if name not in new}
    if not over or not over <= issued | {(living.born.by, living.born.number)}:
        return False
    return new.get("status") != "saved" if living.kind == MESSAGE else not new


def left_in_deleted(mailbox: Record, inside: Iterable[Record]) -> Record | None:
    """The deletion of a mailbox that has to be taken back: somebody put a message or greeting into it meanwhile.

    It is listed as what lost against the last of these. None where the mailbox lives, or nothing in it does.
    """
    if mailbox.lives:  # before anything in it is looked at: it may hold thousands
        return None
    left = max(
        (inner for inner in inside if inner.lives), key=lambda inner: (_last_kept(inner), inner.key), default=None
    )
    if left is None:
        return None
    return _lost_deletion(mailbox, left.key, _last_kept(left))


def _outlived(dead: Record, alive: Record) -> list[Record]:
    """The deletion, if its author had not seen what keeps the record, nor the keeper the deletion."""
    kept = {by: number for by, number in alive.kept.items() if number > dead.deleted.get(by, 0)}
    lives = any(number > alive.deleted.get(by, 0) for by, number in kept.items())
    if not lives or dominates(alive.deleted, dead.deleted):
        return []
    return [_lost_deletion(dead, KEPT, _newest(kept))]


def _lost_deletion(dead: Record, won: str, keep: Tick) -> Record:
    # named by the deletion alone: whoever keeps the record more than once makes no second conflict of it
    delete = _deletion(dead)
    winner, loser = (Field(value, Stamp(at.number, at.by, at.number)) for value, at in ((won, keep), (DELETED, delete)))
    return _conflict(dead.key, None, winner, loser, name=[dead.key, None, list(loser.stamp)])


def _deletion(dead: Record) -> Tick:
    """The change that deleted it: above what its author had seen, and no edit of a field that came in later."""
    edits = {(field.stamp.by, field.stamp.number) for field in dead.fields.values()}
    unseen = {by: number for by, number in dead.vector.items() if number > dead.deleted.get(by, 0)}
    return _newest({by: number for by, number in unseen.items() if (by, number) not in edits} or unseen or dead.vector)


def _last_kept(record: Record) -> Tick:
    return _newest({by: number for by, number in record.kept.items() if number > record.deleted.get(by, 0)})


def _newest(vector: Vector) -> Tick:
    return max((Tick(number, by) for by, number in vector.items()), default=Tick(0, ""))


def _lost_value(key: str, field: str, winner: Field, loser: Field) -> Record:
    return _conflict(key, field, winner, loser, name=[key, field, list(winner.stamp), list(loser.stamp)])


def _conflict(key: str, field: str | None, winner: Field, loser: Field, *, name: list[Any]) -> Record:
    ident = hashlib.sha256(canonical(name)).hexdigest()[:24]
    stamp: Stamp = max(winner.stamp, loser.stamp)
    document: dict[str, Any] = {
        "record": key,
        "field": field,
        "won": field_as_json(winner),
        "lost": field_as_json(loser),
    }
    if field == AUDIO and loser.value is not ABSENT:
        document[AUDIO] = loser.value  # so that the recording that lost is shipped, and kept, like any other
    seen = join({winner.stamp.by: winner.stamp.number}, {loser.stamp.by: loser.stamp.number})
    fields = {part: Field(value, stamp) for part, value in document.items()}
    return Record(f"{CONFLICT}/{ident}", Tick(stamp.number, stamp.by), fields, seen, seen, {})


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

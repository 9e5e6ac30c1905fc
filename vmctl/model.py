"""What is replicated: records, their fields, and the stamps and counters that make a merge possible.

A record is an immutable value. It holds

- `fields`: each a value (or ABSENT) and the stamp of who set it and when;
- `vector`: for each incarnation of a server the highest change number of its edits that this version contains;
- `kept`: for each incarnation the number of its last birth, save or restore (for records that are not messages: of
  its last edit);
- `deleted`: the vector that the record's deleters had seen;
- `purged`: the births, saves and restores that whoever purged the record had seen.

A record lives while some `kept` is above `deleted`. One that is dead can be restored until it is purged: then its
recording is gone, and only the memory of it is left. A restore that the purge had not seen outlives it. Nothing here
reads a clock or a disk.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

from vmctl.clock import HIGHEST
from vmctl.names import GREETINGS, is_extension, is_name

SETTINGS, CALLFLOW, PROMPT, MAILBOX, GREETING, MESSAGE, CONFLICT = (
    "settings", "callflow", "prompt", "mailbox", "greeting", "message", "conflict",
)  # fmt: skip
KINDS = (SETTINGS, CALLFLOW, PROMPT, MAILBOX, GREETING, MESSAGE)

Vector = dict[str, int]
_BOUND: Final = 2**53  # every JSON reader can hold what is below


class Absent:
    """The value of a field that was removed."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()


class Tick(NamedTuple):
    """One change: its number and the incarnation that made it."""

    number: int
    by: str


class Stamp(NamedTuple):
    """When a field was set (hybrid clock reading, microseconds), by which incarnation, in which of its changes.

    Stamps compare in this order, so both servers break a tie alike.
    """

    at: int
    by: str
    number: int


class Field(NamedTuple):
    """A top-level key of a document: its value and its stamp."""

    value: Any
    stamp: Stamp


class Key(NamedTuple):
    """The name of a record in parts; `mailbox` only for what lies in a mailbox."""

    kind: str
    mailbox: str | None
    name: str

    def __str__(self) -> str:
        if self.kind == SETTINGS:
            return SETTINGS
        return "/".join(part for part in self if part is not None)


SETTINGS_KEY = str(Key(SETTINGS, None, ""))


def mailbox_key(extension: str) -> str:
    """The key of a mailbox."""
    return f"{MAILBOX}/{extension}"


def message_key(extension: str, ident: str) -> str:
    """The key of a message."""
    return f"{MESSAGE}/{extension}/{ident}"


def greeting_key(extension: str, name: str) -> str:
    """The key of a greeting."""
    return f"{GREETING}/{extension}/{name}"


@functools.lru_cache(maxsize=8192)  # the same key is taken apart for each step of its way
def parse_key(text: str) -> Key:
    """The parts of a key, each checked against its whitelist. Raises ValueError: keys come from the wire."""
    kind, *rest = text.split("/")
    if kind == SETTINGS and not rest:
        return Key(SETTINGS, None, "")
    if kind in {CALLFLOW, PROMPT, CONFLICT} and len(rest) == 1 and is_name(rest[0]):
        return Key(kind, None, rest[0])
    if kind == MAILBOX and len(rest) == 1 and is_extension(rest[0]):
        return Key(kind, None, rest[0])
    if kind == GREETING and len(rest) == 2 and is_extension(rest[0]) and rest[1] in GREETINGS:  # noqa: PLR2004
        return Key(kind, rest[0], rest[1])
    if kind == MESSAGE and len(rest) == 2 and is_extension(rest[0]) and is_name(rest[1]):  # noqa: PLR2004
        return Key(kind, rest[0], rest[1])
    if kind not in {*KINDS, CONFLICT} and is_name(kind) and rest and all(map(is_name, rest)):
        return Key(kind, None, "/".join(rest))  # a kind of a later version: kept and passed on, never put on disk
    raise ValueError(f"{text[:80]!r} is no key of a record")


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical(value: Any) -> bytes:
    """JSON in one form only, so that equal values are equal bytes. Raises ValueError for NaN and infinity."""
    return _canonical(value).encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Record:
    """One version of one record."""

    key: str
    born: Tick
    fields: dict[str, Field]
    vector: Vector
    kept: Vector
    deleted: Vector
    purged: Vector = dataclasses.field(default_factory=dict)
    _version: str = dataclasses.field(default="", init=False, repr=False, compare=False)

    @property
    def kind(self) -> str:
        """The kind, from the key."""
        return self.key.partition("/")[0]

    @property
    def lives(self) -> bool:
        """Whether some birth, save or restore is above what its deleters had seen."""
        deleted = self.deleted
        for by, number in self.kept.items():  # noqa: SIM110 - it is asked for more often than anything else
            if number > deleted.get(by, 0):
                return True
        return False

    @property
    def is_purged(self) -> bool:
        """Whether it is dead, and nothing of it is to be restored any more."""
        return bool(self.purged) and not self.lives and dominates(self.purged, self.kept)

    @property
    def changed_at(self) -> int:
        """The reading of the clock (microseconds) at its last change: of a dead record, when it was deleted or purged."""
        return max(self.vector.values(), default=0)

    @property
    def document(self) -> dict[str, Any]:
        """The values without the fields that were removed."""
        return {name: field.value for name, field in self.fields.items() if field.value is not ABSENT}

    @property
    def version(self) -> str:
        """A digest of everything in this version: 32 hex digits of SHA-256. Equal versions are equal records."""
        if not self._version:  # it is asked for again and again, and takes longer than all else
            self._count_version(canonical([self.key, self.as_json()]))
        return self._version

    def check_whole(self) -> None:
        """Raise ValueError for half a character, which fits neither the index nor a file: it comes from the wire."""
        self._count_version(_canonical([self.key, self.as_json()]).encode())

    def know_version(self, version: str) -> None:
        """It was counted before."""
        object.__setattr__(self, "_version", version)

    def _count_version(self, data: bytes) -> None:
        self.know_version(hashlib.sha256(data).hexdigest()[:32])

    def as_json(self) -> dict[str, Any]:
        """The record without its key, as index, message files and sync mails hold it."""
        return {
            "born": list(self.born),
            "vector": self.vector,
            "kept": self.kept,
            "deleted": self.deleted,
            **({"purged": self.purged} if self.purged else {}),
            "fields": {name: field_as_json(field) for name, field in self.fields.items()},
        }

    @classmethod
    def from_json(cls, key: str, value: Any) -> Self:
        """The record that `as_json` gave. Raises ValueError: it may come from the wire or from a person."""
        if not isinstance(value, dict):
            raise ValueError(f"the record {key} is not a mapping")  # noqa: TRY004 - one error for every fault of data
        fields = value.get("fields")
        if not isinstance(fields, dict):
            raise ValueError(f"the record {key} has no fields")  # noqa: TRY004
        return cls.of_fields(key, value, {str(name): field_from_json(key, field) for name, field in fields.items()})

    @classmethod
    def of_fields(cls, key: str, value: dict[str, Any], fields: dict[str, Field]) -> Self:
        """The record that has these fields, and all else as `as_json` gave it. Raises ValueError."""
        return cls(
            key,
            born=_tick(key, value.get("born")),
            fields=fields,
            vector=vector_from_json(key, value.get("vector")),
            kept=vector_from_json(key, value.get("kept")),
            deleted=vector_from_json(key, value.get("deleted")),
            purged=vector_from_json(key, value.get("purged", {})),
        )


def field_as_json(field: Field) -> dict[str, Any]:
    """`{"is": value, "at": stamp}`, or `{"absent": true, "at": stamp}` for a removed field."""
    if field.value is ABSENT:
        return {"absent": True, "at": list(field.stamp)}
    return {"is": field.value, "at": list(field.stamp)}


def field_from_json(key: str, value: Any) -> Field:
    """The field that `field_as_json` gave. Raises ValueError."""
    if not isinstance(value, dict) or ("is" in value) == (value.get("absent") is True):
        raise ValueError(f"a field of {key} has neither a value nor 'absent'")
    return Field(value.get("is", ABSENT), stamp_from_json(key, value.get("at")))


def stamp_from_json(key: str, value: Any) -> Stamp:
    """The stamp that is a list in JSON. Raises ValueError."""
    if not isinstance(value, list) or len(value) != 3:  # noqa: PLR2004
        raise ValueError(f"a field of {key} has no stamp")
    at, by, number = value
    if not (type(at) is type(number) is int and 0 <= at < _BOUND and 0 <= number < _BOUND):  # as `_counts`
        raise ValueError(f"a field of {key} has no stamp")
    if not isinstance(by, str):
        raise ValueError(f"a stamp of {key} has no author")  # noqa: TRY004
    return Stamp(at, by, number)


def dominates(one: Vector, other: Vector) -> bool:
    """Whether `one` contains every change that `other` contains."""
    return all(one.get(by, 0) >= number for by, number in other.items())


def join(one: Vector, other: Vector) -> Vector:
    """The smallest vector that contains both."""
    return {by: max(one.get(by, 0), other.get(by, 0)) for by in sorted({*one, *other})}


# Local changes. `tick` is the number of the change; `at` the reading of the clock for the stamps (the file's mtime for
# a hand edit), which is raised above the stamp that it replaces: what was seen and then changed must win.


def created(key: str, document: dict[str, Any], tick: Tick, at: int, before: Record | None = None) -> Record:
    """A new life of a record; `before` is its dead former one, whose fields are replaced or removed."""
    fields = {} if before is None else dict(before.fields)
    changes: dict[str, Any] = dict.fromkeys(fields, ABSENT) | document
    _set(fields, changes, tick, at)
    old = Record(key, tick, {}, {}, {}, {}) if before is None else before
    return Record(
        key,
        tick,
        fields,
        join(old.vector, {tick.by: tick.number}),
        join(old.kept, {tick.by: tick.number}),
        old.deleted,
        old.purged,
    )


def server_of(incarnation: str) -> str:
    """The server whose life an incarnation is, or was."""
    return incarnation.rpartition("-")[0]


def moved(record: Record, key: str, tick: Tick, before: Record | None = None) -> Record:
    """What a record holds, as a new one under another key; each value is as old as it was, above what it replaces."""
    made = created(key, record.document, tick, 0, before)

    def as_old(name: str, field: Field) -> Field:
        at = record.fields[name].stamp.at if name in record.fields else 0
        return field._replace(stamp=field.stamp._replace(at=max(field.stamp.at, at)))

    return replace(made, fields={name: as_old(name, field) for name, field in made.fields.items()})


def edited(record: Record, changes: dict[str, Any], tick: Tick, at: int) -> Record:
    """The record with fields set (or removed, by ABSENT). A mark on a message is no keep; a save is."""
    fields = dict(record.fields)
    _set(fields, changes, tick, at)
    keeps = record.kind != MESSAGE or changes.get("status") == "saved"
    mine = {tick.by: tick.number}
    kept = join(record.kept, mine) if keeps else record.kept
    return replace(record, fields=fields, vector=join(record.vector, mine), kept=kept)


def deleted(record: Record, tick: Tick) -> Record:
    """The record without what its deleter had seen; a concurrent save elsewhere outlives it."""
    seen = join(record.deleted, record.vector)
    return replace(record, vector=join(record.vector, {tick.by: tick.number}), deleted=seen)


def restored(record: Record, tick: Tick) -> Record:
    """The record alive again."""
    mine = {tick.by: tick.number}
    return replace(record, vector=join(record.vector, mine), kept=join(record.kept, mine))


def purged(record: Record, tick: Tick) -> Record:
    """The dead record without a way back; a concurrent restore elsewhere outlives it."""
    return replace(record, vector=join(record.vector, {tick.by: tick.number}), purged=join(record.purged, record.kept))


def _set(fields: dict[str, Field], changes: dict[str, Any], tick: Tick, at: int) -> None:
    for name, value in changes.items():
        former = fields.get(name)
        if former is None and value is ABSENT:
            continue
        above = at if former is None else max(at, former.stamp.at + 1)
        fields[name] = Field(value, Stamp(above, tick.by, tick.number))


def check_numbers(record: Record) -> None:
    """Raise ValueError for a record of a clock that is centuries ahead: it comes from the wire or from a person.

    A server's own numbers and stamps go on above all that it takes, and must still be read by everybody.
    """
    newest = max(
        record.born.number, *record.vector.values(), *record.kept.values(),
        *(max(stamp.at, stamp.number) for _, stamp in record.fields.values()),
    )  # fmt: skip
    if newest > HIGHEST:
        raise ValueError(f"its number {newest} is of a time that no clock should show before the year 2219")


def _counts(value: Any) -> bool:
    return type(value) is int and 0 <= value < _BOUND


def _tick(key: str, value: Any) -> Tick:
    if not (isinstance(value, list) and len(value) == 2 and _counts(value[0]) and isinstance(value[1], str)):  # noqa: PLR2004
        raise ValueError(f"the record {key} has no birth")
    return Tick(value[0], value[1])


def vector_from_json(key: str, value: Any) -> Vector:
    """A vector from the wire or from a file. Raises ValueError."""
    if not isinstance(value, dict) or not all(map(_counts, value.values())):
        raise ValueError(f"a vector of {key} is not a mapping of incarnations to numbers")
    return dict(value)

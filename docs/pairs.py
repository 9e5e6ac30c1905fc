"""Every pair of edits that two servers can make at once, run through the model and the merge: the table of conflicts.md.

A scene is what both servers hold before, and the acts that can be done to it. Each pair of acts is run four times: with
either act at either server, and with either one the later. All four come out alike, or there would be no rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.merge import conflicts, left_in_deleted, merge
from vmctl.model import (
    ABSENT,
    CONFLICT,
    GREETING,
    MESSAGE,
    SETTINGS_KEY,
    Record,
    Tick,
    canonical,
    created,
    deleted,
    edited,
    greeting_key,
    mailbox_key,
    message_key,
    parse_key,
    purged,
    restored,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

World = dict[str, Record]
SIDES = ("primary", "secondary")
BOX, OLD, MESSAGE_KEY = mailbox_key("2001"), message_key("2001", "old"), message_key("2001", "m1")
GREETING_KEY, PROMPT_KEY, CALLFLOW_KEY = greeting_key("2001", "busy"), "prompt/hello", "callflow/main"


@dataclass
class Side:
    """One server of the model: what it holds, and its clock (microseconds)."""

    name: str
    at: int
    records: World = field(default_factory=dict)

    def tick(self) -> Tick:
        """The number of the next change."""
        self.at += 1
        return Tick(self.at, self.name)

    def make(self, key: str, document: dict[str, Any]) -> None:
        """Make a record, or make it anew."""
        tick = self.tick()
        self.records[key] = created(key, document, tick, tick.number, before=self.records.get(key))

    def edit(self, key: str, **changes: Any) -> None:
        """Set fields."""
        tick = self.tick()
        self.records[key] = edited(self.records[key], changes, tick, tick.number)

    def delete(self, key: str) -> None:
        """Delete a record; a mailbox with what is in it."""
        inside = [each for each in self.records if parse_key(key).name == parse_key(each).mailbox and key == BOX]
        for each in [*inside, key]:
            self.records[each] = deleted(self.records[each], self.tick())

    def restore(self, key: str) -> None:
        """Bring a record back."""
        self.records[key] = restored(self.records[key], self.tick())

    def purge(self, key: str) -> None:
        """Let go of a deleted record for good."""
        self.records[key] = purged(self.records[key], self.tick())

    def sound(self) -> dict[str, Any]:
        """The `audio` field of a recording of this server's."""
        return {"sha256": self.name[0].encode().hex() * 32, "size": 100, "format": "wav"}


class Scene(NamedTuple):
    """What both servers hold, and what can be done to it at once."""

    title: str
    base: Callable[[Side], None]
    acts: dict[str, Callable[[Side], None]]


class Outcome(NamedTuple):
    """What both servers hold in the end, and what is listed as a conflict."""

    holds: tuple[str, ...]
    listed: tuple[str, ...]


# What can be done


def _box(side: Side) -> None:
    side.make(BOX, {"name": "Ada", "quota": 3, "pin": "former"})
    side.make(OLD, {"status": "new"})


def _message(side: Side) -> None:
    side.make(BOX, {"name": "Ada"})
    side.make(MESSAGE_KEY, {"status": "new"})


def _deleted_message(side: Side) -> None:
    _message(side)
    side.delete(MESSAGE_KEY)


def _greeting(side: Side) -> None:
    side.make(BOX, {"name": "Ada"})
    side.make(GREETING_KEY, {"audio": {"sha256": "0" * 64, "size": 100, "format": "wav"}})


def _prompt(side: Side) -> None:
    side.make(PROMPT_KEY, {"audio": {"sha256": "0" * 64, "size": 100, "format": "wav"}})


def _make_anew(side: Side) -> None:
    side.delete(BOX)
    side.make(BOX, {"name": f"new {side.name}"})


def _then(first: str, second: str) -> Callable[[Side], None]:
    def act(side: Side) -> None:
        for verb in (first, second):
            getattr(side, verb)(MESSAGE_KEY)

    return act


SCENES = {
    "message": Scene(
        "a message",
        _message,
        {
            "mark it old": lambda side: side.edit(MESSAGE_KEY, status="old"),
            "save it": lambda side: side.edit(MESSAGE_KEY, status="saved"),
            "delete it": lambda side: side.delete(MESSAGE_KEY),
            "delete and restore it": _then("delete", "restore"),
            "delete and purge it": _then("delete", "purge"),
        },
    ),
    "deleted message": Scene(
        "a deleted message",
        _deleted_message,
        {
            "restore it": lambda side: side.restore(MESSAGE_KEY),
            "purge it": lambda side: side.purge(MESSAGE_KEY),
        },
    ),
    "mailbox": Scene(
        "a mailbox",
        _box,
        {
            "set its name": lambda side: side.edit(BOX, name=side.name),
            "set its quota": lambda side: side.edit(BOX, quota=len(side.name)),
            "set its PIN": lambda side: side.edit(BOX, pin=f"hash {side.name}"),
            "delete it": lambda side: side.delete(BOX),
            "delete it and make it anew": _make_anew,
            "leave a message in it": lambda side: side.make(message_key("2001", side.name), {"status": "new"}),
            "set a greeting": lambda side: side.make(GREETING_KEY, {"audio": side.sound()}),
        },
    ),
    "callflow": Scene(
        "a callflow",
        lambda side: side.make(CALLFLOW_KEY, {"text": "former: 1\n"}),
        {
            "edit it": lambda side: side.edit(CALLFLOW_KEY, text=f"by: {side.name}\n"),
            "delete it": lambda side: side.delete(CALLFLOW_KEY),
        },
    ),
    "greeting": Scene(
        "a greeting",
        _greeting,
        {
            "set it": lambda side: side.edit(GREETING_KEY, audio=side.sound()),
            "delete it": lambda side: side.delete(GREETING_KEY),
        },
    ),
    "prompt": Scene(
        "a prompt",
        _prompt,
        {
            "set it": lambda side: side.edit(PROMPT_KEY, audio=side.sound()),
            "delete it": lambda side: side.delete(PROMPT_KEY),
        },
    ),
    "settings": Scene(
        "the settings",
        lambda side: side.make(SETTINGS_KEY, {"a.key": 0, "b.other": 0}),
        {
            "set a key": lambda side: side.edit(SETTINGS_KEY, **{"a.key": side.name}),
            "set another key": lambda side: side.edit(SETTINGS_KEY, **{"b.other": side.name}),
            "unset the key": lambda side: side.edit(SETTINGS_KEY, **{"a.key": ABSENT}),
        },
    ),
    "nothing yet": Scene(
        "what is not there yet",
        lambda _side: None,
        {
            "make a mailbox": lambda side: side.make(BOX, {"name": side.name}),
            "put a callflow": lambda side: side.make(CALLFLOW_KEY, {"text": f"by: {side.name}\n"}),
            "put a prompt": lambda side: side.make(PROMPT_KEY, {"audio": side.sound()}),
        },
    ),
}


# Running a pair


def pairs(scene: Scene) -> list[tuple[str, str]]:
    """Every pair of acts, an act with itself among them."""
    return list(combinations_with_replacement(scene.acts, 2))


def orders(first: str, second: str) -> Iterator[tuple[dict[str, str], str]]:
    """Who does which of two acts, and which server is the later one."""
    for one, other in dict.fromkeys([(first, second), (second, first)]):
        for later in SIDES:
            yield dict(zip(SIDES, (one, other), strict=True)), later


def run(scene: Scene, acts: dict[str, str], later: str) -> Outcome:
    """The outcome in the model."""
    origin = Side("origin", 0)
    scene.base(origin)
    after = {}
    for name, act in acts.items():
        side = Side(name, 3000 if name == later else 2000, dict(origin.records))
        scene.acts[act](side)
        after[name] = side.records
    return told(origin.records, after, met(*after.values()), later)


def met(one: World, other: World) -> World:
    """What a server holds when it has taken in all that the other one did, as its inbox does it."""
    world = one | {key: record for key, record in other.items() if key not in one}
    for key in one.keys() & other.keys():
        world |= {conflict.key: conflict for conflict in conflicts(one[key], other[key])}
        world[key] = merge(one[key], other[key])
    inside = [record for record in world.values() if record.kind in {MESSAGE, GREETING}]
    if BOX in world and (conflict := left_in_deleted(world[BOX], inside)):
        world |= {conflict.key: conflict, BOX: restored(world[BOX], Tick(9000, "either"))}
    return world


# Telling what came of it

_FIELDS = {
    "status": "status", "name": "name", "quota": "quota", "pin": "PIN", "text": "text", "audio": "recording",
    "a.key": "key", "b.other": "other key",
}  # fmt: skip


def told(base: World, after: dict[str, World], final: World, later: str) -> Outcome:
    """The outcome in words: `after` is what each server held after its act, `final` what both hold in the end."""
    authors = {side: _set(base, world) for side, world in after.items()}

    def whose(key: str, name: str, value: Any) -> str:
        sets = {side: _text(author[key, name]) for side, author in authors.items() if (key, name) in author}
        if len(set(sets.values())) > 1:
            by = next(side for side, text in sets.items() if text == _text(value))
            return f"{_FIELDS[name]} of the {'later' if by == later else 'earlier'}"
        return f"{_FIELDS[name]} {'removed' if value is ABSENT else 'as set'}"

    listed = []
    for record in final.values():
        if record.kind == CONFLICT and record.lives:
            key, name, lost = record.document["record"], record.document["field"], record.document["lost"]
            listed.append("the deletion" if name is None else whose(key, name, lost.get("is", ABSENT)))
    holds: list[str] = []
    for key in sorted(final, key=lambda key: (key != BOX, key)):
        if final[key].kind != CONFLICT:
            changed = {name for (each, name) in {**authors[SIDES[0]], **authors[SIDES[1]]} if each == key}
            holds += _state(
                base, final, key, [whose(key, name, final[key].fields[name].value) for name in sorted(changed)]
            )
    left = sum(final[key].lives for key in final.keys() - base.keys() if final[key].kind == MESSAGE)
    holds += [("", "the message left in it", "both messages")[left]] if left else []
    return Outcome(tuple(dict.fromkeys(holds)), tuple(sorted(listed)))


def _state(base: World, final: World, key: str, fields: list[str]) -> list[str]:
    """What a record is in the end; nothing of one that is as before beside the one that the scene is about."""
    record = final[key]
    if key == OLD:
        return [] if record.lives or not final[BOX].lives else ["what was in it is deleted"]
    if record.kind == MESSAGE and key not in base:
        return []  # counted
    if not record.lives:
        return ["gone for good" if record.is_purged else "deleted"]
    return fields or (["there"] if key != BOX or OLD in base else [])


def _set(base: World, world: World) -> dict[tuple[str, str], Any]:
    """The fields that a server set, by record and name, with their values."""
    return {
        (key, name): field.value
        for key, record in world.items()
        for name, field in record.fields.items()
        if name in _FIELDS and (key not in base or base[key].fields.get(name) != field)
    }


def _text(value: Any) -> bytes:
    return b"absent" if value is ABSENT else canonical(value)


# The page


def outcome(scene: Scene, first: str, second: str) -> Outcome:
    """What comes of a pair, whoever does which and whoever is the later one. Raises ValueError where that matters."""
    found = {run(scene, acts, later) for acts, later in orders(first, second)}
    if len(found) != 1:
        raise ValueError(f"{scene.title}: {first}, {second}: no one rule but {sorted(found)}")
    return found.pop()


def table_markdown() -> str:
    """A table for each scene."""
    lines = []
    for scene in SCENES.values():
        lines += [f"### Of {scene.title}", ""]
        lines += ["| one server | the other, at once | both hold then | listed |", "|---|---|---|---|"]
        for first, second in pairs(scene):
            holds, listed = outcome(scene, first, second)
            other = "the same" if first == second else second
            lines.append(f"| {first} | {other} | {'; '.join(holds)} | {'; '.join(listed) or '-'} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table_markdown())  # noqa: T201

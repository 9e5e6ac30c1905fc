"""Callflows that say `schema: vmctl/1`: what a caller hears, presses and reaches, and every fault in it at once.

The language is told in docs/callflows.md; `NODES` below is its table. A callflow without faults keeps one promise:
a caller who presses nothing comes to an end (a hangup, a transfer, a recording) whatever the hour, so that a silent
line does not hold a channel for ever.

Pure: the names that exist are given. Nothing raises on any JSON value, and the work is bounded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl import schedule, ways
from vmctl.faults import Fault, Part, Sheet, in_path, join, shown
from vmctl.names import GREETINGS, is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

SCHEMA = "vmctl/1"
DIGITS = tuple("0123456789*#")
DEFAULT = "default"
MOST_NODES = 1000
MOST_DATES = 1000

_DIALLED = re.compile(r"[A-Za-z0-9+*#][A-Za-z0-9*#_-]{0,31}", re.ASCII)
_LONGEST_TITLE = 200
_LONGEST_RING_SHOWN = 12
_MOST_RINGS = 100


def is_checked(document: object) -> bool:
    """Whether a callflow claims a schema of vmctl, of this version or another. All others are kept as they are."""
    schema = document.get("schema") if isinstance(document, dict) else None
    return isinstance(schema, str) and schema.startswith("vmctl")


def check(document: Any, *, prompts: Collection[str], mailboxes: Collection[str]) -> list[Fault]:
    """Every fault of a callflow: `{"key": dotted path, "why": ..., "mend": ...}`; the key `.` is the whole document.

    `prompts` and `mailboxes` are the names that exist. Faults stand in the order of the document, those of the way
    through it last. An unknown schema is the only fault told: what else such a document says cannot be judged.
    """
    sheet = _Sheet(document, prompts, mailboxes)
    if not isinstance(document, dict):
        sheet.fault(".", f"a callflow is a mapping, not {shown(document)}", f"begin it with 'schema: {SCHEMA}'")
    elif document.get("schema") != SCHEMA:
        sheet.fault("schema", *_schema_words(document))
    elif len(sheet.nodes) > MOST_NODES:
        sheet.fault("nodes", f"{len(sheet.nodes)} nodes are more than {MOST_NODES}", "split it into several callflows")
    else:
        sheet.mapping("", document, TOP, "a callflow")
        _check_ways(sheet)
    return sheet.faults


class _Way(NamedTuple):
    target: str
    silent: bool  # a caller who presses nothing may go it


class _Sheet(Sheet):
    """One callflow under check: what it may name, and the ways from node to node that were found."""

    def __init__(self, document: Any, prompts: Collection[str], mailboxes: Collection[str]) -> None:
        super().__init__()
        nodes = document.get("nodes") if isinstance(document, dict) else None
        self.nodes: dict[str, Any] = nodes if isinstance(nodes, dict) else {}
        self.prompts = frozenset(prompts)
        self.mailboxes = frozenset(mailboxes)
        self.here: str | None = None  # the node under check; None for the start points
        self.ways: dict[str | None, list[_Way]] = {}
        self.dates = 0

    def go(self, path: str, value: Any, *, silent: bool) -> None:
        """Check the name of a node to go on with, and note the way."""
        if not self.text(path, value, "the name of a node"):
            return
        if value in self.nodes:
            self.way(value, silent=silent)
            return
        meant = self.nearest(value, self.nodes)
        mend = "name a node of this callflow, or add this one" if meant is None else f"did you mean '{meant}'?"
        self.fault(path, f"there is no node {shown(value)}", mend)
        if meant is not None:
            self.way(meant, silent=False)  # what was meant is not unreachable as well

    def way(self, target: str, *, silent: bool) -> None:
        """Note a way from the node under check."""
        self.ways.setdefault(self.here, []).append(_Way(target, silent))


# What the values of keys must be.


def _said(_sheet: _Sheet, _path: str, _value: Any) -> None:
    """Nothing: the key was looked at before."""


def _next(sheet: _Sheet, path: str, value: Any) -> None:
    sheet.go(path, value, silent=True)


def _if_unanswered(sheet: _Sheet, path: str, value: Any) -> None:
    sheet.go(path, value, silent=False)  # before it somebody may answer: a transfer is an end


def _title(sheet: _Sheet, path: str, value: Any) -> None:
    if sheet.text(path, value, "a title") and len(value) > _LONGEST_TITLE:
        sheet.fault(path, f"a title has {_LONGEST_TITLE} characters at the most", "shorten it")


def _prompt(sheet: _Sheet, path: str, value: Any) -> None:
    if sheet.text(path, value, "the name of a prompt") and value not in sheet.prompts:
        mend = sheet.guess(value, sheet.prompts) or "put its .wav file into 'prompts', or name one that is there"
        sheet.fault(path, f"there is no prompt {shown(value)}", mend)


def _mailbox(sheet: _Sheet, path: str, value: Any) -> None:
    # no guess: a wrong extension is near to many right ones
    if sheet.text(path, value, "a mailbox") and value not in sheet.mailboxes:
        sheet.fault(path, f"there is no mailbox {shown(value)}", "'vmctl mailbox list' shows those that are there")


def _greeting(sheet: _Sheet, path: str, value: Any) -> None:
    if value not in GREETINGS:
        mend = sheet.guess(value, GREETINGS) or f"write one of {', '.join(GREETINGS)}"
        sheet.fault(path, f"there is no greeting {shown(value)}", mend)


def _dialled(sheet: _Sheet, path: str, value: Any) -> None:
    if sheet.text(path, value, "a number") and not _DIALLED.fullmatch(value):
        sheet.fault(path, f"{shown(value)} cannot be dialled", 'write it without spaces: "2001", "+442079460100"')


def _count(least: int, most: int, unit: str) -> Callable[[_Sheet, str, Any], None]:
    def check_count(sheet: _Sheet, path: str, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            sheet.fault(path, f"{shown(value)} is no whole number of {unit}", f"write a number from {least} to {most}")

    return check_count


def _choices(sheet: _Sheet, path: str, value: Any) -> None:
    if not isinstance(value, dict) or not value:
        sheet.fault(path, f"{shown(value)} leads a caller nowhere", 'write digits and nodes, such as "1": sales')
        return
    for digit, target in value.items():
        if digit not in DIGITS:
            sheet.fault(join(path, digit), f"{shown(digit)} is no key of a telephone", f"use one of {' '.join(DIGITS)}")
        sheet.go(join(path, digit), target, silent=False)


def _start(sheet: _Sheet, path: str, value: Any) -> None:
    sheet.here = None
    if not isinstance(value, dict):
        sheet.fault(path, f"the start points are a mapping, not {shown(value)}", f"write '{DEFAULT}: NODE' below it")
        return
    for name, target in value.items():
        _dialled(sheet, join(path, name), name)
        sheet.go(join(path, name), target, silent=True)
    if DEFAULT not in value:
        sheet.fault(join(path, DEFAULT), "who dialled something else reaches nothing", f"add '{DEFAULT}:'")


def _nodes(sheet: _Sheet, path: str, value: Any) -> None:
    if not isinstance(value, dict) or not value:
        sheet.fault(path, f"the nodes are a mapping with something in it, not {shown(value)}", "add a node")
        return
    for name, node in value.items():
        sheet.here = name
        if not is_name(name):
            sheet.fault(join(path, name), f"{shown(name)} is no name of a node", "use letters, digits, '-' and '_'")
        _node(sheet, join(path, name), node)


def _node(sheet: _Sheet, path: str, node: Any) -> None:
    kind = node.get("type") if isinstance(node, dict) else None
    if isinstance(kind, str) and kind in NODES:
        meant = sheet.mapping(path, node, NODES[kind], f"a {kind} node")
        if kind == "schedule" and meant is not None:
            _check_covered(sheet, path, meant)
        return
    if not isinstance(node, dict):
        sheet.fault(path, f"a node is a mapping, not {shown(node)}", "give it a type and its keys")
        return
    mend = sheet.guess(kind, NODES) or f"write one of {', '.join(NODES)}"
    sheet.fault(join(path, "type"), "a node needs a type" if kind is None else f"{shown(kind)} is no type", mend)
    for text in _texts(node):
        if text in sheet.nodes:
            sheet.way(text, silent=False)  # what it meant to lead to is not unreachable as well


# Schedules.


def _zone(sheet: _Sheet, path: str, value: Any) -> None:
    if sheet.text(path, value, "a time zone") and not schedule.is_zone(value):
        sheet.fault(path, f"{shown(value)} is no time zone known here", "write an IANA name such as Europe/London")


def _list_of(parse: Callable[[str], Any], example: str) -> Callable[[_Sheet, str, Any], list[Any] | None]:
    def check_list(sheet: _Sheet, path: str, value: Any) -> list[Any] | None:
        before = len(sheet.faults)
        found = []
        for where, item in sheet.items(path, value, example):
            if not sheet.text(where, item, "it"):
                continue
            try:
                found.append(parse(item))
            except ValueError as error:
                sheet.fault(where, f"{shown(item)} {error}", f"write it as in {example}")
        return found if len(sheet.faults) == before else None

    return check_list


def _week(sheet: _Sheet, path: str, value: Any) -> int | None:
    """The minutes of the week that the rules hold, or None when one of them is faulty."""
    held: int | None = 0
    union = 0
    for where, rule in sheet.items(path, value, "[{days: [mon-fri], next: NODE}]"):
        minutes = _minutes(sheet.mapping(where, rule, WEEK_RULE, "a rule of the week") or {})
        if minutes is None:
            held = None
            continue
        if both := union & minutes:
            why = f"at {schedule.first_minute(both)} an earlier rule of the week holds too"
            sheet.fault(where, why, "let each time be in one rule of the week only")
        union |= minutes
    return union if held is not None else None


def _minutes(rule: dict[str, Any]) -> int | None:
    days, hours = rule.get("days"), _hours_of(rule)
    if days is None or hours is None:
        return None
    return schedule.on_days([day for some in days for day in some], hours)


def _hours_of(rule: dict[str, Any]) -> int | None:
    if "hours" not in rule:
        return schedule.WHOLE_DAY
    if rule["hours"] is None:
        return None
    minutes = 0
    for some in rule["hours"]:
        minutes |= some
    return minutes


def _calendar(sheet: _Sheet, path: str, value: Any) -> None:
    earlier: list[tuple[schedule.Dates, int, str]] = []
    for where, rule in sheet.items(path, value, '[{dates: ["12-25"], next: NODE}]'):
        meant = sheet.mapping(where, rule, CALENDAR_RULE, "a rule of the calendar") or {}
        days, hours = meant.get("dates") or [], _hours_of(meant) or 0
        sheet.dates += len(days)
        if sheet.dates > MOST_DATES:
            sheet.fault(where, f"more than {MOST_DATES} dates in one callflow", "join days into ranges, drop past ones")
            return
        clash = next((at for other, theirs, at in earlier if hours & theirs and _share(days, other)), None)
        if clash is not None:
            sheet.fault(
                where,
                f"it shares a day and its hours with {clash}",
                "let each time be in one rule of the calendar only",
            )
        earlier += [(day, hours, where) for day in days]


def _share(days: list[schedule.Dates], other: schedule.Dates) -> bool:
    return any(schedule.share_a_day(day, other) for day in days)


def _check_covered(sheet: _Sheet, path: str, meant: dict[str, Any]) -> None:
    if "week" not in meant and "calendar" not in meant:
        sheet.fault(join(path, "week"), "a schedule node needs 'week' or 'calendar'", "add 'week:'")
    elif "otherwise" not in meant:
        held = meant.get("week", 0)
        if held is not None and held != schedule.WHOLE_WEEK:
            gap = schedule.first_minute(schedule.WHOLE_WEEK & ~held)
            why = f"a dead end: at {gap} no rule of the week holds"
            sheet.fault(join(path, "otherwise"), why, "add 'otherwise:', or rules for the whole week")


# The table of the language.

_GO = Part(_next, must=True, missing="a dead end: nothing follows here")
_GO_IF = Part(_next, must=False)
_TYPE = Part(_said, must=True)
_HEARD = Part(_prompt, must=True)
_HEARD_IF = Part(_prompt, must=False)
_BOX = Part(_mailbox, must=True)
_HOURS = Part(_list_of(schedule.parse_hours, '["09:00-17:30"]'), must=False)

TOP = {
    "schema": Part(_said, must=True),
    "title": Part(_title, must=False),
    "start": Part(_start, must=True),
    "nodes": Part(_nodes, must=True),
}
NODES: dict[str, dict[str, Part]] = {
    "greet": {"type": _TYPE, "mailbox": _BOX, "greeting": Part(_greeting, must=False), "next": _GO},
    "play": {"type": _TYPE, "prompt": _HEARD, "next": _GO},
    "menu": {
        "type": _TYPE,
        "prompt": _HEARD,
        "choices": Part(_choices, must=True),
        "wait": Part(_count(1, 60, "seconds"), must=False),
        "tries": Part(_count(1, 9, "tries"), must=False),
        "otherwise": _GO,
    },
    "record": {
        "type": _TYPE,
        "mailbox": _BOX,
        "prompt": _HEARD_IF,
        "longest": Part(_count(1, 3600, "seconds"), must=False),
        "next": _GO_IF,
    },
    "transfer": {
        "type": _TYPE,
        "to": Part(_dialled, must=True),
        "prompt": _HEARD_IF,
        "ring": Part(_count(5, 300, "seconds"), must=False),
        "otherwise": Part(_if_unanswered, must=False),
    },
    "hangup": {"type": _TYPE, "prompt": _HEARD_IF},
    "schedule": {
        "type": _TYPE,
        "zone": Part(_zone, must=True),
        "calendar": Part(_calendar, must=False),
        "week": Part(_week, must=False),
        "otherwise": _GO_IF,
    },
}
WEEK_RULE = {"days": Part(_list_of(schedule.parse_days, "[mon-fri]"), must=True), "hours": _HOURS, "next": _GO}
CALENDAR_RULE = {"dates": Part(_list_of(schedule.parse_dates, '["12-25"]'), must=True), "hours": _HOURS, "next": _GO}


# The way through it.


def _check_ways(sheet: _Sheet) -> None:
    """A fault for each node that nobody reaches, and for each ring that a silent caller never leaves."""
    to = {name: [way.target for way in those] for name, those in sheet.ways.items()}
    reached = ways.reached(None, to)
    for name in sheet.nodes:
        if name not in reached:
            sheet.fault(join("nodes", name), "no start point leads here", "lead to it from another node, or remove it")
    silent = {name: [way.target for way in sheet.ways.get(name, []) if way.silent] for name in sheet.nodes}
    for ring in ways.rings(silent, most=_MOST_RINGS):
        steps = [in_path(name) for name in (*ring, ring[0])]
        if len(steps) > _LONGEST_RING_SHOWN:
            steps[_LONGEST_RING_SHOWN - 2 : -1] = ["..."]
        why = f"a caller who presses nothing never leaves: {' -> '.join(steps)}"
        sheet.fault(join("nodes", ring[0]), why, "let one of them lead to a hangup, a transfer or a last recording")


# Words.


def _schema_words(document: dict[str, Any]) -> tuple[str, str]:
    if "schema" not in document:
        return "a callflow to be checked names its schema", f"add 'schema: {SCHEMA}'"
    why = f"{shown(document['schema'])} is no schema that this vmctl knows"
    return why, f"write 'schema: {SCHEMA}', or update vmctl if it is of a later one"


def _texts(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict | list):
            todo += one.values() if isinstance(one, dict) else one

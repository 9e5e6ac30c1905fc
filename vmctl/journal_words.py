"""The entries of a journal as people read them: one line for each."""

from __future__ import annotations

import json
from typing import Any

from vmctl.chain import OURS, Entry
from vmctl.view import View


def words(entry: Entry) -> str:
    """One readable line for an entry: its number, when, at which service, what, why and by whom. Never fails."""
    match entry.get("kind"):
        case "transition":
            said = _transition(entry)
        case "agreed":
            said = _agreed(entry.get("name"), entry.get("value"), entry.get("by"))
        case "start":
            said = f"{entry.get('server')} was started"
        case "rotation":
            said = "a new file was begun"
        case "event":
            rest = [f"{name} {value}" for name, value in sorted(entry.items()) if name not in {*OURS, "event"}]
            said = ", ".join([str(entry.get("event")), *rest])
        case "unreadable":
            said = f"this line cannot be read: {entry.get('text')}"
        case other:
            said = f"{other} (written by another version of vmctl)"
    about = f"{entry['service']}: " if "service" in entry else ""
    line = f"{entry.get('seq', '?')!s:>5}  {entry.get('at', '?')!s:<24}  {about}{said}"
    return "".join(char if char.isprintable() else "?" for char in line)


def _transition(entry: Entry) -> str:
    try:
        before, after = View.from_json(entry.get("from")), View.from_json(entry.get("to"))
    except ValueError as error:
        return f"a transition that cannot be read: {error}"
    one, two = (f"{view.state} ({view.serving or 'nobody'})" for view in (before, after))
    return f"{one} -> {two}, epoch {after.epoch.number}: {entry.get('reason')} [by {entry.get('by')}]"


def _agreed(name: Any, value: Any, by: Any) -> str:
    match name, value:
        case "mode", {"mode": mode}:
            said = f"the mode is {mode}"
        case "pause", {"on": True, "until": str(until)}:
            said = f"paused until {until}"
        case "pause", {"on": True}:
            said = "paused until a person says 'vmctl resume'"
        case "pause", {"on": False}:
            said = "resumed"
        case _:
            said = f"{name} is {json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)}"
    first = f", first by {value['by']}" if by == "peer" and isinstance(value, dict) and "by" in value else ""
    return f"{said} [by {by}{first}]"

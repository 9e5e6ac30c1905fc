"""The document that tells others of a transition, or of who serves now: flat JSON, the same for hooks and webhooks.

docs/hooks.md is its contract. Nothing here reads a clock or a disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmctl.clock import rfc3339
from vmctl.view import View

if TYPE_CHECKING:
    from vmctl.chain import Entry

VERSION: Final = 1
NOTE: Final = "telling"  # where the index holds who was told what, by channel
_HASH = 12  # digits: a journal that was begun anew has the same numbers again


class Source(NamedTuple):
    """Who tells: the network, its mode, and the server."""

    network: str
    mode: str
    server: str


def of_transition(entry: Entry, who: Source, hook: str) -> dict[str, Any] | None:
    """What is told of a line of the journal; None unless it is a transition that can be read. It is always the same."""
    if entry.get("kind") != "transition":
        return None
    try:
        before, after = View.from_json(entry.get("from")), View.from_json(entry.get("to"))
    except ValueError:
        return None
    return _document(who, hook, after, after.serving, active=after.serving == who.server) | {
        "id": f"{who.network}-{who.server}-{entry['seq']}-{entry['hash'][:_HASH]}",
        "from_state": before.state,
        "from_serving": before.serving,
        "reason": str(entry.get("reason", "")),
        "by": str(entry.get("by", "")),
        "at": str(entry.get("at", "")),
    }


def of_role(view: View, last: Entry | None, who: Source, hook: str, *, active: bool) -> dict[str, Any]:
    """What is told of a service's present state; `last` is the transition that led to it, where there was one.

    A server that may not serve any more, though its view still says so, is served by nobody as far as it knows.
    """
    of_last = of_transition(last, who, hook) if last else None
    serving = None if view.serving == who.server and not active else view.serving
    now = _document(who, hook, view, serving, active=active)
    if of_last is not None and of_last["epoch"] == view.epoch.number and of_last["state"] == view.state:
        return of_last | now
    at = rfc3339(view.since) if view.since else ""
    return now | {"id": None, "from_state": None, "from_serving": None, "reason": "", "by": "vmctl", "at": at}


def untold(note: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What could not be told, by that note: which hook or webhook, of which service, how often, since when and why."""
    return [channel["failure"] for channel in (note or {}).values() if channel["failure"]]


def _document(who: Source, hook: str, view: View, serving: str | None, *, active: bool) -> dict[str, Any]:
    return {
        "v": VERSION,
        "hook": hook,
        "network": who.network,
        "mode": who.mode,
        "server": who.server,
        "service": view.service,
        "home": view.home,
        "role": "active" if active else "standby",
        "state": view.state,
        "serving": serving,
        "epoch": view.epoch.number,
        "epoch_by": view.epoch.server,
        "cause": view.cause,
    }

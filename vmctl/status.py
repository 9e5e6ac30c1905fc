"""Who serves whom, since when and why; what is pending; whether the stores are in step. Reads, and changes nothing.

It reads what the daemons and commands left on disk, so it answers with and without a daemon, and starts fast: none of
the rooms that ship or receive is imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl import identity
from vmctl.clock import Clock, rfc3339
from vmctl.contact import Contact
from vmctl.durable import lock_told
from vmctl.errors import DiskFull, StoreUnusable
from vmctl.index import Index
from vmctl.journal import Journal
from vmctl.parked import listing
from vmctl.spool import Spool
from vmctl.trouble import Trouble, from_text, probe
from vmctl.view import View, fresh_view, newer, role

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.config import Config, Server


class _Local(NamedTuple):
    """What one store on this host knows."""

    server: Server
    memory: Index | None  # None before the first scan, or where it cannot be opened
    contact: Contact | None
    views: dict[str, View]
    runs: str | None
    trouble: Trouble | None

    def note(self, name: str) -> Any:
        return self.memory.note(name) if self.memory else None


def gather(config: Config, clock: Clock) -> dict[str, Any]:
    """The status as `vmctl status --json` prints it; docs/status.md is its contract.

    Raises StoreMissing, StoreForeign, ... for a store of this host, and JournalBroken.
    """
    here = [_local(config, server, clock) for server in config.here()]
    try:
        views = _views(config, here)
        return {
            "network": config.network,
            "mode": config.mode,
            "in_step": all(_in_step(local, here) for local in here),
            "services": [_service(view, here) | {"split": _split(name, here)} for name, view in views.items()],
            "servers": {name: _server(name, here, views) for name in config.servers},
            "config_differs": any(_config_differs(config, local) for local in here),
        }
    finally:
        for local in here:
            if local.memory is not None:
                local.memory.close()


def _local(config: Config, server: Server, clock: Clock) -> _Local:
    assert server.store is not None  # noqa: S101 - it is here
    identity.read(server.store, config.network, server.name)
    state = _state(server)
    told = lock_told(state / "serve.lock")
    runs, _, said = (told or "").partition("\n")
    trouble = from_text(said) or probe(server.store)
    index = None
    try:
        index = Index.to_read(state / "index.db") if (state / "index.db").exists() else None
    except (DiskFull, StoreUnusable) as error:
        trouble = trouble or Trouble.of(error)
    contact = Contact(index, clock, config.failover.after) if index else None
    homes = {name: service.home for name, service in config.services.items()}
    return _Local(server, index, contact, Journal(state / "journal.jsonl").views(homes), runs or None, trouble)


def _state(server: Server) -> Path:
    assert server.store is not None  # noqa: S101 - it is here
    return server.store / identity.DIRECTORY


def _split(service: str, here: list[_Local]) -> bool:
    """Whether both servers serve, as far as the stores of this host tell."""
    return len([local for local in here if local.runs and local.views[service].serving == local.server.name]) > 1


def _views(config: Config, here: list[_Local]) -> dict[str, View]:
    """For each service the newest view that a store of this host, or the peer's newest fresh mail, holds.

    Where a daemon runs, what a store without one remembers is of the past.
    """
    here = [local for local in here if local.runs is not None] or here
    views = {}
    for name, service in config.services.items():
        best = fresh_view(name, service.home)
        for view in [*(local.views[name] for local in here), *_peer_views(here, name)]:
            later = newer(view.epoch, best.epoch, service.home)
            # a server that stopped and started knows of the epoch, but not that somebody serves in it
            if later or (view.epoch == best.epoch and best.serving is None and view.serving is not None):
                best = view
        views[name] = best
    return views


def _peer_views(here: list[_Local], service: str) -> list[View]:
    found = []
    for local in here:
        if local.contact is not None and local.contact.heard:
            try:
                found.append(View.from_json((local.contact.facts().get("views") or {}).get(service)))
            except (ValueError, AttributeError):
                continue
    return found


def _service(view: View, here: list[_Local]) -> dict[str, Any]:
    waiting: list[str] = []
    for local in here:
        for words in (local.note("waiting") or {}).get(view.service, []):
            if words not in waiting and local.views[view.service].epoch == view.epoch:
                waiting.append(words)
    return {
        "name": view.service,
        "home": view.home,
        "serving": view.serving,
        "state": view.state,
        "epoch": list(view.epoch),
        "since": rfc3339(view.since) if view.since else None,
        "cause": view.cause,
        "waiting_for": waiting,
    }


def _server(name: str, here: list[_Local], views: dict[str, View]) -> dict[str, Any]:
    local = next((one for one in here if one.server.name == name), None)
    other = next((one for one in here if one.server.name != name), None)
    heard = other.contact.last_heard() if other and other.contact else None
    facts = other.contact.facts() if other and other.contact else {}
    value: dict[str, Any] = {
        "role": role(name, views.values()),
        "reachable": _reachable(local, other),
        "last_heard": rfc3339(heard) if heard else None,
        "here": local is not None,
        "daemon": None if local is None else bool(local.runs and local.runs.startswith("vmctl serve")),
        "pending": facts.get("pending"),
        "oldest_pending": None,
        "last_sync": None,
        "records": None,
        "conflicts": None,
        "faults": [],
        "parked": [],
        "link": None,
        "clock_skew": other.contact.skew() if other and other.contact else None,
        "trouble": local.trouble.as_json() if local and local.trouble else None,
    }
    if local is not None and local.memory is not None:
        step = int(local.memory.meta("in_step_at", "0"))
        oldest = local.memory.oldest_pending()
        value |= {
            "pending": local.memory.pending_count(),
            "oldest_pending": rfc3339(oldest) if oldest else None,
            "last_sync": rfc3339(step) if step else None,
            "records": local.memory.count("lives"),
            "conflicts": local.memory.count("kind = 'conflict' AND lives"),
            "faults": [{**fault, "since": rfc3339(fault["since"])} for fault in local.memory.faults.all()],
            "parked": listing(local.memory, Spool(_state(local.server))),
            "link": _link(local),
        }
    elif local is not None:
        value["pending"] = None
    return value


def _link(local: _Local) -> dict[str, Any] | None:
    """Why no mail of this server gets through; None where the last one did."""
    link = local.note("link")
    return {**link, "since": rfc3339(link["since"])} if link else None


def _reachable(local: _Local | None, other: _Local | None) -> bool:
    """Whether it runs here, or the other server heard it lately; alone on its host, a server can reach itself."""
    if local is not None and local.runs is not None:
        return True
    if other is not None and other.contact is not None:
        return other.contact.heard
    return local is not None and other is None


def _in_step(local: _Local, here: list[_Local]) -> bool:
    if local.memory is None or local.memory.pending_count() or local.memory.count("todo"):
        return False
    others = [one for one in here if one is not local]
    if others:
        return all(one.memory is not None and one.memory.digest == local.memory.digest for one in others)
    facts = local.contact.facts() if local.contact else {}
    return facts.get("pending") == 0 and facts.get("digest") == local.memory.digest


def _config_differs(config: Config, local: _Local) -> bool:
    theirs = (local.contact.facts() if local.contact else {}).get("config")
    return theirs is not None and theirs != config.digest

"""Who serves whom, since when and why; what is pending; whether the stores are in step. Reads, and changes nothing.

It reads what the daemons and commands left on disk, so it answers with and without a daemon, and starts fast: none of
the rooms that ship or receive is imported here. Where an index or a journal is damaged it tells what the rest knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl import identity
from vmctl.clock import Clock, rfc3339
from vmctl.contact import Contact
from vmctl.durable import lock_told
from vmctl.errors import DiskFull, IndexDamaged, JournalError, StoreNewer, StoreUnusable
from vmctl.journal import Journal
from vmctl.parked import listing
from vmctl.rejoin import to_read
from vmctl.spool import Spool
from vmctl.trouble import Trouble, from_text, probe
from vmctl.view import View, fresh_view, newer, role

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.config import Config, Server


class _Memory(NamedTuple):
    """What the index of a store tells. It is all read at once: damage may show at any page of it."""

    heard: bool
    last_heard: int | None
    facts: dict[str, Any]  # what the peer said of itself
    skew: float | None
    waiting: dict[str, list[str]]
    pending: int
    todo: int
    digest: str
    own: dict[str, Any]  # what of it is told as it is, by the names of docs/status.md


class _Local(NamedTuple):
    """What one store on this host knows."""

    server: Server
    memory: _Memory | None  # None before the first scan, or where it cannot be read
    views: dict[str, View]  # none where the journal cannot be trusted
    runs: str | None
    trouble: Trouble | None
    damaged: list[Trouble]


def gather(config: Config, clock: Clock) -> dict[str, Any]:
    """The status as `vmctl status --json` prints it; docs/status.md is its contract.

    Raises StoreMissing, StoreForeign, ... for a store of this host.
    """
    here = [_local(config, server, clock) for server in config.here()]
    views, known = _views(config, here)
    return {
        "network": config.network,
        "mode": config.mode,
        "in_step": all(_in_step(local, here) for local in here),
        "services": [
            _service(view, here) | {"split": _split(name, here), "known": name in known} for name, view in views.items()
        ],
        "servers": {name: _server(name, here, views) for name in config.servers},
        "config_differs": any(_config_differs(config, local) for local in here),
    }


def _local(config: Config, server: Server, clock: Clock) -> _Local:
    assert server.store is not None  # noqa: S101 - it is here
    identity.read(server.store, config.network, server.name)
    state = _state(server)
    told = lock_told(state / "serve.lock")
    runs, _, said = (told or "").partition("\n")
    trouble = from_text(said) or probe(server.store)
    memory, views, damaged = None, {}, []
    journal = Journal(state / "journal.jsonl")
    try:
        memory = _memory(config, server, journal, clock)
    except (DiskFull, StoreUnusable) as error:
        trouble = trouble or Trouble.of(error)
    except (IndexDamaged, StoreNewer) as error:
        damaged.append(Trouble.of(error))
    try:
        views = journal.views({name: service.home for name, service in config.services.items()})
    except JournalError as error:
        damaged.append(Trouble.of(error))
    return _Local(server, memory, views, runs or None, trouble, damaged)


def _memory(config: Config, server: Server, journal: Journal, clock: Clock) -> _Memory | None:
    """What the index tells; None where there never was one. Raises IndexDamaged, StoreUnusable, ..."""
    index = to_read(_state(server) / "index.db", journal, server.name)
    if index is None:
        return None
    try:
        contact = Contact(index, clock, config.failover.after)
        step, oldest, link = int(index.meta("in_step_at", "0")), index.oldest_pending(), index.note("link")
        pending = index.pending_count()
        own = {
            "pending": pending,
            "oldest_pending": rfc3339(oldest) if oldest else None,
            "last_sync": rfc3339(step) if step else None,
            "records": index.count("lives"),
            "conflicts": index.count("kind = 'conflict' AND lives"),
            "faults": [{**fault, "since": rfc3339(fault["since"])} for fault in index.faults.all()],
            "parked": listing(index, Spool(_state(server))),
            "link": {**link, "since": rfc3339(link["since"])} if link else None,
        }
        return _Memory(
            contact.heard, contact.last_heard(), contact.facts(), contact.skew(), index.note("waiting") or {},
            pending, index.unwritten(), index.digest, own,
        )  # fmt: skip
    finally:
        index.close()


def _state(server: Server) -> Path:
    assert server.store is not None  # noqa: S101 - it is here
    return server.store / identity.DIRECTORY


def _split(service: str, here: list[_Local]) -> bool:
    """Whether both servers serve, as far as the stores of this host tell."""
    serving = {local.server.name: view.serving for local in here if local.runs and (view := local.views.get(service))}
    return len([name for name, server in serving.items() if name == server]) > 1


def _views(config: Config, here: list[_Local]) -> tuple[dict[str, View], set[str]]:
    """For each service the newest view that a store of this host, or the peer's newest fresh mail, holds.

    Where a daemon runs, what a store without one remembers is of the past. Also the services that anything is known of.
    """
    journals = [local.views for local in here if local.runs is not None] or [local.views for local in here]
    views, known = {}, set()
    for name, service in config.services.items():
        best = fresh_view(name, service.home)
        told = [*(journal[name] for journal in journals if journal), *_peer_views(here, name)]
        for view in told or [local.views[name] for local in here if local.views]:
            known.add(name)
            later = newer(view.epoch, best.epoch, service.home)
            # a server that stopped and started knows of the epoch, but not that somebody serves in it
            if later or (view.epoch == best.epoch and best.serving is None and view.serving is not None):
                best = view
        views[name] = best
    return views, known


def _peer_views(here: list[_Local], service: str) -> list[View]:
    found = []
    for local in here:
        if local.memory is not None and local.memory.heard:
            try:
                found.append(View.from_json((local.memory.facts.get("views") or {}).get(service)))
            except (ValueError, AttributeError):
                continue
    return found


def _service(view: View, here: list[_Local]) -> dict[str, Any]:
    waiting: list[str] = []
    for local in here:
        mine = local.views.get(view.service)
        for words in local.memory.waiting.get(view.service, []) if local.memory else ():
            if words not in waiting and mine is not None and mine.epoch == view.epoch:
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
    heard = other.memory if other else None
    value: dict[str, Any] = {
        "role": role(name, views.values()),
        "reachable": _reachable(local, other),
        "last_heard": rfc3339(heard.last_heard) if heard and heard.last_heard else None,
        "here": local is not None,
        "daemon": None if local is None else bool(local.runs and local.runs.startswith("vmctl serve")),
        "pending": heard.facts.get("pending") if heard and local is None else None,
        "oldest_pending": None,
        "last_sync": None,
        "records": None,
        "conflicts": None,
        "faults": [],
        "parked": [],
        "link": None,
        "clock_skew": heard.skew if heard else None,
        "trouble": local.trouble.as_json() if local and local.trouble else None,
        "damaged": [each.as_json() for each in local.damaged] if local else [],
    }
    return value | (local.memory.own if local is not None and local.memory is not None else {})


def _reachable(local: _Local | None, other: _Local | None) -> bool:
    """Whether it runs here, or the other server heard it lately; alone on its host, a server can reach itself."""
    if local is not None and local.runs is not None:
        return True
    if other is not None and other.memory is not None:
        return other.memory.heard
    return local is not None and other is None


def _in_step(local: _Local, here: list[_Local]) -> bool:
    if local.memory is None or local.memory.pending or local.memory.todo:
        return False
    others = [one for one in here if one is not local]
    if others:
        return all(one.memory is not None and one.memory.digest == local.memory.digest for one in others)
    return local.memory.facts.get("pending") == 0 and local.memory.facts.get("digest") == local.memory.digest


def _config_differs(config: Config, local: _Local) -> bool:
    theirs = local.memory.facts.get("config") if local.memory else None
    return theirs is not None and theirs != config.digest

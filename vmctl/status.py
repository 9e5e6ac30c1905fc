"""Who serves whom, since when and why; what is pending; whether the stores are in step. Reads, and changes nothing.

It reads what the daemons and commands left on disk, so it answers with and without a daemon, and starts fast: none of
the rooms that ship or receive is imported here. Where an index or a journal is damaged it tells what the rest knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl import beneath, identity, strays
from vmctl.agreement import Agreed
from vmctl.at_work import DAEMON, LOCK
from vmctl.clock import Clock, rfc3339
from vmctl.contact import Contact
from vmctl.durable import lock_told
from vmctl.errors import DiskFull, IndexDamaged, JournalError, StoreNewer, StoreUnusable
from vmctl.journal import Journal
from vmctl.knowledge import NO_NOTES, Known, Notes, agreed_by, answer_of, is_split, newest, notes_of, state_of
from vmctl.notice import NOTE, untold
from vmctl.parked import listing
from vmctl.rejoin import to_read
from vmctl.routing import Moment
from vmctl.spool import Spool
from vmctl.trouble import Trouble, from_text, probe
from vmctl.view import View, role

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.config import Config, Server
    from vmctl.routing import Answer


_BOUNCES_FOR = 8 * 86_400_000_000  # microseconds
_STILL = 30_000_000  # microseconds; a daemon turns once a second, but for the scan of a large store


class _Memory(NamedTuple):
    """What the index of a store tells. It is all read at once: damage may show at any page of it."""

    heard: bool
    last_heard: int | None
    facts: dict[str, Any]  # what the peer said of itself
    skew: float | None
    notes: Notes
    pending: int
    todo: int
    digest: str
    scanned: bool  # whether all of the store was looked at, once
    paused: dict[str, Any] | None  # the pause that is on
    own: dict[str, Any]  # what of it is told as it is, by the names of docs/status.md


class _Local(NamedTuple):
    """What one store on this host knows."""

    server: Server
    memory: _Memory | None  # None before the first scan, or where it cannot be read
    known: Known
    trouble: Trouble | None
    damaged: list[Trouble]
    still_since: int | None  # the wall time of the last turn of a daemon that stands still


def gather(config: Config, clock: Clock) -> dict[str, Any]:
    """The status as `vmctl status --json` prints it; docs/status.md is its contract.

    Raises StoreMissing, StoreForeign, ... for a store of this host.
    """
    here = [_local(config, server, clock) for server in config.here()]
    known = [local.known for local in here]
    agreed = agreed_by(known)
    views, told = newest(known)
    now = Moment(clock.steady(), clock.boot())
    answers = {name: answer_of(config, now, view, known) for name, view in views.items()}
    services = [
        _service(view, answers[name], is_split=is_split(config, now, name, known), is_known=name in told)
        for name, view in views.items()
    ]
    # who may not serve, as its lease is over, is not active
    served = [
        view if answers[name].server == view.serving else view.started(view.since) for name, view in views.items()
    ]
    return {
        "network": config.network,
        "mode": agreed.mode,
        "paused": _pause(here),
        "in_step": all(_in_step(local, here) for local in here),
        "services": services,
        "servers": {name: _server(name, here, served) for name in config.servers},
        "config_differs": any(_config_differs(config, local) for local in here),
        "config_keys": sorted({key for local in here for key in _differing(config, local)}),
    }


def _local(config: Config, server: Server, clock: Clock) -> _Local:
    state = state_of(server)
    identity.read(state.parent, config.network, server.name)
    told = lock_told(state / LOCK)
    runs, _, said = (told or "").partition("\n")
    trouble = from_text(said) or probe(state.parent)
    memory, views, damaged = None, {}, []
    agreed = Agreed(config, {})
    journal = Journal(state / "journal.jsonl")
    try:
        memory = _memory(config, server, journal, clock)
    except (DiskFull, StoreUnusable) as error:
        trouble = trouble or Trouble.of(error)
    except (IndexDamaged, StoreNewer) as error:
        damaged.append(Trouble.of(error))
    try:
        agreed = Agreed.by(journal, config)
        views = journal.views(agreed.homes)
    except JournalError as error:
        damaged.append(Trouble.of(error))
    known = Known(server.name, runs or None, views, agreed, memory.notes if memory else NO_NOTES)
    return _Local(server, memory, known, trouble, damaged, _still_since(state / LOCK, runs, clock))


def _still_since(lock: Path, runs: str, clock: Clock) -> int | None:
    """When a daemon turned last that does not any more; it shows each turn by the time of its lock."""
    if not runs.startswith(DAEMON):
        return None
    try:
        turned = beneath.status(lock).st_mtime_ns // 1000
    except OSError:
        return None
    return turned if clock.wall() - turned > _STILL else None


def _memory(config: Config, server: Server, journal: Journal, clock: Clock) -> _Memory | None:
    """What the index tells; None where there never was one. Raises IndexDamaged, StoreUnusable, ..."""
    index = to_read(state_of(server) / "index.db", journal, server.name)
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
            "parked": listing(index, Spool(state_of(server))),
            "untold": [{**one, "since": rfc3339(one["since"])} for one in untold(index.note(NOTE))],
            "bounces": [_bounce(each) for each in index.letters.told(max(step, clock.wall() - _BOUNCES_FOR))],
            "link": {**link, "since": rfc3339(link["since"])} if link else None,
            "surroundings": index.note("probes"),
            "arbiter": index.note("arbiter"),
        }
        return _Memory(
            contact.heard, contact.last_heard(), contact.facts(), contact.skew(), notes_of(index, contact),
            pending, index.unwritten(), index.digest, index.was_scanned, index.note("paused"), own,
        )  # fmt: skip
    finally:
        index.close()


def _bounce(told: dict[str, Any]) -> dict[str, Any]:
    return {**told, "left": rfc3339(told["left"]), "told": rfc3339(told["told"])}


def _pause(here: list[_Local]) -> dict[str, Any] | None:
    """The pause that is on, as any server of this host knows it."""
    return next((local.memory.paused for local in here if local.memory is not None and local.memory.paused), None)


def _service(view: View, answer: Answer, *, is_split: bool, is_known: bool) -> dict[str, Any]:
    return {
        "name": view.service,
        "home": view.home,
        "serving": answer.server,
        "state": view.state,
        "epoch": list(view.epoch),
        "since": rfc3339(view.since) if view.since else None,
        "cause": view.cause,
        "waiting_for": list(answer.waiting_for),
        "split": is_split,
        "known": is_known,
    }


def _server(name: str, here: list[_Local], views: list[View]) -> dict[str, Any]:
    local = next((one for one in here if one.server.name == name), None)
    other = next((one for one in here if one.server.name != name), None)
    heard = other.memory if other else None
    value: dict[str, Any] = {
        "role": role(name, views),
        "reachable": _reachable(local, other),
        "last_heard": rfc3339(heard.last_heard) if heard and heard.last_heard else None,
        "here": local is not None,
        "daemon": None if local is None else bool(local.known.runs and local.known.runs.startswith(DAEMON)),
        "still_since": rfc3339(local.still_since) if local and local.still_since else None,
        "pending": heard.facts.get("pending") if heard and local is None else None,
        "oldest_pending": None,
        "last_sync": None,
        "records": None,
        "conflicts": None,
        "faults": [],
        "parked": [],
        "untold": [],
        "bounces": [],
        "strays": strays.read(state_of(local.server)) if local is not None else {},
        "link": None,
        "surroundings": None,
        "arbiter": None,
        "clock_skew": heard.skew if heard else None,
        "trouble": local.trouble.as_json() if local and local.trouble else None,
        "damaged": [each.as_json() for each in local.damaged] if local else [],
    }
    return value | (local.memory.own if local is not None and local.memory is not None else {})


def _reachable(local: _Local | None, other: _Local | None) -> bool:
    """Whether it runs here, or the other server heard it lately; alone on its host, a server can reach itself."""
    if local is not None and local.known.runs is not None:
        return True
    if other is not None and other.memory is not None:
        return other.memory.heard
    return local is not None and other is None


def _in_step(local: _Local, here: list[_Local]) -> bool:
    if local.memory is None or not local.memory.scanned or local.memory.pending or local.memory.todo:
        return False
    others = [one for one in here if one is not local]
    if others:
        return all(one.memory is not None and one.memory.digest == local.memory.digest for one in others)
    return local.memory.facts.get("pending") == 0 and local.memory.facts.get("digest") == local.memory.digest


def _config_differs(config: Config, local: _Local) -> bool:
    theirs = local.memory.facts.get("config") if local.memory else None
    return theirs is not None and theirs != config.digest


def _differing(config: Config, local: _Local) -> list[str]:
    """The keys that differ, where the peer has told its own."""
    told = local.memory.facts.get("config_keys") if local.memory and _config_differs(config, local) else None
    return config.differing(told) if told else []

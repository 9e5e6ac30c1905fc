"""What the stores of this host know of who serves, with and without a daemon: the ground of every answer.

It is read from the journals, and from what the indexes hold of the roles. Nothing here changes anything, and none of
the rooms that ship or receive is imported: `vmctl status` and `vmctl route` must start fast.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl import identity
from vmctl.agreement import MODE, Agreed
from vmctl.at_work import LOCK
from vmctl.contact import Contact
from vmctl.durable import lock_told
from vmctl.errors import JournalError, NotFound, StoreError
from vmctl.journal import Journal
from vmctl.model import mailbox_key
from vmctl.rejoin import to_read
from vmctl.routing import Answer, Moment, answer, moment_of
from vmctl.view import View, fresh_view, newer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vmctl.clock import Clock
    from vmctl.config import Config, Server
    from vmctl.index import Index


class Notes(NamedTuple):
    """What an index holds of the roles.

    The peer's views, by a mail that counts; what each service waits for, in words; until when this server may serve
    each service, where an arbiter says so.
    """

    said: dict[str, Any]
    waiting: dict[str, list[str]]
    permits: dict[str, Any]


NO_NOTES = Notes({}, {}, {})


class Known(NamedTuple):
    """What one store knows: what runs on it, if anything, the views of its journal, the notes of its index."""

    server: str
    runs: str | None
    views: dict[str, View]  # none where the journal cannot be trusted
    agreed: Agreed
    notes: Notes = NO_NOTES
    damage: JournalError | None = None  # why the journal cannot be trusted


def notes_of(index: Index, contact: Contact) -> Notes:
    """What an index holds of the roles."""
    said = contact.facts().get("views") if contact.heard else None
    return Notes(said if isinstance(said, dict) else {}, index.note("waiting") or {}, index.note("permits") or {})


# Looking


def look(config: Config, server: Server, clock: Clock) -> Known:
    """What the store of a server of this host knows; a damaged journal or index tells nothing.

    Raises StoreMissing, StoreForeign, ... for what is no store of this server.
    """
    state = state_of(server)
    identity.read(state.parent, config.network, server.name)
    runs = (lock_told(state / LOCK) or "").partition("\n")[0] or None
    journal = Journal(state / "journal.jsonl")
    views, agreed, notes, damage = {}, Agreed(config, {}), NO_NOTES, None
    try:
        agreed = Agreed.by(journal, config)
        views = journal.views(agreed.homes)
    except JournalError as error:
        damage = error
    with contextlib.suppress(StoreError):
        index = to_read(state / "index.db", journal, server.name)
        if index is not None:
            with contextlib.closing(index):
                notes = notes_of(index, Contact(index, clock, config.failover.after))
    return Known(server.name, runs, views, agreed, notes, damage)


def look_at_all(config: Config, clock: Clock, only: str | None = None) -> list[Known]:
    """What the stores of this host know, or the one of the server named `only`.

    One that cannot be used is left out while there is another; else its error is raised.
    """
    found, faults = [], []
    for server in config.here():
        if only in {None, server.name}:
            try:
                found.append(look(config, server, clock))
            except StoreError as error:
                faults.append(error)
    if faults and not found:
        raise faults[0]
    return found


def service_of_mailbox(config: Config, extension: str, only: str | None = None) -> str:
    """The service of an extension that vmctl.yaml lists, or that has a mailbox in a store of this host.

    Raises NotFound, or the error of an index that cannot be read where no other store knows of the mailbox.
    """
    listed = config.service_of_extension(extension)
    if listed is not None:
        return listed.name
    faults = []
    for server in config.here():
        if only in {None, server.name}:
            state = state_of(server)
            try:
                index = to_read(state / "index.db", Journal(state / "journal.jsonl"), server.name)
            except StoreError as error:
                faults.append(error)
                continue
            if index is not None:
                with contextlib.closing(index):
                    entry = index.get(mailbox_key(extension))
                if entry is not None and entry.record.lives:
                    return config.service_of(extension, entry.record.document.get("service"))
    if faults:
        raise faults[0]
    raise NotFound(
        f"no service has the extension {extension}",
        why="no service of vmctl.yaml lists it, and it has no mailbox",
        hint="'vmctl mailbox list' shows the mailboxes",
    )


def state_of(server: Server) -> Path:
    """Where a server of this host keeps what is its own."""
    assert server.store is not None, "it is here"  # noqa: S101
    return server.store / identity.DIRECTORY


# What follows from it


def answers(config: Config, now: Moment, here: list[Known]) -> dict[str, Answer]:
    """Who serves each service. Raises JournalBroken where no journal of this host tells."""
    views, told = newest(here)
    for known in here:
        if known.damage is not None and not told:
            raise known.damage
    return {name: answer_of(config, now, view, here) for name, view in views.items()}


def answer_of(config: Config, now: Moment, view: View, here: list[Known]) -> Answer:
    """Who serves by a view, with what this host knows of permits and of what is awaited."""
    permits = None
    if config.arbiter.endpoints:
        permits = {known.server: moment_of(known.notes.permits.get(view.service)) for known in here}
    awaited = tuple(waiting_for(view, here))
    return answer(view, now, permits=permits, ttl=config.lease.ttl, waiting_for=awaited)


def agreed_by(here: Iterable[Known]) -> Agreed:
    """What the network agreed on, by the newest word that a store of this host has on its mode."""
    return max((known.agreed for known in here), key=lambda one: one.stamp(MODE))


def newest(here: list[Known]) -> tuple[dict[str, View], set[str]]:
    """For each service the newest view that a store of this host, or the peer's newest fresh mail, holds.

    Where a daemon runs, what a store without one remembers is of the past. Also the services that anything is known of.
    """
    journals = [known.views for known in here if known.runs is not None] or [known.views for known in here]
    views, found = {}, set()
    for name, home in agreed_by(here).homes.items():
        best = fresh_view(name, home)
        told = [*(journal[name] for journal in journals if journal), *_said(here, name)]
        for view in told or [known.views[name] for known in here if known.views]:
            found.add(name)
            later = newer(view.epoch, best.epoch, home)
            # a server that stopped and started knows of the epoch, but not that somebody serves in it
            if later or (view.epoch == best.epoch and best.serving is None and view.serving is not None):
                best = view
        views[name] = best
    return views, found


def _said(here: list[Known], service: str) -> list[View]:
    found = []
    for known in here:
        if service in known.notes.said:
            try:
                found.append(View.from_json(known.notes.said[service]))
            except ValueError:
                continue
    return found


def waiting_for(view: View, here: list[Known]) -> list[str]:
    """What a service waits for, in the words of the stores that know this view of it."""
    found: list[str] = []
    for known in here:
        mine = known.views.get(view.service)
        if mine is not None and mine.epoch == view.epoch:
            found += [words for words in known.notes.waiting.get(view.service, []) if words not in found]
    return found


def is_split(config: Config, now: Moment, service: str, here: list[Known]) -> bool:
    """Whether both servers serve, as far as the stores of this host tell."""
    views = {known.server: view for known in here if known.runs and (view := known.views.get(service))}
    return sum(answer_of(config, now, view, here).server == server for server, view in views.items()) > 1

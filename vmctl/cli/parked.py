"""`vmctl parked`: what the other server does not take, and mails of its that cannot be taken in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmctl.cli.app import group
from vmctl.cli.output import emit, note, report, table
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from vmctl.errors import VmctlError

parked = group("What was refused for good: records and mails that wait for a person.")

Ident = Annotated[str, typer.Argument(metavar="ID", help="As `parked list` shows it; its beginning is enough.")]
Some = Annotated[str | None, typer.Argument(metavar="[ID]", help="As `parked list` shows it; its beginning is enough.")]
_SHORT = 60  # characters of a reply in the table


@parked.command("list")
def list_(context: typer.Context) -> None:
    """List what is not sent, or not taken in, until a person says so.

    Example: vmctl parked list --server primary
    """
    session = Session.of(context)
    found, lost = _found(session)
    rows = [(one["id"], one["direction"], _what(one), one["since"], one["tries"], _reply(one)) for one in found]
    if not found and lost is None:
        note("nothing is parked")
    emit(session, found, table(rows, ("id", "way", "what", "since", "tries", "reply")) if found else "")
    if lost is not None:  # what came in is still known by its files
        raise lost


@parked.command("show")
def show(context: typer.Context, ident: Ident) -> None:
    """Show one of them, and the file with its mail.

    Example: vmctl parked show 3f2a9c0d --server primary
    """
    from vmctl import yamltext
    from vmctl.parked import matching

    session = Session.of(context)
    one = matching(ident, _known(session))
    emit(session, one, yamltext.dump(one).rstrip("\n"))


@parked.command("retry")
def retry(
    context: typer.Context,
    ident: Some = None,
    every: Annotated[bool, typer.Option("--all", help="All that is parked and not given up.")] = False,
) -> None:
    """Send it again, or take it in again: when the cause has gone.

    Example: vmctl parked retry --all --server primary
    """
    from vmctl.at_work import DAEMON, who_serves
    from vmctl.round import nudge

    session = Session.of(context)
    ids = _each(session, _chosen(session, ident, every=every), "retry")
    server = session.config.servers[session.server]
    assert server.store is not None  # noqa: S101 - it is here
    runs = who_serves(server.store)
    serves = runs is not None and runs[0] == DAEMON
    if ids and serves:
        nudge(server)
    when = "the daemon does it now" if serves else "the next 'vmctl sync' does it"
    report(session, {"retried": ids}, f"to be tried again: {len(ids)}; {when}" if ids else "nothing is parked")


@parked.command("drop")
def drop(context: typer.Context, ident: Ident) -> None:
    """Give one up. A record stays as it is here, and the stores differ until it changes: `vmctl verify` names it.

    Example: vmctl parked drop 3f2a9c0d --server primary
    """
    from vmctl.parked import IN, matching

    session = Session.of(context)
    one = matching(ident, _known(session))
    ids = _each(session, [one], "drop")
    words = (
        f"the mail {one['id']} is removed: what it brought comes again if the other server was not told that it came"
        if one["direction"] == IN
        else f"{one['record']} stays as it is here and is not offered to the other server at this version: the stores "
        "differ until it changes, and 'vmctl verify' names it"
    )
    report(session, {"dropped": ids}, words)


def _found(session: Session) -> tuple[list[dict[str, Any]], VmctlError | None]:
    """What is parked, and the error that hides what the index knew of it: mails that came in lie in files."""
    from vmctl.errors import IndexDamaged
    from vmctl.parked import listing
    from vmctl.spool import Spool

    spool = Spool(session.store.state)
    try:
        with session.index() as index:
            return listing(index, spool), None
    except IndexDamaged as error:
        return listing(None, spool), error


def _known(session: Session) -> list[dict[str, Any]]:
    """What is parked, where one of it is meant; with an index that is gone only what came in can be."""
    found, lost = _found(session)
    if lost is not None and not found:
        raise lost
    return found


def _chosen(session: Session, ident: str | None, *, every: bool) -> list[dict[str, Any]]:
    from vmctl.parked import matching

    if every == (ident is not None):
        raise typer.BadParameter("Say an ID or --all, and not both.")
    found = _known(session)
    return [one for one in found if not one["given_up"]] if ident is None else [matching(ident, found)]


def _each(session: Session, found: list[dict[str, Any]], order: str) -> list[str]:
    """Carry out an order for each, under the store's lock."""
    if not found:
        return []
    with session.replica() as replica, replica.locked():
        act = {"retry": replica.lot.retry, "drop": replica.lot.drop}[order]
        for one in found:
            act(one["id"])
    return [one["id"] for one in found]


def _what(one: dict[str, Any]) -> str:
    if one["record"] is None:
        return "a mail that came in"
    return str(one["record"]) + (f", bytes {one['bytes'][0]} to {one['bytes'][1]}" if one["bytes"] else "")


def _reply(one: dict[str, Any]) -> str:
    text = ("given up; " if one["given_up"] else "put off; " if one["put_off"] else "") + (
        one["reply"] or "why is not known any more"
    )
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."

"""`vmctl join` and `vmctl reindex`: a server that is new, was replaced, or has lost its index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmctl.cli.output import emit, note, report
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from vmctl.join import Plan
    from vmctl.reindex import Rebuilt

_ONE = {"mailboxes": "mailbox", "messages": "message", "callflows": "callflow", "prompts": "prompt"}


def join(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    new_keys: Annotated[
        bool, typer.Option("--new-keys", help="Make new keys where those that vmctl.yaml names are lost.")
    ] = False,
) -> None:
    """Make the directory that vmctl.yaml names for a server a store of it: a second host, a new disk, a copy.

    With a vmctl.yaml that came from the other host it gives the server its own keys, which never leave this host, and
    prints their code for the other one. Mailboxes that are there stay as they are; the next sync joins them.

    Example: vmctl join --server secondary --dry-run
    """
    from vmctl.clock import Clock
    from vmctl.join import carry_out, plan

    session = Session.of(context)
    if new_keys and session.named_server is None:
        raise typer.BadParameter("say whose, with --server.", param_hint="--new-keys")
    code = None if dry_run else _enrolled(session, new_keys=new_keys)
    planned = plan(session.config, session.server, Clock().wall())
    whose = None if dry_run else carry_out(planned)
    value: dict[str, Any] = {
        "server": planned.server,
        "store": str(planned.root),
        "found": planned.found,
        "set_aside": str(planned.aside) if planned.aside else None,
        "incarnation": whose.incarnation if whose else None,
        "code": code,
    }
    emit(session, value, "\n".join([*_steps(planned, done=not dry_run), *_enrolling(session, code)]))


def _enrolled(session: Session, *, new_keys: bool) -> str | None:
    """See to it that the server is one of this host, and has keys; the code for the other host where they are new."""
    from vmctl import enrol

    name = session.named_server
    if name is not None and session.config.servers[name].store is None:
        session.config = enrol.settle_here(session.config, name)
    session.config, made = enrol.make_keys(session.config, session.server, anew=new_keys)
    away = session.config.peer_of(session.server).store is None
    if made and not away:
        note("both servers are on this host now, which is for trying out: a server's own host makes its keys itself")
    return str(enrol.code_of(session.config, session.server)) if made and away else None


def _enrolling(session: Session, code: str | None) -> list[str]:
    if code is None:
        return []
    from vmctl import enrol, keys

    peer = session.config.peer_of(session.server)
    shown = keys.fingerprint(enrol.public_of(session.config.servers[session.server]))
    theirs = keys.fingerprint(enrol.public_of(peer)) if peer.public_key and peer.seal_key else "not known yet"
    return [
        f"{session.server} has new keys: {shown}",
        f"{peer.name} is trusted as {theirs}: compare with 'vmctl keys fingerprint' on its host",
        f"before that, on the host of {peer.name}: vmctl keys trust CODE, and the code is",
        code,
    ]


def _steps(plan: Plan, *, done: bool) -> list[str]:
    was, would = ("is", "was") if done else ("would be", "would be")
    found = ", ".join(_count(name, count) for name, count in plan.found.items() if count and name != "odd")
    lines = [f"{plan.root} {was} a store of {plan.server}, network {plan.network}"]
    if plan.aside is not None:
        lines.append(f"  the .vmctl of {plan.former} {would} set aside as {plan.aside.name}, and is not used")
    if found:
        lines.append(f"  it holds {found}: they stay, and are joined with what the other server holds")
    else:
        lines.append("  it holds nothing: all that the other server holds comes from there")
    if plan.found["odd"]:
        lines.append(f"  {plan.found['odd']} names in it belong to nothing: 'vmctl status' will list them")
    lines.append("next: vmctl serve, or vmctl sync" if done else "nothing was changed")
    return lines


def _count(name: str, count: int) -> str:
    if name == "settings":
        return name
    return f"{count} {_ONE[name] if count == 1 else name}"


def reindex(context: typer.Context) -> None:
    """Set the index of a store aside and build a new one from the files: for one that is damaged or not to be trusted.

    The next sync joins the store with the other server's. A daemon that runs here goes on with the new index.

    Example: vmctl reindex --server primary
    """
    import time

    from vmctl.at_work import DAEMON, who_serves
    from vmctl.clock import Clock
    from vmctl.reindex import rebuild

    session = Session.of(context)
    root = session.config.servers[session.server].store
    runs = who_serves(root) if root is not None else None  # before: it opens the store again, and is away for a moment
    made = rebuild(session.config, session.server, Clock(), time.sleep)
    for fault in made.faults:
        note(f"{fault['path']}: {fault['why']} - {fault['mend']}")
    value = {
        "server": session.server,
        "set_aside": str(made.aside) if made.aside else None,
        "incarnation": made.incarnation,
        "records": made.records,
        "messages": made.messages,
        "faults": len(made.faults),
    }
    report(session, value, "\n".join(_rebuilt(session, made, served=runs is not None and runs[0] == DAEMON)))


def _rebuilt(session: Session, made: Rebuilt, *, served: bool) -> list[str]:
    counts = f"{made.records} records in the files, {made.messages} of them messages, {len(made.faults)} faults"
    lines = [f"{session.server}: the index is new: {counts}"]
    if made.aside is not None:
        lines.append(f"  the former one is {made.aside}; nothing needs it, and it may go when all is well")
    lines.append(
        "  its daemon goes on with it and joins the other server"
        if served
        else "next: vmctl sync, to join the other server"
    )
    return lines

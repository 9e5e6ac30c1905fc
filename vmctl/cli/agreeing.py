"""`vmctl pause`, `resume` and `mode`: what both servers have to agree on."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vmctl.cli.acting import acting
from vmctl.cli.app import group
from vmctl.cli.output import emit, report
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from vmctl.cli.acting import Acting

_LONGEST_PAUSE = 366 * 86400.0  # seconds

Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0.0, help="How long to wait for the other server.")]

mode = group("The mode of the network: show, set.")


def pause(
    context: typer.Context,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="It ends by itself after 30m, say.")
    ] = None,
    timeout: Timeout = 30.0,
) -> None:
    """Let no role move by itself, on both servers, until 'vmctl resume': for maintenance. Orders are carried out.

    Example: vmctl pause --for 2h
    """
    seconds = None if for_ is None else _seconds(for_)
    session = Session.of(context)
    with acting(session, timeout) as at:
        at.roles.pause(getpass.getuser(), on=True, seconds=seconds)
        _tell(session, at, timeout, "pause", "paused" if for_ is None else f"paused for {for_}")


def resume(context: typer.Context, timeout: Timeout = 30.0) -> None:
    """Let roles move by themselves again, on both servers.

    Example: vmctl resume
    """
    session = Session.of(context)
    with acting(session, timeout) as at:
        at.roles.pause(getpass.getuser(), on=False)
        _tell(session, at, timeout, "pause", "resumed")


@mode.command()
def show(context: typer.Context) -> None:
    """Show the mode and who is at home where.

    Example: vmctl mode show
    """
    from vmctl.clock import Clock
    from vmctl.knowledge import agreed_by, look_at_all

    session = Session.of(context)
    agreed = agreed_by(look_at_all(session.config, Clock(), session.named_server))
    homes = "\n".join(f"  {name}: home {home}" for name, home in agreed.homes.items())
    emit(session, {"mode": agreed.mode, "homes": agreed.homes}, f"{agreed.mode}\n{homes}")


@mode.command("set")
def set_(
    context: typer.Context,
    to: Annotated[Literal["active-standby", "dual-active"], typer.Argument(help="The new mode.", metavar="MODE")],
    timeout: Timeout = 30.0,
) -> None:
    """Change the mode of the running network. Services whose home changes go there as soon as the stores are in step.

    Example: vmctl mode set dual-active
    """
    session = Session.of(context)
    with acting(session, timeout) as at:
        if not at.roles.set_mode(to, getpass.getuser()):
            report(session, {"mode": to, "changed": False}, f"the mode is {to} already: nothing to do")
            return
        _tell(session, at, timeout, "mode", f"the mode is {to}")


def _tell(session: Session, at: Acting, timeout: float, name: str, words: str) -> None:
    """Say it once the peer has it, too. Raises NotYet where it has not in time: it is so here, and follows there."""
    from vmctl.errors import NotYet

    at.nudge()
    if not at.wait(lambda: at.roles.peer_agrees(name), timeout):
        raise NotYet(
            f"{words} here only: the other server has not said that it knows",
            why="it is told with every mail, and follows when it takes one",
            hint="see 'vmctl status'",
        )
    report(session, {name: words, "both": True}, f"{words}, on both servers")


def _seconds(text: str) -> float:
    from vmctl.clock import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--for") from error
    if not 0 < seconds <= _LONGEST_PAUSE:
        raise typer.BadParameter(
            "a pause lasts for some time, a year at most; without --for it ends with 'vmctl resume'", param_hint="--for"
        )
    return seconds

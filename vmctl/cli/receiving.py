"""`vmctl receive`: a mail from a mail server, by a pipe."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vmctl.cli.output import note
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from vmctl.errors import VmctlError

# sysexits.h, which mail servers understand
_BOUNCE, _LATER = 65, 75  # EX_DATAERR, EX_TEMPFAIL
SENDER_VARIABLE = "SENDER"
_NULL_SENDER = "mailer-daemon"  # pipe(8) of Postfix, unless it is told otherwise


def receive(
    context: typer.Context,
    sender: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="The envelope sender; else the environment's SENDER, if it is there."),
    ] = None,
) -> None:
    """Take one mail from the standard input, as a mail server's pipe gives it.

    It exits with what mail servers understand: 0 when the mail is durable, or is none of ours and is dropped; 75 when it
    is to be tried again; 65 when a mail of the other server cannot be taken and is to be returned.

    Example: vmctl receive --server secondary --sender "$SENDER"
    """
    from vmctl.at_work import wake
    from vmctl.clock import Clock
    from vmctl.door import Door
    from vmctl.errors import MailError, VmctlError
    from vmctl.identity import DIRECTORY
    from vmctl.strays import Strays

    session = Session.of(context)
    known = _plain(sender if sender is not None else os.environ.get(SENDER_VARIABLE))
    try:
        clock, server = Clock(), session.config.servers[session.server]
        door = Door(session.config, server.name, clock)
        door.take(sys.stdin.buffer.read(door.largest + 1), known)
        if server.store is not None:
            wake(server.store)
    except MailError as error:
        if error.retry:
            _end(error, _LATER)
        assert server.store is not None  # noqa: S101 - the door was there
        strays = Strays(server.store / DIRECTORY, clock)
        strays.note(error, f"a mail server, for {known or 'an unknown sender'}")
        peer = session.config.peer_of(server.name).mail
        # a stranger's address may be forged: who gets mail for it has not written to us
        _end(error, _BOUNCE if (known or "").casefold() == peer.casefold() else 0)
    except VmctlError as error:
        _end(error, _LATER)
    except Exception as error:  # noqa: BLE001 - whatever it is, the mail server must keep the mail
        note(f"vmctl: this is a bug: {type(error).__name__}: {error}")
        raise typer.Exit(_LATER) from None


def _plain(sender: str | None) -> str | None:
    """The address alone; empty for the null sender, by whichever name a mail server calls it."""
    plain = None if sender is None else sender.strip(" <>")
    return "" if plain is not None and plain.casefold() == _NULL_SENDER else plain


def _end(error: VmctlError, code: int) -> NoReturn:
    note(f"vmctl: {error.words}" + ("" if code else "; it was dropped"))
    raise typer.Exit(code) from None

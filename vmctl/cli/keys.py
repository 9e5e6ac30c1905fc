"""`vmctl keys`: who belongs to the network: show, compare, trust, exchange and retire keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmctl.cli.app import group
from vmctl.cli.output import emit, note, report, table
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from vmctl.config import Config, Server

keys = group("The servers' keys: who belongs to the network.")

_LONGEST_CODE = 16_384
_WINDOW = "7d"
_LONGEST_WINDOW = 365 * 86_400.0  # seconds
Window = Annotated[
    str, typer.Option(metavar="TIME", help="How long the keys before count as well, such as 7d or 1h; 0s: not at all.")
]


@keys.command()
def show(
    context: typer.Context,
    code: Annotated[
        bool, typer.Option("--code", help="Print the code of the server that is here, for the other host.")
    ] = False,
) -> None:
    """Show whose keys vmctl.yaml names, and whether they are the ones in the key files.

    Example: vmctl keys show --code --server secondary
    """
    from vmctl import enrol

    session = Session.of(context)
    if code:
        shown = enrol.code_of(session.config, session.server)
        emit(session, {"server": shown.server, "network": shown.network, "code": str(shown)}, str(shown))
        return
    value = [_shown(session.config, server) for server in session.config.servers.values()]
    rows = [(one["server"], one["here"], one["fingerprint"], one["file"], one["former_until"]) for one in value]
    emit(session, value, table(rows, ("server", "here", "fingerprint", "key file", "former until")))


@keys.command()
def fingerprint(context: typer.Context) -> None:
    """Print the servers' fingerprints, to be compared with what the other host prints.

    Example: vmctl keys fingerprint
    """
    session = Session.of(context)
    value = {server.name: _fingerprint(server) for server in session.config.servers.values()}
    emit(session, value, "\n".join(f"{name:<9}  {shown or 'not known yet'}" for name, shown in value.items()))


@keys.command()
def trust(
    context: typer.Context,
    code: Annotated[str, typer.Argument(metavar="CODE", help="A code, the file that holds it, or - for stdin.")],
    window: Window = _WINDOW,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Pin the other server's keys in vmctl.yaml. What its host prints with 'vmctl keys show --code' is the code.

    Example: vmctl keys trust secondary.code
    """
    from vmctl import enrol
    from vmctl import keys as room
    from vmctl.clock import Clock

    session = Session.of(context)
    given = enrol.Code.read(_text(code))
    shown = room.fingerprint(given.public)
    if not yes:
        note(f"the keys of {given.server}, network {given.network}: {shown}")
        typer.confirm("Does its host print the same with 'vmctl keys fingerprint'?", abort=True, err=True)
    made = enrol.trust(session.config, given, Clock(), _seconds(window))
    value = {"server": given.server, "fingerprint": shown, "changed": made is not None}
    words = [f"{given.server} is trusted as {shown}" if made else f"{given.server} was trusted as {shown} already"]
    if made is not None:
        words += [
            *_until(made.servers[given.server]),
            "next: restart vmctl serve where it runs (until then it goes by what it read at its start), or vmctl sync",
        ]
    report(session, value, "\n".join(words))


@keys.command()
def rotate(context: typer.Context, window: Window = _WINDOW) -> None:
    """Give a server of this host new keys; the other one goes on with the former until it trusts them.

    Example: vmctl keys rotate --server primary --window 7d
    """
    from vmctl import enrol
    from vmctl.clock import Clock

    session = Session.of(context)
    name = session.server
    made = enrol.rotate(session.config, name, Clock(), _seconds(window))
    shown = _fingerprint(made.servers[name])
    words = [f"{name} has new keys: {shown}", *_until(made.servers[name])]
    if made.peer_of(name).store is None:
        words.append("next: restart vmctl serve here; bring the code over, and there: vmctl keys trust CODE")
        words.append(f"  vmctl keys show --code --server {name}")
    else:
        words.append("next: restart vmctl serve where it runs")
    report(session, {"server": name, "fingerprint": shown}, "\n".join(words))


@keys.command()
def retire(context: typer.Context) -> None:
    """End the exchange of a server's keys: the former count no more, and are destroyed.

    Example: vmctl keys retire --server primary
    """
    from vmctl import enrol
    from vmctl.clock import Clock

    session = Session.of(context)
    name = session.named_server or session.server
    went = enrol.retire(session.config, name, Clock())
    words = f"the former keys of {name} count no more here" if went else f"{name} has no former keys"
    if went:
        words += "\nnext: restart vmctl serve where it runs: until then it goes by what it read at its start"
    report(session, {"server": name, "retired": went}, words)


def _shown(config: Config, server: Server) -> dict[str, Any]:
    from vmctl import keys as room
    from vmctl.clock import rfc3339
    from vmctl.errors import KeyFault

    state = None
    if server.key is not None:
        try:
            held = room.load_private(server.key).public
            state = "good" if held == (server.public_key, server.seal_key) else "holds other keys"
        except KeyFault as error:
            state = error.words
    return {
        "server": server.name,
        "network": config.network,
        "here": server.here,
        "public_key": server.public_key,
        "seal_key": server.seal_key,
        "fingerprint": _fingerprint(server),
        "file": state,
        "former_key": server.former_key,
        "former_until": rfc3339(server.former_until) if server.former_key else None,
    }


def _fingerprint(server: Server) -> str | None:
    from vmctl import keys as room

    if server.public_key is None or server.seal_key is None:
        return None
    return room.fingerprint(room.Public(server.public_key, server.seal_key))


def _until(server: Server) -> list[str]:
    from vmctl.clock import rfc3339

    return [f"  the former ones count as well until {rfc3339(server.former_until)}"] if server.former_key else []


def _text(code: str) -> str:
    if code == "-":
        return sys.stdin.read(_LONGEST_CODE)
    if len(code) < 255 and Path(code).is_file():  # noqa: PLR2004 - a longer one names no file
        with Path(code).open(encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST_CODE)
    return code


def _seconds(window: str) -> float:
    from vmctl.clock import parse_duration

    try:
        seconds = parse_duration(window)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--window") from error
    if seconds > _LONGEST_WINDOW:
        raise typer.BadParameter(f"{window} is too long: 365d at most.", param_hint="--window")
    return seconds

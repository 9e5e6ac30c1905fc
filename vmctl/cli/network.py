"""`vmctl init`: a new network."""

from __future__ import annotations

import shlex
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vmctl.cli.output import emit
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from vmctl.config import Address, Config


def init(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
    mode: Annotated[
        Literal["active-standby", "dual-active"],
        typer.Option(help="One server serves everybody, or each serves callers of its own."),
    ] = "active-standby",
    network: Annotated[
        str | None, typer.Option(metavar="NAME", help="The network's name; the directory's if it is not given.")
    ] = None,
    primary: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where the primary receives mail.")] = None,
    secondary: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where the secondary receives mail.")
    ] = None,
) -> None:
    """Make a network: a config, keys and empty stores.

    Both stores are made on this host, for trying out; with --server only that server's store and keys: the other server
    gets its own by 'vmctl join' on its host.

    Example: vmctl init net --server primary --primary vm1.example:2525 --secondary vm2.example:2525
    """
    from vmctl import network as networks

    given = {"primary": primary, "secondary": secondary}
    addresses = {name: _address(name, text) for name, text in given.items() if text is not None}
    only = Session.of(context).server_name
    made = networks.make(directory, network=network, mode=mode, addresses=addresses, only=only)
    value = {"network": made.network, "mode": made.mode, "directory": str(made.path.parent), "servers": _servers(made)}
    emit(Session.of(context), value, _words(made, directory))


def _address(server: str, text: str) -> Address:
    from vmctl.config import parse_address

    try:
        return parse_address(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=f"--{server}") from error


def _servers(made: Config) -> dict[str, Any]:
    return {
        name: {
            "store": str(server.store) if server.store else None,
            "listen": str(server.listen),
            "address": str(server.address),
            "mail": server.mail,
            "key": str(server.key) if server.key else None,
            "public_key": server.public_key,
            "seal_key": server.seal_key,
        }
        for name, server in made.servers.items()
    }


def _words(made: Config, directory: Path) -> str:
    lines = [f"network {made.network}, {made.mode}: {made.path}"]
    for name, server in made.servers.items():
        lines.append(f"  {name}: store {server.store or 'on another host'}, mail to {server.address}")
    other = next((name for name, server in made.servers.items() if not server.here), None)
    next_commands = [
        f"cd {shlex.quote(str(directory))}",
        "vmctl mailbox create 2001 --name 'Ada Byron' --server primary",
    ]
    if other is None:
        next_commands.append("vmctl sync")
    else:
        next_commands = [
            f"bring vmctl.yaml to the host of {other}, and there, beside it:",
            f"  vmctl join --server {other}",
            "bring back the code that it prints, and here:",
            "  vmctl keys trust CODE",
        ]
    return "\n".join([*lines, "next:", *(f"  {command}" for command in next_commands)])

"""`vmctl greeting`: what a caller hears before leaving a message."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import typer

from vmctl.cli.app import group
from vmctl.cli.output import report
from vmctl.cli.session import Reader, Session, User

greeting = group("Greetings of a mailbox: name, unavailable, busy, temporary.")

Extension = Annotated[str, typer.Argument(metavar="EXT", help="The mailbox's extension.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="One of name, unavailable, busy, temporary.")]


@greeting.command("set")
def set_(
    context: typer.Context,
    extension: Extension,
    name: Name,
    audio: Annotated[Path, typer.Option(metavar="FILE", help="The recording.")],
    user: User = False,
) -> None:
    """Put a greeting into a mailbox, in place of the one of this name.

    Example: vmctl greeting set 2001 unavailable --audio away.wav
    """
    session = Session.of(context)
    with session.desk(user=user) as desk:
        desk.set_greeting(extension, name, audio)
    report(session, {"mailbox": extension, "name": name}, f"greeting {name} of mailbox {extension} is set")


@greeting.command("list")
def list_(
    context: typer.Context,
    extension: Extension,
    user: Reader = False,  # noqa: ARG001 - for front ends that give it with every command
) -> None:
    """List the greetings of a mailbox.

    Example: vmctl greeting list 2001 --json
    """
    from vmctl.cli import recordings
    from vmctl.model import GREETING, greeting_key
    from vmctl.names import GREETINGS

    session = Session.of(context)
    session.check_mailbox(extension)
    there = session.store.names(GREETING, extension)
    keys = {name: greeting_key(extension, name) for name in GREETINGS if name in there}
    recordings.show(session, keys, f"mailbox {extension} has no greetings; 'vmctl greeting set' puts one in")


@greeting.command("export")
def export(
    context: typer.Context,
    extension: Extension,
    name: Name,
    target: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; - is the standard output.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    user: Reader = False,  # noqa: ARG001 - for front ends that give it with every command
) -> None:
    """Write a greeting to a file.

    Example: vmctl greeting export 2001 unavailable away.wav
    """
    from vmctl.cli import recordings
    from vmctl.model import greeting_key
    from vmctl.names import check_extension, check_greeting

    session = Session.of(context)
    key = greeting_key(check_extension(extension), check_greeting(name))
    what = f"greeting {name} of mailbox {extension}"
    session.refuse_gone(key)
    recordings.export(session, session.store.audio(key), target, force=force, what=what)


@greeting.command("delete")
def delete(context: typer.Context, extension: Extension, name: Name, user: User = False) -> None:
    """Delete a greeting.

    Example: vmctl greeting delete 2001 temporary
    """
    session = Session.of(context)
    with session.desk(user=user) as desk:
        desk.delete_greeting(extension, name)
    report(session, {"mailbox": extension, "name": name}, f"greeting {name} of mailbox {extension} is deleted")

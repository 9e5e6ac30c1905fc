"""`vmctl prompt`: what callflows play."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import typer

from vmctl.cli.app import group
from vmctl.cli.output import report
from vmctl.cli.session import Session

prompt = group("Prompts: the recordings that callflows play.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The prompt's name, without the ending of its file.")]


@prompt.command("set")
def set_(
    context: typer.Context,
    name: Name,
    audio: Annotated[Path, typer.Option(metavar="FILE", help="The recording.")],
) -> None:
    """Put a prompt, in place of the one of this name.

    Example: vmctl prompt set welcome --audio welcome.wav
    """
    session = Session.of(context)
    with session.desk() as desk:
        desk.set_prompt(name, audio)
    report(session, {"name": name}, f"prompt {name} is set")


@prompt.command("list")
def list_(context: typer.Context) -> None:
    """List the prompts.

    Example: vmctl prompt list --json
    """
    from vmctl.cli import recordings
    from vmctl.model import PROMPT, Key

    session = Session.of(context)
    keys = {name: str(Key(PROMPT, None, name)) for name in session.store.names(PROMPT)}
    recordings.show(session, keys, "there are no prompts; 'vmctl prompt set NAME --audio FILE' puts one in")


@prompt.command("export")
def export(
    context: typer.Context,
    name: Name,
    target: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; - is the standard output.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a prompt to a file.

    Example: vmctl prompt export welcome welcome.wav
    """
    from vmctl.cli import recordings
    from vmctl.model import PROMPT, Key
    from vmctl.names import check_name

    session = Session.of(context)
    path = session.store.audio(str(Key(PROMPT, None, check_name(name))))
    recordings.export(session, path, target, force=force, what=f"prompt {name}")


@prompt.command("delete")
def delete(context: typer.Context, name: Name) -> None:
    """Delete a prompt.

    Example: vmctl prompt delete welcome
    """
    session = Session.of(context)
    with session.desk() as desk:
        desk.delete_prompt(name)
    report(session, {"name": name}, f"prompt {name} is deleted")

"""`vmctl demo`: tells the story as it happens, in colour on a terminal and plainly elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated, Literal

import typer

from vmctl.cli.output import say


def demo(
    mode: Annotated[
        Literal["active-standby", "dual-active"],
        typer.Option(help="One server serves everybody, or each serves callers of its own."),
    ] = "active-standby",
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Leave the network there to play with.")] = None,
) -> None:
    """Show it all on this machine: a message, a killed primary, a takeover, a recovery, the proof. Under a minute.

    Example: vmctl demo --keep net
    """
    from vmctl.demo import place
    from vmctl.demo_dual import DualActive
    from vmctl.demo_standby import ActiveStandby

    story = ActiveStandby if mode == "active-standby" else DualActive
    began = time.monotonic()
    with place(keep) as directory:
        story(directory, _tell).run()
    _tell("good", f"every step was checked and true; {time.monotonic() - began:.0f} s")
    if keep is not None:
        say(f"the network is in {keep}: 'cd {keep}', then 'vmctl status'")


def _tell(kind: str, text: str) -> None:
    colours = sys.stdout.isatty()
    for line in text.splitlines() or [""]:
        match kind:
            case "chapter":
                words = f"\n== {line} =="
                say(typer.style(words, fg="cyan", bold=True) if colours else words)
            case "command":
                words = f"$ {line}"
                say(typer.style(words, bold=True) if colours else words)
            case "good":
                words = f"  ok: {line}"
                say(typer.style(words, fg="green") if colours else words)
            case _:
                say(f"    {line}")

"""`vmctl conflicts`: what lost when both servers changed the same thing at once, and the way back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vmctl.cli import changes
from vmctl.cli.app import group
from vmctl.cli.output import emit, note, table
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.model import Record
    from vmctl.undo import Undo

conflicts = group("What lost when both servers changed the same thing at once.")

Idents = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="As `conflicts list` shows them.")]
Everything = Annotated[bool, typer.Option("--all", help="All of them, what lost first before the others.")]
By = Annotated[
    Literal["primary", "secondary"] | None, typer.Option("--by", help="With --all: only what that server had set.")
]


@conflicts.command("list")
def list_(context: typer.Context) -> None:
    """List what lost, and against what.

    Example: vmctl conflicts list --server primary
    """
    session = Session.of(context)
    found = [_value(record) for record in _records(session)]
    rows = [
        (one["id"], one["record"], one["field"], _short(one["won"]), one["won_by"], _short(one["lost"]))
        for one in found
    ]
    if not found:
        note("no two edits met")
    emit(session, found, table(rows, ("id", "record", "field", "won", "by", "lost")))


@conflicts.command("show")
def show(
    context: typer.Context, ident: Annotated[str, typer.Argument(metavar="ID", help="As `conflicts list` shows it.")]
) -> None:
    """Show both values of one conflict, and when and where each was set.

    Example: vmctl conflicts show 3f2a9c0d1b7e4a5566778899 --server primary
    """
    from vmctl import yamltext
    from vmctl.errors import NotFound

    session = Session.of(context)
    found = next((one for one in map(_value, _records(session)) if one["id"] == ident), None)
    if found is None:
        raise NotFound(f"there is no conflict {ident[:40]!r}", hint="'vmctl conflicts list' shows them")
    emit(session, found, yamltext.dump(found).rstrip("\n"))


@conflicts.command("take")
def take(context: typer.Context, idents: Idents = None, everything: Everything = False, by: By = None) -> None:
    """Set what lost after all: a new edit, which both servers follow. The conflict is done with.

    Where a deletion lost, the record is deleted again; a mailbox with all that is in it.

    Example: vmctl conflicts take 3f2a9c0d1b7e4a5566778899 --server primary
    """
    session = Session.of(context)
    _each(session, idents or [], by, lambda undo, ident: undo.take(ident), "is set to what lost", everything=everything)


@conflicts.command("drop")
def drop(context: typer.Context, idents: Idents = None, everything: Everything = False, by: By = None) -> None:
    """Let what won stay: the conflict is done with, on both servers.

    Example: vmctl conflicts drop --all --server primary
    """
    session = Session.of(context)
    _each(session, idents or [], by, lambda undo, ident: undo.drop(ident), "stays as it is", everything=everything)


def _each(
    session: Session,
    idents: list[str],
    by: str | None,
    act: Callable[[Undo, str], str],
    words: str,
    *,
    everything: bool,
) -> None:
    """Do it to one conflict after the other; the first that cannot be done ends it, those before it are done."""
    if bool(idents) == everything:
        raise typer.BadParameter("Name conflicts, or say --all.", param_hint="ID...")
    if by is not None and not everything:
        raise typer.BadParameter("It goes with --all.", param_hint="--by")
    done = []
    with session.undo() as undo:
        for ident in idents or [one["id"] for one in map(_value, undo.listed()) if by in {None, one["lost_by"]}]:
            key = act(undo, ident)
            done.append({"id": ident, "record": key})
            if not session.json:
                note(f"{key} {words}")
    if everything and not done:
        note("no two edits met" if by is None else f"nothing that {by} had set lost")
    emit(session, done, "")


def _records(session: Session) -> list[Record]:
    with session.index() as index:
        found = [] if index is None else [entry.record for entry in index.entries("kind = 'conflict' AND lives")]
    return sorted(found, key=lambda record: (record.document["lost"]["at"], record.key))


def _value(record: Record) -> dict[str, Any]:
    from vmctl.clock import rfc3339

    document = record.document
    won, lost = document["won"], document["lost"]
    path: tuple[str, ...] = () if document["field"] is None else (document["field"],)
    return {
        "id": record.key.partition("/")[2],
        "record": document["record"],
        "field": document["field"],
        "won": changes.masked(path, won["is"]) if "is" in won else None,
        "won_by": won["at"][1].partition("-")[0],
        "won_at": rfc3339(won["at"][0]),
        "lost": changes.masked(path, lost["is"]) if "is" in lost else None,
        "lost_by": lost["at"][1].partition("-")[0],
        "lost_at": rfc3339(lost["at"][0]),
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."  # noqa: PLR2004 - a column's width

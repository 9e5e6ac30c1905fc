"""`vmctl conflicts`: values that lost when both servers changed the same field at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmctl.cli.app import group
from vmctl.cli.output import emit, note, table
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from vmctl.model import Record

conflicts = group("Values that lost when both servers changed the same field at once.")


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


def _records(session: Session) -> list[Record]:
    from vmctl.index import Index

    path = session.store.state / "index.db"
    if not path.exists():
        return []
    index = Index.open(path)
    try:
        return [entry.record for entry in index.entries("kind = 'conflict' AND lives")]
    finally:
        index.close()


def _value(record: Record) -> dict[str, Any]:
    from vmctl.clock import rfc3339

    document = record.document
    won, lost = document["won"], document["lost"]
    secret = document["field"] == "pin"  # a hash is nobody's to see
    return {
        "id": record.key.partition("/")[2],
        "record": document["record"],
        "field": document["field"],
        "won": "(hidden)" if secret else won.get("is"),
        "won_by": won["at"][1].partition("-")[0],
        "won_at": rfc3339(won["at"][0]),
        "lost": "(hidden)" if secret else lost.get("is"),
        "lost_by": lost["at"][1].partition("-")[0],
        "lost_at": rfc3339(lost["at"][0]),
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."  # noqa: PLR2004 - a column's width

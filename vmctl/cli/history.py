"""`vmctl history`: earlier versions of settings, callflows, prompts, mailboxes and greetings, and the way back to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmctl.cli import changes
from vmctl.cli.app import group
from vmctl.cli.output import emit, note, report, table
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from vmctl.history import Version

history = group("Earlier versions of settings, callflows, prompts, mailboxes and greetings.")

_FORMS = "settings, mailbox/EXT, greeting/EXT/NAME, callflow/NAME or prompt/NAME"
KeyWord = Annotated[str, typer.Argument(metavar="KEY", help=f"One of {_FORMS}.")]
Number = Annotated[int, typer.Argument(metavar="VERSION", help="As `history list` shows it.")]
_COLUMNS = ("version", "at", "by", "change", "fields")


@history.command("list")
def list_(
    context: typer.Context,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help=f"One of {_FORMS}.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The versions of all records, the newest first.")] = False,
) -> None:
    """List the versions of a record that this server keeps, the newest first: that is the present one.

    Example: vmctl history list mailbox/2001 --server primary
    """
    session = Session.of(context)
    if (key is None) != everything:
        raise typer.BadParameter("Name one record, or say --all.", param_hint="KEY")
    checked = None if key is None else _key(key)
    with session.index() as index:
        versions = [] if index is None else index.history.all() if checked is None else index.history.of(checked)
    found = [_value(version, before) for version, before in _with_former(versions)]
    if not found:
        note("there is no history yet" if checked is None else f"there is no history of {checked}")
    columns = ("record", *_COLUMNS) if everything else _COLUMNS
    emit(session, found, table([[_cell(one[name]) for name in columns] for one in found], columns))


@history.command("show")
def show(context: typer.Context, key: KeyWord, number: Number) -> None:
    """Show what a record was in a version; a callflow as its text.

    Example: vmctl history show callflow/main 3 --server primary
    """
    from vmctl import yamltext
    from vmctl.model import CALLFLOW

    session = Session.of(context)
    versions = _versions(session, key)
    place, version = _place(versions, number)
    value = _value(version, _former(versions, place)) | {"document": _open(version.document)}
    text = "deleted\n" if version.document is None else yamltext.dump(value["document"])
    if version.document is not None and key.startswith(CALLFLOW):
        text = str(version.document["text"])
    emit(session, value, text.rstrip("\n"))


@history.command("diff")
def diff(
    context: typer.Context,
    key: KeyWord,
    older: Annotated[
        int | None, typer.Argument(metavar="[FROM]", help="A version; by default the one before the present.")
    ] = None,
    newer: Annotated[int | None, typer.Argument(metavar="[TO]", help="A version; by default the present one.")] = None,
) -> None:
    """Show what changed between two versions of a record, field by field; of a callflow line by line.

    Example: vmctl history diff mailbox/2001 3 5 --server primary
    """
    from vmctl.model import CALLFLOW

    session = Session.of(context)
    versions = _versions(session, key)
    last = versions[0] if newer is None else _place(versions, newer)[1]
    first = _former(versions, versions.index(last)) if older is None else _place(versions, older)[1]
    old, new = (version.document or {} if version is not None else {} for version in (first, last))
    value = {
        "record": last.key,
        "from": None if first is None else first.number,
        "to": last.number,
        "changes": changes.values(old, new),
    }
    if key.startswith(CALLFLOW):
        names = (f"{key} {'' if first is None else first.number}".rstrip(), f"{key} {last.number}")
        lines = changes.text_lines(str(old.get("text", "")), str(new.get("text", "")), names)
    else:
        lines = changes.lines(old, new)
    if not value["changes"]:
        note("there is no difference")
    emit(session, value, "\n".join(lines))


@history.command("restore")
def restore(
    context: typer.Context,
    key: KeyWord,
    number: Number,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
) -> None:
    """Set a record to what it was in a version: a new edit, which the other server follows.

    What was deleted comes back to life. Of a deleted mailbox that is its settings; its messages and greetings are
    restored by themselves.

    Example: vmctl history restore mailbox/2001 3 --server primary
    """
    session = Session.of(context)
    checked = _key(key)
    with session.undo() as undo:
        done = undo.restore(checked, number, dry_run=dry_run)
    before = done.before or {}
    value = {
        "record": checked,
        "version": number,
        "dry_run": dry_run,
        "revived": done.before is None,
        "changes": changes.values(before, done.after),
    }
    lines = changes.lines(before, done.after)
    if dry_run:
        emit(session, value, "\n".join(lines))
    else:
        words = f"{checked} is as it was in version {number}"
        report(session, value, "\n".join([words, *(f"  {line}" for line in lines)]))


def _key(text: str) -> str:
    """The key of a record that has a history. Raises BadName."""
    from vmctl.errors import BadName
    from vmctl.history import KINDS
    from vmctl.model import parse_key

    try:
        key = parse_key(text)
    except ValueError:
        key = None
    if key is None or key.kind not in KINDS:
        raise BadName(f"{text[:80]!r} names nothing that has a history", hint=f"write {_FORMS}")
    return str(key)


def _versions(session: Session, key: str) -> list[Version]:
    """The versions of a record, the newest first, at least one. Raises BadName, NotFound."""
    from vmctl.errors import NotFound

    with session.index() as index:
        found = [] if index is None else index.history.of(_key(key))
    if not found:
        raise NotFound(f"there is no history of {key}", hint="'vmctl history list --all' shows what there is")
    return found


def _place(versions: list[Version], number: int) -> tuple[int, Version]:
    from vmctl.errors import NotFound

    for place, version in enumerate(versions):
        if version.number == number:
            return place, version
    raise NotFound(
        f"{versions[0].key} has no version {number}", hint=f"'vmctl history list {versions[0].key}' shows them"
    )


def _former(versions: list[Version], place: int) -> Version | None:
    return versions[place + 1] if place + 1 < len(versions) else None


def _with_former(versions: list[Version]) -> list[tuple[Version, Version | None]]:
    """Each version with the one of its record before it, where that is still kept."""
    by_name = {(version.key, version.number): version for version in versions}
    return [(version, by_name.get((version.key, version.number - 1))) for version in versions]


def _value(version: Version, before: Version | None) -> dict[str, Any]:
    from vmctl.clock import rfc3339
    from vmctl.delta import changed_fields

    old = {} if before is None or before.document is None else before.document
    if version.document is None:
        change = "deleted"
    elif before is not None and before.document is None:
        change = "restored"
    else:
        change = "new" if before is None and version.number == 1 else "changed"
    return {
        "record": version.key,
        "version": version.number,
        "at": rfc3339(version.at),
        "by": version.by.partition("-")[0],
        "taken": rfc3339(version.taken),
        "change": change,
        "fields": sorted(changed_fields(old, version.document)) if version.document is not None else [],
    }


def _cell(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value


def _open(document: dict[str, Any] | None) -> dict[str, Any] | None:
    """A document as it may be shown."""
    if document is None:
        return None
    return {name: changes.masked((name,), value) for name, value in document.items()}

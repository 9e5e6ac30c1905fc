"""`vmctl message`: what callers left."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vmctl import beneath
from vmctl.cli.app import group
from vmctl.cli.output import emit, note, report, table
from vmctl.cli.session import Reader, Session, User

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.store.native import NativeStore

message = group("Messages that callers left.")

Extension = Annotated[str, typer.Argument(metavar="EXT", help="The mailbox's extension.")]
Ident = Annotated[str, typer.Argument(metavar="ID", help="The message's id, as 'vmctl message list' shows it.")]
Idents = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of messages.")]
_GRAVE = ".vmctl/deleted"  # where a store keeps the documents of what was deleted
COLUMNS = ("id", "received", "from", "name", "seconds", "status", "urgent")


@message.command("leave")
def leave(
    context: typer.Context,
    extension: Extension,
    audio: Annotated[Path, typer.Option(metavar="FILE", help="The recording.")],
    caller: Annotated[str, typer.Option("--from", metavar="NUMBER", help="Who called.")] = "unknown",
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The caller's name.")] = None,
    received: Annotated[
        str | None, typer.Option(metavar="TIME", help="When, in RFC 3339 with its zone; now if it is left out.")
    ] = None,
    urgent: Annotated[bool, typer.Option("--urgent", help="Mark it urgent.")] = False,
    ident: Annotated[str | None, typer.Option("--id", metavar="ID", help="An id of your own.")] = None,
    user: Annotated[  # noqa: ARG001 - for front ends that give it with every command
        bool, typer.Option("--user", help="For a front end; a recording is refused nowhere.")
    ] = False,
) -> None:
    """Leave a message and print its id; from then on no crash loses it.

    Example: vmctl message leave 2001 --from +442079460123 --audio hello.wav
    """
    session = Session.of(context)
    with session.desk() as desk:
        left = desk.leave(
            extension, audio, caller=caller, name=name, received=received, urgent=urgent, ident=ident
        )  # fmt: skip
    emit(session, {"mailbox": extension, "id": left}, left)


@message.command("list")
def list_(
    context: typer.Context,
    extension: Extension,
    deleted: Annotated[bool, typer.Option("--deleted", help="Those that were deleted and can be restored.")] = False,
    user: Reader = False,  # noqa: ARG001 - for front ends that give it with every command
) -> None:
    """List the messages of a mailbox, the newest first.

    Example: vmctl message list 2001 --json
    """
    from vmctl.clock import parse_rfc3339
    from vmctl.names import check_extension

    session = Session.of(context)
    check_extension(extension)
    if deleted:
        found = _deleted(session.store, extension)
    else:
        found = living(session.store, extension)
        _check_mailbox(session, extension, found=bool(found))
    if not found:
        note(f"mailbox {extension} has no {'deleted ' if deleted else ''}messages")
    found.sort(key=lambda each: (parse_rfc3339(each["received"]), each["id"]), reverse=True)
    emit(session, found, table([[each[column] for column in COLUMNS] for each in found], COLUMNS))


@message.command("show")
def show(
    context: typer.Context,
    extension: Extension,
    ident: Ident,
    user: Reader = False,  # noqa: ARG001 - for front ends that give it with every command
) -> None:
    """Show one message.

    Example: vmctl message show 2001 20260131T081500000000-3f2a9c10d4e7 --json
    """
    from vmctl import yamltext

    session = Session.of(context)
    value = _one(session, extension, ident)
    emit(session, value, yamltext.dump(value).rstrip("\n"))


@message.command("mark")
def mark(
    context: typer.Context,
    extension: Extension,
    idents: Idents,
    status: Annotated[Literal["new", "old", "saved"], typer.Option("--as", help="The status to set.")],
    user: User = False,
) -> None:
    """Set the status of messages.

    Example: vmctl message mark 2001 20260131T081500000000-3f2a9c10d4e7 --as saved
    """
    session = Session.of(context)
    with session.desk(user=user) as desk:
        _each(session, extension, idents, f"is {status}", lambda ident: desk.mark(extension, ident, status))


@message.command("delete")
def delete(context: typer.Context, extension: Extension, idents: Idents, user: User = False) -> None:
    """Delete messages; they can be restored.

    Example: vmctl message delete 2001 20260131T081500000000-3f2a9c10d4e7
    """
    session = Session.of(context)
    with session.desk(user=user) as desk:
        _each(session, extension, idents, "is deleted", lambda ident: desk.delete_message(extension, ident))


@message.command("restore")
def restore(context: typer.Context, extension: Extension, ident: Ident, user: User = False) -> None:
    """Bring a deleted message back.

    Example: vmctl message restore 2001 20260131T081500000000-3f2a9c10d4e7
    """
    session = Session.of(context)
    with session.desk(user=user) as desk:
        here = desk.restore_message(extension, ident)
    words = "is back" if here else "is back as soon as its recording has come from the peer: run 'vmctl sync'"
    report(session, {"mailbox": extension, "id": ident, "here": here}, f"message {ident} {words}")


@message.command("export")
def export(
    context: typer.Context,
    extension: Extension,
    ident: Ident,
    target: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; - is the standard output.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    user: Reader = False,  # noqa: ARG001 - for front ends that give it with every command
) -> None:
    """Write a message's recording to a file.

    Example: vmctl message export 2001 20260131T081500000000-3f2a9c10d4e7 hello.wav
    """
    from vmctl.cli import recordings
    from vmctl.model import message_key

    session = Session.of(context)
    audio = _one(session, extension, ident)["audio"]
    path = session.store.audio_path(message_key(extension, ident), audio["format"]) if audio else None
    recordings.export(session, path, target, force=force, what=f"message {ident}")


def _check_mailbox(session: Session, extension: str, *, found: bool) -> None:
    """Raises NotFound, DeletionsHeld unless the mailbox is there, or is gone with messages left in it since."""
    from vmctl.errors import DeletionsHeld, NotFound

    try:
        session.check_mailbox(extension)
    except NotFound:
        if not found:
            raise
    except DeletionsHeld as error:
        if not found:
            raise
        note(f"{error.what}: these were left since\n  try: {error.hint}")


def living(store: NativeStore, extension: str) -> list[dict[str, Any]]:
    """The messages of a mailbox as --json shows them; a broken one is named on stderr and left out."""
    from vmctl.model import MESSAGE

    return _readable(store, extension, store.names(MESSAGE, extension), "")


def _deleted(store: NativeStore, extension: str) -> list[dict[str, Any]]:
    from vmctl.names import is_name

    folder = store.root / _GRAVE / store.folder(extension)
    names = [name.removesuffix(".json") for name in beneath.names(folder) if name.endswith(".json")]
    return _readable(store, extension, [name for name in names if is_name(name)], _GRAVE)


def _readable(store: NativeStore, extension: str, idents: list[str], below: str) -> list[dict[str, Any]]:
    from vmctl.errors import BrokenFile

    found = []
    for ident in idents:
        try:
            value = _read(store, extension, ident, below)
        except BrokenFile as error:
            note(f"vmctl: message {ident} is left out: {error.what}" + (f" ({error.why})" if error.why else ""))
            continue
        if value is not None:  # it may have gone since its folder was read
            found.append(value)
    return found


def _one(session: Session, extension: str, ident: str) -> dict[str, Any]:
    """A message as --json shows it. Raises BadName, NotFound, DeletionsHeld, BrokenFile."""
    from vmctl.errors import NotFound
    from vmctl.model import message_key
    from vmctl.names import check_extension, check_name

    store = session.store
    check_name(ident, "message id")
    value = _read(store, check_extension(extension), ident, "")
    if value is not None:
        return value
    session.refuse_gone(message_key(extension, ident))
    if _read(store, extension, ident, _GRAVE) is not None:
        raise NotFound(
            f"message {ident} in mailbox {extension} is deleted",
            hint=f"bring it back with 'vmctl message restore {extension} {ident}'",
        )
    raise NotFound(
        f"there is no message {ident} in mailbox {extension}",
        hint=f"'vmctl message list {extension}' shows what is there",
    )


def _read(store: NativeStore, extension: str, ident: str, below: str) -> dict[str, Any] | None:
    """A message's file under the folder `below` of the store; None without one."""
    from vmctl.model import message_key
    from vmctl.store import documents

    key = message_key(extension, ident)
    path = f"{below}/{store.path(key)}" if below else store.path(key)
    if store.look(path) is None:
        return None
    document, _ = documents.read_message(key, store.read(path), path)
    shown = {name: document.get(name) for name in ("from", "name", "received", "seconds", "status")}
    others = {name: value for name, value in document.items() if name not in shown}
    return {"id": ident, "mailbox": extension, **shown, "urgent": False, "audio": None, **others}


def _each(session: Session, extension: str, idents: list[str], words: str, act: Callable[[str], None]) -> None:
    """Do it to one message after the other; the first that cannot be done ends it, those before it are done."""
    from vmctl.names import check_name

    for ident in idents:
        check_name(ident, "message id")
    for ident in idents:
        act(ident)
        if not session.json:
            note(f"message {ident} {words}")
    if session.json:
        emit(session, {"mailbox": extension, "ids": idents}, "")

"""`vmctl callflow`: what happens to a call, as YAML; the schema vmctl/1 is checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmctl.cli.app import group
from vmctl.cli.output import emit, note, report, say, table
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from vmctl.store.native import NativeStore

callflow = group("Callflows: what a caller hears and where the call goes.")

STDIN = "-"
Name = Annotated[str, typer.Argument(metavar="NAME", help="The callflow's name.")]


@callflow.command("set")
def set_(
    context: typer.Context,
    name: Name,
    source: Annotated[str, typer.Argument(metavar="FILE", help="Its YAML; - is the standard input.")],
) -> None:
    """Put a callflow, in place of the one of this name.

    One that says 'schema: vmctl/1' is checked first, and refused with all its faults.

    Example: vmctl callflow set main main.yaml
    """
    session = Session.of(context)
    text = _decoded(_source(source, session.config.limits.document), source)
    with session.desk() as desk:
        desk.set_callflow(name, text)
    report(session, {"name": name}, f"callflow {name} is set")


@callflow.command("list")
def list_(context: typer.Context) -> None:
    """List the callflows.

    Example: vmctl callflow list --json
    """
    from vmctl.errors import BrokenFile
    from vmctl.model import CALLFLOW

    session = Session.of(context)
    found = []
    for name in session.store.names(CALLFLOW):
        try:
            document = _document(_stored(session.store, name), f"callflow {name}")
            found.append({"name": name, "title": document.get("title"), "schema": document.get("schema")})
        except BrokenFile as error:
            note(f"vmctl: callflow {name} is left out: {error.what}" + (f" ({error.why})" if error.why else ""))
    if not found:
        note("there are no callflows; 'vmctl callflow set NAME FILE' puts one in")
    emit(session, found, table([list(each.values()) for each in found], ("name", "title", "schema")))


@callflow.command("show")
def show(context: typer.Context, name: Name) -> None:
    """Print a callflow's text as it is.

    Example: vmctl callflow show main > main.yaml
    """
    from vmctl.callflow import is_checked
    from vmctl.names import check_name

    session = Session.of(context)
    data = _stored(session.store, check_name(name))
    if not session.json:
        say(data, newline=False)
        return
    document = _document(data, f"callflow {name}")
    emit(session, {"name": name, "text": data.decode(), "document": document, "checked": is_checked(document)}, "")


@callflow.command("check")
def check(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="A callflow of the store, or a file: a path with / or .yaml.")
    ],
) -> None:
    """Check a callflow against the prompts and mailboxes that are here; nothing is changed.

    Example: vmctl callflow check ./main.yaml
    """
    from vmctl.callflow import SCHEMA, is_checked
    from vmctl.names import check_name

    session = Session.of(context)
    if name == STDIN or "/" in name or name.endswith((".yaml", ".yml")):
        data, what = _source(name, session.config.limits.document), name
    else:
        data, what = _stored(session.store, check_name(name)), f"callflow {name}"
    session.store.check_callflow(data, what)
    checked = is_checked(_document(data, what))
    words = "has no fault" if checked else f"can be read; it says no 'schema: {SCHEMA}', so nothing more was checked"
    report(session, {"name": name, "checked": checked, "faults": []}, f"{what} {words}")


@callflow.command("delete")
def delete(context: typer.Context, name: Name) -> None:
    """Delete a callflow.

    Example: vmctl callflow delete main
    """
    session = Session.of(context)
    with session.desk() as desk:
        desk.delete_callflow(name)
    report(session, {"name": name}, f"callflow {name} is deleted")


def _stored(store: NativeStore, name: str) -> bytes:
    from vmctl.errors import NotFound
    from vmctl.model import CALLFLOW, Key

    path = store.path(str(Key(CALLFLOW, None, name)))
    if store.look(path) is None:
        raise NotFound(f"there is no callflow {name}", hint="'vmctl callflow list' shows what is there")
    return store.read(path)


def _source(source: str, limit: int) -> bytes:
    """The bytes of a file or of stdin, one more than `limit` at the most. Raises NotFound, StoreUnusable, BrokenFile."""
    from vmctl.errors import BrokenFile, NotFound, StoreUnusable

    try:
        if source == STDIN:
            data = sys.stdin.buffer.read(limit + 1) if sys.stdin else b""
        else:
            with Path(source).open("rb") as file:
                data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {source}", hint="name one that is there, or '-' for stdin") from error
    except OSError as error:
        raise StoreUnusable(
            f"cannot read {source}", why=error.strerror or str(error), hint="name a file that you may read"
        ) from error
    if len(data) > limit:
        raise BrokenFile(f"{source} is larger than limits.document", why=f"the limit is {limit} bytes")
    return data


def _decoded(data: bytes, what: str) -> str:
    from vmctl.errors import BrokenFile

    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BrokenFile(
            f"{what} is not UTF-8", why=f"byte {error.start + 1} is not", hint="save it as UTF-8, then try again"
        ) from error


def _document(data: bytes, what: str) -> dict[str, Any]:
    """What the text stands for. Raises BrokenFile."""
    from vmctl import yamltext
    from vmctl.errors import BrokenFile

    value = yamltext.load(data, what)
    if not isinstance(value, dict):
        raise BrokenFile(f"{what} is not a mapping")
    return value

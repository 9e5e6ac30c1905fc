"""`vmctl mailbox`: who has a mailbox, and how it is set up."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmctl.cli.app import group
from vmctl.cli.output import emit, note, report, table
from vmctl.cli.session import Reader, Session, User

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmctl.desk_mailboxes import Whole

mailbox = group("Mailboxes.")

_LONGEST_LINE = 100  # of what is read as a PIN; the longest PIN is far shorter

Extension = Annotated[str, typer.Argument(metavar="EXT", help="The mailbox's extension.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Whose it is.")]
Pin = Annotated[bool, typer.Option("--pin", help="Ask for a PIN on the terminal.")]
PinStdin = Annotated[bool, typer.Option("--pin-stdin", help="Read the PIN from the standard input.")]
Service = Annotated[str | None, typer.Option(metavar="SERVICE", help="The service that it belongs to.")]
Email = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Where notices go.")]
Language = Annotated[str | None, typer.Option(metavar="TAG", help="Such as en-GB.")]
Timezone = Annotated[str | None, typer.Option(metavar="ZONE", help="Such as Europe/London.")]
Quota = Annotated[int | None, typer.Option(metavar="N", help="The most messages that it holds.")]
Greeting = Annotated[
    str | None, typer.Option(metavar="GREETING", help="The greeting that plays: name, unavailable, busy, temporary.")
]
Lists = Annotated[
    list[str] | None,
    typer.Option(
        "--list", metavar="NAME=EXT,EXT...", help="A distribution list; NAME= removes it. May be given again."
    ),
]
Timers = Annotated[
    list[str] | None,
    typer.Option(
        "--timer",
        metavar="NAME=HOURS",
        help="Hours that messages are kept: new, old, saved, unopened, deleted (0: for ever); NAME= removes it. "
        "May be given again.",
    ),
]


@mailbox.command("create")
def create(
    context: typer.Context,
    extension: Extension,
    name: Annotated[str, typer.Option(metavar="NAME", help="Whose it is.")],
    pin: Pin = False,
    pin_stdin: PinStdin = False,
    service: Service = None,
    email: Email = None,
    language: Language = None,
    timezone: Timezone = None,
    quota: Quota = None,
    greeting: Greeting = None,
    lists: Lists = None,
    timers: Timers = None,
) -> None:
    """Make a mailbox.

    Example: vmctl mailbox create 2001 --name "Ada Byron" --timer new=720
    """
    document = _given(
        name=name, service=service, email=email, language=language, timezone=timezone, quota=quota, greeting=greeting
    )
    document |= {"lists": _merged({}, _lists(lists))} if lists else {}
    document |= {"timers": _merged({}, _timers(timers))} if timers else {}
    document |= _asked_pin(pin=pin, from_stdin=pin_stdin)
    session = Session.of(context)
    with session.desk() as desk:
        desk.create_mailbox(extension, document)
    report(session, {"extension": extension}, f"mailbox {extension} is made")


@mailbox.command("set")
def set_(
    context: typer.Context,
    extension: Extension,
    name: Name = None,
    pin: Pin = False,
    pin_stdin: PinStdin = False,
    service: Service = None,
    email: Email = None,
    language: Language = None,
    timezone: Timezone = None,
    quota: Quota = None,
    greeting: Greeting = None,
    lists: Lists = None,
    timers: Timers = None,
    unset: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="A field to remove. May be given again.")
    ] = None,
    user: User = False,
) -> None:
    """Set fields of a mailbox; lists and timers that are not named stay.

    Example: vmctl mailbox set 2001 --quota 100 --list sales=2001,2002 --unset email
    """
    session = Session.of(context)
    changes = _given(
        name=name, service=service, email=email, language=language, timezone=timezone, quota=quota, greeting=greeting
    )
    present = _document(session, extension) if lists or timers or unset else {}
    changes |= {"lists": _merged(present.get("lists"), _lists(lists))} if lists else {}
    changes |= {"timers": _merged(present.get("timers"), _timers(timers))} if timers else {}
    changes |= _removed(unset or [], present, changes)
    changes |= _asked_pin(pin=pin, from_stdin=pin_stdin)
    if not changes:
        raise typer.BadParameter("nothing to set: name at least one option.")
    with session.desk(user=user) as desk:
        desk.set_mailbox(extension, changes)
    report(
        session, {"extension": extension, "changed": list(changes)}, f"mailbox {extension}: {', '.join(changes)} set"
    )


@mailbox.command("list")
def list_(context: typer.Context) -> None:
    """List the mailboxes.

    Example: vmctl mailbox list --json
    """
    from vmctl.errors import BrokenFile
    from vmctl.model import MAILBOX, MESSAGE, mailbox_key

    session = Session.of(context)
    found, there = [], session.store.names(MAILBOX)
    for extension in there:
        try:
            document = session.store.document(mailbox_key(extension))
        except BrokenFile as error:
            note(f"vmctl: mailbox {extension} is left out: {error.what}" + (f" ({error.why})" if error.why else ""))
            continue
        if document is not None:
            shown = {name: document.get(name) for name in ("name", "service", "email")}
            found.append({"extension": extension, **shown, "messages": len(session.store.names(MESSAGE, extension))})
    if not found:
        note("there are no mailboxes; 'vmctl mailbox create EXT --name NAME' makes one")
    _name_gone(session, there)
    headers = ("extension", "name", "service", "email", "messages")
    emit(session, found, table([[each[header] for header in headers] for each in found], headers))


@mailbox.command("show")
def show(
    context: typer.Context,
    extension: Extension,
    user: Reader = False,  # noqa: ARG001 - for front ends that give it with every command
) -> None:
    """Show a mailbox: its fields, its messages by status, its greetings. A PIN is never shown.

    Example: vmctl mailbox show 2001 --json
    """
    from vmctl import yamltext
    from vmctl.cli.messages import living
    from vmctl.fields import MAILBOX_FIELDS, STATUSES
    from vmctl.model import GREETING

    session = Session.of(context)
    document = _document(session, extension)
    statuses = [each["status"] for each in living(session.store, extension)]
    value = {
        "extension": extension,
        **dict.fromkeys(MAILBOX_FIELDS),
        **document,
        "pin": {"set": "pin" in document},
        "messages": {status: statuses.count(status) for status in STATUSES},
        "greetings": session.store.names(GREETING, extension),
    }
    emit(session, value, yamltext.dump({name: part for name, part in value.items() if part is not None}).rstrip("\n"))


@mailbox.command("delete")
def delete(
    context: typer.Context,
    extension: Extension,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a mailbox with its messages and greetings; `mailbox restore` brings all of it back.

    Example: vmctl mailbox delete 2001 --yes
    """
    session = Session.of(context)
    if not yes:
        from vmctl.errors import DeletionsHeld

        with contextlib.suppress(DeletionsHeld):  # to delete it is the word that it waits for
            session.check_mailbox(extension)
        if not _on_terminal():
            raise typer.BadParameter("nobody can be asked here: say --yes to delete it.", param_hint="--yes")
        typer.confirm(f"Delete mailbox {extension} with its messages and greetings?", abort=True, err=True)
    with session.desk() as desk:
        count = desk.delete_mailbox(extension)
    value = {"extension": extension, "deleted": count}
    report(session, value, f"mailbox {extension} is deleted, and {count} messages and greetings in it")


@mailbox.command("restore")
def restore(context: typer.Context, extension: Extension) -> None:
    """Bring a deleted mailbox back, with the messages and greetings that were deleted together with it.

    Example: vmctl mailbox restore 2001 --server primary
    """
    session = Session.of(context)
    with session.mailbox_desk() as desk:
        whole = desk.restore_mailbox(extension)
    value = {"extension": extension, "restored": whole.inside, "waiting": whole.waiting}
    report(session, value, f"mailbox {extension} is back, with {whole.inside} messages and greetings{_waiting(whole)}")


@mailbox.command("renumber")
def renumber(
    context: typer.Context,
    extension: Extension,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The extension that it is to have.")],
) -> None:
    """Give a mailbox another extension, with its messages and greetings; those that were deleted stay behind.

    Distribution lists and callflows that name the old extension are named, and not changed.

    Example: vmctl mailbox renumber 2001 3001 --server primary
    """
    session = Session.of(context)
    with session.mailbox_desk() as desk:
        whole = desk.renumber(extension, new)
    value = {"extension": new, "was": extension, "moved": whole.inside, "waiting": whole.waiting, "named": whole.named}
    report(
        session, value, f"mailbox {extension} is {new} now, with {whole.inside} messages and greetings{_waiting(whole)}"
    )
    for key in whole.named:
        note(f"{key} still names {extension}")


def _waiting(whole: Whole) -> str:
    return f"; {whole.waiting} of them wait for their recordings: run 'vmctl sync'" if whole.waiting else ""


def _document(session: Session, extension: str) -> dict[str, Any]:
    from vmctl.model import mailbox_key

    session.check_mailbox(extension)
    return session.store.document(mailbox_key(extension)) or {}


def _name_gone(session: Session, there: list[str]) -> None:
    """Name the mailboxes whose files are gone: a list without them must not read as if they had been deleted."""
    from vmctl.errors import DeletionsHeld, StoreError
    from vmctl.gone import refuse_gone
    from vmctl.model import MAILBOX, mailbox_key

    with contextlib.suppress(StoreError), session.index() as index:
        if index is None:
            return
        known = index.keys("kind = ? AND lives AND shown IS NOT NULL", (MAILBOX,))
        for key in sorted(set(known) - set(map(mailbox_key, there))):
            try:
                refuse_gone(session.store, index, key)
            except DeletionsHeld as error:
                note(f"{error.what}\n  try: {error.hint}")


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _asked_pin(*, pin: bool, from_stdin: bool) -> dict[str, str]:
    if pin and from_stdin:
        raise typer.BadParameter("--pin and --pin-stdin exclude each other.", param_hint="--pin")
    if from_stdin:
        return {"pin": (sys.stdin.readline(_LONGEST_LINE) if sys.stdin else "").rstrip("\r\n")}
    if not pin:
        return {}
    if not _on_terminal():
        raise typer.BadParameter("there is no terminal to ask on: use --pin-stdin.", param_hint="--pin")
    answer: str = typer.prompt("PIN", hide_input=True, confirmation_prompt=True, err=True)
    return {"pin": answer}


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _lists(words: Sequence[str]) -> dict[str, list[str]]:
    return {name: text.split(",") if text else [] for name, text in _named(words, "--list")}


def _timers(words: Sequence[str]) -> dict[str, int | None]:
    timers = {}
    for name, text in _named(words, "--timer"):
        if text and not (text.isascii() and text.isdigit()):
            raise typer.BadParameter(f"{text[:40]!r} is no number of hours.", param_hint="--timer")
        timers[name] = int(text) if text else None
    return timers


def _named(words: Sequence[str], option: str) -> list[tuple[str, str]]:
    for word in words:
        if "=" not in word:
            raise typer.BadParameter(f"{word[:80]!r} has no '=' behind its name.", param_hint=option)
    return [(name, text) for name, _, text in (word.partition("=") for word in words)]


def _merged(present: Any, given: dict[str, Any]) -> Any:
    """What is there with what is given; a value of nothing is taken away."""
    everything = (present if isinstance(present, dict) else {}) | given
    return {name: value for name, value in everything.items() if value not in (None, [])}


def _removed(names: Sequence[str], present: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    from vmctl.errors import NotFound
    from vmctl.fields import MAILBOX_FIELDS
    from vmctl.model import ABSENT

    for name in names:
        if name in changes:
            raise typer.BadParameter(f"{name} cannot be set and removed at once.", param_hint="--unset")
        if name not in present and name not in MAILBOX_FIELDS:
            raise NotFound(
                f"a mailbox has no field {name[:40]!r}", hint="a field is one of " + ", ".join(MAILBOX_FIELDS)
            )
    return dict.fromkeys(names, ABSENT)

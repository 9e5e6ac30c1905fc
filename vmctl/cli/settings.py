"""`vmctl settings`: the values of a store that belong to no mailbox."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vmctl.cli.app import group
from vmctl.cli.output import emit, note, report
from vmctl.cli.session import Session

settings = group("Settings of the store, by section and key; both servers hold the same.")


@settings.command("show")
def show(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="SECTION.KEY", help="One setting, or a section; all if it is left out.")
    ] = None,
) -> None:
    """Show settings.

    Example: vmctl settings show defaults.quota
    """
    from vmctl import yamltext
    from vmctl.errors import NotFound
    from vmctl.model import SETTINGS_KEY

    session = Session.of(context)
    document = session.store.document(SETTINGS_KEY) or {}
    if name is not None and name in document:
        value = document[name]
        emit(session, {name: value}, value if isinstance(value, str) else yamltext.dump(value).rstrip("\n"))
        return
    shown = {key: document[key] for key in sorted(document) if name is None or key.startswith(f"{name}.")}
    if name is not None and not shown:
        raise NotFound(f"there is no setting {name[:80]!r}", hint="'vmctl settings show' lists them")
    if not shown:
        note("there are no settings; 'vmctl settings set SECTION.KEY VALUE' makes one")
    emit(session, shown, yamltext.dump(shown).rstrip("\n") if shown else "")


@settings.command("set")
def set_(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SECTION.KEY=VALUE", help="Values as YAML writes them; one may be written SECTION.KEY VALUE."
        ),
    ],
) -> None:
    """Set settings, all in one change.

    Example: vmctl settings set defaults.quota=50 "defaults.languages=[en, cy]"
    """
    changes: dict[str, Any] = {}
    for name, text in _pairs(words):
        changes |= _flat(name, _value(name, text))
    session = Session.of(context)
    with session.desk() as desk:
        desk.set_settings(changes)
    report(session, changes, f"set: {', '.join(changes)}")


@settings.command("unset")
def unset(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="SECTION.KEY", help="The settings to remove.")],
) -> None:
    """Remove settings.

    Example: vmctl settings unset defaults.quota
    """
    from vmctl.model import ABSENT

    session = Session.of(context)
    with session.desk() as desk:
        desk.set_settings(dict.fromkeys(names, ABSENT))
    report(session, {"unset": names}, f"unset: {', '.join(names)}")


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    if len(words) == 2 and "=" not in words[0]:  # noqa: PLR2004 - a name and its value
        return [(words[0], words[1])]
    for word in words:
        if "=" not in word:
            raise typer.BadParameter(f"{word[:80]!r} has no value: write SECTION.KEY VALUE, or SECTION.KEY=VALUE.")
    return [(name, text) for name, _, text in (word.partition("=") for word in words)]


def _value(name: str, text: str) -> Any:
    from vmctl import yamltext
    from vmctl.errors import BadValue, BrokenFile

    if not text.strip():
        raise typer.BadParameter(f"{name[:80]!r} has no value: write '\"\"' for an empty text, or unset it.")
    try:
        return yamltext.load(text, f"the value of {name[:80]}")
    except BrokenFile as error:
        raise BadValue(error.what, why=error.why, hint="put a text with special characters into '\"...\"'") from error


def _flat(name: str, value: Any) -> dict[str, Any]:
    """A mapping given to a section sets the keys in it: a section is no value itself."""
    if "." in name or not isinstance(value, dict):
        return {name: value}
    if not value:
        raise typer.BadParameter(f"the section {name[:80]!r} needs a key.")
    return {f"{name}.{key}": below for key, below in value.items()}

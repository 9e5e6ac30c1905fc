"""`vmctl route`: which server is to be used, for who has to send callers or users to one of the two."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from vmctl.cli.output import emit, note, table
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmctl.routing import Answer, Moment

_KINDS = {"trunk": "trunks", "expansion": "expansions", "application": "applications"}


class _Source(NamedTuple):
    """Where the answers come from: a file, or the stores of this host.

    `listed` holds the names of each part by service; `service_of` finds the service of an extension.
    """

    answers: Mapping[str, Answer]
    listed: dict[str, dict[str, str]]
    service_of: Callable[[str], str]
    addresses: dict[str, str]


def route(
    context: typer.Context,
    extension: Annotated[str | None, typer.Argument(metavar="[EXT]", help="The extension of a mailbox.")] = None,
    trunk: Annotated[str | None, typer.Option(metavar="NAME", help="A trunk that vmctl.yaml lists.")] = None,
    expansion: Annotated[str | None, typer.Option(metavar="NAME", help="An expansion system, likewise.")] = None,
    application: Annotated[str | None, typer.Option(metavar="NAME", help="An application, likewise.")] = None,
    service: Annotated[str | None, typer.Option(metavar="NAME", help="A service.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All services, with what belongs to each.")] = False,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answer from this routes.json, and from nothing else.")
    ] = None,
) -> None:
    """Print the name of the server that serves an extension now. Exits with 54 while nobody does.

    Example: vmctl route 2001
    """
    from vmctl.clock import Clock
    from vmctl.errors import NobodyServes
    from vmctl.routing import Moment

    words = {
        "extension": extension,
        "trunk": trunk,
        "expansion": expansion,
        "application": application,
        "service": service,
    }
    asked = {kind: name for kind, name in words.items() if name is not None}
    if len(asked) + every != 1:
        raise typer.BadParameter("name one extension, trunk, expansion, application or service, or say --all.")
    session, clock = Session.of(context), Clock()
    now = Moment(clock.steady(), clock.boot())
    source = _of_stores(session, clock, now) if file is None else _of_file(file, now)
    if every:
        _show_all(session, source, now, clock.wall())
        return
    ((kind, name),) = asked.items()
    answer = source.answers[_service(source, kind, name)]
    if answer.server is None:
        raise NobodyServes(f"nobody serves {kind} {name} now", answer.service, answer.waiting_for)
    emit(session, {"asked": asked, **_value(source, answer, now, clock.wall())}, answer.server)


def _service(source: _Source, kind: str, name: str) -> str:
    """The service of what is asked for. Raises BadName, NotFound, NoSuchService."""
    from vmctl.errors import NoSuchService, NotFound
    from vmctl.names import check_extension

    if kind == "extension":
        return source.service_of(check_extension(name))
    if kind == "service":
        if name not in source.answers:
            raise NoSuchService(f"there is no service {name[:80]!r}", why=f"there are {' and '.join(source.answers)}")
        return name
    listed = source.listed[_KINDS[kind]]
    if name not in listed:
        there = f"those that are listed: {', '.join(sorted(listed))}" if listed else f"no service lists any {kind}"
        raise NotFound(
            f"no service has the {kind} {name[:80]!r}", why=there, hint="add it to its service in vmctl.yaml"
        )
    return listed[name]


def _of_stores(session: Session, clock: Any, now: Moment) -> _Source:
    """What the stores of this host know, or the one of --server."""
    from vmctl import knowledge
    from vmctl.routing import PARTS

    config, only = session.config, session.named_server
    here = knowledge.look_at_all(config, clock, only)
    answers = knowledge.answers(config, now, here)
    if not any(known.runs for known in here):
        note("nothing runs on the stores of this host: this is what was known when something did")
    for name in answers:
        if knowledge.is_split(config, now, name, here):
            note(f"both servers serve {name} until they hear each other again; this is the one that goes on then")
    listed = {
        part: {name: one.name for one in config.services.values() for name in getattr(one, part)} for part in PARTS
    }
    addresses = {name: str(server.address) for name, server in config.servers.items()}
    return _Source(answers, listed, lambda ext: knowledge.service_of_mailbox(config, ext, only), addresses)


def _of_file(path: Path, now: Moment) -> _Source:
    from vmctl import routes_file
    from vmctl.routing import PARTS

    document = routes_file.read(path)
    answers = routes_file.answers_of(path, document, now)
    listed = {part: document.get(part, {}) for part in PARTS}
    addresses = {name: server.get("address", "") for name, server in document.get("servers", {}).items()}
    default = str(document.get("default"))
    return _Source(answers, listed, lambda ext: str(listed["extensions"].get(ext, default)), addresses)


def _value(source: _Source, answer: Answer, now: Moment, wall: int) -> dict[str, Any]:
    from vmctl.clock import rfc3339
    from vmctl.routes_file import until_as_json

    return {
        "service": answer.service,
        "serving": answer.server,
        "address": source.addresses.get(answer.server or ""),
        "home": answer.home,
        "state": answer.state,
        "epoch": list(answer.epoch),
        "since": rfc3339(answer.since) if answer.since else None,
        "until": until_as_json(answer.until, now, wall),
        "waiting_for": list(answer.waiting_for),
    }


def _show_all(session: Session, source: _Source, now: Moment, wall: int) -> None:
    values, rows = [], []
    for name, answer in source.answers.items():
        members = {
            part: sorted(each for each, one in named.items() if one == name) for part, named in source.listed.items()
        }
        value = _value(source, answer, now, wall) | members
        values.append(value)
        cells = [", ".join(members[part]) or None for part in members]
        end = value["until"]["wall"] if value["until"] else None
        rows.append((name, answer.server or "nobody", answer.home, answer.state, value["since"], end, *cells))
    headers = ("SERVICE", "SERVED BY", "HOME", "STATE", "SINCE", "UNTIL", *(part.upper() for part in source.listed))
    emit(session, values, table(rows, headers))

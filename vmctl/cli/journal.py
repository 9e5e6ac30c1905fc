"""`vmctl journal`: what moved the roles, and when; whether anybody touched it; what is added to it from now on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmctl.cli.output import emit, linger, note, say
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmctl.journal import Journal

_LOOK_EVERY = 0.25  # seconds


def journal(
    context: typer.Context,
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain of hashes instead of showing it.")] = False,
    limit: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N entries.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only entries since then: 2026-01-31T08:15:00Z, or 2h for two hours ago."),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Go on with what is added, until Ctrl-C; --json then prints a line for each."),
    ] = False,
) -> None:
    """Show what moved the roles, and when.

    Example: vmctl journal --server secondary --last 10
    """
    from vmctl.journal import Journal

    if verify and (limit is not None or since is not None or follow):
        raise typer.BadParameter(
            "It checks all of the journal: leave out --last, --since and --follow.", param_hint="--verify"
        )
    time = None if since is None else _time(since)
    session = Session.of(context)
    book = Journal(session.store.state / "journal.jsonl")
    if verify:
        _verify(session, book)
    elif follow:
        _follow(session, book, limit, time)
    else:
        _show(session, _chosen(book, limit, time))


def _time(text: str) -> int:
    """The wall time (microseconds) that a time, or a duration up to now, means."""
    from vmctl.clock import Clock, parse_duration, parse_rfc3339

    try:
        return parse_rfc3339(text)
    except ValueError:
        pass
    try:
        return Clock().wall() - int(parse_duration(text) * 1_000_000)
    except ValueError:
        raise typer.BadParameter(
            f"{text[:80]!r} is neither a time with its zone, such as 2026-01-31T08:15:00Z, nor a duration, such as 2h.",
            param_hint="--since",
        ) from None


def _chosen(book: Journal, limit: int | None, time: int | None) -> Iterable[dict[str, Any]]:
    return book.entries(limit=limit) if time is None else book.entries_from(time, limit)


def _show(session: Session, entries: Iterable[dict[str, Any]]) -> None:
    from vmctl.journal_words import words

    found = list(entries)
    emit(session, found, "\n".join(map(words, found)))


def _follow(session: Session, book: Journal, limit: int | None, time: int | None) -> None:
    """Print a line for each entry as asked, then for each that is added. Raises BrokenPipeError when the reader left."""
    from vmctl.journal_words import words

    try:
        for entry in _growing(book, limit, time):
            say(json.dumps(entry, ensure_ascii=False, allow_nan=False) if session.json else words(entry))
    except KeyboardInterrupt:  # that is how it ends
        return


def _growing(book: Journal, limit: int | None, time: int | None) -> Iterator[dict[str, Any]]:
    mark, seen = book.mark(), book.newest()  # before what is there is read: what comes meanwhile is looked for again
    for entry in _chosen(book, limit, time):
        yield entry
        seen = max(seen, entry.get("seq", 0))
    while True:
        linger(_LOOK_EVERY)
        if mark != (mark := book.mark()):
            if (newest := book.newest()) < seen:
                note(f"the journal was put back: it ends with entry {newest}, and ended with {seen}")
                seen = newest
            for entry in book.entries(since=seen):
                yield entry
                seen = max(seen, entry.get("seq", 0))


def _verify(session: Session, book: Journal) -> None:
    """Tell what is wrong with the journal. Raises JournalBroken where anything is."""
    from vmctl.errors import JournalBroken

    problems = book.verify() or _against_peer(session, book)
    (length, digest), first = (0, ""), 0
    if not problems:
        length, digest = book.length_and_hash()
        first = next(book.entries(), {}).get("seq", 0)
    whole = f"{length} entries, the chain is whole"
    if first > 1:
        whole = f"entries {first} to {length}, the chain is whole; older files were taken away"
    value = {"whole": not problems, "problems": problems, "first": first, "length": length, "hash": digest}
    emit(session, value, "\n".join(problems) or whole)
    if problems:
        raise JournalBroken(f"the journal {book.path} has {len(problems)} faults", why=problems[0])


def _against_peer(session: Session, book: Journal) -> list[str]:
    """What the peer has seen of this journal and is not there any more: a chain alone cannot show that."""
    from vmctl.errors import IndexDamaged

    try:
        with session.index() as index:
            seen = ((index.note("peer") if index else None) or {}).get("journal_seen") or [0, ""]
    except IndexDamaged as error:
        note(f"what the other server has seen of the journal is not known here: {error.what}")
        return []
    length, _ = book.length_and_hash()
    if seen[0] > length:
        return [f"the other server has seen {seen[0]} entries, {seen[0] - length} are missing at the end"]
    same = book.find(seen[0])  # none where its file was taken away since
    if same is not None and same.get("hash") != seen[1]:
        return [f"entry {seen[0]} is not the one that the other server has seen: the journal was written anew"]
    return []

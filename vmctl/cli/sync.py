"""`vmctl sync`, `diff` and `verify`: what brings the two stores in step, shows what would be shipped, and proves it."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vmctl.cli import changes
from vmctl.cli.output import emit, note
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmctl.proof import Difference
    from vmctl.round import Outcome

_SHOWN_AFTER = 1.0  # seconds of work before progress is shown
_MOST_LINES = 100
_MOST_TROUBLES = 10  # of one server on the terminal


def sync(
    context: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="List every folder, whatever its times say.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be shipped, and change nothing.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Give up when nothing has moved for this long.")
    ] = 60.0,
    accept_deletions: Annotated[
        bool,
        typer.Option(
            "--accept-deletions", help="Let deletions go, and older files count, that look like a fault of the disk."
        ),
    ] = False,
    overwrite_from: Annotated[
        Literal["primary", "secondary"] | None,
        typer.Option(help="Overwrite the other server with what this one holds; run it where this one is."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --overwrite-from: do not ask.")] = False,
) -> None:
    """Bring both stores in step: scan, ship, take in, wait for the acknowledgements.

    For servers of this host without a daemon it does the work itself; a daemon is told to do a round at once.

    Example: vmctl sync --timeout 30
    """
    session = Session.of(context)
    if overwrite_from is not None:
        _overwrite(session, overwrite_from, dry_run=dry_run, timeout=timeout, yes=yes)
        return
    if dry_run:
        _show_pending(session)
        return
    from vmctl.clock import Clock
    from vmctl.round import Round

    with _progress() as progress:
        outcome = Round(
            session.config, Clock(), timeout=timeout, full=full, accept_deletions=accept_deletions, progress=progress
        ).run()
    _name_troubles(outcome)
    emit(session, _as_json(outcome), _in_words(outcome))
    _refuse_held([key for tally in outcome.servers.values() for key in tally.held])


def _refuse_held(held: list[str]) -> None:
    from vmctl.errors import DeletionsHeld

    if held:
        raise DeletionsHeld(
            f"{len(held)} records are gone from the disk, or older than before, at once; they wait for your word",
            why=", ".join(held[:5]),
        )


def _overwrite(session: Session, winner: str, *, dry_run: bool, timeout: float, yes: bool) -> None:
    from dataclasses import asdict

    from vmctl.cli import overwriting

    overwriting.check_here(session, winner)
    if dry_run:
        overwriting.preview(session, winner, timeout)
        return
    with _progress() as progress:
        done = overwriting.carry_out(session, winner, timeout=timeout, yes=yes, progress=progress)
    _name_troubles(done.outcome)
    loser = session.config.peer_of(winner).name
    value = {"winner": winner, "loser": loser, "changes": done.changes, **asdict(done.outcome)}
    emit(session, value, overwriting.words(done, winner, loser))
    _refuse_held(done.held)


def diff(context: typer.Context) -> None:
    """Show what would be shipped: each record that the other server lacks, field by field. Changes nothing.

    Example: vmctl diff --server primary
    """
    _show_pending(Session.of(context))


def verify(
    context: typer.Context,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long a peer on another host may take.")
    ] = 600.0,
) -> None:
    """Re-read every file on both servers and prove the stores equal, or name what differs.

    Example: vmctl verify --json
    """
    from vmctl.errors import StoresDiffer
    from vmctl.proof import compare

    session = Session.of(context)
    readings = [_read(session, server.name) for server in session.config.here()]
    names = [server.name for server in session.config.here()]
    if len(readings) == 1:
        from vmctl.clock import Clock
        from vmctl.inquiry import ask_peer

        answer = ask_peer(session.config, session.config.here()[0], Clock(), timeout)
        names.append(session.config.peer_of(names[0]).name)
        differences = compare(readings[0].groups(), dict(answer["groups"]))
        counts = [(readings[0].files, readings[0].bytes), (answer["files"], answer["bytes"])]
        faults = [readings[0].faults, dict(answer["faults"])]
    else:
        one, other = readings
        differences = compare(one.digests, other.digests)
        counts = [(one.files, one.bytes), (other.files, other.bytes)]
        faults = [one.faults, other.faults]
    value = {
        "equal": not differences and not any(faults),
        "differences": [{"record": each.key, names[0]: each.one, names[1]: each.other} for each in differences],
        "servers": {
            name: {"files": count[0], "bytes": count[1], "faults": fault}
            for name, count, fault in zip(names, counts, faults, strict=True)
        },
    }
    emit(session, value, _verdict(names, counts, differences, faults))
    if not value["equal"]:
        total = len(differences) + sum(map(len, faults))
        raise StoresDiffer(
            f"the stores of {names[0]} and {names[1]} are not equal: {total} differences or unreadable files"
        )


# Progress: only where somebody watches, and only when it takes long


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    began = time.monotonic()
    bar: Any = None
    task: Any = None

    def tell(what: str, done: int, total: int) -> None:
        nonlocal bar, task
        if bar is None:
            if time.monotonic() - began < _SHOWN_AFTER:
                return
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            bar = Progress(*columns, console=Console(stderr=True), transient=True)
            bar.start()
            task = bar.add_task(what, total=None)
        bar.update(task, description=what, completed=done, total=total or None)

    try:
        yield tell
    finally:
        if bar is not None:
            bar.stop()


# What would be shipped


def _show_pending(session: Session) -> None:
    servers = [session.server_name] if session.server_name else [server.name for server in session.config.here()]
    value: dict[str, Any] = {}
    lines: list[str] = []
    for name in servers:
        pending, unsettled, faults = _pending(session, name)
        value[name] = {"pending": [entry for entry, _ in pending], "unsettled": unsettled, "faults": faults}
        lines += _pending_words(session, name, [words for _, words in pending])
        for path in unsettled:
            note(f"{name}: {path} was saved a moment ago or is gone: a sync waits until it stands still")
        for path in faults:
            note(f"{name}: {path} cannot be shipped: see 'vmctl status'")
    emit(session, value, "\n".join(lines))


def _pending(session: Session, name: str) -> tuple[list[tuple[dict[str, Any], list[str]]], list[str], list[str]]:
    from vmctl.clock import Clock
    from vmctl.replica import Replica

    with Replica.open(session.config, name, Clock()) as replica:
        shown = []
        preview = replica.preview()
        for entry, report in preview.pending:
            base = entry.base.document if entry.base is not None and entry.base.lives else {}
            now = entry.record.document if entry.record.lives else {}
            words = "deleted" if not entry.record.lives else "new" if not base else "changed"
            value = {"record": entry.record.key, "change": words, "fields": sorted(report["fields"])}
            shown.append((value, _entry_words(entry.record.key, words, base, now)))
        return shown, preview.unsettled, [fault["path"] for fault in preview.faults]


def _entry_words(key: str, change: str, base: dict[str, Any], now: dict[str, Any]) -> list[str]:
    lines = [f"  {key}: {change}"]
    if change == "changed":
        lines += [f"      {line}" for line in changes.lines(base, now)]
    return lines


def _pending_words(session: Session, name: str, entries: list[list[str]]) -> list[str]:
    peer = session.config.peer_of(name).name
    if not entries:
        return [f"{name}: nothing to ship to {peer}"]
    lines = [f"{name} to {peer}: {len(entries)} record{'s' if len(entries) > 1 else ''}"]
    lines += [line for entry in entries[:_MOST_LINES] for line in entry]
    if len(entries) > _MOST_LINES:
        lines.append(f"  and {len(entries) - _MOST_LINES} more")
    return lines


# What a round did


def _as_json(outcome: Outcome) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(outcome)


def _in_words(outcome: Outcome) -> str:
    lines = []
    for name, tally in outcome.servers.items():
        lines.append(
            f"{name}: {tally.scanned} changed on disk, {tally.shipped} shipped in {tally.mails} mails, {tally.taken} taken in"
        )
    lines += [f"{name}: its daemon did the round" for name, who in outcome.by.items() if who == "vmctl serve"]
    lines.append(f"in step after {outcome.seconds:.2f} s")
    return "\n".join(lines)


def _name_troubles(outcome: Outcome) -> None:
    for name, tally in outcome.servers.items():
        for fault in tally.faults[:_MOST_TROUBLES]:
            note(f"{name}: {fault['path']}: {fault['why']} - {fault['mend']}")
        if len(tally.faults) > _MOST_TROUBLES:
            note(f"{name}: and {len(tally.faults) - _MOST_TROUBLES} more: 'vmctl status' names them all")
        for key in tally.conflicts:
            note(f"{name}: two edits at once, what lost is kept as {key}")


# What verify found


def _read(session: Session, name: str) -> Any:
    from vmctl import identity
    from vmctl.proof import read_store
    from vmctl.store.native import NativeStore

    server = session.config.servers[name]
    assert server.store is not None  # noqa: S101 - it is here
    identity.read(server.store, session.config.network, name)
    return read_store(NativeStore(server.store, session.config.audio.formats, session.config.limits.document))


def _verdict(
    names: list[str], counts: list[tuple[int, int]], differences: list[Difference], faults: list[dict[str, str]]
) -> str:
    lines = [f"{name}: read {count[0]} files, {count[1]} bytes" for name, count in zip(names, counts, strict=True)]
    for each in differences[:_MOST_LINES]:
        where = (
            f"only at {names[0]}" if each.other is None else f"only at {names[1]}" if each.one is None else "differs"
        )
        lines.append(f"  {each.key}: {where}")
    if len(differences) > _MOST_LINES:
        lines.append(f"  and {len(differences) - _MOST_LINES} more")
    for name, fault in zip(names, faults, strict=True):
        lines += [f"  {name}: {path} cannot be read: {why}" for path, why in fault.items()]
    if not differences and not any(faults):
        lines.append("equal")
    return "\n".join(lines)

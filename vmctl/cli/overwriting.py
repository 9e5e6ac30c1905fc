"""`vmctl sync --overwrite-from`: asks, does it, tells what was set back; or shows what would be, and changes nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from vmctl import beneath
from vmctl.cli.output import emit, note
from vmctl.errors import StoreMissing, SyncError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.cli.session import Session
    from vmctl.config import Config
    from vmctl.index import Index
    from vmctl.overwrite import Overwritten
    from vmctl.proof import Reading
    from vmctl.store.native import NativeStore

_MOST_LINES = 100
_WOULD = {"deleted": "would be deleted", "restored": "would be made again", "set": "would be set to what {} holds"}
_WAS = {"deleted": "deleted", "restored": "made again", "set": "set back"}


def check_here(session: Session, winner: str) -> None:
    """Raises StoreMissing unless the winner's store is on this host."""
    if winner not in [server.name for server in session.config.here()]:
        raise StoreMissing(
            f"the store of {winner} is not on this host",
            why="the server that wins sets everything back at home, as changes of its own",
            hint=f"run it where {winner} is",
        )


# What it would do


def preview(session: Session, winner: str, timeout: float) -> None:
    """Show what would be set back, by record where both stores are here, else as far as the peer tells."""
    loser = session.config.peer_of(winner).name
    again = _tell_unfinished(session, winner)
    if session.config.servers[loser].here:
        changes = _between(_read(session.config, winner), _read(session.config, loser)) | again
        for name in (winner, loser):
            changes = _without_waiting(session.config, name, changes, wins=name == winner)
        lines = [f"  {key}: {_WOULD[what].format(winner)}" for key, what in changes.items()]
        value: dict[str, Any] = {"winner": winner, "loser": loser, "changes": changes}
        counted = f"{loser}: {len(changes)} record{'' if len(changes) == 1 else 's'} would be overwritten"
    else:
        value = {"winner": winner, "loser": loser, **_of_peer(session, winner, timeout)}
        lines = [f"  {key}: {_WOULD[what].format(winner)}" for key, what in again.items()]
        lines += [f"  {name}: something in it differs" for name in value["groups"]]
        counted = f"{loser}: {value['pending_there']} records that {winner} has not got, {value['pending_here']} that it has not got"
    rest = [f"  and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    emit(session, value, "\n".join([counted, *lines[:_MOST_LINES], *rest, "nothing was changed"]))


def _read(config: Config, name: str) -> Reading:
    from vmctl.proof import read_store

    return read_store(_store(config, name))


def _store(config: Config, name: str) -> NativeStore:
    from vmctl import identity
    from vmctl.store.native import NativeStore

    root = config.servers[name].store
    assert root is not None, "it is here"  # noqa: S101 - for the type checker
    identity.read(root, config.network, name)
    return NativeStore(root, config.audio.formats, config.limits.document)


def _between(mine: Reading, theirs: Reading) -> dict[str, str]:
    from vmctl.proof import compare

    return {
        each.key: "deleted" if each.one is None else "restored" if each.other is None else "set"
        for each in compare(mine.digests, theirs.digests)
    }


def _without_waiting(config: Config, name: str, changes: dict[str, str], *, wins: bool) -> dict[str, str]:
    """The changes without those of records that wait for a person's word at a server, and go on waiting: these are named.

    What the winner's store has not got any more is not deleted at the other before that is said.
    """
    from vmctl.errors import DeletionsHeld
    from vmctl.gone import is_gone
    from vmctl.index import Index
    from vmctl.overruled import waiting_on

    store = _store(config, name)
    path = store.state / "index.db"
    if not beneath.is_there(path):
        return changes
    index = Index.to_read(path)
    try:
        waits = waiting_on(store, index)
        if wins:
            waits |= {key for key in changes if is_gone(store, index, key) and _waits(store, index, key)}
    finally:
        index.close()
    stay = sorted(waits & changes.keys())
    if stay:
        note(
            f"{name}: {len(stay)} records wait for your word there, and are left as they are: {', '.join(stay[:5])}\n"
            f"  try: {DeletionsHeld.hint}"
        )
    return {key: what for key, what in changes.items() if key not in waits}


def _waits(store: NativeStore, index: Index, key: str) -> bool:
    from vmctl.errors import DeletionsHeld
    from vmctl.gone import refuse_gone

    try:
        refuse_gone(store, index, key)
    except DeletionsHeld:
        return True
    return False


def _of_peer(session: Session, winner: str, timeout: float) -> dict[str, Any]:
    """What can be known of a peer on another host: what is pending, and the groups whose readings differ."""
    from vmctl.clock import Clock
    from vmctl.inquiry import ask_peer
    from vmctl.proof import compare
    from vmctl.replica import Replica

    server = session.config.servers[winner]
    answer = ask_peer(session.config, server, Clock(), timeout)
    groups = compare(_read(session.config, winner).groups(), dict(answer["groups"]))
    with Replica.open(session.config, winner, Clock()) as replica:
        return {
            "pending_here": len(replica.preview().pending),
            "pending_there": replica.contact.facts().get("pending"),
            "groups": [each.key for each in groups],
        }


# Doing it


def carry_out(
    session: Session, winner: str, *, timeout: float, yes: bool, progress: Callable[[str, int, int], None]
) -> Overwritten:
    """Ask unless it was said, then overwrite. Raises what a round raises, having said what to do then."""
    import getpass
    import time

    from vmctl.clock import Clock
    from vmctl.overwrite import overwrite

    loser = session.config.peer_of(winner).name
    _tell_unfinished(session, winner)
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise typer.BadParameter(f"nobody can be asked here: say --yes to overwrite {loser}.", param_hint="--yes")
        typer.confirm(f"Overwrite what {loser} holds with what {winner} holds?", abort=True, err=True)
    try:
        return overwrite(
            session.config, winner, Clock(), by=getpass.getuser(), timeout=timeout, wait=time.sleep, progress=progress
        )
    except SyncError:
        note(f"{loser} is not overwritten yet: run the command again, and it goes on with what {winner} held now")
        raise


def _tell_unfinished(session: Session, winner: str) -> dict[str, str]:
    """Say that a run that was cut off is gone on with; what it sets back of what both servers hold alike by now."""
    from vmctl.clock import Clock, rfc3339
    from vmctl.index import Index
    from vmctl.overwrite import unfinished, would_set_back

    root = session.config.servers[winner].store
    path = root / ".vmctl" / "index.db" if root is not None else None
    if path is None or not beneath.is_there(path):
        return {}
    index, wall = Index.to_read(path), Clock().wall()
    try:
        since = unfinished(index, wall)
        if since is None:
            return {}
        note(f"an overwrite was cut off: this one goes on with it, by what {winner} held at {rfc3339(since)}")
        return would_set_back(index, wall)
    finally:
        index.close()


def words(done: Overwritten, winner: str, loser: str) -> str:
    """What was set back, a line for each record."""
    lines = [f"  {key}: {_WAS[what]}" for key, what in done.changes.items()]
    rest = [f"  and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    counted = f"{len(lines)} record{'' if len(lines) == 1 else 's'} of {loser} overwritten with what {winner} held"
    return "\n".join([counted, *lines[:_MOST_LINES], *rest])

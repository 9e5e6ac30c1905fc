"""`vmctl sync --overwrite-from SERVER`: "that side wins". What the winner holds now is what both hold in the end.

What the winner holds is remembered, then an ordinary round merges all that the other server has, and then the winner
sets back what came out otherwise, as new changes of its own, which a second round ships. So nothing is thrown away:
what the other server had is in the history and in the conflicts, and its messages can be restored. What is remembered
stays in the index until it was set back: a run that was cut off is gone on with by the next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.entry import audio_of
from vmctl.errors import NotInStep
from vmctl.gone import is_gone
from vmctl.merge import namesake_key
from vmctl.model import ABSENT, KINDS, MAILBOX, MESSAGE, Record, Tick, canonical, deleted, edited, restored
from vmctl.overruled import OVERWRITTEN
from vmctl.replica import Replica
from vmctl.round import Outcome, Round

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.entry import Entry
    from vmctl.index import Index

_NOTE = "overwrite"
_POLL = 0.05  # seconds
_FORGOTTEN_AFTER = 86_400_000_000  # microseconds: what was remembered longer ago is not what anybody means today

DELETED, RESTORED, SET = "deleted", "restored", "set"


class Overwritten(NamedTuple):
    """What was set back, by key: `deleted`, `restored` or `set`; since when that is remembered; what the rounds did.

    `held` are the keys of what still waits for a person's word, on the servers of this host.
    """

    changes: dict[str, str]
    since: int
    outcome: Outcome
    held: list[str]


def overwrite(
    config: Config, winner: str, clock: Clock, *, by: str, timeout: float, wait: Callable[[float], object],
    progress: Callable[[str, int, int], None] | None = None,
) -> Overwritten:  # fmt: skip
    """Make the other server hold what `winner`, which is here, holds. Raises what a round raises: then run it again."""
    with Replica.open(config, winner, clock) as replica:
        replica.take()
        replica.scan_settled(wait)
        since = remember(replica)
    Round(config, clock, timeout=timeout, progress=progress).run()
    with Replica.open(config, winner, clock) as replica:
        changes = set_back(replica, by)
    loser = config.peer_of(winner)
    vanished = _gone(config, loser.name, clock) if loser.here else set()
    outcome = Round(config, clock, timeout=timeout, written=True, progress=progress).run()
    if loser.here:
        _await_files(config, loser.name, clock, timeout, wait)
        changes |= dict.fromkeys(sorted(vanished - _gone(config, loser.name, clock)), RESTORED)
    return Overwritten(changes, since, outcome, _held(config, clock))


def _gone(config: Config, name: str, clock: Clock) -> set[str]:
    """The records of a server whose files are gone and wait for a person's word."""
    with Replica.open(config, name, clock) as replica:
        return {key for key in replica.index.note("held") or [] if is_gone(replica.store, replica.index, key)}


def _await_files(config: Config, name: str, clock: Clock, timeout: float, wait: Callable[[float], object]) -> None:
    """Wait until a server has written all that it knows: a daemon fetches recordings again after the round is over.

    Raises NotInStep.
    """
    deadline = clock.steady() + timeout
    with Replica.open(config, name, clock) as replica:
        while todo := replica.index.unwritten():
            if clock.steady() > deadline:
                raise NotInStep(f"{name} has not written {todo} files yet", why="their recordings have not come again")
            wait(_POLL)


def _held(config: Config, clock: Clock) -> list[str]:
    held: set[str] = set()
    for server in config.here():
        with Replica.open(config, server.name, clock) as replica:
            held |= set(replica.index.note("held") or [])
    return sorted(held)


def unfinished(index: Index, wall: int) -> int | None:
    """Since when (microseconds) an overwrite waits to be finished; None where none does."""
    note = index.note(_NOTE)
    return note["since"] if note and 0 <= wall - note["since"] < _FORGOTTEN_AFTER else None


def remember(replica: Replica) -> int:
    """Remember what the winner holds, unless a run that was cut off did so; tells since when it is remembered."""
    index, wall = replica.index, replica.clock.wall()
    with replica.locked(), index.transaction():
        since = unfinished(index, wall)
        if since is not None:
            return since
        index.remember_records()
        index.set_note(_NOTE, {"since": wall, "incarnation": index.meta("incarnation")})
    return wall


def set_back(replica: Replica, by: str) -> dict[str, str]:
    """Set every record that others have changed since back to what is remembered, and forget that."""
    index, clock = replica.index, replica.clock
    changes: dict[str, str] = {}
    with replica.locked():
        with index.transaction():
            tick = index.next_tick(clock.wall())  # one act: see 'mailbox restore'
            for entry, record in _otherwise(index, tick, clock.wall()):
                changes[record.key] = _what(entry.record, record)
                index.put(replace(entry, record=record), clock.wall())
            index.forget_records()
            index.set_note(_NOTE, None)
            index.set_note(OVERWRITTEN, tick.number)  # every mail tells it: what is gone at the peer is written again
        replica.tell(f"overwritten from {replica.server.name}", records=len(changes), by=f"operator {by}")
        replica.applier.apply_all()
    return changes


def would_set_back(index: Index, wall: int) -> dict[str, str]:
    """What a run that was cut off would set back now, although both servers hold the same of it; empty without one."""
    if unfinished(index, wall) is None:
        return {}
    with index.transaction(rollback=True):
        found = _otherwise(index, index.next_tick(wall), wall)
        return {record.key: _what(entry.record, record) for entry, record in found}


def _otherwise(index: Index, tick: Tick, wall: int) -> list[tuple[Entry, Record]]:
    """What is not as it is remembered, with the record that sets it back by the change `tick`."""
    mine = {(index.note(_NOTE) or {}).get("incarnation", ""), index.meta("incarnation")}
    differing = {key: then for key, then in index.remembered_otherwise() if key.partition("/")[0] in KINDS}
    kept, found = _ousted(index, differing), []
    for key, then in differing.items():
        entry = index.get(key)
        if entry is None or key in kept:
            continue
        record = as_it_was(then, entry.record, mine, tick, wall)
        if record is not entry.record:
            found.append((entry, record))
    return found


def _ousted(index: Index, differing: dict[str, Record | None]) -> set[str]:
    """The winner's messages that lost their id to another one of the peer: they stay, under the id that they have now."""
    found = set()
    for key, then in differing.items():
        entry = index.get(key)
        if then is not None and entry is not None and _is_another(then, entry.record):
            audio = audio_of(then.document)
            found.add(namesake_key(key, audio["sha256"] if audio else ""))
    return found


def as_it_was(then: Record | None, now: Record, mine: set[str], tick: Tick, at: int) -> Record:
    """`now` with what others than `mine` (incarnations) did to it since `then` set back, as the change `tick`.

    The same object where nothing is to be done: what this server itself did since counts.
    """
    if then is None or not then.lives or _is_another(then, now):
        return deleted(now, tick) if now.lives and not _kept_by(mine, then, now) else now
    record = now
    if not now.lives:
        if any(now.vector.get(by, 0) > then.vector.get(by, 0) for by in mine):
            return now
        record = restored(now, tick)
    changes = {
        name: then.document.get(name, ABSENT)
        for name, field in record.fields.items()
        if field.stamp.by not in mine and _differs(then.document.get(name, ABSENT), field.value)
    }
    return edited(record, changes, tick, at) if changes else record


def _kept_by(mine: set[str], then: Record | None, now: Record) -> bool:
    """Whether this server itself made or restored it since. A mailbox that something in it brought back is not meant."""
    before = then.vector if then else {}
    if now.kind != MAILBOX:
        return any(now.kept.get(by, 0) > before.get(by, 0) for by in mine)
    return any(
        field.stamp.by in mine and field.stamp.number > before.get(field.stamp.by, 0) for field in now.fields.values()
    )


def _is_another(then: Record, now: Record) -> bool:
    """Whether another message has the id now: the recording of a message never changes."""
    one, other = audio_of(then.document), audio_of(now.document)
    return now.kind == MESSAGE and one is not None and other is not None and one["sha256"] != other["sha256"]


def _differs(one: Any, other: Any) -> bool:
    if one is ABSENT or other is ABSENT:
        return one is not other
    return canonical(one) != canonical(other)


def _what(before: Record, after: Record) -> str:
    return SET if before.lives and after.lives else RESTORED if after.lives else DELETED

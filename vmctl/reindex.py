"""`vmctl reindex`: whatever the index is, it is set aside, and a new one is built from the files of the store.

What the files do not say (the acknowledgements, the conflicts) the other server tells: this server joins it anew, under a new incarnation.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl import beneath, durable, identity
from vmctl.errors import DiskFull, StoreUnusable, VmctlError
from vmctl.model import MESSAGE
from vmctl.rejoin import ORDERED
from vmctl.replica import Replica, store_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmctl.clock import Clock
    from vmctl.config import Config

INDEX = "index.db"
_BESIDE = ("-wal", "-shm")  # what SQLite keeps beside its file


class Rebuilt(NamedTuple):
    """What the new index holds, and where the old one is now (None: there was none)."""

    aside: Path | None
    incarnation: str
    records: int
    messages: int
    faults: list[dict[str, Any]]


def rebuild(config: Config, name: str, clock: Clock, wait: Callable[[float], object]) -> Rebuilt:
    """Set the index of a server that is here aside and build a new one; `wait` lets seconds pass.

    A daemon that runs on the store finds the new index by itself. A rebuild that is cut off is done again, or finished
    by whatever opens the store next; where the disk has no room for a new one, the old one is put back. Raises
    StoreMissing, StoreForeign, StoreBusy, DiskFull, ...
    """
    root = config.servers[name].store
    assert root is not None, "a server that is here has a store"  # noqa: S101
    identity.read(root, config.network, name)
    with store_lock(root):
        aside = set_aside(root / identity.DIRECTORY, clock.wall())
    try:
        return _built(config, name, clock, wait, aside)
    except (DiskFull, StoreUnusable) as error:
        raise type(error)(
            f"no new index of {name} can be built", why=error.words, hint=_taken_back(root, aside)
        ) from error


def _built(config: Config, name: str, clock: Clock, wait: Callable[[float], object], aside: Path | None) -> Rebuilt:
    with Replica.open(config, name, clock, why=ORDERED) as replica:
        replica.take()  # what came in before is older than what is on disk
        replica.scan_settled(wait, full=True)
        index = replica.index
        return Rebuilt(
            aside,
            index.meta("incarnation"),
            index.count("shown IS NOT NULL"),
            index.count("shown IS NOT NULL AND kind = ?", (MESSAGE,)),
            index.faults.all(),
        )


def _taken_back(root: Path, aside: Path | None) -> str:
    """Put the index back that was set aside for one that could not be built; tells how things are now, and what to type.

    Whatever was done under the new one was done under an incarnation of its own. So the old one is, at the worst, an
    index that was rolled back, of which the store takes a new life.
    """
    again = "make room, then run 'vmctl reindex' again"
    if aside is None:
        return f"there was none before, and no file of the store was touched: {again}"
    try:
        with store_lock(root):
            put_back(root / identity.DIRECTORY, aside)
    except VmctlError:
        return f"the former one lies at {aside}, and no file of the store was touched: {again}"
    return f"the former one is in its place again, and no file of the store was touched: {again}"


def set_aside(state: Path, wall: int) -> Path | None:
    """Move the index in `state` away, under the time `wall` (microseconds); its new path, None where there was none.

    The index itself goes first: without it SQLite removes what lies beside it.
    """
    index = state / INDEX
    if not beneath.is_there(index):
        return None
    aside = state / f"{INDEX}.aside-{stamp(wall)}"
    durable.move(index, aside)
    for suffix in _BESIDE:
        beside = index.with_name(INDEX + suffix)
        if beneath.is_there(beside):
            durable.move(beside, aside.with_name(aside.name + suffix))
    return aside


def put_back(state: Path, aside: Path) -> None:
    """Put the index that was moved to `aside` in the place of the one in `state`, which goes.

    Itself comes last: before, what lies beside it belongs to nothing that anybody opens.
    """
    index = state / INDEX
    for path in (index, *(index.with_name(INDEX + suffix) for suffix in _BESIDE)):
        durable.remove(path)
    for suffix in _BESIDE:
        beside = aside.with_name(aside.name + suffix)
        if beneath.is_there(beside):
            durable.move(beside, index.with_name(INDEX + suffix))
    durable.move(aside, index)


def stamp(wall: int) -> str:
    """A time (microseconds) as part of a file's name, such as `20260131T081500.123456`."""
    moment = datetime.fromtimestamp(wall / 1_000_000, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{wall % 1_000_000:06d}"

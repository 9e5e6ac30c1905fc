"""A daemon's looks at its store, as far as they go without a daemon: part by part, with whatever happens in between."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wire import SETTLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wire import Wire

    from vmctl.lookout import Lookout

_MOST_LOOKS = 8
_LONG_AGO = 10**13  # nanoseconds


def turn(wire: Wire, looking: Lookout) -> bool:
    """One turn of the primary's daemon, as far as it is about its store."""
    wire.a.take()
    return looking.turn(wire.a, wire.clock.steady())


def through(wire: Wire, looking: Lookout, act: Callable[[int], object] = lambda _: None) -> int:
    """A whole look, acting after each of its parts but the last; of how many parts it was."""
    parts = 1
    turn(wire, looking)
    while looking.goes_on:
        act(parts)
        turn(wire, looking)
        parts += 1
    return parts


def stand_still(wire: Wire) -> None:
    """Let time pass until what was written counts."""
    wire.tick()
    wire.clock.advance(SETTLE + 0.1)


def put_back(path: Path, former: bytes) -> None:
    """As from a backup: with the time of then."""
    then = path.stat().st_mtime_ns - _LONG_AGO
    beside = path.with_name("former.tmp")
    beside.write_bytes(former)
    os.utime(beside, ns=(then, then))
    beside.rename(path)


def until_settled(wire: Wire, looking: Lookout) -> None:
    """Looks, as the daemon makes them, until none is owed."""
    for _ in range(_MOST_LOOKS):
        stand_still(wire)
        looking.begin()
        through(wire, looking)
        if not wire.a.report.again:
            return
    raise AssertionError("each look owes another one")

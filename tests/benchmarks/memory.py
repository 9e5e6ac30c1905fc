"""What the daemons need: memory at a first sync and for one very long message, and the processor at rest."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from running import until

from benchmarks.daemons import serving
from benchmarks.measure import US, Row
from benchmarks.rounds import bring_in_step
from benchmarks.stores import write_message

if TYPE_CHECKING:
    from benchmarks.daemons import Serving
    from benchmarks.stores import Site

_LONG, _LONG_NUMBER = 500_000_000, 90_000_000
_AT_REST = 60  # seconds
_LOOK = 5.0


def rows(site: Site) -> list[Row]:
    """Of the daemons of both sides."""
    site.begin()
    found = []
    with serving(site) as both:
        for name, one in zip(("sender", "receiver"), both, strict=True):
            row = Row(f"peak memory, first sync of {site.shape.name}, {name}", unit="MB", most=120.0)
            row.add(US, one.memory)
            found.append(row)
    site.in_step = True
    with serving(site) as both:
        until(lambda: not any(map(_is_busy, both)), within=600, what="the end of the scans of their start")
        before = [one.memory_now for one in both]
        for one in both:
            one.forget_peak()
        folder = site.primary / "mailboxes/20000/messages"
        ident = write_message(folder, "20000", _LONG_NUMBER, _LONG, "primary-of-the-application")
        there = site.secondary / "mailboxes/20000/messages" / f"{ident}.json"
        until(there.exists, within=600, what="the long message")
        for name, one, rest in zip(("sender", "receiver"), both, before, strict=True):
            row = Row(f"memory above rest for one message of 500 MB, {name}", unit="MB", most=60.0)
            row.add(US, one.memory - rest)
            found.append(row)
    return found


def at_rest(site: Site) -> list[Row]:
    """The share of a core that a daemon uses while nothing happens.

    Heartbeats are in some of the seconds that are looked at, so the second in the middle of all is one between them.
    """
    bring_in_step(site)
    used: list[list[float]] = [[], []]
    with serving(site) as both:
        until(lambda: not any(map(_is_busy, both)), within=600, what="the end of the scans of their start")
        for _ in range(_AT_REST):
            before = [one.processor for one in both]
            time.sleep(1.0)
            for one, share, then in zip(both, used, before, strict=True):
                share.append((one.processor - then) * 100)
    found = []
    for name, share in zip(("primary", "secondary"), used, strict=True):
        between = Row(f"daemon at rest, {site.shape.name}, {name}, between heartbeats", unit="% of a core", most=0.5)
        between.add(US, statistics.median(share))
        whole = Row(f"daemon at rest, {site.shape.name}, {name}, with its heartbeats", unit="% of a core")
        whole.add(US, statistics.mean(share))
        found += [between, whole]
    return found


def _is_busy(one: Serving) -> bool:
    """Whether a daemon has more to do than to wait, in the next seconds."""
    before = one.processor
    time.sleep(_LOOK)
    return one.processor - before > _LOOK / 20

"""Time: readings that never repeat, RFC 3339 for showing, durations as people write them."""

from __future__ import annotations

import functools
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d{1,12}(?:\.\d{1,12})?)\s*(ms|s|min|m|h|d)\s*", re.ASCII)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,12})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock:
    """The machine's two clocks; a test gives its own.

    `wall` is for stamps and for showing. `steady` counts through suspend and never jumps, so that hold-downs and
    timeouts run on it (CLOCK_BOOTTIME; Python's monotonic stands still in suspend).
    """

    def wall(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1000

    def steady(self) -> float:
        """Seconds since this machine was booted."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot(self) -> str:
        """The id of this boot, which tells whether two `steady` readings can be compared."""
        try:
            return _boot()
        except OSError:
            return "unknown"


@functools.cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Deadline:
    """The moment by which something must be over: so many seconds from now, or as soon as `stopped` says so."""

    def __init__(self, clock: Clock, seconds: float, stopped: Callable[[], bool] = lambda: False) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock.steady() + seconds
        self._stopped = stopped

    @property
    def stopped(self) -> bool:
        """Whether somebody has said so."""
        return self._stopped()

    @property
    def over(self) -> bool:
        """Whether it has come."""
        return self.stopped or self._clock.steady() >= self._end


HIGHEST = 2**53 - 2**50  # a reading of the year 2219; above it, numbers that every JSON reader can hold come to an end


def tick(last: int, wall: int) -> int:
    """The next reading of a hybrid logical clock: above `last`, and not below the wall clock.

    A reading is a count of microseconds, so it fits the 53 bits that every JSON reader has. Numbers made so are not
    used twice, even by a server that was rolled back and forgot the last ones.
    """
    return max(last + 1, wall)


def rfc3339(micros: int) -> str:
    """A wall reading as RFC 3339 in UTC with milliseconds. Raises OverflowError for none of the years 1 to 9999."""
    moment = _EPOCH + micros * _MICROSECOND
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def parse_rfc3339(text: str) -> int:
    """Microseconds of an RFC 3339 time.

    Raises ValueError for anything else, also for one without its zone, and for one that is in another year than 1 to
    9999 in UTC: it could not be shown again.
    """
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no time with its zone such as 2026-01-31T08:15:00Z")
    try:
        return (datetime.fromisoformat(text.upper()).astimezone(UTC) - _EPOCH) // _MICROSECOND
    except OverflowError as error:
        raise ValueError(f"{text!r} is before or after all times that can be told") from error


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `500ms`, `10s`, `3m`, `1h` or `30d`. Raises ValueError for anything else."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no duration such as 10s, 3m, 1h or 30d")
    return float(match[1]) * _UNITS[match[2]]


def duration(seconds: float) -> str:
    """Seconds in words for people: `4 s`, `3 min`, `2.5 h`, `9 days`."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    days = seconds / 86400
    return f"{days:.3g} days" if days < 100 else f"{days:.0f} days"  # noqa: PLR2004 - three digits, or all there are

"""A failing schedule made small: acts are left out for as long as it fails in the same way (delta debugging)."""

import dataclasses
import re
from functools import partial

from .schedule import run

_PHRASES = (
    "is missing", "is back", "is lost", "was deleted and is there", "lost against", "still has to ship", "still has to write",
    "the stores differ", "must be one of", "was overwritten", "files cannot be read", "the digests", "come to rest",
    "in step and sends", "mails until", "no such file", "went before a scan", "where no store is", "cannot be restored",
)  # fmt: skip


def way_of(failure):
    """In which way a schedule fails: what is said of every failure of its sort."""
    if failure is None:
        return None
    last = failure.strip().splitlines()[-1]
    return next((phrase for phrase in _PHRASES if phrase in last), re.sub(r"[^A-Za-z ]+", " ", last)[:40])


def shrink(schedule, most=400, trial=run, plainer=None):
    """The smallest schedule found in `most` trials that fails as this one does; `plainer` then makes the rest of it plain."""
    way = way_of(trial(schedule).failure)
    steps, size, count = list(schedule.steps), max(1, len(schedule.steps) // 2), 0
    while count < most:
        at = removed = 0
        while at < len(steps) and count < most:
            rest = steps[:at] + steps[at + size :]
            count += 1
            if way_of(trial(dataclasses.replace(schedule, steps=tuple(rest))).failure) == way:
                steps, removed = rest, removed + 1
            else:
                at += size
        if size == 1 and not removed:
            break
        size = max(1, size // 2)
    return (plainer or partial(_plainer, trial=trial))(dataclasses.replace(schedule, steps=tuple(steps)), way)


def _plainer(schedule, way, trial):
    """The same with a plainer profile, if it fails there, too."""
    for change in ({"narrow": False}, {"fates": {"direct": 1.0}}, {"power": 0.0}, {"power": 1.0}):
        plain = dataclasses.replace(schedule, profile=dataclasses.replace(schedule.profile, **change))
        if plain != schedule and way_of(trial(plain).failure) == way:
            schedule = plain
    return schedule

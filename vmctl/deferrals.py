"""What it is that the peer's server puts off, each time (4xx): it must not hold up what is behind it.

A mail that is put off proves nothing: the server may be busy, its disk full, or know nobody yet (greylisting). So the
next mail is a bare one. Is that put off, too, then it is the link: nobody is suspected, and every mail is a bare one
until one is taken. Is it taken, then it was what the mail brought. That waits, longer each time, and all else goes
around it. What was put off again and again, for a minute at least, is divided, until one thing is put off alone. That
is named, and tried for ever, up to an hour apart: nothing that is put off is ever given up.

Nothing here touches a disk or reads a clock: `now` is in seconds that never jump, `wall` in seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmctl.backoff import backoff
from vmctl.refusals import Piece, Version

if TYPE_CHECKING:
    from vmctl.refusals import Group, Thing

TIMES, LONG = 3, 60.0  # as often, and seconds: what a busy server puts off now it takes by then
_FIRST, _LONGEST = 10.0, 3600.0  # seconds between two tries
_ALONE = TIMES - 2  # what stands alone is not named before it was put off twice


@dataclass(slots=True)
class _Suspect:
    """Things that were put off in one mail: since when, how often, when they are to be tried again."""

    things: Group
    since: float
    times: int = 0
    due: float = 0.0
    named: bool = False


class Deferrals:
    """The suspects of one server's mails."""

    def __init__(self) -> None:
        self._doubted: list[_Suspect] = []  # put off, and no mail was taken since
        self._waiting: list[_Suspect] = []
        self.every_mail = False  # whether even a bare mail was put off

    def suspects(self) -> set[Thing]:
        """What no ordinary mail may bring now."""
        return {thing for one in (*self._doubted, *self._waiting) for thing in one.things}

    @property
    def asks_for_a_bare_mail(self) -> bool:
        """Whether the next mail must bring nothing, to tell what the link is worth."""
        return self.every_mail or bool(self._doubted)

    def next(self, now: float) -> Group | None:
        """The suspects whose time has come, for a mail of their own."""
        return next((one.things for one in self._waiting if now >= one.due), None)

    def loaded(self, group: Group, things: Group) -> bool:
        """Of a group only these things are in the mail; tells whether it is a group of these suspects.

        The others are acknowledged, changed, or fit in no more: these go with the next mail, so they are as they were.
        """
        one = self._of(group)
        if one is None:
            return False
        one.things = things
        if not things:
            self._waiting.remove(one)
        return True

    def put_off(self, things: Group, wall: float) -> bool:
        """A mail with these things was put off; tells whether another one may go at once."""
        if not things:
            self._waiting = self._doubted + self._waiting
            self._doubted = []
            self.every_mail = True
            return False
        one = self._of(things) or _Suspect(things, wall)
        if one in self._waiting:
            self._waiting.remove(one)
        self._doubted.append(one)
        return True

    def taken(self, things: Group, now: float, wall: float) -> list[tuple[Thing, int]]:
        """A mail with these things was taken; gives what was put off alone before it, and how often that was now."""
        self.every_mail = False
        if things:
            self.forget(things)
        doubted, self._doubted = self._doubted, []
        return [verdict for one in doubted if (verdict := self._judge(one, now, wall)) is not None]

    def forget(self, things: Group) -> None:
        """These things are under no suspicion any more."""
        gone = set(things)
        for one in self._waiting:
            one.things = tuple(thing for thing in one.things if thing not in gone)
        self._waiting = [one for one in self._waiting if one.things]

    def named(self) -> set[Thing]:
        """What stands alone and was named."""
        return {one.things[0] for one in (*self._doubted, *self._waiting) if one.named}

    def resume(self, thing: Thing, since: float, times: int) -> None:
        """A thing was named by a process before this one: it is tried again soon."""
        self._waiting.append(_Suspect((thing,), since, times, named=True))

    def _of(self, things: Group) -> _Suspect | None:
        return next((one for one in self._waiting if one.things == things), None)

    def _judge(self, one: _Suspect, now: float, wall: float) -> tuple[Thing, int] | None:
        one.times += 1
        one.due = now + backoff(_FIRST, one.times, _LONGEST)
        if one.times >= TIMES and wall - one.since >= LONG:
            if len(one.things) > 1:
                middle = len(one.things) // 2
                halves = (one.things[:middle], one.things[middle:])
                self._waiting = [
                    _Suspect(half, one.since, TIMES - 1 if len(half) > 1 else _ALONE, now) for half in halves
                ] + self._waiting
                return None
            one.named = True
        self._waiting.append(one)
        return (one.things[0], one.times) if one.named else None

    # Over the end of a process, for those who sync by cron

    def as_json(self) -> list[Any]:
        """The suspects that are not named yet: things, since when, how often."""
        waiting = [one for one in self._waiting if not one.named]
        return [[[list(thing) for thing in one.things], one.since, one.times] for one in waiting]

    def restore(self, value: Any) -> None:
        """Take up what `as_json` gave; all of it is due."""
        for things, since, times in value or ():
            group = tuple(Version(*thing) if len(thing) == 2 else Piece(*thing) for thing in things)  # noqa: PLR2004
            self._waiting.append(_Suspect(group, since, times))

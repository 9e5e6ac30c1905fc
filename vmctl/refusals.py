"""What it is that the peer's server refuses: a refused mail is divided until one thing is refused alone.

A mail that is refused proves nothing as long as all are: then it is the link (a wrong key, a wrong address), and every
mail is a bare one, that brings nothing, until one is taken. So each refusal waits for a verdict. The next mail that is
taken gives it: it was what the refused mail brought. A bare mail that is refused, too, takes it back.

Nothing here touches a disk: what was found out since the start is lost with the process, and found out again.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

STRIKES = 2  # a link that was mended between two mails must not make a thing guilty


class Version(NamedTuple):
    """A record at a version, with its recording where that is short enough to travel beside it."""

    key: str
    version: str


class Piece(NamedTuple):
    """A piece of a recording."""

    sha256: str
    start: int
    stop: int


Thing = Version | Piece
Group = tuple[Thing, ...]
BARE: Group = ()


class Refusals:
    """The suspects of one server's mails."""

    def __init__(self) -> None:
        self._doubted: list[Group] = []  # refused, and no mail was taken since
        self._groups: deque[Group] = deque()  # to be tried in a mail of their own
        self._strikes: Counter[Thing] = Counter()
        self.every_mail = False  # whether even a bare mail was refused

    def suspects(self) -> set[Thing]:
        """What no ordinary mail may bring now."""
        return {thing for group in (*self._doubted, *self._groups) for thing in group}

    def next(self, *, others: bool) -> Group | None:
        """What the next mail brings: `BARE`, a group of suspects, or None for an ordinary mail.

        `others` tells whether there is anything for an ordinary mail: one that is taken serves as a bare one does.
        """
        if self.every_mail:
            return BARE
        if self._doubted:
            return None if others and len(self._doubted) == 1 else BARE
        return self._groups[0] if self._groups else None

    def loaded(self, group: Group, things: Group) -> None:
        """Of a group only these things are in the mail: the others are acknowledged, changed, or fit in no more."""
        if things != group:
            self._drop(group)
            if things:
                self._groups.appendleft(things)

    def refused(self, things: Group) -> bool:
        """A mail with these things was refused for good; tells whether another one may go at once."""
        if things:
            self._drop(things)
            self._doubted.append(things)
            return True
        self._groups.extendleft(reversed(self._doubted))
        self._doubted.clear()
        self.every_mail = True
        return False

    def taken(self, things: Group) -> list[Thing]:
        """A mail with these things was taken; gives what is refused for good, whatever else is in the mail."""
        self.every_mail = False
        self._drop(things)
        for thing in things:
            self._strikes.pop(thing, None)
        guilty: list[Thing] = []
        for group in self._doubted:
            guilty += self._divide(group)
        self._doubted.clear()
        return guilty

    def _divide(self, group: Group) -> list[Thing]:
        if len(group) > 1:
            middle = len(group) // 2
            self._groups.extendleft((group[middle:], group[:middle]))
            return []
        self._strikes[group[0]] += 1
        if self._strikes[group[0]] < STRIKES:
            self._groups.append(group)
            return []
        del self._strikes[group[0]]
        return [group[0]]

    def _drop(self, group: Group) -> None:
        if group in self._groups:
            self._groups.remove(group)

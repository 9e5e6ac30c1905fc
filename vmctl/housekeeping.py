"""What is due to be deleted or purged for its age, and what is too much to believe. Pure: no disk, no clock.

Hours come from the mailbox's own `timers`, else from the setting `housekeeping.NAME`, else from vmctl.yaml; 0 is never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmctl.fields import TIMERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

AT_ONCE: Final = 200  # what one run does at most: roles and mails wait for it
_MOST_GONE: Final = 20
_HOUR: Final = 3_600_000_000  # microseconds
_MOST_HOURS: Final = 876_000


class Aged(NamedTuple):
    """A message of a status, or something deleted: since when (microseconds) it is so, and how many hours it may be."""

    key: str
    since: int
    hours: int


class Due(NamedTuple):
    """What has had its time, and when that was over (microseconds)."""

    key: str
    at: int


class Plan(NamedTuple):
    """What one run deletes and purges; how many deletions wait for a person's word; whether more is due than one run does."""

    delete: list[str]
    purge: list[str]
    held: int
    more: bool


class Timers:
    """The hours that things may be what they are."""

    def __init__(
        self, config: Mapping[str, int], settings: Mapping[str, Any], mailboxes: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """`config` holds the hours of vmctl.yaml by name, `settings` by section.key, `mailboxes` timers by extension."""
        self._mailboxes = mailboxes
        self._shared = {name: _first(settings.get(f"housekeeping.{name}"), config[name]) for name in TIMERS}

    def hours(self, name: str, extension: str | None) -> int:
        """After how many hours a message of this status, or what is `deleted`, goes; 0 is never."""
        own = self._mailboxes.get(extension or "", {}).get(name)
        return _first(own, self._shared.get(name, 0))

    def shortest(self, name: str) -> int:
        """The least hours that anything of this name has, so that nothing younger need be looked at; 0 is never."""
        every = [self._shared[name], *(_first(own.get(name), 0) for own in self._mailboxes.values())]
        return min(filter(None, every), default=0)


def due(things: Iterable[Aged], now: int) -> list[Due]:
    """What has had its hours, that which had them first before all else."""
    found = [Due(one.key, one.since + one.hours * _HOUR) for one in things if one.hours]
    return sorted((one for one in found if one.at <= now), key=lambda one: (one.at, one.key))


def latest(hours: int, now: int) -> int:
    """Before when something must have become what it is, to be due after these hours."""
    return now - hours * _HOUR + 1


def plan(deletions: list[Due], purges: list[Due], *, living: int, accepted: int) -> Plan:
    """What one run does of what is due. `living` is how many living messages the store holds.

    More than 20 deletions at once that are more than a quarter of all messages look like the fault of a clock or of a
    timer: they wait, but for what was due when a person let deletions go (`accepted`, microseconds; 0 is never).
    """
    fresh = [one for one in deletions if one.at > accepted]
    held = len(fresh) if len(fresh) > _MOST_GONE and len(fresh) * 4 > living else 0
    goes = [one for one in deletions if one.at <= accepted] if held else deletions
    return Plan(
        [one.key for one in goes[:AT_ONCE]],
        [one.key for one in purges[:AT_ONCE]],
        held,
        len(goes) > AT_ONCE or len(purges) > AT_ONCE,
    )


def _first(value: Any, other: int) -> int:
    """The value if it is a number of hours: settings are anybody's text."""
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_HOURS
    return value if fits else other

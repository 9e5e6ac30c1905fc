"""What both servers agree on besides who serves: the mode of the network, and whether its roles are paused.

Each is a small value in the journal with a number and the server that set it. Every mail carries both; the one with the
higher pair counts, so what was set on one side, or on both at once, ends the same on both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmctl.clock import parse_rfc3339, rfc3339
from vmctl.errors import ModeRefused
from vmctl.journal import LONGEST_VALUE
from vmctl.model import canonical
from vmctl.names import is_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.index import Index
    from vmctl.journal import Journal

MODE: Final = "mode"
PAUSE: Final = "pause"
_BEGAN: Final = "pause_began"
_HIGHEST: Final = 2**53

Values = dict[str, dict[str, Any]]


class Pause(NamedTuple):
    """A pause that is on: who ordered it, and the wall time (microseconds) at which it ends; None: when a person ends it."""

    by: str
    until: int | None

    def as_json(self) -> dict[str, Any]:
        """The pause as the status shows it."""
        return {"by": self.by, "until": None if self.until is None else rfc3339(self.until)}


@dataclass(frozen=True, slots=True)
class Agreed:
    """What is agreed on now, as the journal has it."""

    config: Config
    values: Values

    @classmethod
    def by(cls, journal: Journal, config: Config) -> Agreed:
        """What a journal says is agreed on; what another version wrote there counts if it is as it should be."""
        return cls(config, _read(journal.agreed()))

    @property
    def mode(self) -> str:
        """The network's mode: the one that was set, or the one of vmctl.yaml in which it began."""
        return str(self.values.get(MODE, {}).get("mode", self.config.mode))

    @property
    def homes(self) -> dict[str, str]:
        """The home of each service in this mode."""
        return self.config.homes(self.mode)

    def stamp(self, name: str) -> tuple[int, str]:
        """The number of a value and who set it; (0, "") before it was ever set."""
        return _stamp(self.values.get(name))


class Agreement:
    """The values of one server: set here, taken from the peer, written to the journal. Call it under the store's lock."""

    def __init__(self, config: Config, index: Index, journal: Journal, clock: Clock, me: str) -> None:
        self._config = config
        self._index = index
        self._journal = journal
        self._clock = clock
        self._me = me

    def read(self) -> Agreed:
        """What is agreed on now. Raises JournalBroken."""
        return Agreed.by(self._journal, self._config)

    def set_mode(self, mode: str, by: str) -> bool:
        """Change the mode from here; tells whether it changed. Raises ModeRefused with the reason."""
        agreed = self.read()
        if agreed.mode == mode:
            return False
        if mode == "dual-active" and len(self._config.services) < len(self._config.servers):
            raise ModeRefused(
                "the mode cannot be dual-active: vmctl.yaml names one service",
                hint="name a second one with 'home: secondary' in vmctl.yaml on both hosts, and restart both daemons first",
            )
        if mode == "dual-active" and not self._config.servers["secondary"].licensed:
            raise ModeRefused(
                "the mode cannot be dual-active: the secondary is not licensed to serve callers of its own",
                hint="write 'licensed: true' for servers.secondary in vmctl.yaml on both hosts, and restart both daemons first",
            )
        self._set(MODE, agreed, {"mode": mode}, by)
        return True

    def set_pause(self, by: str, *, on: bool, seconds: float | None = None) -> None:
        """Pause the roles of the network from here, for `seconds` or until a person resumes them; or resume them."""
        until = None if seconds is None else rfc3339(self._clock.wall() + int(seconds * 1_000_000))
        self._set(PAUSE, self.read(), {"on": on, "seconds": seconds, "until": until, "by": by}, by)

    def _set(self, name: str, agreed: Agreed, value: dict[str, Any], by: str) -> None:
        number = agreed.stamp(name)[0] + 1
        self._keep(name, {**value, "number": number, "server": self._me}, f"operator {by}")

    def hear(self, theirs: Any, sent: int) -> bool:
        """Take what the peer has newer, in a fresh mail of its, sent at that wall time; tells whether there was any."""
        agreed = self.read()
        newer = [(name, value) for name, value in _read(theirs).items() if _stamp(value) > agreed.stamp(name)]
        for name, value in newer:
            self._keep(name, value, "peer", _passed(value, sent) if name == PAUSE else 0.0)
        return bool(newer)

    def _keep(self, name: str, value: dict[str, Any], by: str, passed: float = 0.0) -> None:
        """Write a value to the journal; `passed` are the seconds of a pause that are over."""
        self._journal.agree(name, value, at=self._clock.wall(), server=self._me, by=by)
        if name == PAUSE:
            began = {"steady": self._clock.steady() - passed, "boot": self._clock.boot(), "stamp": list(_stamp(value))}
            with self._index.transaction():
                self._index.set_note(_BEGAN, began)

    def paused(self, agreed: Agreed) -> Pause | None:
        """The pause that is on now; one that was ordered for a time ends by itself.

        The time runs on the steady clock; after a restart of the machine the wall clock has to do.
        """
        value = agreed.values.get(PAUSE) or {}
        if not value.get("on"):
            return None
        until = None if value.get("until") is None else parse_rfc3339(value["until"])
        seconds, began = value.get("seconds"), self._index.note(_BEGAN) or {}
        same = began.get("boot") == self._clock.boot() and began.get("stamp") == list(_stamp(value))
        if seconds is not None and same and self._clock.steady() - began["steady"] >= seconds:
            return None
        if until is not None and not same and self._clock.wall() >= until:
            return None
        return Pause(str(value.get("by")), until)


def both_have(mine: Agreed, theirs: Any, name: str) -> bool:
    """Whether the peer, by its newest mail, has the value that this server has, or a newer one."""
    return _stamp(_read(theirs).get(name)) >= mine.stamp(name)


def _passed(pause: dict[str, Any], sent: int) -> float:
    """How much of a pause was over at that wall time, both by the clock of the server that says so."""
    if pause.get("seconds") is None:
        return 0.0
    seconds = float(pause["seconds"])
    return min(seconds, max(0.0, seconds - (parse_rfc3339(pause["until"]) - sent) / 1_000_000))


def _stamp(value: Mapping[str, Any] | None) -> tuple[int, str]:
    return (value["number"], value["server"]) if value else (0, "")


def _read(theirs: Any) -> Values:
    """The values of a mail that are as they should be, and that the journal has room for: it may be from another version."""
    found = {}
    for name, check in ((MODE, _is_mode), (PAUSE, _is_pause)):
        value = theirs.get(name) if isinstance(theirs, dict) else None
        if isinstance(value, dict) and _has_stamp(value) and check(value) and len(canonical(value)) <= LONGEST_VALUE:
            found[name] = value
    return found


def _has_stamp(value: dict[str, Any]) -> bool:
    number = value.get("number")
    return type(number) is int and 0 < number < _HIGHEST and is_name(value.get("server"))


def _is_mode(value: dict[str, Any]) -> bool:
    mode = value.get("mode")
    return isinstance(mode, str) and mode in {"active-standby", "dual-active"}


def _is_pause(value: dict[str, Any]) -> bool:
    seconds, until = value.get("seconds"), value.get("until")
    if not isinstance(value.get("on"), bool) or not isinstance(value.get("by"), str):
        return False
    if seconds is None or until is None:
        return seconds is until
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < _HIGHEST:
        return False
    try:
        return isinstance(until, str) and parse_rfc3339(until) >= 0
    except ValueError:
        return False

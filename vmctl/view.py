"""Who serves a service, as one server knows it: the value that journals keep and that servers tell each other.

A service is the callers that one server, its *home*, serves in normal operation; the other server is its *backup*.
Its state says who serves: in `normal` the home, in `resilience` and `recovering` the backup, in `starting` nobody yet.
Every transition raises the epoch, so that of two views the later one can be told without comparing clocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self, get_args

from vmctl.names import is_name

if TYPE_CHECKING:
    from collections.abc import Iterable

State = Literal["starting", "normal", "resilience", "recovering"]
STATES: Final[tuple[State, ...]] = get_args(State)

# Why a service is as it is.
START = "start"  # a server was started and nothing else has happened
SILENCE = "silence"  # the other server could not be heard
ORDER = "order"  # a person moved it to the backup while both servers were well
FORCED = "forced"  # a person moved it while the other server could not be heard
RETURN = "return"  # the home is heard again
FAILBACK = "failback"  # a person ordered it home
GATE = "gate"  # the stores are in step as the policy asks
TIMEOUT = "timeout"  # failback.timeout ended before they were
UNWELL = "unwell"  # the server that served it is not fit to: its application is unwell, or it was rolled back
LEASE = "lease"  # the server that served it was not allowed to any longer
MODE = "mode"  # a person changed the mode, and with it the home


class Epoch(NamedTuple):
    """A number that every transition raises, and the server that raised it; (0, "") before the first."""

    number: int
    server: str


NO_EPOCH: Final = Epoch(0, "")


def newer(one: Epoch, other: Epoch, home: str) -> bool:
    """Whether `one` is above `other`: by its number; of equal numbers the home server's pair is the higher."""
    if one.number != other.number:
        return one.number > other.number
    return one.server != other.server and one.server == home


class Last(NamedTuple):
    """Who served before a start, and why."""

    serving: str
    cause: str


class Claim(NamedTuple):
    """Who serves, or served last, at which epoch, by one server's view."""

    server: str
    epoch: Epoch
    cause: str


@dataclass(frozen=True, slots=True)
class View:
    """One service as one server knows it.

    `since` is the wall time in microseconds at which this state began. A `starting` view keeps the epoch that was
    known before the start, and in `last` who served then; in the other states `last` is None.
    """

    service: str
    home: str
    serving: str | None
    state: State
    epoch: Epoch
    since: int
    cause: str
    last: Last | None = None

    @property
    def claim(self) -> Claim | None:
        """Who serves or served last; None when nobody is known ever to have served."""
        if self.serving is not None:
            return Claim(self.serving, self.epoch, self.cause)
        return None if self.last is None else Claim(self.last.serving, self.epoch, self.last.cause)

    def started(self, now: int, cause: str = START) -> View:
        """The view after a start of this server at `now`: a server that starts does not assume that it serves.

        It is also that of a server that served and has to ask again, which `cause` tells.
        """
        claim = self.claim
        last = None if claim is None else Last(claim.server, claim.cause)
        return View(self.service, self.home, None, "starting", self.epoch, now, cause, last)

    def as_json(self) -> dict[str, Any]:
        """The view as journals, mails and `--json` hold it; the epoch is `[number, server]`."""
        return {
            "service": self.service,
            "home": self.home,
            "serving": self.serving,
            "state": self.state,
            "epoch": list(self.epoch),
            "since": self.since,
            "cause": self.cause,
            "last": None if self.last is None else self.last._asdict(),
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The view that `as_json` gave. Raises ValueError: it may come from the wire."""
        if not isinstance(value, dict):
            raise ValueError("a view is not a mapping")  # noqa: TRY004 - one error for every fault of data
        service, home, cause = (_name(value, name) for name in ("service", "home", "cause"))
        state = value.get("state")
        if state not in STATES:
            raise ValueError(f"the view of {service} has no state that is known here")
        return cls(
            service,
            home,
            _serving(value, service, home, state),
            state,
            _epoch(value.get("epoch"), service),
            _count(value.get("since"), f"'since' of {service}"),
            cause,
            _last(value.get("last"), service) if state == "starting" else None,
        )


def fresh_view(service: str, home: str) -> View:
    """The view of a service that nobody has ever served."""
    return View(service, home, None, "starting", NO_EPOCH, 0, START)


def top_claim(one: Claim | None, other: Claim | None, home: str) -> Claim | None:
    """Of two servers' claims the one that both must follow: that at the higher epoch.

    One epoch over two different claims is left by a store that was rolled back: both then follow the home's.
    """
    if one is None or other is None:
        return one or other
    if one.epoch == other.epoch:
        return one if one.server == home else other
    return one if newer(one.epoch, other.epoch, home) else other


def role(server: str, views: Iterable[View]) -> Literal["active", "standby", "starting"]:
    """What a server is now: active when it serves anything, starting while somebody's service waits for a server."""
    states = {"active" if view.serving == server else view.state for view in views}
    if "active" in states:
        return "active"
    return "starting" if "starting" in states else "standby"


def _name(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not is_name(text):
        raise ValueError(f"'{name}' of a view is no name")
    return text


def _count(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError(f"{what} is no number that fits")
    return value


def _serving(value: dict[str, Any], service: str, home: str, state: State) -> str | None:
    serving = None if value.get("serving") is None else _name(value, "serving")
    fits = {"starting": serving is None, "normal": serving == home}.get(state, serving not in {None, home})
    if not fits:
        raise ValueError(f"{service} cannot be in '{state}' and be served by {serving or 'nobody'}")
    return serving


def _epoch(value: Any, service: str) -> Epoch:
    if not isinstance(value, list) or len(value) != 2:  # noqa: PLR2004
        raise ValueError(f"the epoch of {service} is no pair")
    number, server = value
    if not (is_name(server) or (server == "" and number == 0)):
        raise ValueError(f"the epoch of {service} names no server")
    return Epoch(_count(number, f"the epoch of {service}"), server)


def _last(value: Any, service: str) -> Last | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"'last' of {service} is not a mapping")  # noqa: TRY004
    return Last(_name(value, "serving"), _name(value, "cause"))

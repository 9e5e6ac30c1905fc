"""Which server is to be used: the answer for one service, of what is known at one moment. Pure: no disk, no clock.

Without an arbiter a service is served by whom its view names, until something else is told. With one, a server serves
only while its permit counts, and every answer expires: what is told of the peer, or that nobody serves, after
`lease.ttl`, so that who goes on using an old answer is not led by a server that froze.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmctl.view import Epoch, State, View

PARTS: Final = ("extensions", "trunks", "expansions", "applications")  # what a service lists in vmctl.yaml


class Moment(NamedTuple):
    """A reading of the steady clock (seconds since the boot, through suspend) and the id of the boot that it is of."""

    steady: float
    boot: str

    def is_after(self, other: Moment) -> bool:
        """Whether it is of the same boot, and later: readings of two boots cannot be compared."""
        return self.boot == other.boot and self.steady > other.steady


@dataclass(frozen=True, slots=True)
class Answer:
    """Who serves a service: `server`, None for nobody, as of `epoch` and since (wall time, microseconds) when.

    It counts until a moment; None: until told otherwise. `waiting_for` says in words what a service that is not in
    normal operation waits for.
    """

    service: str
    server: str | None
    home: str
    state: State
    epoch: Epoch
    since: int
    until: Moment | None = None
    waiting_for: tuple[str, ...] = ()


def answer(
    view: View,
    now: Moment,
    *,
    permits: Mapping[str, Moment | None] | None = None,
    ttl: float = 0.0,
    waiting_for: tuple[str, ...] = (),
) -> Answer:
    """Who serves, by a view.

    `permits` is None without an arbiter; else it says until when each server may serve whose own word is known here
    (None: it has no permit). `ttl` is `lease.ttl` in seconds.
    """
    server, until, awaited = view.serving, None, waiting_for
    if permits is not None:
        until = Moment(now.steady + ttl, now.boot)
        if server is not None and server in permits:
            permit = permits[server]
            if permit is not None and permit.is_after(now):
                until = permit
            else:
                awaited = (f"the arbiter's word that {server} may serve", *waiting_for)
                server = None
    return Answer(view.service, server, view.home, view.state, view.epoch, view.since, until, awaited)


def moment_of(note: Any) -> Moment | None:
    """The moment that a note `{"until": seconds, "boot": id}` names; None where it names none."""
    if not isinstance(note, dict):
        return None
    until, boot = note.get("until"), note.get("boot")
    if isinstance(until, bool) or not isinstance(until, (int, float)) or not isinstance(boot, str):
        return None
    return Moment(float(until), boot)

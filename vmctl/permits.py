"""For how long this server may serve, where an arbiter is asked: by its lease, or by the peer's promise to take nothing.

A lease counts from before it was asked for, and a promise from when the challenge was issued that its mail echoes: so
both are over here before the other server may begin. The promise is for when the arbiter cannot be asked: who holds no
lease and wants none gives it, keeps it before the mail leaves and over a restart, and it binds a person's order, too.
Without an arbiter a server may always serve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.contact import Contact
    from vmctl.index import Index
    from vmctl.leases import Leases

PERMITS: Final = "permits"  # by service the steady time (and its boot) until which this server may serve
_BOUND: Final = "promised"  # by service the steady time (and its boot) until which it takes nothing, and the seconds
_LONGEST_MARGIN: Final = 2.0


def margin(config: Config) -> float:
    """Seconds by which a lease or a promise ends earlier here: for clocks that do not run equally fast."""
    return min(_LONGEST_MARGIN, config.sync.heartbeat / 2, config.lease.ttl / 10)


class Permits:
    """What one server may serve. Without `leases` nothing is asked: what the daemon was told last counts."""

    def __init__(self, config: Config, index: Index, contact: Contact, clock: Clock, leases: Leases | None) -> None:
        self._asked = bool(config.arbiter.endpoints)
        self._index = index
        self._contact = contact
        self._clock = clock
        self._leases = leases
        self._ttl = config.lease.ttl
        self._margin = margin(config)
        self._slack = config.sync.heartbeat
        # shorter than the peer's failover.after, so that a promise keeps nobody from a failover that is due
        self._promise = config.failover.after - config.sync.heartbeat

    # What this server may do

    def of(self, service: str) -> float | None:
        """The seconds for which it may serve from now on; None where no arbiter is asked."""
        if not self._asked:
            return None
        if self._leases is None:
            return self._left((self._index.note(PERMITS) or {}).get(service))
        if self._bound(service) > 0:
            return 0.0
        return max(self._leases.permit(service), self._promised(service))

    def leased(self, service: str) -> bool:
        """Whether it has the arbiter's lease."""
        return self._leases is not None and self._leases.permit(service) > 0

    def number(self, service: str) -> int:
        """The number of the epoch that the arbiter wrote with the lease; 0 without one."""
        return self._leases.number(service) if self._leases is not None else 0

    def due(self) -> float | None:
        """The seconds until the next tick has something to do; None: nothing until an answer comes."""
        if not self._asked or self._leases is None:
            return None
        moments = [left for name in self._index.note(PERMITS) or {} if (left := self.of(name))]
        moments += [left for name in self._index.note(_BOUND) or {} if (left := self._bound(name))]
        if (due := self._leases.due()) is not None:
            moments.append(due)
        return min(moments, default=None)

    @property
    def trouble(self) -> str | None:
        """Why the arbiter cannot be asked."""
        return self._leases.trouble if self._leases is not None else None

    def note(self, serving: Collection[str]) -> None:
        """Note for others until when each of these may be served here; what is not among them may not."""
        if not self._asked or self._leases is None:
            return
        now, boot = self._clock.steady(), self._clock.boot()
        noted: dict[str, Any] = self._index.note(PERMITS) or {}
        permits = {name: {"until": now + (self.of(name) or 0.0), "boot": boot} for name in serving}
        if permits.keys() != noted.keys() or any(self._differs(noted[name], one) for name, one in permits.items()):
            with self._index.transaction():
                self._index.set_note(PERMITS, permits)

    def ask(self, wanted: Mapping[str, int]) -> None:
        """Ask the arbiter for what is wanted, each with the number of its newest epoch, and give back all else.

        What is given back may be served by the peer at once: everybody must have been told before that it is not here.
        """
        if self._leases is not None:
            self._leases.tick(wanted)

    def _differs(self, one: dict[str, Any], other: dict[str, Any]) -> bool:
        # what is noted may be less than what is true, for a moment, and never more
        later = other["until"] - one["until"]
        return bool(one["boot"] != other["boot"] or later < 0 or later > min(self._slack, self._ttl / 4))

    def _promised(self, service: str) -> float:
        facts = self._contact.facts()
        promise = (facts.get("promises") or {}).get(service) if isinstance(facts.get("promises"), dict) else None
        if not self._contact.heard or not isinstance(promise, (int, float)) or isinstance(promise, bool):
            return 0.0
        # no longer than this server would promise itself: both have one vmctl.yaml
        until = float(facts["echoed"]) + min(float(promise), self._promise) - self._margin
        return max(0.0, until - self._clock.steady())

    # What it tells the peer

    def asks(self, wanted: Collection[str]) -> list[str]:
        """The services for which the peer's promise is needed: those whose lease could not be renewed for a while."""
        if not self._asked or self._leases is None:
            return []
        return [name for name in wanted if self._leases.permit(name) < self._ttl / 2]

    def promises(self, asked: Any, wanted: Collection[str]) -> dict[str, float]:
        """By service the seconds for which this server takes nothing, as the peer asked; durable when this returns."""
        if not self._asked or self._leases is None or not isinstance(asked, list):
            return {}
        given = [name for name in asked if isinstance(name, str) and name not in wanted and not self.leased(name)]
        if not given:
            return {}
        until = {"until": self._clock.steady() + self._promise, "boot": self._clock.boot()}
        with self._index.transaction():
            self._index.set_note(_BOUND, {**(self._index.note(_BOUND) or {}), **dict.fromkeys(given, until)})
        return dict.fromkeys(given, self._promise)

    def release(self, service: str) -> None:
        """The peer gave the service to this server: what was promised to it is over."""
        bound = self._index.note(_BOUND) or {}
        if service in bound:
            with self._index.transaction():
                self._index.set_note(_BOUND, {name: one for name, one in bound.items() if name != service})

    def started(self) -> None:
        """A start of this server: after another boot it is not known how much of a promise is over."""
        bound = self._index.note(_BOUND) or {}
        until = {"until": self._clock.steady() + self._promise, "boot": self._clock.boot()}
        kept = {name: one if one["boot"] == self._clock.boot() else until for name, one in bound.items()}
        self._index.set_note(_BOUND, kept)
        self._index.set_note(PERMITS, {})

    def _bound(self, service: str) -> float:
        return self._left((self._index.note(_BOUND) or {}).get(service))

    def _left(self, moment: dict[str, Any] | None) -> float:
        if not moment or moment["boot"] != self._clock.boot():
            return 0.0
        return max(0.0, float(moment["until"]) - self._clock.steady())

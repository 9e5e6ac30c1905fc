"""An arbiter in memory for simulations, and the line on which a server asks it: late, lost on the way, lost on the way back.

`FakeArbiter` keeps the promises of `vmctl.arbiter.Arbiter` on a clock of its own, and no more than them: a lease may last
longer than was asked for, and a question without an answer may have been heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmctl.arbiter import Grant
from vmctl.errors import ArbiterUnreachable

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from vmctl.leases import Outcome

    Later = Callable[[float, Callable[[], None]], None]  # does something after so many seconds


@dataclass
class _Service:
    holder: str | None = None
    until: float = 0.0
    number: int = 0


class FakeArbiter:
    """Lends services by a clock that nobody's freeze, jump or suspend touches."""

    def __init__(self, now: Callable[[], float], linger: Callable[[], float] = lambda: 0.0) -> None:
        """`now`: the arbiter's time in seconds. `linger`: the seconds that a lease lasts longer than was asked for."""
        self._now = now
        self._linger = linger
        self._services: dict[str, _Service] = {}
        self.down = False
        self.asked = 0
        self.written = 0

    def acquire(self, service: str, server: str, number: int, ttl: float) -> Grant:
        """See Arbiter.acquire."""
        known = self._known(service)
        if known.holder not in {None, server}:
            return Grant(mine=False, server=known.holder, number=known.number, ttl=0.0)
        return self._lend(known, server, max(number, known.number) + 1, ttl)

    def renew(self, service: str, server: str, number: int, ttl: float) -> Grant:
        """See Arbiter.renew."""
        known = self._known(service)
        if known.holder != server:
            return Grant(mine=False, server=known.holder, number=known.number, ttl=0.0)
        return self._lend(known, server, max(number, known.number), ttl)

    def release(self, service: str, server: str) -> None:
        """See Arbiter.release."""
        known = self._known(service)
        if known.holder == server:
            known.holder = None
            self.written += 1

    def read(self, service: str) -> Grant:
        """See Arbiter.read."""
        known = self._known(service)
        return Grant(mine=False, server=known.holder, number=known.number, ttl=0.0)

    def _known(self, service: str) -> _Service:
        self.asked += 1
        if self.down:
            raise ArbiterUnreachable("the arbiter gives no answer", why="it is down")
        known = self._services.setdefault(service, _Service())
        if self._now() >= known.until:
            known.holder = None
        return known

    def _lend(self, known: _Service, server: str, number: int, ttl: float) -> Grant:
        self.written += 1
        known.holder, known.number = server, number
        known.until = self._now() + ttl + self._linger()
        return Grant(mine=True, server=server, number=number, ttl=ttl)


class Line:
    """The `run` of one server's Leases: a question arrives later, its answer later still, and each may be lost.

    What is lost is known as lost after `timeout` seconds. An answer may come after that, too, as to a process that stood
    still: then it is heard as an answer.
    """

    def __init__(self, arbiter: FakeArbiter, later: Later, hears: Later, chance: random.Random, timeout: float) -> None:
        """`later` does what happens at the arbiter, `hears` what happens in the server's process."""
        self._arbiter = arbiter
        self._life = 0
        self._later = later
        self._hears = hears
        self._chance = chance
        self._timeout = timeout
        self.loss = 0.0  # of a question, and of an answer
        self.delay = 0.0  # seconds each way, on the average

    def cut(self) -> None:
        """The process is gone. What it has under way is done only where nothing was written since it looked."""
        self._life += 1

    def __call__(self, ask: Callable[[], Outcome], hear: Callable[[Outcome], None]) -> None:
        """Ask, and hear the answer."""
        there = self._way()
        if there is None or there > self._timeout:
            self._hears(self._timeout, lambda: hear(ArbiterUnreachable("the arbiter gives no answer", why="lost")))
            return

        life, written = self._life, self._arbiter.written

        def arrive() -> None:
            if life != self._life and written != self._arbiter.written:
                return
            outcome, back = ask(), self._way()
            if back is None:
                outcome, back = ArbiterUnreachable("the arbiter gives no answer", why="lost"), self._timeout - there
            self._hears(back, lambda: hear(outcome))

        self._later(there, arrive)

    def _way(self) -> float | None:
        if self._chance.random() < self.loss:
            return None
        return self._chance.expovariate(1 / self.delay) if self.delay else 0.0

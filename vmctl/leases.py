"""Leases: for how long this server may serve by the arbiter's word, and when the arbiter is asked again.

What is asked, and how the answer counts:

- A lease counts from before the question was sent, so it is over here before it is over at the arbiter, however long
  the answer was under way, and whatever stood still meanwhile. `margin` is for clocks that do not run equally fast.
- It is renewed when a third of it is over. A renewal that gets no answer changes nothing: the old lease runs on, and is
  asked for again, later each time. One that says that the service is not ours any more ends the permit at once.
- For each service one question is under way at a time. An answer that comes when the service is not wanted any more
  gives it back; so does a question without an answer, as the arbiter may have heard it.

Times are seconds of the steady clock, which counts through suspend (CLOCK_BOOTTIME).
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from vmctl.backoff import backoff
from vmctl.clock import duration, rfc3339
from vmctl.errors import VmctlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmctl.arbiter import Grant
    from vmctl.clock import Clock

    Outcome = Grant | Exception | None  # the answer, or why there is none; None is the answer to a release
    Run = Callable[[Callable[[], Outcome], Callable[[Outcome], None]], None]

Verb = Literal["acquire", "renew", "release"]

_RENEWALS = 3  # in the time of one lease
_SOONEST, _LONGEST = 0.25, 10.0  # seconds until a question without an answer is asked again
_PATIENCE = 6  # the share of a lease that this takes at most
_LOOK_AGAIN = 1.0  # seconds until a service is asked for again that somebody else has
_CLOSING = 3.0
_OVER = -math.inf  # before every reading of a clock


class Lender(Protocol):
    """Who lends services to servers, as `arbiter.Arbiter` does. Each method may raise ArbiterUnreachable."""

    def acquire(self, service: str, server: str, number: int, ttl: float) -> Grant:
        """Take it, if nobody has it or this server has it already; the epoch is above `number`."""

    def renew(self, service: str, server: str, number: int, ttl: float) -> Grant:
        """Keep it, if this server has it; the newest epoch is `number` at least."""

    def release(self, service: str, server: str) -> None:
        """Give it back, if this server has it."""


class Leases:
    """What one server has on loan. `tick` and `permit` never block; methods may be called from any thread."""

    def __init__(
        self,
        lender: Lender,
        server: str,
        clock: Clock,
        *,
        ttl: float,
        margin: float,
        wake: Callable[[], None],
        run: Run | None = None,
    ) -> None:
        """`wake` is called when an answer came. `run(ask, hear)` does `hear(ask())`, by default in a new thread.

        `ask` does not raise; a simulation may do it later, and `hear` later still or with an ArbiterUnreachable.
        """
        self._lender = lender
        self._server = server
        self._clock = clock
        self._ttl = ttl
        self._margin = margin
        self._wake = wake
        self._run = run or _in_a_thread
        self._leases: dict[str, _Lease] = {}
        self._answered = threading.Condition()  # guards the leases
        self._closed = False

    def tick(self, wanted: Mapping[str, int]) -> None:
        """Start what is due.

        `wanted` are the services that this server serves or wants to serve, each with the number of the newest epoch
        that it knows. One that is not wanted any more has no permit from now on and is given back: whatever was told
        that it is served here must have been told otherwise before.
        """
        now = self._clock.steady()
        with self._answered:
            questions = []
            for service in sorted(wanted.keys() | self._leases.keys()):
                lease = self._leases.setdefault(service, _Lease())
                lease.want(None if self._closed else wanted.get(service), now)
                questions.append(self._question(service, lease, now))
        self._send(*questions)

    def permit(self, service: str) -> float:
        """The seconds for which this server may serve from now on; 0.0: it must not."""
        with self._answered:
            lease = self._leases.get(service)
            return 0.0 if lease is None else max(0.0, lease.until - self._clock.steady())

    def number(self, service: str) -> int:
        """The number of the epoch in which this server may serve, as the arbiter has it; 0 without a permit."""
        with self._answered:
            return self._leases[service].number if self.permit(service) > 0 else 0

    def holder(self, service: str) -> str | None:
        """The server that has the service by the newest answer; None: nobody, or it was never asked."""
        with self._answered:
            lease = self._leases.get(service)
            return None if lease is None else lease.holder

    @property
    def trouble(self) -> str | None:
        """Why the arbiter cannot be asked, and since when; None if it can, or was not asked."""
        now, wall = self._clock.steady(), self._clock.wall()
        with self._answered:
            failed = [lease.failed for lease in self._leases.values() if lease.failed]
            asked = [now - lease.asked.sent for lease in self._leases.values() if lease.asked]
        if not failed and any(age > self._ttl / _RENEWALS for age in asked):
            failed = [(wall - int(max(asked) * 1_000_000), "the arbiter was asked and has not answered yet")]
        if not failed:
            return None
        since, words = min(failed)
        return f"{words}, since {rfc3339(since)}"

    def due(self) -> float | None:
        """The seconds until `tick` has something to do; None: nothing until an answer comes."""
        now = self._clock.steady()
        with self._answered:
            return min((max(0.0, lease.due - now) for lease in self._leases.values() if lease.waits), default=None)

    def close(self, within: float = _CLOSING) -> None:
        """Give back what is held, and wait for that, or for `within` seconds; what is not given back runs out."""
        with self._answered:
            self._closed = True
        self.tick({})
        with self._answered:
            self._answered.wait_for(lambda: all(lease.asked is None for lease in self._leases.values()), within)

    def _question(self, service: str, lease: _Lease, now: float) -> _Question | None:
        """What is due to be asked, noted as asked."""
        verb = lease.next_verb
        if verb is None or lease.asked is not None or now < lease.due:
            return None
        lease.told = lease.wanted or 0
        lease.asked = _Question(service, verb, lease.told, now)
        return lease.asked

    def _send(self, *questions: _Question | None) -> None:
        for question in filter(None, questions):
            try:
                self._run(partial(self._ask, question), partial(self._hear, question))
            except RuntimeError as error:  # no thread can be started
                self._hear(question, error)

    def _ask(self, question: _Question) -> Outcome:
        service, verb, number, _ = question
        try:
            if verb == "release":
                self._lender.release(service, self._server)
                return None
            return getattr(self._lender, verb)(service, self._server, number, self._ttl)  # type: ignore[no-any-return]
        except Exception as error:  # noqa: BLE001 - whatever it is, the permit must run out and be asked for again
            return error

    def _hear(self, question: _Question, outcome: Outcome) -> None:
        """Take an answer: only what it says, and only from when its question was sent."""
        now = self._clock.steady()
        with self._answered:
            lease = self._leases[question.service]
            lease.asked = None
            if isinstance(outcome, Exception):
                self._failed(lease, _words(outcome), now)
                if question.verb != "renew":  # what comes next must not rely on what was before
                    lease.ours, lease.unsure = False, True
            elif outcome is None:
                lease.nothing(None, now)
            elif not outcome.mine:
                lease.nothing(outcome.server, now if outcome.server is None else now + self._longest(_LOOK_AGAIN))
            else:
                self._granted(lease, outcome, question.sent, now)
            answer = None if lease.wanted is not None else self._question(question.service, lease, now)
            self._answered.notify_all()
        self._send(answer)  # a service that is not wanted any more is given back without waiting for a tick
        self._wake()

    def _granted(self, lease: _Lease, grant: Grant, sent: float, now: float) -> None:
        lease.holder, lease.ours, lease.unsure = grant.server, True, False
        lease.told = max(lease.told, grant.number)
        if lease.wanted is None:
            lease.due = now
            return
        lease.number, lease.until = grant.number, sent + grant.ttl - self._margin
        if lease.until <= now:
            self._failed(lease, f"its answer took {duration(now - sent)}, too long for such a lease", now)
            return
        lease.failures, lease.failed = 0, None
        lease.due = sent + grant.ttl / _RENEWALS

    def _failed(self, lease: _Lease, words: str, now: float) -> None:
        lease.failures += 1
        if lease.failed is None:
            lease.failed = self._clock.wall(), words
        lease.due = now + backoff(self._longest(_SOONEST), lease.failures, self._longest(_LONGEST))

    def _longest(self, seconds: float) -> float:
        return min(seconds, self._ttl / _PATIENCE)


class _Question(NamedTuple):
    """What was asked of the arbiter, and when."""

    service: str
    verb: Verb
    number: int
    sent: float


@dataclass(slots=True)
class _Lease:
    """One service: what is wanted, what the arbiter said last, what is under way."""

    wanted: int | None = None  # the newest epoch's number here; None: not wanted
    ours: bool = False  # by the newest answer
    unsure: bool = False  # a question that could have made it ours, or freed it, was not answered
    until: float = _OVER
    number: int = 0
    holder: str | None = None
    told: int = 0  # the number that the arbiter was told last
    asked: _Question | None = None
    due: float = 0.0
    failures: int = 0
    failed: tuple[int, str] | None = None  # since when, and why

    def want(self, number: int | None, now: float) -> None:
        if number is None:
            self.until, self.number = _OVER, 0
        if (number is None) != (self.wanted is None):
            self.due, self.failures = now, 0
        elif number is not None and number > self.told and not self.failures:
            self.due = now  # so that whoever takes the service from here begins above it
        self.wanted = number

    def nothing(self, holder: str | None, due: float) -> None:
        """Take the word that the service is not this server's."""
        self.ours = self.unsure = False
        self.until, self.number, self.holder = _OVER, 0, holder
        self.due, self.failures, self.failed = due, 0, None

    @property
    def next_verb(self) -> Verb | None:
        if self.wanted is None:
            return "release" if self.ours or self.unsure else None
        return "renew" if self.ours else "acquire"

    @property
    def waits(self) -> bool:
        return self.asked is None and self.next_verb is not None


def _in_a_thread(ask: Callable[[], Outcome], hear: Callable[[Outcome], None]) -> None:
    threading.Thread(target=lambda: hear(ask()), name="vmctl arbiter", daemon=True).start()


def _words(error: Exception) -> str:
    return error.words if isinstance(error, VmctlError) else f"{type(error).__name__}: {error}"

"""What a server asks of its own surroundings: whether its application is well, whether it is cut off, who is calling.

Every question is asked by a thread of its own, so that nothing that hangs ever holds up the roles. `tick` starts those
that are due and judges those that have not come back. The answers are kept under one lock.
"""

from __future__ import annotations

import logging
import re
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.clock import Deadline, duration, rfc3339
from vmctl.program import Ended, run
from vmctl.reach import reach

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.config_values import Address

log = logging.getLogger("vmctl.probes")

_LATE = 1.0  # seconds that a thread has after its deadline
_BRIEFLY = 2.0  # seconds that `close` waits for all of them together
_NUMBER = re.compile(r"[0-9]{1,9}")


class Health(NamedTuple):
    """Whether the application is well, since when (wall microseconds; None before the first verdict), and why not.

    `why` is also there while it still counts as well after a bad answer.
    """

    well: bool
    why: str
    since: int | None


class Calls(NamedTuple):
    """How many calls a service has in progress; if that is not known, why not. `asked` is in steady seconds."""

    number: int | None
    why: str = ""
    asked: float = 0.0


class Probes:
    """The questions of one server, and what is known from them."""

    def __init__(self, config: Config, server: str, clock: Clock, *, wake: Callable[[], object]) -> None:
        around = _Around(config, server, clock, wake)
        self._around = around
        self._health = _HealthProbe(around)
        self._reach = _ReachProbe(around)
        self._calls = _CallsProbe(around)

    def tick(self, waiting: Collection[str] = ()) -> None:
        """Ask what is due; of calls, those of the services that `waiting` names. It never waits for an answer."""
        if self._around.closed.is_set():
            return
        self._health.tick()
        self._reach.tick()
        self._calls.tick(waiting)

    def close(self) -> None:
        """End what runs. A program that cannot be killed, or a name that is still looked up, is not waited for."""
        self._around.closed.set()
        threads = [place.thread for place in self._around.places if place.busy]
        for thread in threads:
            thread.join(_BRIEFLY / len(threads))

    @property
    def health(self) -> Health:
        """The verdict on the application; without a command, and before the first verdict, it counts as well."""
        return self._health.verdict

    @property
    def cut_off(self) -> bool:
        """Whether no target was reached in the last whole round."""
        return bool(self._reach.cut_off)

    def calls(self, service: str) -> int | None:
        """The calls in progress of a service; None where that is not known, or not any more."""
        return self._calls.known(service).number

    def as_json(self) -> dict[str, Any]:
        """All of it, as the status shows it (docs/probes.md)."""
        return {
            "health": self._health.as_json(),
            "reachability": self._reach.as_json(),
            "calls": self._calls.as_json(),
        }


class _Around:
    """What all questions share."""

    def __init__(self, config: Config, server: str, clock: Clock, wake: Callable[[], object]) -> None:
        self.config = config
        self.clock = clock
        self.wake = wake
        self.lock = threading.Lock()
        self.closed = threading.Event()
        self.places: list[_Place] = []
        self._facts = {"server": server, "network": config.network}

    def run(self, words: tuple[str, ...], deadline: Deadline, tell: Callable[[Ended], None], **facts: str) -> None:
        """Run a command of this server, which is told these facts, too."""
        run(words, tell, config=self.config.path, facts=self._facts | facts, deadline=deadline)


class _Place:
    """Room for one thread at a time. One that never comes back keeps it."""

    def __init__(self, around: _Around, timeout: float) -> None:
        self._around = around
        self._timeout = timeout
        self._overdue: float | None = None
        self.thread = threading.Thread()
        self.began = 0.0
        around.places.append(self)

    @property
    def busy(self) -> bool:
        """Whether a thread is in it."""
        return self.thread.is_alive()

    def stuck(self, now: float) -> bool:
        """Whether its thread is late. That takes two looks: between them this process itself may have stood still."""
        if not self.busy or now - self.began < self._timeout:
            self._overdue = None
            return False
        self._overdue = now if self._overdue is None else self._overdue
        return now - self._overdue >= _LATE

    def start(self, now: float, ask: Callable[[Deadline], None], failed: Callable[[str], None]) -> None:
        """Ask in a thread; whatever goes wrong there is an answer, too."""
        deadline = Deadline(self._around.clock, self._timeout, self._around.closed.is_set)

        def work() -> None:
            try:
                ask(deadline)
            except Exception as error:
                log.exception("a question could not be asked")
                failed(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=work, name="vmctl probe", daemon=True)
        self.began, self._overdue = now, None
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread left
            failed(str(error))
        else:
            self.thread = thread


class _HealthProbe:
    """Asks the application whether it is well."""

    def __init__(self, around: _Around) -> None:
        self._around = around
        self._config = around.config.health
        self._place = _Place(around, self._config.timeout)
        self._due = float("-inf")
        self._bad = 0
        self.verdict = Health(well=True, why="", since=None)

    def tick(self) -> None:
        """Ask when it is time. A question that does not come back is a bad answer each time."""
        now = self._around.clock.steady()
        command = self._config.command
        if command is None or now < self._due:
            return
        if not self._place.busy:
            self._due = now + self._config.every
            ask = partial(self._around.run, command, tell=lambda ended: self._answer(ended.why))
            self._place.start(now, ask, self._answer)
        elif self._place.stuck(now):
            self._due = now + self._config.every
            self._answer(f"no end for {duration(now - self._place.began)}")

    def _answer(self, why: str) -> None:
        with self._around.lock:
            if self._around.closed.is_set():
                return
            before = self.verdict
            self._bad = self._bad + 1 if why else 0
            well = not why or (before.well and self._bad < self._config.failures)
            if why and well:
                after = before._replace(why=why)
            else:
                since = before.since if before.well == well else None
                after = Health(well, why, self._around.clock.wall() if since is None else since)
            self.verdict = after
        if before.well != well:
            log.warning("the voicemail application is %s", "well again" if well else f"unwell: {why}")
        if before != after:
            self._around.wake()

    def as_json(self) -> dict[str, Any]:
        """The verdict, and the number of bad answers in a row."""
        with self._around.lock:
            verdict, bad = self.verdict, self._bad
        return {**verdict._asdict(), "since": _time(verdict.since), "failures": bad}


class _ReachProbe:
    """Tries all targets in each round. Who reaches none of them in a whole round is cut off."""

    def __init__(self, around: _Around) -> None:
        self._around = around
        self._config = around.config.reachability
        self._places = {target: _Place(around, self._config.timeout) for target in self._config.targets}
        self._due = float("-inf")
        self._answers: dict[Address, str] = {}
        self._unreached: dict[str, str] = {}
        self._since: int | None = None
        self.cut_off: bool | None = None if self._places else False

    def tick(self) -> None:
        """Begin a round when it is time and the last one is over. A target that does not come back is not reached."""
        now = self._around.clock.steady()
        over = True
        for target, place in self._places.items():
            if place.stuck(now):
                self._answer(target, f"no end for {duration(now - place.began)}")
            elif place.busy:
                over = False
        if not self._places or now < self._due or not over:
            return
        self._due = now + self._config.every
        with self._around.lock:
            self._answers = {}
        for target, place in self._places.items():
            if not place.busy:
                answer = partial(self._answer, target)
                place.start(now, partial(_try, target, answer), answer)

    def _answer(self, target: Address, why: str) -> None:
        with self._around.lock:
            if self._around.closed.is_set() or target in self._answers:
                return  # what was judged as late may come in the end
            before = self.cut_off, dict(self._unreached)
            self._answers[target] = why
            if why:
                self._unreached[str(target)] = why
            else:
                self._unreached.pop(str(target), None)
            if "" in self._answers.values():
                self.cut_off, self._since = False, None
            elif len(self._answers) == len(self._places) and not self.cut_off:
                self.cut_off, self._since = True, self._around.clock.wall()
            after = self.cut_off, dict(self._unreached)
        if bool(before[0]) != bool(after[0]):
            log.warning("this server is %s", "cut off: it reaches no target" if after[0] else "not cut off any more")
        if before != after:
            self._around.wake()

    def as_json(self) -> dict[str, Any]:
        """Whether it is cut off (null: not known yet) and since when, and which targets were not reached, and why."""
        with self._around.lock:
            return {"cut_off": self.cut_off, "since": _time(self._since), "unreached": dict(self._unreached)}


class _CallsProbe:
    """Counts the calls in progress of the services that wait for their end."""

    def __init__(self, around: _Around) -> None:
        self._around = around
        self._config = around.config.calls
        self._places: dict[str, _Place] = {}
        self._due: dict[str, float] = {}
        self._last: dict[str, Calls] = {}

    def tick(self, waiting: Collection[str]) -> None:
        """Ask for those whose time has come."""
        if self._config.command is not None:
            for service in waiting:
                self._ask(self._config.command, service, self._around.clock.steady())

    def _ask(self, command: tuple[str, ...], service: str, now: float) -> None:
        if service not in self._places:
            self._places[service] = _Place(self._around, self._config.timeout)
        place = self._places[service]
        if now < self._due.get(service, now) or place.busy:
            return
        self._due[service] = now + self._config.every

        def answer(ended: Ended) -> None:
            self._answer(service, now, ended)

        ask = partial(self._around.run, command, tell=answer, service=service)
        place.start(now, ask, lambda why: answer(Ended(why)))

    def _answer(self, service: str, asked: float, ended: Ended) -> None:
        if ended.why:
            calls = Calls(None, ended.why, asked)
        elif not _NUMBER.fullmatch(ended.first):
            calls = Calls(None, f"its first line is no whole number: {ended.first!r}", asked)
        else:
            calls = Calls(int(ended.first), "", asked)
        with self._around.lock:
            if self._around.closed.is_set():
                return
            before = self._last.get(service)
            self._last[service] = calls
        if before is None or before[:2] != calls[:2]:
            self._around.wake()

    def known(self, service: str) -> Calls:
        """What is known of a service now: the last answer, as long as it is fresh."""
        if self._config.command is None:
            return Calls(0)
        last = self._last.get(service)
        if last is None:
            return Calls(None, "there is no answer yet" if service in self._places else "nothing waits for it")
        age = self._around.clock.steady() - last.asked
        if age > 2 * self._config.every + self._config.timeout:
            return Calls(None, f"the last answer is {duration(age)} old")
        return last

    def as_json(self) -> dict[str, Any]:
        """By service: the number, null where it is not known, and why not."""
        known = {service: self.known(service) for service in self._around.config.services}
        return {service: {"calls": calls.number, "why": calls.why} for service, calls in known.items()}


def _try(target: Address, answer: Callable[[str], None], deadline: Deadline) -> None:
    answer(reach(target, deadline))


def _time(micros: int | None) -> str | None:
    return None if micros is None else rfc3339(micros)

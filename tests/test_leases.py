"""Leases: what a server may serve by the arbiter's word, however late, lost or doubled that word comes."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from typing import TYPE_CHECKING

import pytest
from arbiters import FakeArbiter, Line
from running import until

from vmctl import leases
from vmctl.arbiter import Grant
from vmctl.clock import Clock
from vmctl.errors import ArbiterUnreachable
from vmctl.leases import Leases

if TYPE_CHECKING:
    from collections.abc import Callable

TTL, MARGIN = 12.0, 1.0
AWAY = ArbiterUnreachable("the arbiter gives no answer", why="it is down")


class HandClock(Clock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def steady(self) -> float:
        return self.now

    def wall(self) -> int:
        return 1_790_000_000_000_000 + int(self.now * 1_000_000)


class Table:
    """One server's Leases whose questions wait until the test answers them."""

    def __init__(self, server: str = "primary", lender: FakeArbiter | None = None) -> None:
        self.clock = HandClock()
        self.lender = lender or FakeArbiter(lambda: self.clock.now)
        self.waiting: list[tuple[Callable, Callable]] = []
        self.woken = 0
        self.leases = Leases(
            self.lender, server, self.clock, ttl=TTL, margin=MARGIN, wake=self.wake,
            run=lambda ask, hear: self.waiting.append((ask, hear)),
        )  # fmt: skip

    def wake(self) -> None:
        self.woken += 1

    def ask(self):
        """The oldest question reaches the arbiter; what brings its answer home."""
        ask, hear = self.waiting.pop(0)
        outcome = ask()
        return lambda: hear(outcome)

    def answer(self) -> None:
        """The oldest question is asked and answered."""
        self.ask()()

    def fail(self) -> None:
        """The oldest question gets no answer, and was not heard."""
        self.waiting.pop(0)[1](AWAY)

    def held(self, number: int = 0) -> Leases:
        """The leases, with one of `main` that was asked for and given now."""
        self.leases.tick({"main": number})
        self.answer()
        return self.leases


@pytest.fixture
def table() -> Table:
    return Table()


def test_nothing_may_be_served_before_an_answer(table: Table) -> None:
    """A service that was not asked for, or whose question is under way, has no permit, no number and no holder."""
    table.leases.tick({"main": 3})
    for service in ("main", "none such"):
        assert (0.0, 0, None) == (
            table.leases.permit(service), table.leases.number(service), table.leases.holder(service)
        )  # fmt: skip
    assert table.leases.due() is None


def test_a_lease_counts_from_before_it_was_asked_for(table: Table) -> None:
    """However long the answer takes, the permit ends as long after the question as the lease lasts, less the margin."""
    table.leases.tick({"main": 3})
    table.clock.now += 2
    home = table.ask()
    table.clock.now += 5
    home()
    assert TTL - MARGIN - 7 == table.leases.permit("main")
    assert (4, "primary", 1) == (table.leases.number("main"), table.leases.holder("main"), table.woken)
    table.clock.now += TTL - MARGIN - 7
    assert (0.0, 0) == (table.leases.permit("main"), table.leases.number("main"))


def test_an_answer_that_comes_too_late_permits_nothing(table: Table) -> None:
    """A process that stood still between question and answer for longer than the lease has no permit, and says why."""
    table.leases.tick({"main": 0})
    home = table.ask()
    table.clock.now += TTL
    home()
    assert 0.0 == table.leases.permit("main")
    assert "its answer took 12 s" in (table.leases.trouble or "")


def test_what_the_arbiter_grants_counts_when_it_is_shorter(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is granted for less than was asked ends the earlier, and is renewed the earlier, also the second time."""
    table.held()
    short = Grant(mine=True, server="primary", number=1, ttl=6.0)
    monkeypatch.setattr(table.lender, "renew", lambda *_: short)
    table.clock.now += TTL / 3
    table.held()
    assert (6.0 - MARGIN, 2.0) == (table.leases.permit("main"), table.leases.due())


def test_it_is_renewed_when_a_third_is_over(table: Table) -> None:
    """One question at a time: none before a third of the lease is over, one then, and no second while it is under way."""
    held = table.held()
    assert TTL / 3 == held.due()
    table.clock.now += TTL / 3 - 0.1
    held.tick({"main": 1})
    assert [] == table.waiting
    table.clock.now += 0.1
    held.tick({"main": 1})
    held.tick({"main": 1})
    assert 1 == len(table.waiting)
    table.answer()
    assert (TTL - MARGIN, 1) == (held.permit("main"), held.number("main"))


def test_a_renewal_without_an_answer_changes_nothing_at_first(table: Table) -> None:
    """The old lease runs on, the question is put again soon and later each time, and the trouble is told with its begin."""
    held = table.held()
    table.clock.now += TTL / 3
    pauses = []
    for _ in range(5):
        held.tick({"main": 1})
        table.fail()
        pauses.append(held.due() or 0.0)
        table.clock.now += pauses[-1]
    assert pauses[0] <= leases._SOONEST < pauses[2]
    assert TTL / leases._PATIENCE >= pauses[-1] > 4 * leases._SOONEST * 0.75
    assert pytest.approx(TTL - MARGIN - TTL / 3 - sum(pauses)) == held.permit("main")
    assert "the arbiter gives no answer (it is down), since 2026-09-21T14:15:04.000Z" == held.trouble
    held.tick({"main": 1})
    table.answer()
    assert (TTL - MARGIN, None) == (held.permit("main"), held.trouble)
    table.clock.now += TTL / 3
    held.tick({"main": 1})
    table.fail()
    assert (held.due() or 0.0) <= leases._SOONEST  # as patient as the first time


def test_a_question_that_hangs_is_told(table: Table) -> None:
    """One that is under way for as long as a renewal may take is trouble, since it was sent; its answer ends that."""
    table.leases.tick({"main": 0})
    table.clock.now += TTL / 3
    assert table.leases.trouble is None
    table.clock.now += 1
    assert "the arbiter was asked and has not answered yet, since 2026-09-21T14:15:00.000Z" == table.leases.trouble
    table.answer()
    assert table.leases.trouble is None


def test_a_renewal_that_is_refused_ends_the_permit(table: Table) -> None:
    """When somebody else has the service by the arbiter's word there is no permit from that moment on."""
    held = table.held()
    table.lender.release("main", "primary")
    table.lender.acquire("main", "secondary", 0, TTL)
    table.clock.now += TTL / 3
    held.tick({"main": 1})
    table.answer()
    assert (0.0, 0, "secondary") == (held.permit("main"), held.number("main"), held.holder("main"))
    assert leases._LOOK_AGAIN == held.due()


def test_one_that_ran_out_is_asked_for_anew(table: Table) -> None:
    """After a lease ran out the service is acquired again at once, in a new epoch."""
    held = table.held()
    table.clock.now += TTL
    held.tick({"main": 1})
    table.answer()
    assert 0.0 == held.permit("main")
    held.tick({"main": 1})
    table.answer()
    assert (TTL - MARGIN, 2) == (held.permit("main"), held.number("main"))


def test_what_is_not_wanted_any_more_is_given_back_at_once(table: Table) -> None:
    """The permit ends with the tick that does not name the service, and the other server can have it then."""
    held = table.held()
    held.tick({})
    assert 0.0 == held.permit("main")
    table.answer()
    assert (None, None) == (table.lender.read("main").server, held.due())
    held.tick({})
    assert [] == table.waiting


def test_an_answer_for_what_is_not_wanted_any_more_gives_it_back(table: Table) -> None:
    """A service that is granted after it was given up has no permit, and is released without another tick."""
    table.leases.tick({"main": 0})
    home = table.ask()
    table.leases.tick({})
    home()
    assert 0.0 == table.leases.permit("main")
    table.answer()
    assert table.lender.read("main").server is None


@pytest.mark.parametrize("verb", ["acquire", "renew"])
def test_what_may_have_been_heard_is_given_back(table: Table, verb: str) -> None:
    """A question whose answer was lost may have been heard: what it asked for is released when it is not wanted."""
    if verb == "renew":
        table.held()
        table.clock.now += TTL / 3
    table.leases.tick({"main": 0})
    ask, hear = table.waiting.pop()
    ask()
    hear(AWAY)
    assert "primary" == table.lender.read("main").server
    table.leases.tick({})
    table.answer()
    assert table.lender.read("main").server is None


def test_a_release_without_an_answer_is_put_again(table: Table) -> None:
    """Until the arbiter has heard it; and when the service is wanted again meanwhile, it is acquired and not renewed."""
    held = table.held()
    held.tick({})
    table.fail()
    table.clock.now += held.due() or 0.0
    held.tick({})
    home = table.ask()
    held.tick({"main": 1})
    assert [] == table.waiting  # not before it is known what became of the release
    home()
    held.tick({"main": 1})
    table.answer()
    assert (TTL - MARGIN, 2) == (held.permit("main"), held.number("main"))


def test_what_was_given_up_begins_a_new_epoch(table: Table) -> None:
    """Also when the arbiter never heard of the release."""
    held = table.held()
    held.tick({})
    table.fail()
    held.tick({"main": 1})
    table.answer()
    assert (TTL - MARGIN, 2) == (held.permit("main"), held.number("main"))


def test_a_newer_epoch_is_told_at_once(table: Table) -> None:
    """When this server's epoch rises the arbiter is told before the next renewal, so that nobody begins below it."""
    held = table.held()
    held.tick({"main": 7})
    table.answer()
    assert (7, 7) == (table.lender.read("main").number, held.number("main"))
    held.tick({"main": 7})
    assert [] == table.waiting


def test_an_epoch_that_rises_while_a_question_is_under_way_is_told_after_it(table: Table) -> None:
    """The next question goes as soon as that one is answered."""
    table.leases.tick({"main": 0})
    home = table.ask()
    table.leases.tick({"main": 7})
    home()
    table.leases.tick({"main": 7})
    table.answer()
    assert 7 == table.lender.read("main").number


def test_a_restarted_server_takes_its_own_lease_over(table: Table) -> None:
    """A former process of this server may have left a lease: the new one has it at once, in a new epoch."""
    table.held()
    again = Leases(
        table.lender, "primary", table.clock, ttl=TTL, margin=MARGIN, wake=table.wake, run=lambda a, h: h(a())
    )
    again.tick({"main": 0})
    assert (TTL - MARGIN, 2) == (again.permit("main"), again.number("main"))


def test_two_services_are_apart(table: Table) -> None:
    """One that somebody else has, or that is not answered, does not hold up the other."""
    table.lender.acquire("east", "secondary", 0, TTL)
    table.leases.tick({"east": 0, "west": 5})
    table.answer()
    table.fail()
    assert (0.0, 0.0) == (table.leases.permit("east"), table.leases.permit("west"))
    assert table.leases.trouble is not None
    table.clock.now += leases._LOOK_AGAIN
    table.leases.tick({"east": 0, "west": 5})
    table.answer()
    table.answer()
    assert (0.0, TTL - MARGIN) == (table.leases.permit("east"), table.leases.permit("west"))
    assert (6, None) == (table.leases.number("west"), table.leases.trouble)


def test_a_bug_in_the_lender_is_told_and_tried_again(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised, the loop goes on, the words name it, and the question is put again."""
    monkeypatch.setattr(table.lender, "acquire", lambda *_: {}["no such"])
    table.held()
    assert (table.leases.trouble or "").startswith("KeyError: 'no such', since ")
    assert table.leases.due() is not None


def test_no_thread_is_no_answer(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started the question counts as not answered."""

    def refuse(_ask, _hear):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(table.leases, "_run", refuse)
    table.leases.tick({"main": 0})
    assert "can't start new thread" in (table.leases.trouble or "")
    assert table.leases.due() is not None


# Threads


class Slow(FakeArbiter):
    """An arbiter whose answers wait until the test lets them go."""

    def __init__(self) -> None:
        super().__init__(Clock().steady)
        self.go = threading.Event()

    def acquire(self, service: str, server: str, number: int, ttl: float) -> Grant:
        self.go.wait(60)
        return super().acquire(service, server, number, ttl)


def test_ticks_and_permits_do_not_wait_for_the_arbiter() -> None:
    """Questions are put in a thread: the loop that asks is woken when an answer is there."""
    lender, woken = Slow(), threading.Event()
    made = Leases(lender, "primary", Clock(), ttl=60, margin=1, wake=woken.set)
    for _ in range(3):
        made.tick({"main": 0})
    assert 0.0 == made.permit("main")
    assert not woken.is_set()
    lender.go.set()
    assert woken.wait(20)
    assert 58 < made.permit("main") <= 59
    made.close()
    assert (0.0, None) == (made.permit("main"), lender.read("main").server)


def test_closing_is_bounded_and_gives_back_what_comes_after_it() -> None:
    """An arbiter that hangs is waited for no longer than was said; what it grants afterwards is released."""
    lender, woken = Slow(), threading.Event()
    made = Leases(lender, "primary", Clock(), ttl=60, margin=1, wake=woken.set)
    made.tick({"main": 0})
    made.close(within=0.05)
    made.tick({"main": 0})
    lender.go.set()
    until(lambda: lender.asked >= 2 and lender.read("main").server is None, what="the release")
    assert 0.0 == made.permit("main")


# A simulation: two servers, one arbiter, and all that can go wrong between them


class Skewed(Clock):
    """A clock that is off and runs a little faster or slower than true time."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._ahead = chance.uniform(-1e5, 1e5)
        self._rate = 1 + chance.uniform(-1, 1) * 0.9 * MARGIN / TTL

    def steady(self) -> float:
        return self._ahead + self._world.now * self._rate

    def wall(self) -> int:
        return 0


class Host:
    """One server: its process, which may stand still or be started again, and its line to the arbiter."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.clock = Skewed(world, world.chance)
        self.line = Line(world.arbiter, world.later, self.hears, world.chance, timeout=3.0)
        self.frozen = False
        self.put_off: list[Callable[[], None]] = []
        self.wanted: dict[str, int] = {"main": 0}
        self.start()

    def start(self) -> None:
        """A new process; the former one has no answer to hear any more."""
        self.life = object()
        self.leases = Leases(
            self.world.arbiter, self.name, self.clock, ttl=TTL, margin=MARGIN, wake=lambda: None, run=self.line
        )

    def hears(self, seconds: float, act: Callable[[], None]) -> None:
        life = self.life
        self.world.later(seconds, lambda: self.does(life, act))

    def does(self, life: object, act: Callable[[], None]) -> None:
        if life is not self.life:
            return
        if self.frozen:
            self.put_off.append(lambda: self.does(life, act))
        else:
            act()

    def thaw(self) -> None:
        self.frozen = False
        late, self.put_off = self.put_off, []
        self.world.chance.shuffle(late)
        for act in late:
            act()

    def turn(self) -> None:
        """One turn of the loop, and the next one later."""
        if not self.frozen:
            self.leases.tick(self.wanted)
        self.world.later(self.world.chance.uniform(0.05, 0.5), self.turn)


class World:
    """True time, and what is to happen."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.arbiter = FakeArbiter(lambda: self.now, linger=lambda: self.chance.choice([0.0, 0.0, 2.0]))
        self.hosts = [Host(self, name) for name in ("primary", "secondary")]
        self.epochs: dict[int, str] = {}
        self.served: set[str] = set()
        for host in self.hosts:
            host.turn()

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._count), act))

    def run(self, seconds: float, each: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, or until something is so; nobody else may serve what one serves, at any moment."""
        end = self.now + seconds
        while self._agenda[0][0] <= end:
            self.now, _, act = heapq.heappop(self._agenda)
            act()
            serving = [host for host in self.hosts if host.leases.permit("main") > 0]
            assert len(serving) <= 1, f"both serve at {self.now}"
            for host in serving:
                assert host.name == self.epochs.setdefault(host.leases.number("main"), host.name)
                self.served.add(host.name)
            if each():
                return True
        self.now = end
        return False

    def strike(self) -> None:
        """Something goes wrong, or right."""
        host = self.chance.choice(self.hosts)
        match self.chance.randrange(8):
            case 0:
                host.frozen = True
            case 1 | 2:
                host.thaw()
            case 3:
                host.thaw()
                host.line.cut()
                host.start()
            case 4:
                host.wanted = {}
            case 5:
                for host in self.hosts:
                    host.wanted = {"main": max([*self.epochs, 0]) + self.chance.randrange(3)}
            case 6:
                host.line.loss = self.chance.choice([0.0, 0.0, 0.0, 0.2, 1.0])
                host.line.delay = self.chance.choice([0.0, 0.05, 1.0, 1.5, TTL / 2])
            case 7:
                self.arbiter.down = self.chance.random() < 0.2

    def heal(self) -> None:
        self.arbiter.down = False
        for host in self.hosts:
            host.thaw()
            host.line.loss, host.line.delay = 0.0, 0.02
            host.wanted = {"main": 0}


def test_never_two_by_one_arbiter_and_somebody_when_all_is_well_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In true time no two servers have a permit at once, whatever is lost, late, frozen, restarted or skewed.

    No epoch has two servers, and when the faults stop somebody serves within the longest lease and a question.
    """
    served = set()
    for seed in range(100):
        world = World(seed)
        monkeypatch.setattr("vmctl.leases.backoff", lambda first, tries, longest: min(longest, first * 2**tries))
        for _ in range(60):
            world.run(world.chance.expovariate(1 / 4))
            world.strike()
        world.heal()
        assert world.run(TTL + 2 + 3 + 3, lambda: any(h.leases.permit("main") > 0 for h in world.hosts)), seed  # noqa: B023
        served |= world.served
    assert {"primary", "secondary"} == served

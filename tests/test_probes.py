"""What a server asks of its surroundings: whether its application is well, whether it is cut off, who is calling."""

from __future__ import annotations

import os
import re
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT, until
from surroundings import (
    ANSWERING,
    Around,
    HandClock,
    Silent,
    listener,
    no_trace,
    open_files,
    pid_in,
    probing,
    refusing,
    script,
)

from vmctl import probes as room
from vmctl.clock import rfc3339
from vmctl.probes import Health, Probes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vmctl.clock import Deadline
    from vmctl.config import Address, Config

    Make = Callable[..., Around]

ASKS = {"health__command": list(ANSWERING)}
COUNTS = {"calls__command": ["sh", "-c", "echo >> asked.$VMCTL_SERVICE; . ./answer"]}


@pytest.fixture
def clock() -> HandClock:
    """A clock by hand."""
    return HandClock()


@pytest.fixture
def around(tmp_path: Path, no_fsync: None, clock: HandClock) -> Iterator[Make]:
    """Makes the probes of a new network, on the clock by hand; closed at the end."""
    made: list[Around] = []

    def make(**settings: Any) -> Around:
        made.append(Around(tmp_path / "net", clock, **settings))
        made[-1].answer("exit 0")
        return made[-1]

    yield make
    for one in made:
        one.probes.close()


class Gate:
    """Stands in the place of what hangs: whoever comes waits until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.came: list[Any] = []

    def __call__(self, *who: Any, **_more: Any) -> None:
        self.came.append(who)
        assert self.open.wait(60)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate; it is open at the end."""
    made = Gate()
    yield made
    made.open.set()
    until(lambda: not probing(), what="the end of all questions")


def bad(one: Probes) -> int:
    """How many bad answers in a row the status shows."""
    count: int = one.as_json()["health"]["failures"]
    return count


# Health


def test_without_a_command_it_is_well(around: Make, clock: HandClock) -> None:
    """Nothing is asked, and nothing can make it unwell."""
    one = around()
    for _ in range(5):
        one.probes.tick()
        clock.advance(3600)
    assert Health(True, "", None) == one.probes.health
    assert [] == probing()
    assert 0 == one.woken


def test_so_many_bad_answers_in_a_row_make_it_unwell_and_one_good_one_well(around: Make, clock: HandClock) -> None:
    """Before the first verdict it counts as well; every change wakes the caller, and the status names the reason."""
    one = around(**ASKS, health__failures=3)
    one.answer("echo no trunk; exit 2")
    for count in (1, 2, 3):
        assert one.probes.health.well
        assert one.probes.health.since is None
        one.ticking(lambda probes, count=count: bad(probes) == count)
        clock.advance(10)
    assert Health(False, "exit code 2: no trunk", clock.wall() - 10_000_000) == one.probes.health
    unwell = one.probes.health.since
    woken = one.woken
    one.ticking(lambda probes: bad(probes) == 4)
    assert woken == one.woken
    assert unwell == one.probes.health.since
    one.answer("exit 0")
    clock.advance(10)
    one.ticking(lambda probes: probes.health.well)
    assert woken + 1 == one.woken
    assert Health(True, "", clock.wall()) == one.probes.health
    one.answer("exit 1")
    clock.advance(10)
    one.ticking(lambda probes: bad(probes) == 1)
    assert Health(True, "exit code 1", clock.wall() - 10_000_000) == one.probes.health
    assert {
        "well": True, "why": "exit code 1", "since": rfc3339(clock.wall() - 10_000_000), "failures": 1,
    } == one.probes.as_json()["health"]  # fmt: skip


@given(failures=st.integers(1, 4), answers=st.lists(st.booleans(), max_size=30))
def test_the_verdict_follows_the_last_answers(failures: int, answers: list[bool]) -> None:
    """Unwell from the n-th bad answer in a row to the next good one, and at no other time; since when, is kept."""
    clock = HandClock()
    config = health_alone(failures)
    one = Probes(config, "primary", clock, wake=lambda: None)
    since: int | None = None
    for at, good in enumerate(answers):
        clock.advance(1)
        before = one.health
        one._health._answer("" if good else "bad")
        last = answers[: at + 1]
        row = len(last) - max((n + 1 for n, each in enumerate(last) if each), default=0)
        well = row < failures
        if well != before.well or (since is None and good):
            since = clock.wall()
        assert Health(well, "" if good else "bad", since) == one.health


def health_alone(failures: int) -> Config:
    """As much of a config as the verdict needs."""
    from types import SimpleNamespace as Names

    from vmctl import config

    health = config.Health(every=1, timeout=1, failures=failures)
    made: Any = Names(
        network="net", health=health, reachability=config.Reachability((), 1, 1), calls=config.Calls(1, 1)
    )
    checked: Config = made
    return checked


def test_it_is_asked_as_often_as_the_config_says(around: Make, clock: HandClock) -> None:
    """At the first tick, and then not before `health.every` is over, however often the caller ticks."""
    one = around(**ASKS, health__every="10s")
    for count in (1, 2, 3):
        one.ticking(lambda _, count=count: one.asked() == count)
        one.idle()
        for _ in range(3):
            clock.advance(3)
            one.probes.tick()
        one.idle()
        assert count == one.asked()
        clock.advance(1)


def test_the_command_knows_the_server_and_the_network(around: Make) -> None:
    """It runs beside vmctl.yaml, with the names of both in its environment, and is not asked for a service."""
    words = '[ -f vmctl.yaml ] && [ -z "$VMCTL_SERVICE" ] && echo "$VMCTL_SERVER of $VMCTL_NETWORK"; exit 1'
    one = around(health__command=["sh", "-c", words])
    one.ticking(bad)
    assert "exit code 1: primary of net" == one.probes.health.why


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["./none"], "it cannot be run: No such file or directory: ./none"),
        (["sh", "-c", "kill -KILL $$"], "killed by SIGKILL"),
    ],
)
def test_every_kind_of_failure_is_a_bad_answer(around: Make, command: list[str], why: str) -> None:
    """A program that is not there, that is killed: unwell, and the reason says it."""
    one = around(health__command=command, health__failures=1)
    one.ticking(lambda probes: not probes.health.well)
    assert why == one.probes.health.why


def test_a_command_that_is_late_is_killed_and_counts(around: Make, clock: HandClock) -> None:
    """Not before its time; and what it started is gone with it."""
    one = around(health__command=["sh", "-c", "echo $$ > own; sleep 1000 & wait"], health__failures=1)
    one.probes.tick()
    own = pid_in(one.root / "own")
    clock.advance(4.9)
    one.probes.tick()
    assert one.probes.health.well
    clock.advance(0.1)
    one.ticking(lambda probes: not probes.health.well)
    assert "it did not end within 5 s" == one.probes.health.why
    one.idle()
    assert no_trace(own)


def test_one_question_at_a_time(around: Make, clock: HandClock) -> None:
    """A slow command that is within its time is not asked again beside itself."""
    one = around(**ASKS, health__every="1s", health__timeout="10m")
    one.answer("while [ ! -e go ]; do sleep 0.01; done")
    one.ticking(lambda _: one.asked() == 1)
    for _ in range(20):
        clock.advance(10)
        one.probes.tick()
    assert 1 == one.asked()
    assert one.probes.health == Health(True, "", None)
    (one.root / "go").touch()
    one.ticking(lambda probes: probes.health.since)
    one.ticking(lambda _: one.asked() == 2)


def test_a_program_that_cannot_even_be_started_or_killed_makes_it_unwell(
    around: Make, clock: HandClock, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs with its disk is a bad answer each time; none is asked beside it, but again when it has come back."""
    monkeypatch.setattr(room, "run", gate)
    one = around(**ASKS, health__failures=3, health__every="10s", health__timeout="5s")
    for _ in range(200):
        one.probes.tick()
        clock.advance(0.5)
    assert not one.probes.health.well
    assert one.probes.health.why.startswith("no end for ")
    assert bad(one.probes) in {9, 10}
    assert 1 == len(gate.came)
    monkeypatch.undo()
    gate.open.set()
    one.ticking(lambda probes: clock.advance(0.5) or probes.health.well)


def test_a_server_that_stood_still_does_not_count_that(
    around: Make, clock: HandClock, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pause of the whole machine a question that was open may still be answered: that is no bad answer."""
    monkeypatch.setattr(room, "run", gate)
    one = around(**ASKS, health__failures=1)
    one.probes.tick()
    clock.advance(3600)
    one.probes.tick()
    assert Health(True, "", None) == one.probes.health
    gate.open.set()
    one.idle()
    one.probes.tick()
    assert Health(True, "", None) == one.probes.health


@pytest.mark.parametrize("error", [OSError("no room"), MemoryError()])
def test_a_question_that_cannot_be_asked_is_a_bad_answer(
    around: Make, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever goes wrong in the thread: it does not pass for silence, which would count as well for ever."""

    def run(*_words: Any, **_more: Any) -> None:
        raise error

    monkeypatch.setattr(room, "run", run)
    one = around(**ASKS, health__failures=1)
    one.ticking(lambda probes: not probes.health.well)
    assert type(error).__name__ in one.probes.health.why


def test_a_system_without_threads_is_a_bad_answer(around: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop that ticks goes on."""

    def start(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    one = around(**ASKS, health__failures=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        one.probes.tick()
    assert Health(False, "can't start new thread", one.clock.wall()) == one.probes.health


def test_close_ends_what_runs(around: Make) -> None:
    """The program is killed at once and waited for; nobody is woken any more, and nothing is asked any more."""
    one = around(**ASKS, health__timeout="10m")
    one.answer("echo $$ > own; sleep 1000")
    one.probes.tick()
    own = pid_in(one.root / "own")
    one.probes.close()
    assert no_trace(own)
    assert [] == probing()
    one.probes.tick()
    assert [] == probing()
    assert 0 == one.woken
    assert 1 == one.asked()
    one.probes.close()


def test_close_does_not_wait_for_what_cannot_be_ended(
    around: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is looked up for ever keeps neither close nor the process from its end, and is not heard afterwards."""
    monkeypatch.setattr(socket, "getaddrinfo", gate)
    one = around(reachability__targets=["a.example:80", "b.example:80"])
    one.probes.tick()
    one.probes.close()
    assert [True, True] == [thread.daemon for thread in probing()]
    gate.open.set()
    one.idle()
    assert 0 == one.woken
    assert one.probes.as_json()["reachability"]["cut_off"] is None


# Reachability


def test_without_targets_it_is_never_cut_off(around: Make, clock: HandClock) -> None:
    """Nothing is tried."""
    one = around()
    one.probes.tick()
    assert not one.probes.cut_off
    assert {"cut_off": False, "since": None, "unreached": {}} == one.probes.as_json()["reachability"]
    assert [] == probing()


@pytest.mark.parametrize("place", [listener, refusing])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_place_that_answers_or_refuses_is_reached(around: Make, place: Any, host: str) -> None:
    """A listener, and a port where nobody listens: the host is there. Before the first round nothing is known."""
    with place() as address:
        one = around(reachability__targets=[address.replace("127.0.0.1", host)])
        assert one.probes.as_json()["reachability"]["cut_off"] is None
        assert not one.probes.cut_off
        one.ticking(lambda probes: probes.as_json()["reachability"]["cut_off"] is False)
        one.probes.close()


def test_who_reaches_nothing_in_a_whole_round_is_cut_off(around: Make, clock: HandClock) -> None:
    """Not before the round is over; since then; until one target is reached again."""
    silent, other = Silent(), Silent()
    one = around(reachability__targets=[silent.address, other.address], reachability__timeout="3s")
    one.probes.tick()
    clock.advance(2.9)
    one.probes.tick()
    assert not one.probes.cut_off
    clock.advance(0.1)
    one.ticking(lambda probes: probes.cut_off)
    why = "no answer within 3 s"
    shown = {"cut_off": True, "since": rfc3339(clock.wall()), "unreached": {silent.address: why, other.address: why}}
    assert shown == one.probes.as_json()["reachability"]
    assert 1 <= one.woken <= 2
    other.close()
    one.idle()
    assert one.probes.cut_off
    clock.advance(7)
    one.ticking(lambda probes: not probes.cut_off)
    shown = {"cut_off": False, "since": None, "unreached": {silent.address: why}}
    assert shown == one.probes.as_json()["reachability"]
    one.probes.close()
    silent.close()


def test_one_target_that_is_reached_is_enough(around: Make, clock: HandClock) -> None:
    """The others may be silent for ever: they are named, and the server is not cut off."""
    silent = Silent()
    with refusing() as refuses:
        one = around(reachability__targets=[silent.address, refuses])
        for _ in range(3):
            one.ticking(lambda probes: probes.as_json()["reachability"]["cut_off"] is False)
            until(lambda: len(probing()) == 1, what="the answer of the one that refuses")
            clock.advance(3)
            one.ticking(lambda _: not probing())
            assert not one.probes.cut_off
            assert {silent.address: "no answer within 3 s"} == one.probes.as_json()["reachability"]["unreached"]
            clock.advance(7)
    one.probes.close()
    silent.close()


def test_all_addresses_of_a_name_are_tried(around: Make, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side: a silent one does not keep the next from being reached, nor one for which there is no way."""
    silent = Silent()
    with refusing() as refuses:
        port = int(refuses.rpartition(":")[2])
        dead = int(silent.address.rpartition(":")[2])
        found = [socket.getaddrinfo("127.0.0.1", each, type=socket.SOCK_STREAM)[0] for each in (dead, port)]
        odd = (socket.AF_UNIX, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))  # a family that knows no TCP
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_words, **_more: [odd, *found])
        one = around(reachability__targets=["both.example:80"])
        one.ticking(lambda probes: probes.as_json()["reachability"]["cut_off"] is False)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_words, **_more: [odd])
        clock.advance(10)
        one.ticking(lambda probes: probes.cut_off)
        one.probes.close()
    silent.close()
    assert {"both.example:80": "Protocol not supported"} == one.probes.as_json()["reachability"]["unreached"]


def test_a_round_is_over_before_the_next_one_begins(
    around: Make, clock: HandClock, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a connection may take longer than a round: no target is tried twice in one."""
    tried = []

    def reach(target: Address, _deadline: Deadline) -> str:
        tried.append(target.port)
        if target.port == 1:
            gate()
        return ""

    monkeypatch.setattr(room, "reach", reach)
    one = around(
        reachability__targets=["a.example:1", "b.example:2"], reachability__every="1s", reachability__timeout="1m"
    )
    one.ticking(lambda _: sorted(tried) == [1, 2])
    for _ in range(20):
        clock.advance(2)
        one.probes.tick()
    gate.open.set()
    one.idle()
    assert [1, 2] == sorted(tried)
    one.ticking(lambda _: sorted(tried) == [1, 1, 2, 2])


def test_it_is_cut_off_as_soon_as_all_have_failed(around: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system says at once that there is no way, no time has to pass; its words are shown."""
    import errno

    real = socket.socket

    class NoWay(real):
        def connect_ex(self, address: Any) -> int:
            return errno.ENETUNREACH

    monkeypatch.setattr(socket, "socket", NoWay)
    one = around(reachability__targets=["192.0.2.1:80", "[2001:db8::1]:80"])
    one.ticking(lambda probes: probes.cut_off)
    assert {
        "192.0.2.1:80": "Network is unreachable", "[2001:db8::1]:80": "Network is unreachable",
    } == one.probes.as_json()["reachability"]["unreached"]  # fmt: skip


def test_a_name_that_is_not_found_is_not_reached(around: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's words are shown."""

    def getaddrinfo(*_words: Any, **_more: Any) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    one = around(reachability__targets=["gateway.example:80"])
    one.ticking(lambda probes: probes.cut_off)
    unreached = one.probes.as_json()["reachability"]["unreached"]
    assert {"gateway.example:80": "its name is not found: Temporary failure in name resolution"} == unreached


def test_a_resolver_that_hangs_holds_up_nothing_else(
    around: Make, clock: HandClock, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else is asked all the same; it is asked no second time beside itself, and counts as not reached meanwhile."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *words: Any, **more: Any) -> Any:
        if host == "hangs.example":
            gate()
            host = "127.0.0.1"
        return real(host, *words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    silent = Silent()
    with refusing() as refuses:
        port = refuses.rpartition(":")[2]
        one = around(**ASKS, reachability__targets=[f"hangs.example:{port}", silent.address])
        for _ in range(100):
            one.probes.tick()
            clock.advance(0.5)
        one.ticking(lambda probes: probes.health.since)
        one.ticking(lambda probes: clock.advance(0.5) or probes.cut_off)
        assert 1 == len(gate.came)
        silent.close()  # from now on it refuses
        one.ticking(lambda probes: clock.advance(0.5) or not probes.cut_off)
        unreached = one.probes.as_json()["reachability"]["unreached"]
        assert unreached[f"hangs.example:{port}"].startswith("no end for ")
        gate.open.set()
        one.ticking(lambda probes: clock.advance(0.5) or not probes.as_json()["reachability"]["unreached"])
    one.probes.close()


# Calls in progress


def test_without_a_command_there_are_none(around: Make) -> None:
    """No calls, and that is known."""
    one = around()
    one.probes.tick({"voicemail"})
    assert 0 == one.probes.calls("voicemail")
    assert {"voicemail": {"calls": 0, "why": ""}} == one.probes.as_json()["calls"]
    assert [] == probing()


def test_they_are_counted_while_somebody_waits(around: Make, clock: HandClock) -> None:
    """Only then, as often as the config says; a new number wakes the caller, the same one does not."""
    one = around(**COUNTS, calls__every="5s", calls__timeout="5s")
    one.answer("echo 3; echo in all")
    one.probes.tick()
    one.idle()
    assert one.probes.calls("voicemail") is None
    assert {"voicemail": {"calls": None, "why": "nothing waits for it"}} == one.probes.as_json()["calls"]
    for count in (1, 2):
        one.ticking(lambda _, count=count: one.asked("asked.voicemail") == count, {"voicemail"})
        one.idle()
        clock.advance(4.9)
        one.probes.tick({"voicemail"})
        one.idle()
        assert count == one.asked("asked.voicemail")
        assert 3 == one.probes.calls("voicemail")
        assert 1 == one.woken
        clock.advance(0.1)
    one.answer("echo 0")
    one.ticking(lambda probes: probes.calls("voicemail") == 0, {"voicemail"})
    assert 2 == one.woken
    assert {"voicemail": {"calls": 0, "why": ""}} == one.probes.as_json()["calls"]


def test_a_number_is_known_while_it_is_fresh(around: Make, clock: HandClock) -> None:
    """Counted from the question, twice `calls.every` and `calls.timeout`; then it is not known, and it is said why."""
    one = around(**COUNTS, calls__every="5s", calls__timeout="4s")
    one.answer("echo 0")
    one.ticking(lambda probes: probes.calls("voicemail") == 0, {"voicemail"})
    clock.advance(14)
    one.probes.tick()
    assert 0 == one.probes.calls("voicemail")
    clock.advance(0.1)
    assert one.probes.calls("voicemail") is None
    assert "the last answer is 14.1 s old" == one.probes.as_json()["calls"]["voicemail"]["why"]
    one.ticking(lambda probes: probes.calls("voicemail") == 0, {"voicemail"})


def test_a_slow_answer_is_as_old_as_its_question(around: Make, clock: HandClock) -> None:
    """A call may have begun since the program looked. While it looks it is not asked again."""
    one = around(**COUNTS, calls__every="1s", calls__timeout="10m")
    one.answer("while [ ! -e go ]; do sleep 0.01; done; echo 0")
    one.ticking(lambda _: one.asked("asked.voicemail") == 1, {"voicemail"})
    assert "there is no answer yet" == one.probes.as_json()["calls"]["voicemail"]["why"]
    for _ in range(59):
        clock.advance(10)
        one.probes.tick({"voicemail"})
    (one.root / "go").touch()
    one.idle()
    assert 1 == one.asked("asked.voicemail")
    assert 0 == one.probes.calls("voicemail")
    clock.advance(12.1)
    assert one.probes.calls("voicemail") is None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("exit 0", "its first line is no whole number: ''"),
        ("echo; echo 1", "its first line is no whole number: ''"),
        ("echo two", "its first line is no whole number: 'two'"),
        ("echo -1", "its first line is no whole number: '-1'"),
        ("echo 1.5", "its first line is no whole number: '1.5'"),
        ("echo 1 2", "its first line is no whole number: '1 2'"),
        ("echo 12345678901", "its first line is no whole number: '12345678901'"),
        (r"printf '\331\243'", "its first line is no whole number: '\N{ARABIC-INDIC DIGIT THREE}'"),
        ("echo 0; exit 1", "exit code 1: 0"),
        ("echo 0; echo no answer from 127.0.0.1 >&2; exit 1", "exit code 1: no answer from 127.0.0.1"),
    ],
)
def test_what_is_no_number_is_not_known(around: Make, clock: HandClock, answer: str, why: str) -> None:
    """Nothing is guessed, not from an earlier answer either; it is said what is wrong."""
    one = around(**COUNTS)
    one.answer("echo warning >&2; echo '  7 '")
    one.ticking(lambda probes: probes.calls("voicemail") == 7, {"voicemail"})
    one.answer(answer)
    clock.advance(5)
    one.ticking(lambda probes: probes.calls("voicemail") is None, {"voicemail"})
    assert {"calls": None, "why": why} == one.probes.as_json()["calls"]["voicemail"]
    assert 2 == one.woken


def test_each_service_is_counted_by_itself(around: Make, clock: HandClock) -> None:
    """The command knows for which one it is asked; one that is slow does not keep the other waiting."""
    one = around(mode="dual-active", servers__secondary__licensed=True, **COUNTS)
    first, second = one.config.services
    one.answer(f"[ $VMCTL_SERVICE = {first} ] && sleep 1000; [ $VMCTL_SERVER = primary ] && echo 2")
    one.ticking(lambda probes: probes.calls(second) == 2, [first, second])
    assert one.probes.calls(first) is None
    clock.advance(5)
    one.ticking(lambda probes: probes.as_json()["calls"][first]["why"] == "it did not end within 5 s", [first, second])


# All together


def test_nothing_is_left_of_many_questions(around: Make, clock: HandClock) -> None:
    """Two hundred rounds of all three kinds, some of them late: open files and threads as before, and no zombie."""
    files, threads = open_files(), threading.active_count()
    silent = Silent()
    with listener() as takes, refusing() as refuses:
        one = around(
            health__command=["sh", "-c", "echo $$ >> own; exit 1"], calls__command=["sh", "-c", "echo $$ >> own; echo 1"],
            reachability__targets=[takes, refuses, silent.address], reachability__timeout="200ms",
        )  # fmt: skip
        for count in range(200):
            if count == 20:
                silent.close()
            one.probes.tick({"voicemail"})
            clock.advance(1)
            for thread in probing():
                thread.join()
            clock.advance(9)
    assert 1 == one.probes._calls._last["voicemail"].number
    assert not one.probes.health.well
    assert (files, threads) == (open_files(), threading.active_count())
    pids = [int(line) for line in (one.root / "own").read_text().split()]
    assert 2 * 200 == len(pids)
    assert [] == [pid for pid in pids if not no_trace(pid)]


def test_all_of_it_on_the_real_clock(tmp_path: Path, no_fsync: None) -> None:
    """The application falls ill and gets well again, the network goes and comes back, the calls end: it is all seen."""
    silent = Silent()
    quick = {
        "health__every": "100ms",
        "reachability__every": "100ms",
        "reachability__timeout": "100ms",
        "calls__every": "100ms",
    }
    one = Around(tmp_path / "net", **ASKS, **COUNTS, **quick, reachability__targets=[silent.address])
    one.answer("echo 2; exit $(cat code)")
    code = one.root / "code"
    code.write_text("1")
    one.ticking(lambda probes: probes.cut_off and not probes.health.well)
    assert one.probes.health.why == "exit code 1: 2"
    code.write_text("0")
    silent.close()
    one.ticking(
        lambda probes: probes.health.well and not probes.cut_off and probes.calls("voicemail") == 2, {"voicemail"}
    )
    one.answer("echo 0")
    one.ticking(lambda probes: probes.calls("voicemail") == 0, {"voicemail"})
    one.probes.close()
    assert [] == probing()


# The page of the docs


PAGE = (ROOT / "docs/probes.md").read_text()
CHANNEL = "PJSIP/2001-{0:08}!{1}!2001!3!Up!{2}!2001@default!2001!!!3!42!(None)!1790000000.{0}"


@pytest.fixture
def asterisk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Tells what `asterisk -rx` prints for a command from now on; until then it answers nothing."""
    programs = tmp_path / "programs"
    programs.mkdir()
    script(
        programs / "asterisk", f'cat "{programs}/$2" && exit 0',
        "echo 'Unable to connect to remote asterisk (does /var/run/asterisk/asterisk.ctl exist?)'; exit 1",
    )  # fmt: skip
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def says(command: str, text: str) -> None:
        beside = programs / "new"
        beside.write_text(text)
        beside.rename(programs / command)

    return says


def shown(kind: str) -> list[str]:
    """The pieces of the page in a language."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def from_the_page(around: Make) -> Around:
    """Probes with the commands of the page, beside vmctl.yaml."""
    settings = [yaml.safe_load(text) for text in shown("yaml")]
    commands = {
        f"{section}__command": value["command"]
        for each in settings for section, value in each.items() if "command" in value
    }  # fmt: skip
    one = around(**commands, health__failures=1)
    for text in shown("sh"):
        path = one.root / (commands["health__command"] if "spool" in text else commands["calls__command"])[0]
        path.write_text(text)
        path.chmod(0o755)
    return one


def test_the_health_command_of_the_page_works(
    around: Make,
    clock: HandClock,
    asterisk: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says what is wrong: no answer, a module that does not run, a spool that is not there; else it is well."""
    monkeypatch.setenv("SPOOL", str(tmp_path / "spool"))
    one = from_the_page(around)

    def verdict(why: str) -> None:
        clock.advance(10)
        one.ticking(lambda probes: probes.health.since and probes.health.why == why, what=why)

    verdict("exit code 1: Asterisk does not answer")
    asterisk("module show like app_voicemail", "0 modules loaded\n")
    verdict("exit code 1: app_voicemail is not running")
    row = "app_voicemail.so  Comedian Mail (Voicemail System)  0  Running  core"
    asterisk("module show like app_voicemail", f"{row}\n1 modules loaded\n")
    verdict(f"exit code 1: {tmp_path}/spool cannot be written")
    (tmp_path / "spool").mkdir()
    verdict("")
    assert one.probes.health.well


def test_the_calls_command_of_the_page_works(
    around: Make, clock: HandClock, asterisk: Callable[[str, str], None]
) -> None:
    """It counts the channels of the service that are in a voicemail application, and no others."""
    one = from_the_page(around)

    def counted() -> Any:
        clock.advance(5)
        one.ticking(lambda probes: probes._calls._last.get("voicemail", (0, "", 0))[2] == clock.steady(), {"voicemail"})
        return one.probes.as_json()["calls"]["voicemail"]

    assert {"calls": None, "why": "exit code 1: Asterisk does not answer"} == counted()
    asterisk("core show channels concise", "")
    assert {"calls": 0, "why": ""} == counted()
    rows = [("voicemail", "VoiceMail"), ("voicemail", "VoiceMailMain"), ("voicemail", "Dial"), ("other", "VoiceMail")]
    asterisk("core show channels concise", "".join(CHANNEL.format(n, *row) + "\n" for n, row in enumerate(rows)))
    assert {"calls": 2, "why": ""} == counted()


def test_the_page_names_what_is_shown(around: Make) -> None:
    """Each name in the JSON is told of, and no other; the targets of the page are such as the config takes."""
    targets = next(
        value["reachability"]["targets"] for value in map(yaml.safe_load, shown("yaml")) if "reachability" in value
    )
    one = around(reachability__targets=targets)
    names = set()
    for section, value in one.probes.as_json().items():
        for name, inner in value.items():
            names |= {f"{section}.*.{each}" for each in inner} if section == "calls" else {f"{section}.{name}"}
    assert names == set(re.findall(r"^\| `([a-z_.*]+)` \|", PAGE.partition("## What is shown")[2], re.MULTILINE))

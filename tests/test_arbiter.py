"""The arbiter against a real etcd: whom it lends a service to, and what becomes of that when something breaks."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import ipaddress
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import etcd
import pytest
from etcd import one, shared_one, shared_three, three  # noqa: F401 - fixtures
from running import ROOT, environment, until

from vmctl import config
from vmctl.arbiter import Arbiter, Grant
from vmctl.clock import Clock
from vmctl.errors import ArbiterNotInstalled, ArbiterUnreachable
from vmctl.leases import Leases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from etcd import Cluster

pytestmark = pytest.mark.xdist_group("arbiter")  # one process: each has an etcd of its own
TTL = 60.0  # of leases that are not meant to end within a test
BRIEF = 1.0  # the least that the etcd of these tests lends for
TIMEOUT = 5.0


@pytest.fixture
def network(request: pytest.FixtureRequest) -> str:
    """A network for each test, as they share an etcd."""
    return str(request.node.name).translate({ord(sign): "-" for sign in "[]_/"})


@pytest.fixture(params=["one", "three"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """One node, and three."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def free(arbiter: Arbiter) -> Callable[[], bool]:
    """Whether nobody has `main`."""
    return lambda: arbiter.read("main").server is None


# What is lent


def test_a_service_is_lent_to_one_server(cluster: Cluster, network: str) -> None:
    """Who asks first has it, with a new epoch; the other one is told who has it, and changes nothing."""
    arbiter = Arbiter(cluster.arbiter(), network, timeout=TIMEOUT)
    assert Grant(False, None, 0, 0.0) == arbiter.read("main")
    assert Grant(True, "primary", 4, TTL) == arbiter.acquire("main", "primary", 3, TTL)
    assert Grant(False, "primary", 4, 0.0) == arbiter.acquire("main", "secondary", 9, TTL)
    assert Grant(False, "primary", 4, 0.0) == arbiter.renew("main", "secondary", 9, TTL)
    arbiter.release("main", "secondary")
    assert Grant(False, "primary", 4, 0.0) == arbiter.read("main")


def test_services_and_networks_are_apart(one: Cluster, network: str) -> None:  # noqa: F811
    """A service whose name begins like another's, and the same one of another network, are lent each by itself."""
    arbiter = Arbiter(one.arbiter(), network, timeout=TIMEOUT)
    other = Arbiter(one.arbiter(), network + "2", timeout=TIMEOUT)
    arbiter.acquire("main", "primary", 6, TTL)
    for asked, service in ((arbiter, "main2"), (arbiter, "mai"), (other, "main")):
        assert Grant(True, "secondary", 1, TTL) == asked.acquire(service, "secondary", 0, TTL)
    assert ("primary", 7) == arbiter.read("main")[1:3]


def test_a_release_frees_at_once_and_keeps_the_number(cluster: Cluster, network: str) -> None:
    """The other server has the service right after it, in an epoch above the last one."""
    arbiter = Arbiter(cluster.arbiter(), network, timeout=TIMEOUT)
    arbiter.acquire("main", "primary", 3, TTL)
    arbiter.release("main", "primary")
    assert Grant(False, None, 4, 0.0) == arbiter.read("main")
    assert Grant(True, "secondary", 5, TTL) == arbiter.acquire("main", "secondary", 0, TTL)


def test_a_restarted_server_has_its_service_at_once(one: Cluster, network: str) -> None:  # noqa: F811
    """What a former process of the same server holds is taken over, in a new epoch and under a new lease."""
    Arbiter(one.arbiter(), network, timeout=TIMEOUT).acquire("main", "primary", 0, BRIEF)
    again = Arbiter(one.arbiter(), network, timeout=TIMEOUT)
    assert Grant(True, "primary", 2, TTL) == again.acquire("main", "primary", 0, TTL)


def test_renewals_keep_a_service_and_its_number(one: Cluster, network: str) -> None:  # noqa: F811
    """It is kept past the first lease; the number of the epoch is told on, and does not fall."""
    arbiter = Arbiter(one.arbiter(), network, timeout=TIMEOUT)
    arbiter.acquire("main", "primary", 0, 2 * BRIEF)
    end = time.monotonic() + 3 * BRIEF
    while time.monotonic() < end:
        assert arbiter.renew("main", "primary", 1, 2 * BRIEF).mine
        time.sleep(BRIEF / 4)
    assert Grant(True, "primary", 8, BRIEF) == arbiter.renew("main", "primary", 8, BRIEF)
    assert Grant(True, "primary", 8, BRIEF) == arbiter.renew("main", "primary", 2, BRIEF)


def test_the_number_outlives_leases(one: Cluster, network: str) -> None:  # noqa: F811
    """A lease that runs out frees the service, a late renewal does not take it back, and the next epoch is above."""
    arbiter = Arbiter(one.arbiter(), network, timeout=TIMEOUT)
    numbers = []
    for server in ("primary", "secondary"):
        numbers.append(arbiter.acquire("main", server, 0, BRIEF).number)
        until(free(arbiter), what="the end of the lease")
        assert Grant(False, None, numbers[-1], 0.0) == arbiter.renew("main", server, 0, TTL)
    assert [1, 2] == numbers


def test_of_two_at_once_one_gets_it(cluster: Cluster, network: str) -> None:
    """In each of many rounds two servers ask at the same moment; one is told yes, and that in an epoch of its own."""
    numbers = []
    start = threading.Barrier(2)

    def contend(server: str, grants: dict[str, Grant]) -> None:
        arbiter = Arbiter(cluster.arbiter(), network, timeout=TIMEOUT)
        start.wait()
        grants[server] = arbiter.acquire("main", server, 0, TTL)

    arbiter = Arbiter(cluster.arbiter(), network, timeout=TIMEOUT)
    for _ in range(25):
        grants: dict[str, Grant] = {}
        threads = [threading.Thread(target=contend, args=(server, grants)) for server in ("primary", "secondary")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner, other = sorted(grants, key=lambda server: not grants[server].mine)
        assert [True, False] == [grants[winner].mine, grants[other].mine]
        assert winner == grants[other].server == arbiter.read("main").server
        numbers.append(grants[winner].number)
        arbiter.release("main", winner)
    assert list(range(1, 26)) == numbers


def test_a_longer_lease_than_asked_for_counts_as_asked(one: Cluster, network: str) -> None:  # noqa: F811
    """Etcd lends for whole seconds and not below a least; who asked for less goes by that."""
    arbiter = Arbiter(one.arbiter(), network, timeout=TIMEOUT)
    assert 0.3 == arbiter.acquire("main", "primary", 0, 0.3).ttl
    assert 1.5 == arbiter.renew("main", "primary", 0, 1.5).ttl


def test_what_stands_in_the_keys_can_be_read_by_people(one: Cluster, network: str) -> None:  # noqa: F811
    """The holder's name and the epoch's number, below prefix, network and service."""
    import base64
    import urllib.request

    Arbiter(one.arbiter(), network, timeout=TIMEOUT).acquire("main", "primary", 0, TTL)
    begin = f"/vmctl/{network}/".encode()
    keys = {"key": base64.b64encode(begin).decode(), "range_end": base64.b64encode(begin[:-1] + b"0").decode()}
    with urllib.request.urlopen(f"{one.urls[0]}/v3/kv/range", json.dumps(keys).encode()) as answer:
        found = json.load(answer)["kvs"]
    assert {begin + b"main/epoch": b"1", begin + b"main/holder": b"primary"} == {
        base64.b64decode(key["key"]): base64.b64decode(key["value"]) for key in found
    }


# Endpoints


def test_a_dead_endpoint_is_passed_over(one: Cluster, network: str) -> None:  # noqa: F811
    """The next one is asked in the same call, and comes first in the next call."""
    arbiter = Arbiter(one.arbiter("http://127.0.0.1:1", *one.urls), network, timeout=TIMEOUT)
    assert arbiter.acquire("main", "primary", 0, TTL).mine
    assert 1 == arbiter._first
    assert arbiter.renew("main", "primary", 0, TTL).mine


def test_a_frozen_endpoint_is_passed_over(three: Cluster, network: str) -> None:  # noqa: F811
    """A node that takes the connection and says nothing uses up its share of the time, no more."""
    leader = three.leader()
    follower = next(node for node in three.nodes if node is not leader)
    urls = sorted(three.urls, key=lambda url: url != follower.url)
    with follower.frozen():
        assert Arbiter(three.arbiter(*urls), network, timeout=TIMEOUT).acquire("main", "primary", 0, TTL).mine
    three.wait()


def test_no_endpoint_answers(network: str) -> None:
    """The error names each one that was tried, and why it gave nothing."""
    urls = ("http://127.0.0.1:1", "https://[::1]:1", "http://none.invalid:2379")
    with pytest.raises(ArbiterUnreachable) as caught:
        Arbiter(config.Arbiter(urls, "/vmctl"), network, timeout=TIMEOUT).read("main")
    assert [f"{url}: " for url in urls] == [part[: len(url) + 2] for url, part in zip(urls, caught.value.why.split("; "), strict=True)]  # fmt: skip
    assert caught.value.why.count("Connection refused") == 2
    assert caught.value.retry


def test_an_endpoint_that_says_nothing_is_given_up_in_time(network: str) -> None:
    """Whatever takes connections and is silent does not keep a call for longer than its time."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ArbiterUnreachable, match="gives no answer") as caught:
            Arbiter(config.Arbiter((url,), "/vmctl"), network, timeout=0.5).read("main")
        assert time.monotonic() - began < 20  # not for ever; a busy machine is no fault
    assert f"{url}: no answer in time" == caught.value.why


def test_nothing_is_asked_once_the_time_is_over(network: str) -> None:
    """What would be done then, nobody waits for: so it is not sent, as after a process stood still."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ArbiterUnreachable, match="gives no answer"):
            Arbiter(config.Arbiter((url,), "/vmctl"), network, timeout=0.0).release("main", "primary")
        mute.setblocking(False)
        with pytest.raises(BlockingIOError):
            mute.accept()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>", "it does not answer as etcd does (JSONDecodeError"),
        (200, b"[]", "it does not answer as etcd does (AttributeError"),
        (200, b'{"kvs": [{"value": "eA=="}]}', "it does not answer as etcd does (KeyError"),
        (200, b'{"kvs": [{"key": "x"}]}', "it does not answer as etcd does (Error"),
        (302, b"", "it does not answer as etcd does (TooManyRedirects"),
        (404, b"404 page not found", "404 page not found"),
        (503, b'{"error":"etcdserver: no leader","code":14}', "etcdserver: no leader"),
    ],
)
def test_what_is_no_etcd_is_told(network: str, status: int, body: bytes, words: str) -> None:
    """Another server at the endpoint, or an etcd that refuses, is an endpoint without an answer, in its own words."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(ArbiterUnreachable) as caught:
            Arbiter(config.Arbiter((url,), "/vmctl"), network, timeout=TIMEOUT).read("main")
        server.shutdown()
    assert words in caught.value.why


def test_a_proxy_of_the_environment_is_not_asked(one: Cluster, network: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Who serves must not depend on a web proxy that a shell names."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert Arbiter(one.arbiter(), network, timeout=TIMEOUT).acquire("main", "primary", 0, TTL).mine


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named, where an arbiter is configured and its package is not installed."""
    monkeypatch.setitem(sys.modules, "etcd3gw.client", None)
    with pytest.raises(ArbiterNotInstalled, match="not installed") as caught:
        Arbiter(config.Arbiter(("http://127.0.0.1:1",), "/vmctl"), "net", timeout=TIMEOUT)
    assert "vmctl[etcd]" in caught.value.hint


def test_the_package_is_loaded_only_where_there_is_an_arbiter() -> None:
    """Rooms that know of the arbiter start as fast as without one."""
    code = "import sys, vmctl.arbiter, vmctl.leases; print([m for m in sys.modules if m in ('etcd3gw', 'requests')])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


# A wire that is slow, or holds something back


def test_a_slow_etcd_is_waited_for(one: Cluster, network: str) -> None:  # noqa: F811
    """An answer that takes a while is an answer; one that takes longer than the time of a call is none."""
    with etcd.wire(one.nodes[0]) as wire:
        wire.delay = 0.1
        assert Arbiter(one.arbiter(wire.url), network, timeout=TIMEOUT).acquire("main", "primary", 0, TTL).mine
        wire.delay = 1.0
        with pytest.raises(ArbiterUnreachable, match="gives no answer"):
            Arbiter(one.arbiter(wire.url), network, timeout=0.3).renew("main", "primary", 0, TTL)


def holding(text: bytes) -> Callable[[bytes], bool]:
    """What a wire holds back: what has this text in it, such as the body of a transaction."""
    return lambda data: text in data


@pytest.fixture
def late(one: Cluster, network: str) -> Iterator[tuple[Arbiter, Callable[..., None]]]:  # noqa: F811
    """An arbiter, and a way to ask it something whose last request arrives only after all else that a test does."""
    with contextlib.ExitStack() as stack:
        wires = []

        def ask(verb: str, *words: Any) -> None:
            wire = stack.enter_context(etcd.wire(one.nodes[0]))
            wire.holds = holding(b"compare")
            wires.append(wire)
            with pytest.raises(ArbiterUnreachable):
                getattr(Arbiter(one.arbiter(wire.url), network, timeout=0.5), verb)("main", "primary", *words)
            assert wire.held.is_set()

        def let_go() -> None:
            for wire in wires:
                wire.holds = holding(b"nothing")
            until(lambda: all(wire.idle for wire in wires), what="an etcd that heard it")

        ask.let_go = let_go  # type: ignore[attr-defined]
        yield Arbiter(one.arbiter(), network, timeout=TIMEOUT), ask


def test_a_late_release_does_not_free_what_was_acquired_again(late: Any) -> None:
    """A release that was held up on its way is about what was held then, not about what is held now."""
    arbiter, ask = late
    arbiter.acquire("main", "primary", 0, TTL)
    ask("release")
    arbiter.acquire("main", "primary", 0, TTL)
    ask.let_go()
    assert ("primary", 2) == arbiter.read("main")[1:3]


def test_a_late_renewal_does_not_shorten_a_newer_one(late: Any) -> None:
    """Nor does it bring an older number back."""
    arbiter, ask = late
    arbiter.acquire("main", "primary", 0, TTL)
    ask("renew", 1, BRIEF)
    arbiter.renew("main", "primary", 5, TTL)
    ask.let_go()
    time.sleep(2 * BRIEF)  # what would have made it shorter would be over
    assert ("primary", 5) == arbiter.read("main")[1:3]


def test_a_late_renewal_does_not_take_back_what_was_released(late: Any) -> None:
    """What was given back stays free."""
    arbiter, ask = late
    arbiter.acquire("main", "primary", 0, TTL)
    ask("renew", 1, TTL)
    arbiter.release("main", "primary")
    ask.let_go()
    assert Grant(False, None, 1, 0.0) == arbiter.read("main")


def test_a_late_acquisition_takes_nothing_that_changed_meanwhile(late: Any) -> None:
    """When the service was had and given back since, nobody is waiting for that answer any more."""
    arbiter, ask = late
    ask("acquire", 0, TTL)
    arbiter.acquire("main", "secondary", 0, TTL)
    arbiter.release("main", "secondary")
    ask.let_go()
    assert Grant(False, None, 1, 0.0) == arbiter.read("main")


# Nodes that are lost, frozen, or come back


def test_a_majority_is_needed_and_enough(three: Cluster, network: str) -> None:  # noqa: F811
    """Without one node all goes on; without two nothing is lent; when one is back all goes on again, with what was known."""
    arbiter = Arbiter(three.arbiter(), network, timeout=TIMEOUT)
    assert 1 == arbiter.acquire("main", "primary", 0, TTL).number
    leader = three.leader()
    leader.kill()
    three.wait()
    assert arbiter.renew("main", "primary", 2, TTL).mine
    second = three.leader()
    second.kill()
    with pytest.raises(ArbiterUnreachable):
        Arbiter(three.arbiter(), network, timeout=1.5).renew("main", "primary", 3, TTL)
    three.start(second.name)
    assert Grant(True, "primary", 4, TTL) == arbiter.renew("main", "primary", 4, TTL)
    three.start()


def test_a_frozen_leader_that_wakes_up_takes_nothing_away(three: Cluster, network: str) -> None:  # noqa: F811
    """What was renewed through its successor stays, though by its own clock the leases it knew of are over."""
    leader = three.leader()
    others = [node for node in three.nodes if node is not leader]
    arbiter = Arbiter(three.arbiter(*(node.url for node in others)), network, timeout=TIMEOUT)
    arbiter.acquire("main", "primary", 0, 2.0)
    with leader.frozen():
        until(lambda: any(node.leads for node in others), what="another leader")
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            assert arbiter.renew("main", "primary", 1, 2.0).mine
            time.sleep(0.1)
        assert arbiter.renew("main", "primary", 1, TTL).mine
    three.wait()
    time.sleep(1.0)  # etcd looks twice a second for what has run out
    assert ("primary", 1) == arbiter.read("main")[1:3]


def test_a_node_that_is_started_again_knows_who_has_what(one: Cluster, network: str) -> None:  # noqa: F811
    """While it is away nothing is lent; afterwards the holder still has the service, and the number is as it was."""
    arbiter = Arbiter(one.arbiter(), network, timeout=TIMEOUT)
    arbiter.acquire("main", "primary", 6, TTL)
    one.kill()
    with pytest.raises(ArbiterUnreachable, match="gives no answer"):
        arbiter.acquire("main", "secondary", 0, TTL)
    one.start()
    assert Grant(False, "primary", 7, 0.0) == arbiter.acquire("main", "secondary", 0, TTL)
    assert arbiter.renew("main", "primary", 0, TTL).mine


def test_a_permit_ends_when_etcd_does_not_answer(one: Cluster, network: str) -> None:  # noqa: F811
    """With etcd frozen the permit runs out in its own time and the trouble is told; afterwards all goes on by itself."""
    arbiter = Arbiter(one.arbiter(), network, timeout=0.5)
    woken = threading.Event()
    made = Leases(arbiter, "primary", Clock(), ttl=BRIEF, margin=0.1, wake=woken.set)

    def ticks(so: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: (made.tick({"main": 0}), so())[1]

    until(ticks(lambda: made.permit("main") > 0), what="a permit")
    with one.nodes[0].frozen():
        until(ticks(lambda: made.permit("main") == 0 and made.trouble), what="the end of the permit")
        assert "gives no answer" in (made.trouble or "")
    until(ticks(lambda: made.permit("main") > 0 and made.trouble is None), what="another permit")
    assert made.number("main") >= 1
    made.close()
    assert arbiter.read("main").server is None


# Whole processes


class Claim(NamedTuple):
    """From when until when a process said that it may serve, and in which epoch; steady readings."""

    begin: float
    end: float
    number: int


class Holder:
    """A process that holds `main` as long as it can."""

    def __init__(self, directory: Path, server: str, network: str, *urls: str) -> None:
        self.server = server
        self._out = directory / server
        words = [server, network, str(BRIEF), "0.1", *urls]
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("holder.py")), *words],
                env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def said(self) -> list[Claim]:
        """All that it said, also that it had no permit."""
        lines = [line.split() for line in self._out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [Claim(float(now), float(now) + float(permit), int(number)) for now, permit, number in lines]

    @property
    def serves(self) -> bool:
        """Whether it may serve by its last word."""
        return bool(self.said()) and self.said()[-1].end > Clock().steady()

    def turns(self, number: int = 3) -> None:
        """Wait until it has gone on for some turns."""
        before = len(self.said())
        until(lambda: len(self.said()) >= before + number, what=f"turns of {self.server}")

    def stop(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    """Starts processes; at the end no moment may be claimed by two of them, and no epoch."""
    made: list[Holder] = []

    def start(*words: str) -> Holder:
        made.append(Holder(tmp_path, *words))
        return made[-1]

    yield start
    for holder in made:
        holder.stop()
    claims: dict[str, list[Claim]] = {"primary": [], "secondary": []}
    claims |= {holder.server: [claim for claim in holder.said() if claim.end > claim.begin] for holder in made}
    for mine in claims["primary"]:
        both = [their for their in claims["secondary"] if their.begin < mine.end and mine.begin < their.end]
        assert both == [], f"two may serve: {mine}"
    numbers = [{claim.number for claim in claims[server]} for server in ("primary", "secondary")]
    assert numbers[0].isdisjoint(numbers[1])


def test_a_frozen_process_does_not_serve_again(one: Cluster, network: str, holders: Any) -> None:  # noqa: F811
    """One that stood still past its lease has no permit when it goes on, and its epoch is over: another one took over."""
    first = holders("primary", network, *one.urls)
    until(lambda: first.serves, what="the first permit")
    second = holders("secondary", network, *one.urls)
    second.turns()
    first.process.send_signal(signal.SIGSTOP)
    until(lambda: second.serves, what="the takeover")
    thawed = Clock().steady()
    first.process.send_signal(signal.SIGCONT)
    first.turns(10)
    after = [claim for claim in first.said() if claim.begin > thawed]
    assert after[0].end == after[0].begin
    assert all(claim.number != 1 for claim in after)
    second.stop()
    until(lambda: first.serves, what="the way back")


def test_a_process_that_is_frozen_while_it_asks_gets_no_old_permit(one: Cluster, network: str, holders: Any) -> None:  # noqa: F811
    """Its request is granted while it stands still; the answer, which it reads when it goes on, permits nothing."""
    with etcd.wire(one.nodes[0]) as wire:
        wire.holds = holding(b"compare")
        first = holders("primary", network, wire.url)
        assert wire.held.wait(20)
        first.process.send_signal(signal.SIGSTOP)
        wire.holds = holding(b"nothing")
        arbiter = Arbiter(one.arbiter(), network, timeout=TIMEOUT)
        until(lambda: arbiter.read("main").number == 1, what="the grant")
        second = holders("secondary", network, *one.urls)
        until(lambda: second.serves, what="the takeover")
        first.process.send_signal(signal.SIGCONT)
        first.turns(10)
        assert all(claim.number != 1 for claim in first.said())


def test_frozen_and_killed_nodes_make_no_two(three: Cluster, network: str, holders: Any) -> None:  # noqa: F811
    """Two processes contend while leaders are frozen and killed, one after the other; somebody serves again each time."""
    both = [holders(server, network, *three.urls) for server in ("primary", "secondary")]

    def served() -> bool:
        return any(holder.serves for holder in both)

    until(served, what="the first permit")
    for at in range(3):
        leader = three.leader()
        if at == 1:
            leader.kill()
            three.wait()
        else:
            with leader.frozen():
                until(lambda: any(n.leads for n in three.nodes if n is not leader), what="another leader")  # noqa: B023
                until(served, what="a permit by the new leader")
        three.start()
        until(served, what="a permit")


# What the docs say, and the tests themselves


def test_the_settings_on_the_page_make_a_cluster(tmp_path: Path) -> None:
    """Three nodes with the environment that docs/arbiter.md shows, at other addresses, are well together."""
    shown = "".join(re.findall(r"```sh\n(ETCD.*?)```", (ROOT / "docs" / "arbiter.md").read_text(), re.DOTALL))
    ports = iter(etcd.free_ports(9))
    at = {f"10.0.0.{node}:{port}": f"127.0.0.1:{next(ports)}" for node in (1, 2, 3) for port in (2379, 2380)}
    with contextlib.ExitStack() as stack:
        for node in (1, 2, 3):
            settings = {}
            for line in shown.splitlines():
                name, _, value = line.partition("=")
                if name != "ETCD_INITIAL_CLUSTER":  # which is the same on all of them
                    value = value.replace("n3", f"n{node}").replace("10.0.0.3", f"10.0.0.{node}")
                value = value.replace("127.0.0.1:2379", f"127.0.0.1:{next(ports)}" if "LISTEN_CLIENT" in name else "")
                for shown_at, real in at.items():
                    value = value.replace(shown_at, real)
                settings[name] = value
            settings["ETCD_DATA_DIR"] = str(tmp_path / f"n{node}")
            log = stack.enter_context((tmp_path / f"log{node}").open("wb"))
            process = subprocess.Popen([etcd.program()], env=settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        urls = [f"http://{at[f'10.0.0.{node}:2379']}" for node in (1, 2, 3)]
        for url in urls:
            until(lambda: etcd.healthy(url), within=40, what=f"{url}, {tmp_path}")  # noqa: B023
        assert Arbiter(config.Arbiter(tuple(urls), "/vmctl"), "net", timeout=TIMEOUT).acquire("main", "a", 0, TTL).mine


def test_a_missing_etcd_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without it the tests here are skipped; where it is required they fail."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(etcd.REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="etcd is not installed"):
        etcd.program()
    monkeypatch.setenv(etcd.REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="etcd is not installed"):
        etcd.program()


# TLS


def test_certificates_are_checked_both_ways(tmp_path: Path, network: str) -> None:
    """With the CA and this server's certificate etcd answers; without either it is not asked, or refuses."""
    paths = certificates(tmp_path)
    node = etcd.Node("tls", tmp_path, tuple(etcd.free_ports(2)))
    node.start(
        f"tls={node.peer_url}", "--cert-file", str(paths["cert"]), "--key-file", str(paths["key"]),
        "--client-cert-auth", "--trusted-ca-file", str(paths["ca"]), scheme="https",
    )  # fmt: skip
    url = f"https://127.0.0.1:{node.port}"
    own = {"ca": paths["ca"], "cert": paths["cert"], "cert_key": paths["key"]}

    def asked(**files: Path) -> Grant:
        return Arbiter(config.Arbiter((url,), "/vmctl", **files), network, timeout=TIMEOUT).read("main")

    def answers() -> Grant | None:
        with contextlib.suppress(ArbiterUnreachable):
            return asked(**own)
        return None

    try:
        until(answers, what="an etcd that speaks TLS")
        with pytest.raises(ArbiterUnreachable, match="gives no answer"):  # a reset or an alert, whichever comes first
            asked(ca=paths["ca"])
        with pytest.raises(ArbiterUnreachable) as caught:
            asked(cert=paths["cert"], cert_key=paths["key"])
        assert "certificate verify failed" in caught.value.why
        with pytest.raises(ArbiterUnreachable) as caught:
            asked(ca=tmp_path / "none.pem")
        assert "none.pem" in caught.value.why
    finally:
        node.kill()


def certificates(directory: Path) -> dict[str, Path]:
    """A CA, and a certificate of 127.0.0.1 for both ends."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = dt.datetime.now(dt.UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "cert")}
    names = {name: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in keys}
    paths = {"key": directory / "key.pem"}
    for name, key in keys.items():
        made = (
            x509.CertificateBuilder()
            .subject_name(names[name]).issuer_name(names["ca"]).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["ca"].public_key()), critical=False
            )
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True, key_cert_sign=name == "ca", crl_sign=name == "ca", content_commitment=False,
                    key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        )  # fmt: skip
        if name == "cert":
            names_of_it = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
            made = made.add_extension(names_of_it, critical=False).add_extension(uses, critical=False)
        paths[name] = directory / f"{name}.pem"
        paths[name].write_bytes(made.sign(keys["ca"], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    paths["key"].write_bytes(
        keys["cert"].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths

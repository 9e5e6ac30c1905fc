"""Two servers that both serve: each has callers of its own, and each is the other's backup."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from running import SERVERS, Net, run, until, wav

from vmctl import config
from vmctl.errors import NoSuchService, ServiceNotNamed
from vmctl.store.native import NativeStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOME = {"primary": "primary", "secondary": "secondary"}
ALL_AT_SECONDARY = {"primary": "secondary", "secondary": "secondary"}
SWAPPED = {"primary": "secondary", "secondary": "primary"}


@pytest.fixture
def net(tmp_path: Path) -> Net:
    """A new network of two active servers, each the home of the service of its name."""
    return Net.make(tmp_path / "net", mode="dual-active")


def serving(net: Net) -> dict[str, str | None]:
    """Who serves each service."""
    return {service["name"]: service["serving"] for service in net.status()["services"]}


def states(net: Net) -> dict[str, str]:
    """The state of each service."""
    return {service["name"]: service["state"] for service in net.status()["services"]}


def roles(net: Net) -> dict[str, str]:
    """The role of each server."""
    return {name: server["role"] for name, server in net.status()["servers"].items()}


def known_at(net: Net, server: str, service: str) -> tuple[str, str] | None:
    """Who serves a service, and in which state, as the journal of one server has it."""
    moves = [
        entry["to"] for entry in net.read("journal", "--server", server)
        if entry["kind"] == "transition" and entry["service"] == service
    ]  # fmt: skip
    return (moves[-1]["serving"], moves[-1]["state"]) if moves else None


def until_normal(net: Net) -> None:
    """Wait until each server serves its own callers, and both hold the same."""
    until(lambda: set(states(net).values()) == {"normal"} and net.status()["in_step"], what="normal operation")


@contextlib.contextmanager
def both(net: Net) -> Iterator[None]:
    """Both daemons, in normal operation."""
    with net.daemon("primary"), net.daemon("secondary"):
        until_normal(net)
        yield


def test_init_makes_two_services(tmp_path: Path) -> None:
    """`init --mode dual-active` gives each server a service of its own name, and a first round works."""
    done = run("init", "net", "--mode", "dual-active", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    net = Net(tmp_path / "net", config.load(tmp_path / "net/vmctl.yaml"))
    assert ("dual-active", HOME) == (net.config.mode, {name: each.home for name, each in net.config.services.items()})
    assert {"primary": None, "secondary": None} == serving(net)
    net.do("sync")
    assert net.run("verify").returncode == 0


def test_each_server_serves_its_own(net: Net) -> None:
    """In normal operation both are active, and both journals tell the same of both services."""
    with both(net):
        assert HOME == serving(net)
        assert {"primary": "active", "secondary": "active"} == roles(net)
        for server in SERVERS:
            for service, home in HOME.items():
                until(
                    lambda server=server, service=service, home=home: (
                        known_at(net, server, service) == (home, "normal")
                    ),
                    what=f"{service} in the journal of {server}",
                )


def test_a_mailbox_belongs_to_the_server_where_it_was_made(net: Net, tmp_path: Path) -> None:
    """Made without a service it gets that of its server, on both; messages of either go both ways."""
    for server, extension in zip(SERVERS, ("2001", "3001"), strict=True):
        net.do("mailbox", "create", extension, "--name", "Box", "--server", server)
    net.do("mailbox", "create", "2002", "--name", "Box", "--service", "secondary", "--server", "primary")
    net.do("sync")
    # a message is taken where it lands, whoever serves its mailbox
    left = {extension: net.leave("secondary", extension, wav(tmp_path / "a.wav")) for extension in ("2001", "3001")}
    left["2002"] = net.leave("primary", "2002", wav(tmp_path / "b.wav"))
    net.do("sync")
    assert net.run("verify").returncode == 0
    for server in SERVERS:
        store = NativeStore(net.root / server, net.config.audio.formats, net.config.limits.document)
        services = {box: (store.document(f"mailbox/{box}") or {})["service"] for box in left}
        assert {"2001": "primary", "2002": "secondary", "3001": "secondary"} == services
        assert {box: [ident] for box, ident in left.items()} == {box: store.names("message", box) for box in left}


@pytest.mark.parametrize("dies", SERVERS)
def test_a_server_that_dies_leaves_its_callers_to_the_other(net: Net, tmp_path: Path, dies: str) -> None:
    """Its service moves and comes home with what was left meanwhile; the other service does not move at all."""
    other = next(name for name in SERVERS if name != dies)
    net.do("mailbox", "create", "2001", "--name", "Box", "--server", dies)
    with net.daemon(other):
        with net.daemon(dies) as daemon:
            until_normal(net)
            epoch = {service["name"]: service["epoch"] for service in net.status()["services"]}[other]
            daemon.kill()
        until(lambda: set(serving(net).values()) == {other}, what="the failover")
        assert {dies: "resilience", other: "normal"} == states(net)
        ident = net.leave(other, "2001", wav(tmp_path / "a.wav"))
        with net.daemon(dies):
            until(lambda: known_at(net, other, dies) == (dies, "normal"), what="the failback")
            assert net.path(dies, f"mailboxes/2001/messages/{ident}.json").exists()
            until_normal(net)
            assert epoch == {service["name"]: service["epoch"] for service in net.status()["services"]}[other]
    assert net.run("verify").returncode == 0
    assert ["resilience", "recovering", "normal"] == [
        entry["to"]["state"] for entry in net.read("journal", "--server", other)
        if entry["kind"] == "transition" and entry["service"] == dies
    ][-3:]  # fmt: skip


def test_an_order_names_its_service(net: Net) -> None:
    """Without --service or --all nothing moves, with a code of its own; with one, that one moves or all do, and back."""
    with both(net):
        for verb in ("failover", "failback"):
            done = net.run(verb)
            assert ServiceNotNamed.exit_code == done.returncode, done.stderr
            assert "primary and secondary" in done.stderr
        assert NoSuchService.exit_code == net.run("failover", "--service", "tertiary").returncode
        assert HOME == serving(net)

        net.do("failover", "--service", "primary")
        assert ALL_AT_SECONDARY == serving(net)
        assert {"primary": "standby", "secondary": "active"} == roles(net)
        assert {"primary": "resilience", "secondary": "normal"} == states(net)
        net.do("failback", "--service", "primary", "--server", "primary")  # typed where it is not served
        assert HOME == serving(net)


def test_all_services_at_once(net: Net) -> None:
    """`--all` swaps the two, each given away by who serves it, and takes both home again."""
    with both(net):
        net.do("failover", "--all")
        assert SWAPPED == serving(net)
        assert {"primary": "active", "secondary": "active"} == roles(net)
        assert "nothing to do" in net.run("failover", "--all").stderr
        net.do("failback", "--all")
        assert HOME == serving(net)
        until_normal(net)
    for server in SERVERS:
        assert net.run("journal", "--verify", "--server", server).returncode == 0


@pytest.mark.parametrize("away", SERVERS)
def test_failback_of_all_takes_home_what_is_away(net: Net, away: str) -> None:
    """With one service at home already, `failback --all` takes the other one home and exits 0."""
    with both(net):
        net.do("failover", "--service", away)
        net.do("failback", "--all")
        assert HOME == serving(net)


def test_changes_on_both_travel_while_both_serve(net: Net, tmp_path: Path) -> None:
    """Each daemon ships its own callers' messages to the other; `sync` finds nothing left to do and `verify` agrees."""
    for server, extension in zip(SERVERS, ("2001", "3001"), strict=True):
        net.do("mailbox", "create", extension, "--name", "Box", "--server", server)
    with both(net):
        left = {
            extension: (server, net.leave(server, extension, wav(tmp_path / f"{server}.wav", level=len(server))))
            for server, extension in zip(SERVERS, ("2001", "3001"), strict=True)
        }
        for extension, (server, ident) in left.items():
            there = net.path("secondary" if server == "primary" else "primary", f"mailboxes/{extension}/messages")
            until((there / f"{ident}.json").exists, what=f"the message in {extension}")
        outcome = net.read("sync")
        assert dict.fromkeys(SERVERS, "vmctl serve") == outcome["by"]
        assert net.run("verify").returncode == 0
    assert HOME == serving(net)

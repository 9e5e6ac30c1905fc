"""`vmctl serve` as a process: changes on disk travel by themselves, roles move, it stops when it is told to."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from running import Net, until, wav
from surroundings import HandClock

from vmctl.clock import Clock
from vmctl.daemon import Daemon, until_next_beat
from vmctl.index import Index
from vmctl.orders import Orders
from vmctl.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def net(tmp_path: Path) -> Net:
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    return net


@contextlib.contextmanager
def both(net: Net) -> Iterator[None]:
    with net.daemon("primary"), net.daemon("secondary"):
        for server in ("primary", "secondary"):
            until(lambda server=server: " serves " in net.log(server), what=f"the daemon of {server}")
        until(lambda: net.service()["state"] == "normal" and net.status()["in_step"], what="normal operation")
        yield


def test_a_change_on_disk_is_on_the_peer_a_moment_later(net: Net, tmp_path: Path) -> None:
    """A message left by command and a mailbox edited in an editor reach the other store without a sync."""
    with both(net):
        ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
        until(net.path("secondary", f"mailboxes/2001/messages/{ident}.json").exists, what="the message")
        yaml = net.path("secondary", "mailboxes/2001/mailbox.yaml")
        yaml.write_text(yaml.read_text() + "language: de\n")
        there = net.path("primary", "mailboxes/2001/mailbox.yaml")
        until(lambda: "language: de" in there.read_text(), what="the edit")
        until(lambda: net.status()["in_step"], what="in step")
    assert net.run("verify").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly(net: Net, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the daemon with exit code 0, and nothing holds its store or port afterwards."""
    with net.daemon("primary") as daemon:
        until(lambda: net.status()["servers"]["primary"]["daemon"], what="the daemon")
        until(lambda: "listening" in net.log("primary"), what="the receiver")
        daemon.send_signal(number)
        assert daemon.wait(timeout=10) == 0
    address = net.config.servers["primary"].listen
    with socket.create_server((address.host, address.port)):
        pass
    assert net.status()["servers"]["primary"]["daemon"] is False


def test_a_second_daemon_is_refused_by_name(net: Net) -> None:
    """A second `serve` on one store exits with its own code and names the process that has it."""
    with net.daemon("primary") as daemon:
        until(lambda: net.status()["servers"]["primary"]["daemon"], what="the daemon")
        done = net.run("serve", "--server", "primary")
        assert done.returncode == 45
        assert str(daemon.pid) in done.stderr
        assert daemon.poll() is None


def test_a_taken_port_is_refused_by_name(net: Net) -> None:
    """A receiver that cannot listen ends the daemon with its own code."""
    address = net.config.servers["primary"].listen
    with socket.create_server((address.host, address.port)):
        done = net.run("serve", "--server", "primary")
    assert done.returncode == 44
    assert f"{address.host}:{address.port}" in done.stderr


def test_sync_uses_the_daemons_that_run(net: Net, tmp_path: Path) -> None:
    """With both daemons, with one, and with none, `sync` ends in step and says who did the work."""
    with net.daemon("primary"):
        until(lambda: " serves /" in net.log("primary"), what="the primary's daemon")  # it listens, and has the store
        assert net.read("sync")["by"] == {"primary": "vmctl serve", "secondary": "vmctl sync"}
        with net.daemon("secondary"):
            until(lambda: " serves /" in net.log("secondary"), what="the secondary's daemon")
            net.leave("secondary", "2001", wav(tmp_path / "b.wav"))
            assert net.read("sync")["by"] == {"primary": "vmctl serve", "secondary": "vmctl serve"}
            assert len(net.read("message", "list", "2001", "--server", "primary")) == 1
    assert net.read("sync")["by"] == {"primary": "vmctl sync", "secondary": "vmctl sync"}
    assert net.run("verify").returncode == 0


def test_failover_and_failback_by_themselves(net: Net, tmp_path: Path) -> None:
    """A primary that is killed loses the service to the secondary and gets it back when the stores are in step."""
    with net.daemon("secondary"):
        with net.daemon("primary") as primary:
            until(lambda: "-> normal" in net.log("secondary") and net.status()["in_step"], what="normal operation")
            primary.kill()
        until(lambda: net.service()["serving"] == "secondary", what="the failover")
        assert net.service()["state"] == "resilience"
        ident = net.leave("secondary", "2001", wav(tmp_path / "a.wav"))
        with net.daemon("primary"):
            until(lambda: net.service()["state"] == "normal", what="the failback")
            assert net.service()["serving"] == "primary"
            assert net.path("primary", f"mailboxes/2001/messages/{ident}.json").exists()
            until(lambda: net.status()["in_step"], what="in step")
            until(lambda: net.moves("primary")[-1] == "normal", what="the news at the primary")
    for server in ("primary", "secondary"):
        assert net.moves(server)[-3:] == ["resilience", "recovering", "normal"]
        assert net.run("journal", "--verify", "--server", server).returncode == 0


def test_failover_and_failback_by_order(net: Net) -> None:
    """`failover` moves the service to the backup, where it stays until `failback` takes it home; both exit 0."""
    with both(net):
        net.do("failover", "--server", "primary")
        assert net.service()["serving"] == "secondary"
        assert net.service()["state"] == "resilience"
        assert any("failback" in words for words in net.service()["waiting_for"])
        assert "nothing to do" in net.run("failover").stderr
        net.do("failback", "--server", "primary")
        assert net.service()["serving"] == "primary"
        assert net.service()["state"] == "normal"
        done = net.run("failback")
        assert done.returncode == 51
        assert "primary" in done.stderr


def test_an_order_typed_at_the_other_server(net: Net) -> None:
    """An order is carried out by the server that serves, wherever it is typed; both journals show it."""
    with both(net):
        net.do("failover", "--server", "secondary")
        assert net.service()["serving"] == "secondary"
        until(lambda: net.status()["in_step"], what="in step")
    for server in ("primary", "secondary"):
        moves = [entry for entry in net.read("journal", "--server", server) if entry["kind"] == "transition"]
        assert moves[-1]["to"]["serving"] == "secondary"


def test_an_order_where_no_daemon_runs_takes_nothing_by_force_from_a_server_that_is_well(tmp_path: Path) -> None:
    """The other server is asked, and waited for as long as it may take to answer: it gives the service away."""
    net = Net.make(tmp_path / "net", sync__heartbeat="1s", failover__after="4s", failover__start_wait="3s")
    with net.daemon("primary"):
        with net.daemon("secondary") as stopped:
            until(lambda: net.moves("secondary"), what="normal operation on both")
            stopped.terminate()
            assert stopped.wait(timeout=10) == 0
        until(lambda: not _is_heard(net, "secondary"), what="the end of what the daemon heard")
        net.do("failover", "--server", "secondary")
        until(lambda: net.moves("primary")[-1] == "resilience", what="the word of the one that gave it")
    (last,) = net.read("journal", "--server", "secondary", "--last", "1")
    assert (last["by"], last["to"]["cause"], last["to"]["epoch"][1]) == ("peer", "order", "primary")


def test_a_pause_where_no_daemon_runs_is_told_to_the_other_server_at_once(net: Net) -> None:
    """Also while that one counts as heard, so that nothing else makes this server speak."""
    with net.daemon("primary"):
        with net.daemon("secondary") as stopped:
            until(lambda: net.moves("secondary"), what="normal operation on both")
            stopped.terminate()
            assert stopped.wait(timeout=10) == 0
        assert net.run("pause", "--server", "secondary").stderr.strip() == "paused, on both servers"


def test_a_pause_is_no_longer_than_a_year(net: Net) -> None:
    """A time that no clock can show is a slip of the keyboard, and no bug."""
    for words in ("367d", "999999999999d"):
        refused = net.run("pause", "--for", words, "--server", "primary")
        assert (refused.returncode, "a year at most" in refused.stderr) == (2, True)


def test_an_order_for_all_is_refused_before_any_is_taken(tmp_path: Path) -> None:
    """Where one of the services cannot move the other one stays, too: what failed has done nothing."""
    net = Net.make(tmp_path / "net", mode="dual-active")
    with net.daemon("secondary"):
        with net.daemon("primary"):
            until(lambda: all(one["state"] == "normal" for one in net.status()["services"]), what="normal operation")
            assert net.run("pause", "--server", "secondary").returncode == 0
        until(lambda: not _is_heard(net, "secondary"), what="the end of what the daemon heard")
        refused = net.run("failover", "--all", "--server", "secondary")
        assert (refused.returncode, "secondary cannot move to primary" in refused.stderr) == (40, True)
        with Replica.open(net.config, "secondary", Clock()) as replica:
            assert Orders(replica.index, Clock()).of("primary") is None
    assert "resilience" not in net.moves("secondary")


def test_a_handover_that_is_called_off_ends_the_command(tmp_path: Path) -> None:
    """It does not wait for what will not come, says so, and does not speak of taking by force what is served here."""
    net = Net.make(tmp_path / "net", handover__drain="500ms", failover__after="60s")
    with net.daemon("primary"), net.daemon("secondary") as standby:
        until(lambda: net.moves("secondary"), what="normal operation on both")
        standby.send_signal(signal.SIGSTOP)
        net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
        began = time.monotonic()
        refused = net.run("failover", "--server", "primary", "--timeout", "50")
        assert time.monotonic() - began < 25
        standby.send_signal(signal.SIGCONT)
    assert (refused.returncode, "called off" in refused.stderr, "--now" in refused.stderr) == (53, True, False)


def _is_heard(net: Net, server: str) -> bool:
    with Replica.open(net.config, server, Clock()) as replica:
        return replica.contact.heard


def test_a_store_that_disappears_is_not_emptied(net: Net, tmp_path: Path) -> None:
    """While a store is unmounted its daemon answers no mail with 250, ships no deletion, and goes on when it is back."""
    ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
    net.do("sync")
    with both(net):
        away = net.root / "away"
        (net.root / "secondary").rename(away)
        until(lambda: "secondary" in net.log("secondary") and "not there" in net.log("secondary"), what="the complaint")
        assert not (net.root / "secondary").exists()
        away.rename(net.root / "secondary")
        later = net.leave("primary", "2001", wav(tmp_path / "b.wav", level=2))
        until(net.path("secondary", f"mailboxes/2001/messages/{later}.json").exists, what="the next message")
        until(lambda: net.status()["in_step"], what="in step")
    assert net.path("primary", f"mailboxes/2001/messages/{ident}.json").exists()
    assert net.run("verify").returncode == 0


def test_a_server_with_a_damaged_journal_tells_what_the_peer_says(net: Net) -> None:
    """It serves nobody, so its routes.json must not go on naming it: the peer has taken the service over."""
    routes = net.path("primary", ".vmctl/routes.json")

    def told() -> Any:
        return routes.exists() and json.loads(routes.read_text())["services"]["voicemail"]["serving"]

    with both(net):
        until(lambda: told() == "primary", what="the primary's routes.json")
    journal = net.path("primary", ".vmctl/journal.jsonl")
    journal.write_bytes(journal.read_bytes().replace(b'"by":"', b'"by":"x', 1))
    with net.daemon("secondary"):
        until(lambda: net.service()["serving"] == "secondary", what="the takeover")
        with net.daemon("primary"):
            until(lambda: told() == "secondary", what="the routes.json of the primary")
            status = net.run("status", "--json")
            assert status.returncode == 70
            assert json.loads(status.stdout)["services"][0]["serving"] == "secondary"


def test_what_a_server_did_not_hear_for_its_own_reason_is_not_the_peer_s_silence(net: Net) -> None:
    """After it was cut off, or stood still between two turns, the peer has `failover.after` anew."""
    clock, around, post = HandClock(), SimpleNamespace(cut_off=False), SimpleNamespace(refused_at=None)
    daemon = Daemon(net.config, "primary", clock)
    daemon._probes = around  # type: ignore[assignment]

    def may(after: float) -> bool:
        clock.advance(after)
        return daemon._may_take_over(post)  # type: ignore[arg-type]

    after = net.config.failover.after
    assert [True, True] == [may(0.0), may(0.5)]
    around.cut_off = True
    assert not may(0.5), "what ends between this and the evidence must not count as the peer's silence"
    around.cut_off = False
    assert [False, False, True] == [may(0.5), may(after - 1.1), may(0.7)]
    assert not may(3600.0), "it stood still"
    assert [False, True] == [may(after - 0.6), may(0.7)]


SLOWLY = """
import time
from vmctl import lookout
from vmctl.store.native import NativeStore
messages = NativeStore.messages
def slowly(store, folder):
    time.sleep(0.1)
    return messages(store, folder)
lookout._PART, NativeStore.messages = 0.0, slowly
"""


def test_a_daemon_speaks_and_listens_while_it_looks_at_a_large_store(net: Net, tmp_path: Path) -> None:
    """The first look takes longer than silence may; the peer takes nothing over, and what comes from it is written at once."""
    for number in range(3000, 3120):
        net.path("primary", f"mailboxes/{number}/messages").mkdir(parents=True)
        net.path("primary", f"mailboxes/{number}/mailbox.yaml").write_text("name: Ada\n")

    def was_scanned() -> bool:
        with contextlib.closing(Index.open(net.path("primary", ".vmctl/index.db"))) as index:
            return index.was_scanned

    with net.daemon("primary", SLOWLY), net.daemon("secondary"):
        until(lambda: net.service()["serving"] == "primary", what="a role")
        assert not was_scanned()
        ident = net.leave("secondary", "2001", wav(tmp_path / "one.wav"))
        until(net.path("primary", f"mailboxes/2001/messages/{ident}.json").exists, what="the message")
        assert not was_scanned()
        assert not net.status()["in_step"]
        until(was_scanned, within=60, what="the end of the look")
        until(lambda: net.status()["in_step"], within=60, what="in step")
    assert "resilience" not in net.moves("secondary")


LONG_LOOKS = """
import time
from vmctl import lookout
from vmctl.sweep import _Sweep
steps = _Sweep.steps
def slowly(sweep, *remembered):
    for _ in range(20):
        time.sleep(0.1)
        yield
    yield from steps(sweep, *remembered)
lookout._PART, _Sweep.steps = 0.0, slowly
"""


def test_a_round_is_answered_however_often_it_is_asked_for(net: Net) -> None:
    """A look that takes ten heartbeats, each of which asks again, answers what was asked before it began."""
    with net.daemon("primary"), net.daemon("secondary", LONG_LOOKS):
        until(lambda: net.status()["in_step"], within=60, what="in step")
        net.do("sync", "--timeout", "30")


def test_a_handover_waits_for_what_a_look_finds(net: Net) -> None:
    """What a person has saved at the server that hands over is at the other one before that serves."""
    with net.daemon("primary", LONG_LOOKS), net.daemon("secondary"):
        until(lambda: net.service()["state"] == "normal" and net.status()["in_step"], what="normal operation")
        path = net.path("primary", "mailboxes/2001/mailbox.yaml")
        path.write_text(path.read_text().replace("Ada", "Eve"))
        net.do("failover")
        until(lambda: net.service()["serving"] == "secondary", what="the handover")
        assert "Eve" in net.path("secondary", "mailboxes/2001/mailbox.yaml").read_text()


def test_heartbeats_to_a_peer_that_is_away_become_fewer() -> None:
    """Behind mail servers each waits twice as long as the one before, up to ten minutes; what is slower stays as it is."""
    assert [10.0, 20.0, 40.0] == [until_next_beat(10.0, in_vain) for in_vain in range(3)]
    assert (600.0, 600.0) == (until_next_beat(10.0, 6), until_next_beat(10.0, 10**6))
    assert [3600.0] * 3 == [until_next_beat(3600.0, in_vain) for in_vain in range(3)]

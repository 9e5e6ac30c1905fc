"""Rules of the roles, and pains of the field, that no other test holds alone: each by what a user would see of its fault."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from pair import Roles
from running import SERVERS, Net, until
from wire import OffsetClock

from vmctl.cli.roles import _calls_words, _status_words
from vmctl.clock import Clock
from vmctl.errors import NothingToFailBack, NotYet
from vmctl.failover import Failover
from vmctl.journal import Journal
from vmctl.status import gather
from vmctl.waiting import COUNT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pair(tmp_path: Path, no_fsync: None) -> Iterator[Roles]:
    """Two servers in normal operation, with mailbox 2001."""
    made = Roles(tmp_path / "net")
    made.desk().create_mailbox("2001", {"name": "Ada"})
    made.turns(6)
    made.in_step()
    yield made
    made.close()


def journals(net: Net) -> list[bytes]:
    """The bytes of both journals."""
    return [net.path(server, ".vmctl/journal.jsonl").read_bytes() for server in ("primary", "secondary")]


def normal(net: Net) -> bool:
    """Whether both servers know that the primary serves."""
    return all(net.moves(server)[-1:] == ["normal"] for server in ("primary", "secondary"))


# Rule 19, and the merge after a split


def test_calls_that_never_stop_do_not_keep_the_role_away(pair: Roles, recording: Any) -> None:
    """With a message left in every turn the gate is met all the same, and the role goes home."""
    pair.clock.advance(pair.config.failover.after + 1)
    pair.roles["secondary"].tick()
    assert "secondary" == pair.serving("secondary")
    for _ in range(60):
        pair.desk("secondary").leave("2001", recording())
        pair.turn()
        if "primary" == pair.serving("secondary"):
            break
    pair.turns(2)
    assert ["primary"] == pair.serve()
    pair.in_step()
    one, other = (pair.messages("2001", name) for name in pair.servers)
    assert one == other


def test_what_was_held_when_the_home_came_back_is_there_before_the_role(pair: Roles, recording: Any) -> None:
    """While heartbeats pass and the message does not, the home gets no role; it gets it with the message."""
    pair.clock.advance(pair.config.failover.after + 1)
    pair.roles["secondary"].tick()
    left = pair.desk("secondary").leave("2001", recording())
    for _ in range(60):
        for name in pair.servers:
            pair.tick_roles(name)
            pair.send(name, always=True)
        pair.under_way = [(to, raw) for to, raw in pair.under_way if left.encode() not in raw]
        pair.deliver()
        pair.clock.advance(2.5)
        assert "secondary" == pair.serving("secondary")
    pair.clock.advance(pair.config.sync.resend)
    pair.settle()
    assert pair.lives(f"message/2001/{left}", "primary")
    assert ["primary"] == pair.serve()


def test_the_merge_after_a_split_stops_no_service(pair: Roles, recording: Any) -> None:
    """From the first mail on somebody serves at every moment but the way of one mail, and both take calls all the while."""
    pair.split()
    taken = {pair.desk(name).leave("2001", recording()) for name in pair.servers for _ in range(10)}
    nobody = 0
    for _ in range(30):
        taken |= {pair.desk(name).leave("2001", recording()) for name in pair.servers}
        pair.turn()
        nobody = nobody + 1 if [] == pair.serve() else 0
        assert 1 >= nobody
    pair.settle()
    assert taken == set(pair.messages("2001", "primary")) == set(pair.messages("2001", "secondary"))


# Rule 25


def test_a_rehearsal_of_a_failover_tells_all_and_moves_nothing(tmp_path: Path) -> None:
    """`--dry-run` names from, to, how and what is still to be sent, and exits as the order would; nothing is written."""
    net = Net.make(tmp_path / "net")
    with net.daemon("primary"), net.daemon("secondary"):
        until(lambda: normal(net), what="normal operation")
        before = journals(net)
        (one,) = net.read("failover", "--dry-run")["services"]
        assert ("primary", "secondary", "planned") == (one["from"], one["to"], one["how"])
        assert {"primary", "secondary"} == one["pending"].keys()
        assert "primary would give the service to secondary" in net.run("failover", "--dry-run").stderr
        assert NothingToFailBack.exit_code == net.run("failback", "--dry-run").returncode
        assert before == journals(net)


def test_a_handover_that_is_called_off_is_said_at_once_and_why(tmp_path: Path) -> None:
    """Also after a failback: the command ends with the drain, and advises nothing that this server cannot do."""
    net = Net.make(tmp_path / "net", handover__drain="1s", failover__after="20s")
    with net.daemon("primary"), net.daemon("secondary") as other:
        until(lambda: normal(net), what="normal operation")
        net.do("failover")
        net.do("failback")
        until(lambda: net.service()["cause"] == "failback", what="home again")
        other.send_signal(signal.SIGSTOP)
        done = net.run("failover", "--server", "primary", "--timeout", "40")
        other.send_signal(signal.SIGCONT)
    assert NotYet.exit_code == done.returncode
    assert "the handover was called off: after 1 s secondary still lacked something" in done.stderr
    assert "the order was withdrawn" in done.stderr


# Rule 27


def test_a_pause_says_whether_both_have_it(tmp_path: Path) -> None:
    """It exits 0 once the other server knows; while that one is away it says that it is so here only, and exits otherwise."""
    net = Net.make(tmp_path / "net")
    with net.daemon("primary"):
        with net.daemon("secondary"):
            until(lambda: normal(net), what="normal operation")
            assert "paused, on both servers" in net.run("pause", "--server", "primary").stderr
            assert "PAUSED" in net.do("status")
            assert "resumed, on both servers" in net.run("resume", "--server", "secondary").stderr
            assert net.status()["paused"] is None
        done = net.run("pause", "--server", "primary", "--timeout", "0.5")
        assert NotYet.exit_code == done.returncode
        assert "here only" in done.stderr


@pytest.mark.parametrize("length", ["0s", "367d", "3000000d", "106000000000d"])
def test_a_pause_of_no_length_or_for_ages_is_refused(tmp_path: Path, length: str) -> None:
    """It is a command typed wrong, and neither journalled nor a bug."""
    net = Net.make(tmp_path / "net")
    done = net.run("pause", "--for", length, "--server", "primary")
    assert 2 == done.returncode
    assert "a year at most" in done.stderr
    assert net.status()["paused"] is None


def test_a_calls_command_that_prints_no_number_is_named_where_a_service_waits_for_it() -> None:
    """The status says what the command printed, and only of a service that waits for the number."""
    why = "its first line is no whole number: 'garbage'"
    calls = {"north": {"calls": None, "why": why}, "south": {"calls": None, "why": why}}
    services = [
        {"name": "north", "serving": "primary", "waiting_for": [COUNT]},
        {"name": "south", "serving": "primary", "waiting_for": []},
    ]
    (line,) = _calls_words("primary", {"surroundings": {"calls": calls}}, services)
    assert line.endswith(f"the calls of north: {why}")
    assert [] == _calls_words("secondary", {"surroundings": None}, services)


# Rule 28


def test_a_command_that_runs_now_and_then_takes_nothing_over(pair: Roles) -> None:
    """It has not listened in between, so silence is no reason for it; a daemon in its place takes the service."""
    pair.clock.advance(pair.config.failover.after + 1)
    assert not pair.roles["secondary"].tick(automatic=False)
    assert "primary" == pair.serving("secondary")
    assert pair.roles["secondary"].tick()
    assert "secondary" == pair.serving("secondary")


def test_a_new_process_is_no_new_start(pair: Roles) -> None:
    """Who opens the store of a server that serves finds it serving, and the journal gets no line by that."""
    book = pair.root() / ".vmctl/journal.jsonl"
    before = book.read_bytes()
    pair.open("primary")
    assert Failover(pair.a).serving()["voicemail"]
    pair.roles["primary"].tick(automatic=False)
    assert before == book.read_bytes()


# Failover for the wrong reason, and sync that silently does not run


def test_an_application_that_falls_ill_moves_the_service_and_one_that_is_well_gets_it_back(tmp_path: Path) -> None:
    """The health of the voicemail application counts, not only that of the machine; both journals say why."""
    command = ["sh", "-c", '[ ! -e "ill-$VMCTL_SERVER" ]']
    settings: dict[str, Any] = {"health__command": command, "health__every": "100ms", "health__failures": 2}
    net = Net.make(tmp_path / "net", **settings)
    with net.daemon("primary"), net.daemon("secondary"):
        until(lambda: normal(net), what="normal operation")
        (net.root / "ill-primary").touch()
        until(lambda: net.service()["serving"] == "secondary", what="the failover")
        assert "UNWELL" in net.do("status")
        (net.root / "ill-primary").unlink()
        until(lambda: normal(net) and net.service()["serving"] == "primary", what="the failback", within=40.0)
    for server in ("primary", "secondary"):
        entries = Journal(net.path(server, ".vmctl/journal.jsonl")).entries()
        assert "unwell" in [entry["to"]["cause"] for entry in entries if entry["kind"] == "transition"]


def test_a_sync_that_does_not_run_is_seen(tmp_path: Path) -> None:
    """Where the other server is gone the status says that it is not heard, and how much is not there yet."""
    net = Net.make(tmp_path / "net")
    with net.daemon("primary"):
        with net.daemon("secondary"):
            until(lambda: normal(net) and net.status()["in_step"], what="normal operation")
        net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")

        def seen() -> bool:
            value = net.status()["servers"]
            return not value["secondary"]["reachable"] and value["primary"]["pending"] == 1

        until(seen, what="the word that it is not heard")
        words = net.do("status")
        assert "NOT in step" in words
        (row,) = [line.split() for line in words.splitlines() if line.startswith("secondary")]
        assert "NO" in row


def test_showing_the_mode_changes_nothing(tmp_path: Path) -> None:
    """Without a daemon it is read from the journal: nobody is spoken to, and no line is added."""
    net = Net.make(tmp_path / "net", mode="dual-active")
    before = {path: path.read_bytes() for path in sorted(net.root.rglob("*")) if path.is_file()}
    assert net.read("mode", "show") == {"mode": "dual-active", "homes": {name: name for name in SERVERS}}
    assert before == {path: path.read_bytes() for path in sorted(net.root.rglob("*")) if path.is_file()}


def test_a_daemon_that_stands_still_is_seen(tmp_path: Path) -> None:
    """The status of a server whose daemon does not turn says so, and since when; one that works is not named."""
    net, later = Net.make(tmp_path / "net"), OffsetClock()
    later.advance(40.0)

    def still(clock: Clock) -> Any:
        return gather(net.config, clock)["servers"]["primary"]["still_since"]

    with net.daemon("primary") as daemon:
        until(lambda: " serves " in net.log("primary"), what="the daemon")
        before = until(lambda: still(later), what="a turn")
        until(lambda: still(later) > before, what="another turn")
        daemon.send_signal(signal.SIGSTOP)
        assert still(Clock()) is None
        since = still(later)
        words = _status_words(gather(net.config, later))
        assert f"its daemon STANDS STILL since {since}" in words
        assert "STILL" in next(line for line in words.splitlines() if line.startswith("primary "))
        daemon.send_signal(signal.SIGCONT)


def test_an_order_where_nothing_runs_does_not_trust_an_old_journal(tmp_path: Path) -> None:
    """The home served last by its journal, the other server since: nobody runs, so nobody knows."""
    net = Net.make(tmp_path / "net")
    with net.daemon("secondary"):
        with net.daemon("primary"):
            until(lambda: normal(net), what="normal operation")
        until(lambda: net.moves("secondary")[-1] == "resilience", what="the failover")
    done = net.run("failback", "--server", "primary")
    assert NotYet.exit_code == done.returncode
    assert "no daemon runs on primary, and secondary is not heard" in done.stderr
    assert "start 'vmctl serve' on primary" in done.stderr


def test_an_order_is_for_one_service_or_for_all(tmp_path: Path) -> None:
    """Both at once is a command typed wrong."""
    done = Net.make(tmp_path / "net").run("failover", "--service", "voicemail", "--all")
    assert (done.returncode, "either --service or --all" in done.stderr) == (2, True)

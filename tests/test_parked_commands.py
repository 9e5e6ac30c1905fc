"""`vmctl parked` and what `vmctl status` says of mail, with a real daemon whose peer's server refuses what a test says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from running import Net, judging, until, wav

from vmctl.at_work import ROUND
from vmctl.clock import Clock
from vmctl.failover import Failover
from vmctl.post import Post

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = "554 5.7.1 refused by a rule"


@pytest.fixture
def net(tmp_path: Path) -> Net:
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    return net


def parked(net: Net) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = net.status()["servers"]["primary"]["parked"]
    return found


def test_a_refused_message_is_named_and_retried_by_command(net: Net, tmp_path: Path) -> None:
    """The daemon parks it by itself, `status` and `list` name it with the reply, and `retry` has it sent at once."""
    with judging(net, REFUSED) as judge:
        ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
        other = net.leave("primary", "2001", wav(tmp_path / "b.wav", level=3))
        judge.unwanted = ident
        with net.daemon("primary"):
            until(lambda: parked(net), what="the parked message")
            until(lambda: f"message/2001/{other}" in judge.taken, what="the other message")
            (one,) = net.read("parked", "list", "--server", "primary")
            assert (f"message/2001/{ident}", "out") == (one["record"], one["direction"])
            assert "refused by a rule" in one["reply"]
            assert one == net.read("parked", "show", one["id"][:8], "--server", "primary")
            text = net.do("status")
            assert "parked" in text
            assert ident in text
            assert net.status()["in_step"] is False
            judge.unwanted = "none such"
            done = net.run("parked", "retry", one["id"], "--server", "primary")
            assert (0, True) == (done.returncode, "the daemon does it now" in done.stderr)
            until(lambda: f"message/2001/{ident}" in judge.taken, what="the message that was refused")
        assert [] == parked(net)


def test_what_was_given_up_stays_here_and_is_not_offered(net: Net, tmp_path: Path) -> None:
    """`drop` says what it means, status does not alarm any more, and no later start offers it again."""
    with judging(net, REFUSED) as judge:
        ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
        judge.unwanted = ident
        with net.daemon("primary"):
            until(lambda: parked(net), what="the parked message")
            done = net.run("parked", "drop", parked(net)[0]["id"], "--server", "primary")
            assert (0, True) == (done.returncode, "verify" in done.stderr)
        judge.unwanted, mails = "none such", judge.mails
        with net.daemon("primary"):
            until(lambda: judge.mails > mails + 4, what="some heartbeats")
        assert f"message/2001/{ident}" not in judge.taken
        assert "parked" not in net.do("status")
        assert [True] == [one["given_up"] for one in parked(net)]
        assert json.loads(net.do("parked", "retry", "--all", "--server", "primary", "--json")) == {"retried": []}


def test_a_link_that_refuses_everything_is_named_and_parks_nothing(net: Net, tmp_path: Path) -> None:
    """`status` says that every mail is refused, and with which words; when it is mended all goes by itself."""
    with judging(net, REFUSED) as judge, net.daemon("primary"):
        judge.everything = True
        ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
        link = until(lambda: net.status()["servers"]["primary"]["link"], what="the link's fault")
        assert link["refused"] is True
        assert "refused by a rule" in link["why"]
        assert "refuses every mail" in net.do("status")
        assert [] == parked(net)
        judge.everything = False
        until(lambda: f"message/2001/{ident}" in judge.taken, what="the message")
        until(lambda: net.status()["servers"]["primary"]["link"] is None, what="the good link")
        assert [] == parked(net)


def test_a_sync_by_cron_parks_and_retries_too(net: Net, tmp_path: Path) -> None:
    """One `vmctl sync` finds out what is refused, and says so; `retry` without a daemon is done by the next one."""
    (net.root / "vmctl.yaml").write_text(
        (net.root / "vmctl.yaml").read_text().replace(f"store: {net.path('secondary', '').as_posix()}", "store:")
    )
    ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
    clock = Clock()
    with judging(net, REFUSED) as judge, Post(net.config, "primary", clock, role=ROUND, wake=lambda: None) as post:
        judge.unwanted = ident
        post.connect()
        sent = [post.deliver(parcel) for parcel in post.parcels(always=True, anew=True)]
        assert (True, True) == (any(sent), not all(sent))
        assert post.replica.index.shelf.owed()[0] == post.replica.index.pending_count() - 1
    (one,) = net.read("parked", "list", "--server", "primary")
    assert f"message/2001/{ident}" == one["record"]
    assert "the next 'vmctl sync' does it" in net.run("parked", "retry", "--all", "--server", "primary").stderr
    assert [] == net.read("parked", "list", "--server", "primary")


def test_the_gate_of_a_failback_is_not_held_by_what_is_parked(net: Net, tmp_path: Path) -> None:
    """A parked record, here or there, is none that the gate waits for; any other one is."""
    ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
    with judging(net, REFUSED) as judge, Post(net.config, "primary", Clock(), role=ROUND, wake=lambda: None) as post:
        judge.unwanted = ident
        post.replica.scan()
        post.connect()
        roles, index = Failover(post.replica), post.replica.index
        with index.transaction():
            roles._gate.set("voicemail")
        facts = {"last": 5, "pending": 3, "parked": 3, "passed": 5, "settled": 2, "sent": post.replica.clock.wall()}

        def lacks(**more: int) -> tuple[str, ...]:
            now, clock = post.replica.clock.steady(), post.replica.clock
            index.set_note("heard", {"steady": now, "boot": clock.boot(), "wall": clock.wall()})
            index.set_note("peer", facts | {"echoed": now} | more)
            return roles._gate.progress("voicemail").lacks

        assert 1 == len(lacks())
        for parcel in post.parcels(always=True, anew=True):
            post.deliver(parcel)
        with index.transaction():
            for key, _, version in index.pending():
                if ident not in key:
                    entry = index.get(key)
                    assert entry is not None
                    assert entry.record.version == version
                    index.put(type(entry)(entry.record, entry.shown, entry.record), 1)
        assert (1, ()) == (index.pending_count(), lacks())
        assert ("1 records from secondary",) == lacks(parked=2, passed=3)


def test_an_order_without_an_id_is_a_usage_fault(net: Net) -> None:
    """Neither an id nor --all, or both, is refused; an id that nothing has names the list."""
    assert net.run("parked", "retry", "--server", "primary").returncode == 2
    assert net.run("parked", "retry", "x", "--all", "--server", "primary").returncode == 2
    done = net.run("parked", "show", "x", "--server", "primary")
    assert (30, True) == (done.returncode, "vmctl parked list" in done.stderr)

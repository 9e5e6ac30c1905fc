"""The roles at work: two servers with real stores, journals and mails, on a clock that the test moves."""

from __future__ import annotations

import dataclasses

import pytest
from pair import Roles

from vmctl.agreement import PAUSE, Agreement, _read, both_have
from vmctl.errors import JournalBroken, ModeRefused
from vmctl.inbox import Taken
from vmctl.journal import Journal
from vmctl.status import gather

ARBITER = {"arbiter.endpoints": ["http://127.0.0.1:1"]}
TWO = {"services.primary.home": "primary", "services.secondary.home": "secondary"}


@pytest.fixture
def pair(tmp_path, no_fsync):
    """Two servers in normal operation, without an arbiter."""
    made = Roles(tmp_path / "net")
    made.turns(4)
    yield made
    made.close()


@pytest.fixture
def lent(tmp_path, no_fsync):
    """Two servers in normal operation, with an arbiter."""
    made = Roles(tmp_path / "net", ARBITER)
    made.turns(6)
    assert made.serve() == ["primary"]
    yield made
    made.close()


def lines(pair, name, kind):
    """The journal's lines of a kind."""
    return [entry for entry in Journal(pair.root(name) / ".vmctl/journal.jsonl").entries() if entry["kind"] == kind]


# A handover


def test_a_handover_waits_until_the_other_server_holds_everything(pair):
    """The service moves with the mail after which nothing is owed; its reason is in both journals."""
    pair.desk().create_mailbox("2001", {"name": "Ada"})
    pair.roles["primary"].order("voicemail", "failover", "ada", reason="new disk")
    pair.tick_roles("primary")
    pair.send("primary", always=True)
    pair.tick_roles("primary")
    assert pair.serving("primary") == "primary"
    pair.turns(6)
    assert [pair.serving(name) for name in pair.servers] == ["secondary", "secondary"]
    assert pair.lives("mailbox/2001", "secondary")
    for name in pair.servers:
        assert "new disk" in lines(pair, name, "transition")[-1]["reason"]


def test_a_handover_waits_until_the_files_are_there_too(pair):
    """The other server has said that it has all, and a part of that is not in its files yet: its application would miss it."""
    pair.roles["primary"].order("voicemail", "failover", "ada")
    for _ in range(3):
        pair.send("primary", always=True)
        pair.deliver()
        pair.servers["secondary"]._behind = True  # as after an intake that its patience ended
        pair.send("secondary", always=True)
        pair.deliver()
        pair.tick_roles("primary")
        pair.clock.advance(0.5)
    assert pair.serving("primary") == "primary"
    waiting = "; ".join(pair.servers["primary"].index.note("waiting")["voicemail"])
    assert "what came to secondary to be in its files, or its store to be looked at" in waiting
    pair.turns(6)  # the next intake ends in time
    assert pair.serving("primary") == "secondary"


def test_a_handover_whose_drain_does_not_end_is_called_off_and_nothing_moved(pair):
    """The journal names the order, who gave it, and why it is void."""
    pair.roles["primary"].order("voicemail", "failover", "ada")
    pair.turns(5, mail=False)
    pair.turns(4)
    assert [pair.serving(name) for name in pair.servers] == ["primary", "primary"]
    (told,) = [entry for entry in lines(pair, "primary", "event") if "called off" in entry["event"]]
    assert told["by"] == "operator ada"


def test_an_order_at_the_other_server_is_carried_out_once(pair):
    """It is forwarded with the mails until it is done, and its echo in a late mail orders nothing more."""
    pair.roles["secondary"].order("voicemail", "failover", "ada")
    pair.roles["secondary"].tick()
    late = pair.send("secondary", always=True)
    pair.turns(8)
    assert pair.serving("primary") == "secondary"
    pair.roles["primary"].order("voicemail", "failback", "ada")
    pair.turns(8)
    assert pair.serving("primary") == "primary"
    for raw in late:
        pair.servers["primary"].receive(raw)
    pair.servers["primary"].take()
    pair.turns(8)
    assert pair.serving("primary") == "primary"


def test_a_service_that_moves_too_often_stays_where_it_is(pair):
    """Of three moves an hour the fourth waits, by itself; an hour later it goes."""

    def away_and_back():
        pair.clock.advance(pair.config.failover.after + 1)
        pair.roles["secondary"].tick()
        pair.turns(4)
        pair.clock.advance(pair.config.failback.hold)
        pair.turns(4)

    away_and_back()
    assert pair.serving("secondary") == "primary"
    away_and_back()
    assert pair.serving("secondary") == "secondary"
    waits = pair.servers["secondary"].index.note("waiting")["voicemail"]
    assert "moved too often" in "; ".join(waits)
    pair.clock.advance(3600)
    pair.turns(4)
    pair.clock.advance(pair.config.failback.hold)
    pair.turns(6)
    assert pair.serving("secondary") == "primary"


def test_the_wait_of_a_start_counts_from_when_it_can_be_answered(pair):
    """A server that takes in a long backlog before it listens has not asked anybody meanwhile."""
    pair.roles["primary"].start()
    pair.clock.advance(500.0)
    pair.roles["primary"].ask_from_now()
    assert pair.roles["primary"].look("voicemail")[1].started_for < 1.0


def test_a_journal_that_was_touched_stops_roles_and_nothing_else(pair):
    """An order that the peer forwards waits until the journal can be trusted again, and no time is waited for."""
    pair.roles["secondary"].order("voicemail", "failover", "ada")
    pair.roles["secondary"].tick()
    orders = pair.roles["secondary"].facts()["orders"]
    path = pair.root("primary") / ".vmctl/journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"primary", b"trimary"))
    pair.roles["primary"].hear_orders(orders)
    with pytest.raises(JournalBroken):
        pair.roles["primary"].tick()
    assert pair.roles["primary"].due > pair.clock.steady() + 3600
    path.write_bytes(whole)
    pair.turns(6)
    assert pair.serving("primary") == "secondary"


@pytest.mark.parametrize("odd", [5, True, "x", {"a": 1}, [5], [[]]])
def test_what_another_version_says_of_itself_stops_no_role(pair, monkeypatch, odd):
    """Values that are not as they should be are left out, and what is as it should be counts."""
    facts = pair.roles["primary"].facts
    monkeypatch.setattr(pair.roles["primary"], "facts", lambda: facts() | dict.fromkeys(("asks", "moves"), odd))
    pair.roles["primary"].order("voicemail", "failover", "ada")
    pair.turns(6)
    assert pair.serving("secondary") == "secondary"
    assert Taken(status={"answers": odd}).answers == (odd if isinstance(odd, list) else [])


def spoil_journal(pair, name):
    """Edit the last line of a server's journal by hand."""
    path = pair.root(name) / ".vmctl/journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"by":"', b'"by":"x', 1))


@pytest.mark.parametrize("state", ["normal", "resilience"])
def test_no_role_is_given_to_a_server_whose_journal_is_damaged(pair, state):
    """It could not write down that it serves, so nobody would: no order and no gate gives it anything."""
    home, giver, order = "secondary", "primary", "failover"
    if state == "resilience":
        pair.roles["secondary"].order("voicemail", "failover", "ada")
        pair.turns(8)
        home, giver, order = "primary", "secondary", "failback"
    assert pair.serving(giver) == giver
    spoil_journal(pair, home)
    assert pair.roles[home].facts() == {"fit": False}
    for _ in range(4):
        pair.send(home, always=True)
        pair.deliver()
        pair.tick_roles(giver)
    pair.roles[giver].order("voicemail", order, "ada")
    for _ in range(4):
        pair.send(giver, always=True)
        pair.send(home, always=True)
        pair.deliver()
        pair.tick_roles(giver)
        pair.clock.advance(1.0)
    assert pair.serving(giver) == giver
    assert f"{home} to tell of this service" in "; ".join(pair.servers[giver].index.note("waiting")["voicemail"])


def test_an_order_that_the_peer_forwards_to_a_damaged_journal_is_left_alone(pair):
    """It ends nothing: the daemon goes on, and the order is not kept for later."""
    pair.roles["secondary"].order("voicemail", "failover", "ada")
    pair.tick_roles("secondary")
    spoil_journal(pair, "primary")
    pair.send("secondary", always=True)
    pair.deliver()
    assert not pair.servers["primary"].index.note("orders")


# What is agreed on


def test_a_pause_holds_on_both_servers_and_ends_by_itself(pair):
    """Nothing moves by itself until its time is over, wherever it was ordered."""
    pair.roles["primary"].pause("ada", on=True, seconds=3600)
    assert not pair.roles["primary"].peer_agrees(PAUSE)
    pair.turns(3)
    assert pair.roles["primary"].peer_agrees(PAUSE)
    pair.clock.advance(pair.config.failover.after + 1)
    pair.roles["secondary"].tick()
    assert pair.serving("secondary") == "primary"
    pair.clock.advance(3600)
    pair.roles["secondary"].tick()
    assert pair.serving("secondary") == "secondary"


@pytest.mark.parametrize(("late", "left"), [(7200, 0), (3000, 600)])
def test_a_pause_that_is_heard_late_ends_at_the_same_time_on_both_servers(pair, late, left):
    """What of it was over when the other server heard of it does not begin anew there."""
    pair.roles["primary"].pause("ada", on=True, seconds=3600)
    pair.clock.advance(late)
    pair.turns(3)
    for ends in (left > 0, False):
        for roles in pair.roles.values():
            assert (roles.agreement.paused(roles.agreement.read()) is not None) == ends
        pair.clock.advance(left)


def test_a_pause_outlives_a_restart_and_an_order_is_carried_out_in_it(pair):
    """It is in the journal, not in a process."""
    pair.roles["primary"].pause("ada", on=True)
    pair.turns(3)
    pair.crash("secondary")
    pair.turns(3)
    assert pair.roles["secondary"].agreement.paused(pair.roles["secondary"].agreement.read()).by == "ada"
    pair.roles["secondary"].order("voicemail", "failover", "ada")
    pair.turns(8)
    assert pair.serving("primary") == "secondary"


def test_of_two_pauses_at_once_both_servers_keep_the_same(pair):
    """The higher number counts; of equal ones the name of the server decides alike on both."""
    pair.roles["primary"].pause("ada", on=True)
    pair.roles["secondary"].pause("bob", on=False)
    pair.turns(3)
    one, other = (pair.roles[name].agreement.read().values for name in pair.servers)
    assert one == other
    assert one[PAUSE]["by"] == "bob"


@pytest.mark.parametrize(
    "value",
    [
        7, {}, {"pause": 7}, {"pause": {"on": True, "number": 1, "server": "a/b", "by": "x"}},
        {"pause": {"on": "yes", "number": 1, "server": "primary", "by": "x"}},
        {"pause": {"on": True, "number": True, "server": "primary", "by": "x"}},
        {"pause": {"on": True, "number": 2**53, "server": "primary", "by": "x"}},
        {"pause": {"on": True, "number": 1, "server": "primary", "by": "x", "seconds": "1h", "until": "now"}},
        {"pause": {"on": True, "number": 1, "server": "primary", "by": "x", "seconds": 5}},
        {"mode": {"mode": "triple", "number": 1, "server": "primary"}},
    ],
)  # fmt: skip
def test_what_another_version_says_is_agreed_on_is_checked(value):
    """A value that is not as it should be counts as none."""
    assert _read(value) == {}


def test_the_mode_is_refused_with_the_reason(pair):
    """Dual-active needs two services, and a licence of the secondary."""
    with pytest.raises(ModeRefused, match="names one service"):
        pair.roles["primary"].set_mode("dual-active", "ada")


def test_the_mode_moves_homes_on_both_and_somebody_serves_all_the_while(tmp_path, no_fsync):
    """Each service goes to its new home when the gate is met; there is no moment without a server but a mail's way."""
    made = Roles(tmp_path / "net", {"services.extra.home": "secondary", "servers.secondary.licensed": True})
    made.turns(4)
    assert made.view("primary", "extra").serving == "primary"
    assert made.roles["secondary"].set_mode("dual-active", "ada")
    assert not made.roles["secondary"].set_mode("dual-active", "ada")
    for _ in range(8):
        made.turn()
        assert len(made.serve("extra")) <= 1
    for name in made.servers:
        view = made.view(name, "extra")
        assert (view.home, view.serving, view.state) == ("secondary", "secondary", "normal")
        assert made.view(name).serving == "primary"
    made.close()


# With an arbiter


def test_with_an_arbiter_a_split_has_one_server(lent):
    """The home that keeps its lease serves on; the backup, which is cut off from it, takes nothing."""
    lent.clock.advance(lent.config.failover.after + 1)
    lent.turns(30, mail=False)
    assert len(lent.serve()) == 1


def test_a_dead_holder_is_followed_when_its_lease_is_over(lent):
    """The backup takes the service in the epoch that the arbiter wrote, above all before it."""
    before = lent.view("primary").epoch
    for _ in range(120):
        lent.clock.advance(2.5)
        lent.tick_roles("secondary")
    assert lent.serve() == ["secondary"]
    assert lent.view("secondary").epoch > before


def test_without_the_arbiter_the_peers_promise_lets_the_holder_serve_on(lent):
    """As long as both hear each other etcd may be away; a handover works, too."""
    lent.arbiter.down = True
    lent.turns(60)
    assert lent.serve() == ["primary"]
    lent.roles["primary"].order("voicemail", "failover", "ada")
    lent.turns(12)
    assert lent.serve() == ["secondary"]
    lent.turns(60)
    assert lent.serve() == ["secondary"]


def test_without_the_arbiter_and_the_peer_nobody_serves_and_both_again_when_either_is_back(lent):
    """The holder steps aside before its lease ends; it says so, and serves again by itself."""
    lent.arbiter.down = True
    lent.turns(30, mail=False)
    assert lent.serve() == []
    assert lent.view("primary").cause == "lease"
    assert "lease" in "; ".join(lent.servers["primary"].index.note("waiting")["voicemail"])
    lent.turns(10)
    assert lent.serve() == ["primary"]


def test_a_promise_binds_its_giver_over_a_restart_and_against_an_order(lent):
    """The holder may rely on it for its whole time: who promised takes nothing, whatever is ordered there."""
    lent.arbiter.down = True
    lent.turns(30)
    assert lent.serve() == ["primary"]
    lent.crash("secondary")
    lent.clock.advance(lent.config.failover.after / 2)
    lent.arbiter.down = False
    lent.roles["secondary"].order("voicemail", "failover", "ada", now=True)
    lent.tick_roles("secondary")
    lent.tick_roles("secondary")
    assert lent.view("secondary").serving != "secondary"
    lent.clock.advance(lent.config.failover.after)
    lent.roles["secondary"].order("voicemail", "failover", "ada", now=True)
    for _ in range(3):
        lent.tick_roles("secondary")
    assert lent.view("secondary").serving == "secondary"


def test_both_have_is_false_while_the_peer_says_nothing(pair):
    """A peer that was not heard has agreed to nothing."""
    agreed = Agreement(
        pair.config, pair.servers["primary"].index, pair.servers["primary"].journal, pair.clock, "primary"
    )
    agreed.set_pause("ada", on=True)
    assert not both_have(agreed.read(), None, PAUSE)


def test_two_configs_are_named_key_by_key_and_move_nothing_by_themselves(pair):
    """Both sides say which keys differ; silence moves no role until they agree, a person's order does."""
    ours = pair.config
    pair.config = dataclasses.replace(ours, failover=ours.failover._replace(after=90.0))
    pair.crash("secondary")
    theirs, pair.config = pair.config, ours
    pair.turns(4)
    for config in (ours, theirs):
        value = gather(config, pair.clock)
        assert (value["config_differs"], value["config_keys"]) == (True, ["failover.after"])
    pair.clock.advance(ours.failover.after - 30)
    pair.roles["secondary"].tick()
    assert pair.serving("secondary") == "primary"


def test_an_old_mail_gives_no_promise_and_no_role(lent):
    """Mails of the time before a handover, played again after it, change nothing: they echo nothing that counts."""
    old = [(name, raw) for name in lent.servers for raw in lent.send(name, always=True)]
    lent.deliver()
    lent.roles["primary"].order("voicemail", "failover", "ada")
    lent.turns(12)
    assert lent.serve() == ["secondary"]
    views = {name: lent.view(name) for name in lent.servers}
    lent.clock.advance(lent.config.failover.after - 5)
    for name, raw in old:
        lent.servers[lent.other(name)].receive(raw)
    for name in lent.servers:
        lent.servers[name].take()
        lent.tick_roles(name)
    assert len(lent.serve()) <= 1
    assert lent.view("primary") == views["primary"]

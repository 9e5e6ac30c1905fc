"""Nasty scenarios of servers that both serve, come back or are restored: who serves, with an arbiter and without.

The numbers are those of the list in docs/promises.md; what becomes of the data is in test_nasty_scenarios_data.
"""

from __future__ import annotations

import contextlib
import random
import shutil

import pytest
from pair import Roles

from vmctl.errors import PeerUnreachable, RoleError
from vmctl.journal import Journal

ARBITER = {"arbiter.endpoints": ["http://127.0.0.1:1"]}


@pytest.fixture(params=["alone", "arbiter"])
def pair(request, tmp_path, no_fsync):
    """Two servers in normal operation, with mailbox 2001."""
    made = Roles(tmp_path / "net", ARBITER if request.param == "arbiter" else None)
    made.desk().create_mailbox("2001", {"name": "Ada"})
    made.turns(6)
    made.in_step()
    assert ["primary"] == made.serve()
    yield made
    made.close()


def most(pair):
    """How many may serve while the two do not hear each other: with an arbiter one, else each for its own callers."""
    return 1 if pair.leases else 2


def one_in_the_end(pair):
    """With mail one server serves, both say the same of it, and both journals are whole."""
    for _ in range(60):
        pair.turn()
        pair.clock.advance(10.0)
    assert 1 == len(pair.serve())
    assert pair.serve() * 2 == [pair.serving(name) for name in pair.servers]
    for name in pair.servers:
        assert [] == Journal(pair.root(name) / ".vmctl/journal.jsonl").verify()


def causes(pair, name):
    """Why the service moved, by the journal of a server."""
    entries = Journal(pair.root(name) / ".vmctl/journal.jsonl").entries()
    return [entry["to"]["cause"] for entry in entries if entry["kind"] == "transition"]


def test_scenario_7_a_restored_journal_makes_nobody_serve(pair, recording, tmp_path):
    """A home whose snapshot says that it serves asks first: it serves again when it holds what was left meanwhile."""
    pair.a.close()
    shutil.copytree(pair.root(), tmp_path / "snapshot", symlinks=True)
    pair.open("primary")
    pair.start("primary")
    pair.turns(4)
    pair.clock.advance(pair.config.failover.after + 1)
    for _ in range(40):  # the primary is off
        pair.tick_roles("secondary")
        pair.clock.advance(2.5)
    assert ["secondary"] == pair.serve()[-1:]
    left = pair.desk("secondary").leave("2001", recording())
    pair.a.close()
    shutil.rmtree(pair.root())
    shutil.copytree(tmp_path / "snapshot", pair.root(), symlinks=True)
    pair.open("primary")
    assert "primary" == pair.serving("primary")
    pair.start("primary")
    for _ in range(60):
        assert pair.serve() != ["primary"] or pair.lives(f"message/2001/{left}")
        assert 1 >= len(pair.serve())
        pair.turn()
    one_in_the_end(pair)
    assert ["primary"] == pair.serve()


@pytest.mark.parametrize("seed", range(6))
def test_scenario_9_a_handover_among_lost_mails_and_crashes_makes_no_two(pair, seed):
    """Orders at either server, every other mail lost, both killed at every turn: never two serve, and one in the end."""
    chance = random.Random(seed)
    for number in range(20):
        name = chance.choice(list(pair.servers))
        if number % 6 == 2:
            away = pair.serving("secondary") == "secondary"
            with contextlib.suppress(PeerUnreachable, RoleError):
                pair.roles[name].order("voicemail", "failback" if away else "failover", "ada")
        pair.turn(mail=chance.random() < 0.5)
        assert 1 >= len(pair.serve())
        if chance.random() < 0.4:
            pair.crash(name)
            assert 1 >= len(pair.serve())
    one_in_the_end(pair)


def test_scenario_10_forced_over_while_the_old_server_is_alive(pair):
    """For a day both serve their own callers, or with an arbiter one; then one by the newer epoch, and the force is in both journals."""
    pair.clock.advance(pair.config.failover.after + 1)
    pair.roles["secondary"].order("voicemail", "failover", "ada")
    for _ in range(24):
        pair.turns(3, mail=False)
        assert 1 <= len(pair.serve()) <= most(pair)
    assert most(pair) == len(pair.serve())
    forced = "forced" in causes(pair, "secondary")
    assert forced or pair.leases  # whom the arbiter lends nothing cannot be forced
    one_in_the_end(pair)
    assert forced <= ("forced" in causes(pair, "primary"))


def test_scenario_11_the_old_server_powers_up_while_mail_is_down(pair):
    """It serves nobody until it has asked for `failover.start_wait`; with an arbiter not then either, and at last one serves."""
    pair.a.close()
    pair.clock.advance(pair.config.failover.after + 1)
    pair.roles["secondary"].order("voicemail", "failover", "ada")
    for _ in range(4):
        pair.tick_roles("secondary")
        pair.clock.advance(2.5)
    pair.open("primary")
    pair.start("primary")
    assert ["secondary"] == pair.serve()
    passed = 0.0
    while passed < pair.config.failover.start_wait - 5:
        pair.turn(mail=False)
        passed += 2.5
        assert ["secondary"] == pair.serve()
    pair.turns(8, mail=False)
    assert most(pair) == len(pair.serve())
    one_in_the_end(pair)


def test_scenario_12_both_are_forced_in_the_same_minute(pair):
    """Two people, each at a server with mail down: two serve at most, one with an arbiter, and one when mail is back."""
    for name in pair.servers:
        pair.crash(name)
    for name, verb in (("primary", "failback"), ("secondary", "failover")):
        pair.roles[name].order("voicemail", verb, "ada")
    pair.clock.advance(pair.config.failover.start_wait + 1)
    for _ in range(30):
        pair.turn(mail=False)
        assert most(pair) >= len(pair.serve())
    assert most(pair) == len(pair.serve())
    one_in_the_end(pair)

"""The role table: each row by a case that is named for what it prevents, then all situations, then two servers at once."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmctl import roles
from vmctl.errors import NothingToFailBack, NotYet, PeerUnreachable
from vmctl.evidence import Evidence, Policy
from vmctl.roles import SERVED, TABLE, check_order, decide
from vmctl.view import (
    FAILBACK,
    FORCED,
    GATE,
    LEASE,
    MODE,
    ORDER,
    RETURN,
    SILENCE,
    START,
    TIMEOUT,
    UNWELL,
    Epoch,
    Last,
    View,
    fresh_view,
    newer,
    role,
    top_claim,
)  # fmt: skip

HOME, BACKUP = "primary", "secondary"
POLICY = Policy(
    after=180.0, automatic=True, start_wait=60.0, failback="graceful", gate="completed", hold=60.0, timeout=3600.0
)
DOCS = Path(__file__).parent.parent / "docs" / "roles.md"


def view(state, number=5, *, by=HOME, cause=SILENCE, last=None, since=1):
    """A view of the one service."""
    serving = {"starting": None, "normal": HOME}.get(state, BACKUP)
    return View("voicemail", HOME, serving, state, Epoch(number, by), since, cause, last)


def starting(number, last, *, cause=SILENCE):
    """The view of a server that starts and remembers who served."""
    return view("starting", number, cause=START, last=last and Last(last, cause))


def heard(me, peer_view=None, **words):
    """Evidence of a server that hears its peer."""
    peer = HOME if me == BACKUP else BACKUP
    given_words = {"silent_for": 3.0, "started_for": 9000.0, "in_state_for": 10.0, **words}
    return Evidence(me, peer, heard=True, peer_view=peer_view, **given_words)


def alone(me, silent_for=200.0, **words):
    """Evidence of a server that does not hear its peer."""
    peer = HOME if me == BACKUP else BACKUP
    return Evidence(me, peer, silent_for=silent_for, **{"started_for": 9000.0, **words})


def moved(before, evidence, **policy):
    """What became: state, who serves, the epoch's number, the cause; None for no transition."""
    decision = decide(before, evidence, replace(POLICY, **policy), 77)
    if decision.transition is None:
        assert decision.view == before
        return None
    after = decision.view
    return after.state, after.serving, after.epoch.number, after.cause


# Epochs and views


def test_of_two_epochs_the_higher_number_wins_and_a_tie_goes_to_the_home():
    """Two servers that set the same number in a split agree on the home's."""
    assert newer(Epoch(6, BACKUP), Epoch(5, HOME), HOME)
    assert newer(Epoch(5, HOME), Epoch(5, BACKUP), HOME)
    assert not newer(Epoch(5, BACKUP), Epoch(5, HOME), HOME)
    assert not newer(Epoch(5, HOME), Epoch(5, HOME), HOME)


def test_one_epoch_over_two_claims_is_settled_for_the_home_on_both_servers():
    """A store that was rolled back cannot leave both servers waiting for each other."""
    one, other = view("normal").claim, view("resilience").claim
    assert top_claim(one, other, HOME) == top_claim(other, one, HOME) == one


@pytest.mark.parametrize("state", ["starting", "normal", "resilience", "recovering"])
def test_a_view_comes_back_from_its_json_as_it_was(state):
    """A view survives the journal and the wire."""
    one = starting(5, BACKUP, cause=ORDER) if state == "starting" else view(state)
    assert View.from_json(one.as_json()) == one


@pytest.mark.parametrize(
    "fault",
    [
        {"state": "asleep"}, {"state": ["normal"]}, {"serving": None}, {"serving": BACKUP}, {"serving": "../etc"},
        {"epoch": [1]}, {"epoch": [-1, HOME]}, {"epoch": [True, HOME]}, {"epoch": [2**53, HOME]}, {"epoch": [3, ""]},
        {"epoch": [3, None]}, {"since": "now"}, {"cause": ""}, {"home": 7}, {"service": "a/b"}, {"service": None},
    ],
)  # fmt: skip
def test_a_view_with_a_fault_is_refused(fault):
    """What comes from the wire is checked: names by their whitelist, numbers by their size, state against server."""
    with pytest.raises(ValueError, match=r"."):
        View.from_json({**view("normal").as_json(), **fault})


@pytest.mark.parametrize("value", [None, [], "x", {}, {**starting(1, HOME).as_json(), "last": 3}])
def test_what_is_no_view_at_all_is_refused(value):
    """Other JSON than a view is a ValueError, never another exception."""
    with pytest.raises(ValueError, match=r"."):
        View.from_json(value)


def test_a_role_is_active_where_anything_is_served():
    """A server of two services is active by one, starting while one waits for a server, else standby."""
    assert role(HOME, [view("normal"), starting(1, None)]) == "active"
    assert role(BACKUP, [view("normal")]) == "standby"
    assert role(BACKUP, [view("normal"), starting(1, None)]) == "starting"
    assert role(BACKUP, [view("recovering")]) == "active"


# A server that starts (rules 20, 21)


def test_a_starting_server_adopts_a_peer_that_serves():
    """A server that was away does not serve by itself: the peer's answer settles it, at the peer's epoch."""
    theirs = view("resilience", 6, by=BACKUP, cause=ORDER)
    decision = decide(starting(5, HOME), heard(HOME, theirs), POLICY, 77)
    assert decision.view == theirs
    assert decision.transition.by == "peer"


def test_a_starting_server_that_the_peer_says_serves_resumes_at_a_higher_epoch():
    """A restart within failover.after moves nothing."""
    assert moved(starting(5, HOME, cause=GATE), heard(HOME, view("normal"))) == ("normal", HOME, 6, GATE)
    assert moved(starting(5, BACKUP), heard(BACKUP, view("resilience"))) == ("resilience", BACKUP, 6, SILENCE)


def test_a_restart_keeps_the_order_that_moved_the_service():
    """A backup that serves by order and is restarted does not hand back by itself."""
    after = decide(starting(5, BACKUP, cause=ORDER), heard(BACKUP, view("resilience", cause=ORDER)), POLICY, 1).view
    assert after.cause == ORDER
    assert moved(after, heard(BACKUP, view("resilience", cause=ORDER))) is None


def test_two_fresh_servers_choose_the_home():
    """Neither has served: the home takes the service, the backup waits for its view."""
    fresh = fresh_view("voicemail", HOME)
    assert moved(fresh, heard(HOME, fresh)) == ("normal", HOME, 1, START)
    assert moved(fresh, heard(BACKUP, fresh)) is None


@pytest.mark.parametrize(("homes", "backups", "chosen"), [(6, 5, HOME), (5, 6, BACKUP), (5, 5, HOME)])
def test_two_starting_servers_choose_who_served_at_the_higher_epoch(homes, backups, chosen):
    """Both think that they served last (a split before the power cut): both decide alike."""
    at_home, away = starting(homes, HOME), replace(starting(backups, BACKUP), epoch=Epoch(backups, BACKUP))
    taken = {
        HOME: moved(at_home, heard(HOME, away)),
        BACKUP: moved(away, heard(BACKUP, at_home)),
    }
    assert [me for me, result in taken.items() if result] == [chosen]
    assert taken[chosen][2] == max(homes, backups) + 1


def test_a_handover_whose_giver_fell_is_completed():
    """The giver's journal says that the peer serves, the peer has not heard it yet: the peer takes, the giver waits."""
    giver, taker = starting(6, BACKUP, cause=ORDER), view("normal", 5)
    assert moved(giver, heard(HOME, taker)) is None
    assert moved(taker, heard(BACKUP, giver)) == ("resilience", BACKUP, 7, ORDER)


def test_who_serves_goes_on_above_the_epoch_that_a_starting_peer_remembers():
    """After a split the winner fell: the server that answers callers raises its epoch instead of stopping."""
    peer = starting(9, HOME)
    assert moved(view("resilience", 6, by=BACKUP), heard(BACKUP, peer)) == ("resilience", BACKUP, 10, SILENCE)
    assert moved(peer, heard(HOME, view("resilience", 6, by=BACKUP))) is None


def test_a_starting_peer_whose_home_is_that_of_another_mode_is_heard():
    """The mode was set on both sides of a split: who starts with the older home is not left to start for ever."""
    serves = View("voicemail", BACKUP, BACKUP, "normal", Epoch(4, HOME), 1, FAILBACK)
    starts = starting(6, HOME)
    assert moved(serves, heard(BACKUP, starts)) == ("normal", BACKUP, 7, FAILBACK)
    goes_on = replace(serves, epoch=Epoch(7, BACKUP))
    assert moved(starts, heard(HOME, goes_on, home=BACKUP)) == ("normal", BACKUP, 7, FAILBACK)


def test_unanswered_a_server_serves_what_its_journal_says_when_start_wait_ends():
    """Not before, and not what the peer served."""
    mine = starting(5, HOME, cause=GATE)
    assert moved(mine, alone(HOME, None, started_for=59.9)) is None
    assert moved(mine, alone(HOME, None, started_for=60.0)) == ("normal", HOME, 6, GATE)
    assert moved(starting(5, HOME), alone(BACKUP, None, started_for=60.0)) is None


def test_unanswered_the_rest_is_taken_after_failover_after_from_the_end_of_the_wait():
    """A server without memory takes over as after any silence; where failover is manual only a fresh home does."""
    late = {"silent_for": None, "started_for": 240.0}
    assert moved(starting(5, HOME), alone(BACKUP, **late)) == ("resilience", BACKUP, 6, SILENCE)
    assert moved(starting(5, HOME), alone(BACKUP, None, started_for=239.0)) is None
    assert moved(starting(5, HOME), alone(BACKUP, **late), automatic=False) is None
    assert moved(fresh_view("voicemail", HOME), alone(HOME, **late), automatic=False) == ("normal", HOME, 1, SILENCE)
    assert moved(starting(5, BACKUP), alone(HOME, **late), automatic=False) is None


def test_a_peer_with_another_home_for_the_service_says_nothing():
    """Two configs: the views do not mix, and callers are answered all the same."""
    odd = View("voicemail", BACKUP, BACKUP, "normal", Epoch(9, BACKUP), 1, START)
    assert moved(view("normal"), heard(HOME, odd)) is None
    assert moved(starting(5, HOME), heard(HOME, odd, started_for=60.0)) == ("normal", HOME, 6, SILENCE)


# Silence


def test_the_backup_takes_over_after_failover_after_and_not_before():
    """A reboot of the home does not trigger it."""
    assert moved(view("normal"), alone(BACKUP, 179.0)) is None
    assert moved(view("normal"), alone(BACKUP, 180.0)) == ("resilience", BACKUP, 6, SILENCE)
    assert moved(view("normal"), alone(BACKUP, 1e6), automatic=False) is None
    assert moved(view("normal"), alone(HOME, 1e6)) is None


@pytest.mark.parametrize("state", ["resilience", "recovering"])
def test_the_home_takes_over_from_a_backup_that_died_and_the_waived_gate_is_told(state):
    """Home is back, the serving backup dies: somebody serves."""
    decision = decide(view(state), alone(HOME), POLICY, 77)
    assert (decision.view.state, decision.view.serving) == ("normal", HOME)
    assert "the gate is waived" in decision.transition.reason


@pytest.mark.parametrize(("before", "state"), [(view("normal"), "resilience"), (view("recovering"), "normal")])
def test_what_the_arbiter_lends_is_taken_from_a_peer_that_cannot_tell_of_it(before, state):
    """A server whose journal is damaged is heard and renews no lease: once that is over nobody would serve for ever."""
    me = BACKUP if state == "resilience" else HOME
    assert moved(before, heard(me)) is None, "without an arbiter it may be serving"
    held = heard(me, permit=0.0)
    assert moved(before, held) is None
    assert decide(before, held, POLICY, 77).wants
    lent = heard(me, permit=30.0, leased=True)
    assert moved(before, lent) == (state, me, 6, SILENCE)
    assert "is heard, but says nothing of this service" in decide(before, lent, POLICY, 77).transition.reason
    assert moved(before, replace(lent, paused=True)) is None


def test_a_home_that_falls_silent_again_ends_the_recovery():
    """The gate begins anew with the next return."""
    assert moved(view("recovering"), alone(BACKUP)) == ("resilience", BACKUP, 6, SILENCE)


def test_a_split_is_healed_by_the_newer_epoch():
    """The server with the older epoch stops and journals a split; the other one goes on."""
    at_home, away = view("normal", 7), view("resilience", 6, by=BACKUP)
    decision = decide(away, heard(BACKUP, at_home), POLICY, 77)
    assert decision.view == at_home
    assert "split" in decision.transition.reason
    assert moved(at_home, heard(HOME, away)) is None


# Orders (rule 25)


def test_a_failover_ordered_at_the_serving_home_gives_the_role_away():
    """Both well: the home's own view says that the backup serves, before the backup says so."""
    assert moved(view("normal"), heard(HOME, order="failover", gate_completed=True)) == ("resilience", BACKUP, 6, ORDER)


def test_a_role_that_was_given_is_taken_by_adopting_the_givers_view():
    """The taker serves from the moment it has the giver's newer view; an older one changes nothing."""
    given_away = view("resilience", 6, cause=ORDER)
    decision = decide(view("normal", 5), heard(BACKUP, given_away), POLICY, 77)
    assert decision.view == given_away
    assert decision.transition.by == "peer"
    assert moved(view("normal", 7), heard(BACKUP, given_away)) is None


def test_an_order_typed_at_the_receiver_is_forwarded_to_the_server_that_serves():
    """Nobody takes a role from a server that is heard."""
    decision = decide(view("normal"), heard(BACKUP, view("normal"), order="failover"), POLICY, 77)
    assert (decision.transition, decision.forward) == (None, "failover")
    decision = decide(view("recovering"), heard(HOME, view("recovering"), order="failback"), POLICY, 77)
    assert (decision.transition, decision.forward) == (None, "failback")


@pytest.mark.parametrize(
    ("before", "me", "order", "state"),
    [
        (view("normal"), BACKUP, "failover", "resilience"),
        (view("resilience"), HOME, "failback", "normal"),
        (view("recovering"), HOME, "failback", "normal"),
        (starting(5, HOME), BACKUP, "failover", "resilience"),
        (starting(5, BACKUP), HOME, "failback", "normal"),
    ],
)
def test_an_order_at_the_receiver_is_forced_when_the_peer_cannot_be_heard(before, me, order, state):
    """A person who knows that the peer is dead need not wait, also where failover is not automatic."""
    assert moved(before, alone(me, 5.0, order=order, started_for=60.0), automatic=False) == (state, me, 6, FORCED)


def test_an_order_at_a_server_that_has_just_started_waits_until_it_has_asked():
    """A restarted home that does not know yet that the backup serves by order would make two."""
    before = starting(2, HOME)
    assert moved(before, alone(BACKUP, None, order="failover", started_for=59.0)) is None


def test_check_order_says_before_what_an_order_will_meet():
    """Nothing to do is no error for failover; a role is not given to a server that is not heard."""
    assert check_order(view("resilience"), heard(HOME), "failover") == "already"
    assert check_order(view("normal"), heard(HOME), "failover") is None
    assert check_order(view("normal"), alone(BACKUP), "failover") is None
    with pytest.raises(NothingToFailBack):
        check_order(view("normal"), heard(HOME), "failback")
    with pytest.raises(PeerUnreachable):
        check_order(view("normal"), alone(HOME), "failover")
    with pytest.raises(PeerUnreachable):
        check_order(view("resilience"), alone(BACKUP), "failback")
    with pytest.raises(NotYet):
        check_order(starting(5, HOME), heard(HOME), "failover")


def test_what_a_person_moved_stays_until_a_person_orders_it_back():
    """Planned maintenance is not undone by the first heartbeat."""
    ordered = view("resilience", cause=ORDER)
    assert moved(ordered, heard(BACKUP)) is None
    assert moved(ordered, heard(BACKUP, order="failback")) == ("recovering", BACKUP, 6, FAILBACK)


def test_a_home_moved_away_from_by_order_that_is_then_lost_recovers_as_usual():
    """The cause becomes silence, so that its return begins a recovery."""
    ordered = view("resilience", cause=ORDER)
    assert moved(ordered, alone(BACKUP)) == ("resilience", BACKUP, 6, SILENCE)
    assert moved(view("resilience"), heard(BACKUP)) == ("recovering", BACKUP, 6, RETURN)


def test_what_was_under_way_when_a_server_was_lost_does_not_bring_it_back():
    """Only an answer to what it was asked since counts: an older one would soon be too old, and the server lost again."""
    lost = view("resilience")
    assert moved(lost, heard(BACKUP, silent_for=177.0, in_state_for=2.0)) is None
    assert moved(lost, heard(BACKUP, silent_for=1.0, in_state_for=2.0)) == ("recovering", BACKUP, 6, RETURN)


@pytest.mark.parametrize(
    ("before", "evidence", "due"),
    [
        (view("normal"), heard(BACKUP, silent_for=170.0), 10.0),
        (view("normal"), heard(BACKUP, silent_for=12.0), 50.0),
        (view("normal"), heard(BACKUP, silent_for=12.0, order="failover", ordered_for=11.0), 18.0),
        (view("normal"), alone(BACKUP, 200.0, started_for=20.0), 40.0),
        (view("recovering"), heard(BACKUP, silent_for=40.0, in_state_for=59.0), 1.0),
        (view("normal"), heard(HOME, order="failover", ordered_for=8.5), 1.5),
    ],
)
def test_a_decision_says_when_time_alone_may_bring_the_next(before, evidence, due):
    """Silence, the wait of a start, the hold-down, the drain: whichever ends first."""
    assert decide(before, evidence, POLICY, 77).due == pytest.approx(due)


# The gate


def test_the_role_goes_home_when_the_gate_is_met_and_the_hold_down_is_over():
    """Neither alone is enough."""
    back = view("recovering", cause=RETURN)
    assert moved(back, heard(BACKUP, gate_completed=True, in_state_for=59.0)) is None
    assert moved(back, heard(BACKUP, gate_restarted=True, in_state_for=4000.0)) is None
    assert moved(back, heard(BACKUP, gate_completed=True, in_state_for=60.0)) == ("normal", HOME, 6, GATE)
    restarted = heard(BACKUP, gate_restarted=True, in_state_for=60.0)
    assert moved(back, restarted, gate="restarted") == ("normal", HOME, 6, GATE)


def test_a_manual_policy_waits_for_the_order_and_an_order_skips_the_hold_but_not_the_gate():
    """The order is remembered by the journal, so that it outlives the process that took it."""
    back = view("recovering", cause=RETURN)
    met = {"gate_completed": True, "in_state_for": 1.0}
    assert moved(back, heard(BACKUP, gate_completed=True, in_state_for=9e5), failback="manual") is None
    assert moved(back, heard(BACKUP, order="failback"), failback="manual") == ("recovering", BACKUP, 6, FAILBACK)
    ordered = view("recovering", cause=FAILBACK)
    assert moved(ordered, heard(BACKUP, in_state_for=9e5), failback="manual") is None
    assert moved(ordered, heard(BACKUP, **met), failback="manual") == ("normal", HOME, 6, FAILBACK)


def test_a_remembered_order_outlives_a_restart_of_the_serving_backup():
    """The recovery begins again, still by order."""
    after = decide(
        view("recovering", cause=FAILBACK).started(9), heard(BACKUP, view("recovering", cause=FAILBACK)), POLICY, 9
    )
    assert moved(after.view, heard(BACKUP)) == ("recovering", BACKUP, 7, FAILBACK)


def test_an_automatic_failback_times_out_once_synchronization_has_restarted():
    """Constant calls cannot keep the role away for ever; a sync that never restarted can."""
    back = view("recovering", cause=RETURN)
    late = {"in_state_for": 3600.0}
    assert moved(back, heard(BACKUP, **late), failback="automatic") is None
    assert moved(back, heard(BACKUP, gate_restarted=True, **late)) is None
    timed_out = moved(back, heard(BACKUP, gate_restarted=True, **late), failback="automatic")
    assert timed_out == ("normal", HOME, 6, TIMEOUT)


def test_a_recovery_keeps_its_beginning_when_only_its_cause_changes():
    """The gate's progress and the hold-down are counted from `since`."""
    after = decide(view("recovering", cause=RETURN, since=3), heard(BACKUP, order="failback"), POLICY, 77).view
    assert (after.since, after.epoch.number) == (3, 6)


# Words for people


@pytest.mark.parametrize(
    ("before", "evidence", "policy", "word"),
    [
        (starting(5, HOME), alone(HOME, None, started_for=18.0), {}, "primary serves in 42 s"),
        (starting(5, HOME), alone(BACKUP, None, started_for=18.0), {}, "secondary serves in 3.7 min"),
        (starting(5, HOME), alone(BACKUP, None), {"automatic": False}, "'vmctl failover' on secondary"),
        (starting(5, HOME), heard(BACKUP, starting(5, HOME)), {}, "primary to take the service"),
        (starting(9, HOME), heard(HOME, view("resilience")), {}, "secondary to confirm"),
        (starting(5, BACKUP), heard(HOME, started_for=1.0), {}, "compare vmctl.yaml"),
        (view("normal"), alone(BACKUP), {"automatic": False}, "'vmctl failover' on secondary"),
        (view("normal"), alone(BACKUP, 100.0), {}, "takes the service in 80 s"),
        (view("resilience"), alone(BACKUP), {}, "primary to be heard again"),
        (view("resilience", cause=ORDER), heard(BACKUP), {}, "'vmctl failback'"),
        (view("resilience"), heard(HOME), {}, "secondary to give the service back"),
        (view("resilience"), heard(HOME, paused=True), {}, "'vmctl resume'"),
        (view("resilience", cause=ORDER), heard(HOME), {}, "'vmctl failback', as a person ordered it to secondary"),
        (view("resilience", cause=ORDER), heard(HOME, order="failback"), {}, "secondary to give the service back"),
        (view("recovering", cause=FAILBACK), heard(BACKUP, peer_fit=False), {}, "primary to be fit to serve again"),
        (view("recovering"), heard(BACKUP, waiting_gate=("3 messages to be acked",)), {}, "3 messages to be acked"),
        (view("recovering"), heard(BACKUP, gate_completed=True, in_state_for=20.0), {}, "hold-down, for another 40 s"),
        (view("recovering"), heard(BACKUP, in_state_for=99.0), {"failback": "manual"}, "'vmctl failback'"),
        (view("recovering"), heard(BACKUP, in_state_for=1800.0), {"failback": "automatic"}, "in 30 min"),
    ],
)
def test_a_service_that_is_not_normal_says_what_it_waits_for(before, evidence, policy, word):
    """The operator reads what is missing, for how long, and what to type."""
    assert word in "; ".join(decide(before, evidence, replace(POLICY, **policy), 77).waiting_for)


def test_a_service_in_normal_operation_waits_for_nothing():
    """No words where nothing is wrong."""
    assert decide(view("normal"), heard(HOME, view("normal")), POLICY, 77).waiting_for == ()
    assert decide(view("normal"), heard(BACKUP, view("normal")), POLICY, 77).waiting_for == ()


# What keeps a server from serving, or from taking over


def test_who_may_not_serve_any_longer_steps_aside_at_the_epoch_that_it_has():
    """The lease ran out and the peer promised nothing: nobody serves, and the server remembers that it did."""
    after = decide(view("normal"), alone(HOME, permit=0.0), POLICY, 77).view
    assert (after.state, after.serving, after.epoch, after.cause) == ("starting", None, Epoch(5, HOME), LEASE)
    assert after.last == Last(HOME, SILENCE)
    assert moved(view("normal"), alone(HOME, permit=0.1)) is None
    assert moved(view("normal"), alone(BACKUP, 3.0, permit=0.0)) is None


@pytest.mark.parametrize(
    ("before", "evidence"),
    [
        (starting(5, HOME), heard(HOME, starting(5, HOME))),
        (fresh_view("voicemail", HOME), heard(HOME, fresh_view("voicemail", HOME))),
        (starting(5, HOME), alone(HOME, None)),
        (starting(5, HOME), alone(BACKUP, None)),
        (view("normal"), heard(BACKUP, view("resilience", 6))),
        (view("normal"), heard(BACKUP, starting(6, BACKUP))),
        (view("normal"), alone(BACKUP)),
        (view("resilience"), alone(HOME)),
        (view("normal"), alone(BACKUP, 5.0, order="failover")),
    ],
)
def test_nobody_begins_to_serve_without_a_permit_and_all_who_would_want_it(before, evidence):
    """Start, handover, silence and force wait for the arbiter or the peer's promise, which is asked for."""
    taken = decide(before, replace(evidence, permit=30.0), POLICY, 77)
    assert taken.view.serving == evidence.me
    refused = decide(before, replace(evidence, permit=0.0), POLICY, 77)
    assert (refused.transition, refused.wants) == (None, True)
    assert decide(before, evidence, POLICY, 77).view.serving == evidence.me


def test_the_epoch_is_the_one_that_the_arbiter_wrote_with_the_lease():
    """Who took the service before, unheard of here, had a lower one."""
    assert moved(view("normal"), alone(BACKUP, permit=30.0, leased=True, lease_number=9))[2] == 9
    assert moved(view("normal"), alone(BACKUP, permit=30.0, leased=True, lease_number=2))[2] == 6


def test_the_arbiters_lease_is_an_answer_to_a_start_and_a_promise_is_none():
    """Who has the lease need not wait for the peer; a promise of a peer that is not heard does not count."""
    at_once = {"started_for": 1.0, "permit": 30.0}
    assert moved(starting(5, HOME), alone(HOME, None, leased=True, **at_once)) == ("normal", HOME, 6, SILENCE)
    slept = {"leased": True, "lease_number": 7, **at_once}
    assert moved(starting(5, HOME), alone(HOME, None, **slept)) is None, "somebody had epoch 6"
    assert moved(starting(5, HOME), alone(HOME, None, **at_once)) is None


@pytest.mark.parametrize("way", [{"unfit": "it is unwell"}, {"cut_off": True}, {"paused": True}, {"moves": 3}])
def test_a_server_takes_nothing_over_by_itself_when_that_could_be_wrong(way):
    """Unwell, cut off, paused or moved too often: silence alone moves nothing; a person's order does."""
    for before, me in ((view("normal"), BACKUP), (view("resilience"), HOME), (starting(5, HOME), BACKUP)):
        assert moved(before, alone(me, None, **way)) is None
        order = "failback" if me == HOME else "failover"
        assert moved(before, alone(me, None, order=order, **way))[1] == me


def test_who_is_unwell_gives_the_service_to_a_peer_that_is_well():
    """The voicemail application counts, not only the machine; where the other one is no better, nothing moves."""
    sick = {"unfit": "it is unwell"}
    assert moved(view("normal"), heard(HOME, **sick)) == ("resilience", BACKUP, 6, UNWELL)
    assert moved(view("recovering"), heard(BACKUP, **sick)) == ("normal", HOME, 6, UNWELL)
    assert moved(view("normal"), heard(HOME, peer_fit=False, **sick)) is None
    assert moved(view("normal"), alone(HOME, **sick)) is None
    assert moved(view("normal"), heard(HOME, paused=True, **sick)) is None
    assert moved(view("normal"), heard(HOME, **sick), automatic=False) is None


def test_a_starting_server_that_is_unfit_gives_what_it_served_last():
    """A server that was rolled back serves nobody while the other one can."""
    sick = heard(HOME, view("normal"), unfit="it was rolled back")
    assert moved(starting(5, HOME), sick) == ("resilience", BACKUP, 6, UNWELL)
    assert moved(starting(5, HOME), replace(sick, peer_fit=False)) == ("normal", HOME, 6, SILENCE)
    assert moved(starting(5, HOME), replace(sick, paused=True)) == ("normal", HOME, 6, SILENCE)


def test_a_home_that_is_unwell_does_not_get_its_service_back():
    """Not even to begin a recovery; one that falls ill in it ends it, unless a person ordered it home."""
    assert moved(view("resilience"), heard(BACKUP, peer_fit=False)) is None
    met = {"gate_completed": True, "in_state_for": 100.0}
    assert moved(view("recovering", cause=RETURN), heard(BACKUP, peer_fit=False, **met))[0] == "resilience"
    assert moved(view("recovering", cause=FAILBACK), heard(BACKUP, peer_fit=False, **met)) is None


def test_calls_in_progress_hold_a_graceful_move_home_and_not_an_ordered_one():
    """Also where they cannot be counted; policy automatic waits no longer than failback.timeout."""
    met = {"gate_completed": True, "gate_restarted": True, "in_state_for": 100.0}
    for calls in (2, None):
        assert moved(view("recovering", cause=RETURN), heard(BACKUP, calls=calls, **met)) is None
        assert moved(view("recovering", cause=FAILBACK), heard(BACKUP, calls=calls, **met))[1] == HOME
        late = heard(BACKUP, calls=calls, **met | {"in_state_for": 3600.0})
        assert moved(view("recovering", cause=RETURN), late, failback="automatic")[3] == TIMEOUT


def test_a_move_home_leaves_one_for_a_failover_after_it():
    """Of three moves an hour the last is not spent on going home."""
    met = {"gate_completed": True, "in_state_for": 100.0}
    assert moved(view("recovering", cause=RETURN), heard(BACKUP, moves=1, **met))[1] == HOME
    assert moved(view("recovering", cause=RETURN), heard(BACKUP, moves=2, **met)) is None
    assert moved(view("normal"), alone(BACKUP, moves=2))[1] == BACKUP


def test_a_handover_waits_for_its_drain_and_is_called_off_after_it():
    """The role moves when the backup holds everything; after handover.drain the order is void, and nothing moved."""
    assert moved(view("normal"), heard(HOME, order="failover", ordered_for=9.9)) is None
    decision = decide(view("normal"), heard(HOME, order="failover", ordered_for=10.0), POLICY, 77)
    assert decision.transition is None
    assert "called off: after 10 s secondary still lacked something" in decision.called_off


def test_now_takes_the_service_from_a_peer_that_misses_heartbeats_only():
    """A person knows that it is dead before failover.after is over; one that is heard gives the role away itself."""
    quiet = Evidence(
        BACKUP, HOME, heard=True, silent_for=30.0, peer_view=view("normal"), started_for=9e3, order="failover"
    )
    assert moved(view("normal"), quiet) is None
    assert moved(view("normal"), replace(quiet, now=True)) == ("resilience", BACKUP, 6, FORCED)
    decision = decide(view("normal"), replace(quiet, now=True, silent_for=29.0), POLICY, 77)
    assert (decision.transition, decision.forward) == (None, "failover")


def test_another_mode_moves_the_home_and_not_who_serves():
    """Who serves goes on under the new home, then the service goes there without a hold-down, when the gate is met."""
    after = decide(view("normal"), heard(HOME, home=BACKUP), POLICY, 77).view
    assert (after.home, after.serving, after.state, after.cause) == (BACKUP, HOME, "resilience", MODE)
    evidence = heard(HOME, home=BACKUP, paused=True)
    then = decide(after, evidence, POLICY, 78).view
    assert (then.serving, then.state, then.cause) == (HOME, "recovering", FAILBACK)
    last = decide(then, replace(evidence, gate_completed=True), POLICY, 79).view
    assert (last.serving, last.state) == (BACKUP, "normal")
    back = decide(view("resilience"), heard(BACKUP, home=BACKUP), POLICY, 77).view
    assert (back.home, back.serving, back.state) == (BACKUP, BACKUP, "normal")
    assert moved(view("normal"), heard(BACKUP, home=BACKUP)) is None


# All situations


MINE = (
    fresh_view("voicemail", HOME), starting(5, HOME), starting(5, BACKUP), view("normal"),
    *(view("resilience", cause=cause) for cause in (SILENCE, ORDER, FAILBACK)),
    *(view("recovering", cause=cause) for cause in (RETURN, FAILBACK)),
)  # fmt: skip
THEIRS = (
    None,
    fresh_view("voicemail", HOME),
    *(
        replace(one, epoch=Epoch(number, by))
        for one in (starting(5, HOME), starting(5, BACKUP), view("normal"), view("resilience"), view("recovering"))
        for number, by in ((4, HOME), (5, HOME), (5, BACKUP), (6, BACKUP))
    ),
)
TIMES = {
    "starting": (1.0, 100.0, 9000.0), "recovering": (1.0, 100.0, 9000.0), "resilience": (1.0, 9000.0), "normal": (9000.0,),
}  # fmt: skip
CONTACT = ((True, 3.0), (True, 100.0), (False, None), (False, 200.0))
ORDERS = ((None, False), ("failover", False), ("failback", False), ("failover", True), ("failback", True))
GATES = ((False, False), (True, False), (True, True))
# What is around a server: each by itself, as each is a reason for itself.
AROUND = (
    {}, {"permit": 0.0}, {"permit": 30.0}, {"permit": 30.0, "leased": True, "lease_number": 9}, {"unfit": "it is unwell"},
    {"peer_fit": False}, {"unfit": "it is unwell", "peer_fit": False}, {"cut_off": True}, {"calls": 2}, {"calls": None},
    {"paused": True}, {"moves": 2}, {"moves": 3}, {"home": BACKUP}, {"ordered_for": 11.0},
)  # fmt: skip


def situations(me, automatic):
    """Every view, peer's view, contact, time, order, gate, policy and surrounding that the guards can tell apart.

    What no guard of a state asks for is not varied in it.
    """
    peer = HOME if me == BACKUP else BACKUP
    arounds = AROUND if automatic else AROUND[:2]  # the others are for what moves by itself
    for mine, theirs, (hears, silent), (order, now), around in itertools.product(
        MINE, THEIRS, CONTACT, ORDERS, arounds
    ):
        if (theirs is not None and not hears) or (now and hears and silent == 3.0) or (silent == 100.0 and not now):
            continue
        if now and around not in arounds[:2]:  # what is around does not bind an order, but for the permit
            continue
        times = TIMES[mine.state]
        gates = GATES if mine.state in {"recovering", "normal"} else GATES[:1]
        failbacks = ("graceful", "automatic", "manual") if mine.state == "recovering" else ("graceful",)
        for passed, gate, failback in itertools.product(times, gates, failbacks):
            words = {"started_for": passed, "in_state_for": passed, "order": order, "now": now}
            words |= {"gate_restarted": gate[0], "gate_completed": gate[1], **around}
            evidence = Evidence(me, peer, heard=hears, silent_for=silent, peer_view=theirs, **words)
            yield mine, evidence, POLICIES[automatic, failback]


POLICIES = {
    (automatic, failback): replace(POLICY, automatic=automatic, failback=failback)
    for automatic in (True, False)
    for failback in ("graceful", "automatic", "manual")
}


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("me", [HOME, BACKUP])
def test_in_every_situation_the_table_holds_its_promises(me, automatic):
    """No exception, no lower epoch, nothing taken from who says that it serves, a permit for who serves, and then rest."""
    for mine, evidence, policy in situations(me, automatic):
        decision = decide(mine, evidence, policy, 77)
        assert_fits(mine, evidence, decision)
        assert_rests(decision, evidence, policy)


def assert_fits(mine, evidence, decision):
    """What one decision has to be."""
    after, move = decision.view, decision.transition
    if move is None:
        assert after is mine
        assert decision.forward is None or (evidence.heard and mine.serving != evidence.me)
        assert decision.waiting_for or mine.state in {"normal", "recovering"}
        return
    home = evidence.home or HOME
    assert not newer(mine.epoch, after.epoch, home)
    assert newer(after.epoch, mine.epoch, home) or after == evidence.peer_view or after.cause == LEASE
    assert View.from_json(after.as_json()) == after
    assert move.reason
    assert "{" not in move.reason
    assert (decision.forward, decision.called_off) == (None, "")
    began = after.serving == evidence.me != mine.serving
    assert not began or evidence.permit is None or evidence.permit > 0
    theirs = evidence.peer_view
    if mine.serving != evidence.me and theirs is not None and theirs.serving == evidence.peer and not evidence.now:
        assert not began, "the role is given before it is taken"
        assert move.by == "peer"


def assert_rests(decision, evidence, policy):
    """No two rows undo each other: asked again with what it decided, the table comes to rest."""
    for _ in range(7):
        if decision.transition is None:
            return
        after = decision.view
        met = after.serving not in {None, after.home} if evidence.order == "failover" else after.serving == after.home
        if met or decision.transition.by == "operator":
            evidence = replace(evidence, order=None)
        decision = decide(decision.view, replace(evidence, in_state_for=0.0), policy, 77)
    raise AssertionError(decision)


def test_every_row_decides_somewhere():
    """A row that nothing reaches is a mistake in the order of the rows."""
    reached = set()
    policies = itertools.chain(*(situations(me, automatic) for me in (HOME, BACKUP) for automatic in (True, False)))
    for mine, evidence, policy in policies:
        s = roles.Situation(mine, evidence, policy)
        reached.add(next((number for number, row in enumerate(TABLE, 1) if row.fits(s)), None))
        if len(reached) == len(TABLE) + 1:
            break
    assert reached - {None} == set(range(1, len(TABLE) + 1))


EVIDENCE = st.fixed_dictionaries(
    {
        "heard": st.booleans(),
        "silent_for": st.sampled_from((None, 3.0, 100.0, 200.0)),
        "peer_view": st.sampled_from(THEIRS),
        "started_for": st.sampled_from((1.0, 100.0, 9000.0)),
        "in_state_for": st.sampled_from((1.0, 100.0, 9000.0)),
        "order": st.sampled_from((None, "failover", "failback")),
        "now": st.booleans(),
        "gate_restarted": st.booleans(),
        "gate_completed": st.booleans(),
        "ordered_for": st.sampled_from((1.0, 11.0)),
        "home": st.sampled_from(("", HOME, BACKUP)),
        "unfit": st.sampled_from(("", "it is unwell")),
        "peer_fit": st.booleans(),
        "cut_off": st.booleans(),
        "calls": st.sampled_from((None, 0, 2)),
        "paused": st.booleans(),
        "moves": st.integers(0, 4),
        "permit": st.sampled_from((None, 0.0, 30.0)),
        "leased": st.booleans(),
        "lease_number": st.sampled_from((0, 9)),
    }
)


@settings(deadline=None, max_examples=1000)
@given(
    mine=st.sampled_from(MINE), me=st.sampled_from((HOME, BACKUP)), words=EVIDENCE,
    policy=st.sampled_from(sorted(POLICIES)),
)  # fmt: skip
def test_whatever_comes_together_the_table_holds_its_promises(mine, me, words, policy):
    """What is around a server, all at once and in any mixture."""
    words |= {"peer_view": words["peer_view"] if words["heard"] else None}  # what cannot be is not asked
    words |= {"leased": words["leased"] and bool(words["permit"])}
    evidence = Evidence(me, HOME if me == BACKUP else BACKUP, **words)
    decision = decide(mine, evidence, POLICIES[policy], 77)
    assert_fits(mine, evidence, decision)
    assert_rests(decision, evidence, POLICIES[policy])


# The docs


def test_the_docs_hold_the_table_and_the_diagram_as_the_code_has_them():
    """docs/roles.md is printed from the rows that decide."""
    text = DOCS.read_text(encoding="utf-8")
    assert roles.table_markdown() in text
    assert f"```mermaid\n{roles.diagram_mermaid()}```\n" in text


def test_no_cell_of_the_table_breaks_it():
    """A row is one line of as many cells as the head has."""
    lines = roles.table_markdown().splitlines()
    assert {line.count("|") for line in lines} == {8}
    assert len(lines) == len(TABLE) + 2
    assert all(state in roles.diagram_mermaid() for state in SERVED)

"""The role table: each row by a case that is named for what it prevents, then all situations, then two servers at once."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field, replace
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
    NO_EPOCH,
    ORDER,
    RETURN,
    SILENCE,
    START,
    TIMEOUT,
    Epoch,
    Last,
    View,
    fresh_view,
    newer,
    role,
    top_claim,
)

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
    given_words = {"silent_for": 3.0, "started_for": 9000.0, **words}
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
    assert moved(view("normal"), heard(HOME, order="failover")) == ("resilience", BACKUP, 6, ORDER)


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
CONTACT = ((True, 3.0), (False, None), (False, 200.0))
TIMES = ((1.0, 1.0), (100.0, 100.0), (9000.0, 9000.0))
GATES = ((False, False), (True, False), (True, True))
FAILBACKS = ("graceful", "automatic", "manual")


def situations(me, automatic):
    """Every view, peer's view, contact, time, order, gate and policy that the guards can tell apart."""
    peer = HOME if me == BACKUP else BACKUP
    for mine, theirs, (hears, silent), times, order, gates, failback in itertools.product(
        MINE, THEIRS, CONTACT, TIMES, (None, "failover", "failback"), GATES, FAILBACKS
    ):
        if theirs is not None and not hears:
            continue
        evidence = Evidence(me, peer, hears, silent, theirs, *times, order, *gates)
        yield mine, evidence, Policy(180.0, automatic, 60.0, failback, "completed", 60.0, 3600.0)


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("me", [HOME, BACKUP])
def test_every_situation_is_decided_and_no_epoch_falls(me, automatic):
    """Whatever comes: no exception, no lower epoch, one state and server that fit, and a reason for each move."""
    for mine, evidence, policy in situations(me, automatic):
        view_after, transition, waiting_for, forward = decide(mine, evidence, policy, 77)
        if transition is None:
            assert view_after is mine
            assert forward is None or (evidence.heard and mine.serving != me)
            assert waiting_for or mine.state == "normal" or (mine.state == "recovering" and evidence.gate_restarted)
            continue
        assert newer(view_after.epoch, mine.epoch, HOME) or view_after == evidence.peer_view
        assert not newer(mine.epoch, view_after.epoch, HOME)
        assert View.from_json(view_after.as_json()) == view_after
        assert transition.reason
        assert "{" not in transition.reason
        assert forward is None


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("me", [HOME, BACKUP])
def test_a_server_that_does_not_serve_takes_nothing_from_a_peer_that_says_it_serves(me, automatic):
    """The role is given before it is taken, whatever is ordered, overdue or met."""
    for mine, evidence, policy in situations(me, automatic):
        peer_serves = evidence.peer_view is not None and evidence.peer_view.serving == evidence.peer
        if mine.serving == me or not peer_serves:
            continue
        after = decide(mine, evidence, policy, 77)
        assert after.view.serving != me
        assert after.transition is None or after.transition.by == "peer"


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("me", [HOME, BACKUP])
def test_one_evidence_leads_to_rest_in_a_few_moves(me, automatic):
    """No two rows undo each other: asked again with what it decided, the table comes to rest."""
    for mine, evidence, policy in situations(me, automatic):
        now, known = mine, evidence
        for _ in range(5):
            after, transition, _, _ = decide(now, known, policy, 77)
            if transition is None:
                break
            now = after
            known = replace(known, in_state_for=0.0, order=None if transition.by == "operator" else known.order)
        assert transition is None


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


# Two servers


# With delays of 5 s at most an answer to a start takes 2 * (10 + 5) s, less than start_wait; and a peer that restarts is
# heard again within failover.after.
HEARTBEAT, DELAY = 10, 5
PATIENT = Policy(
    after=80.0, automatic=True, start_wait=31.0, failback="graceful", gate="completed", hold=20.0, timeout=600.0
)


@dataclass
class Mail:
    """A heartbeat: the sender's view, its challenge (start and time), and the newest challenge of the recipient."""

    sender: str
    sent: int
    start: int
    echo: tuple[int, int] | None
    view: View
    order: str | None


@dataclass
class Server:
    """A server as the daemon will be: what it keeps of its peer's mails, and decide() at each tick."""

    name: str
    peer: str
    view: View = field(default_factory=lambda: fresh_view("voicemail", HOME))
    up: bool = True
    start: int = 0
    echoed: int | None = None  # the time of my newest challenge that the peer echoed
    newest: Mail | None = None
    challenge: tuple[int, int] | None = None
    order: str | None = None
    epochs: list[Epoch] = field(default_factory=lambda: [NO_EPOCH])
    entered: int = 0

    def restart(self, now):
        """A new process: the journal remembers, the mails and challenges are gone."""
        self.view = self.view.started(now)
        self.start, self.echoed, self.newest, self.challenge, self.order, self.up = now, None, None, None, None, True
        self.entered = now

    def take(self, mail, now):
        """Keep what a mail says, if it echoes a challenge of this start that is not too old."""
        if self.challenge is None or mail.sent > self.challenge[1]:
            self.challenge = (mail.start, mail.sent)
        if mail.echo is None or mail.echo[0] != self.start or now - mail.echo[1] >= PATIENT.after:
            return
        self.echoed = max(mail.echo[1], self.echoed or 0)
        if self.newest is None or mail.sent >= self.newest.sent:
            self.newest = mail
            self.order = self.order or mail.order

    def evidence(self, now):
        """What is known at `now`."""
        hears = self.echoed is not None and now - self.echoed < PATIENT.after
        theirs = self.newest.view if hears and self.newest else None
        in_step = theirs is not None and theirs.epoch == self.view.epoch
        silent = None if self.echoed is None else float(now - self.echoed)
        since_start, in_state = float(now - self.start), float(now - self.entered)
        return Evidence(
            self.name, self.peer, hears, silent, theirs, since_start, in_state, self.order, in_step, in_step
        )

    def forget_order(self, done):
        """An order is repeated until it is carried out or has nothing to do."""
        receiver = {"failover": BACKUP, "failback": HOME}.get(self.order)
        if done or self.view.serving == receiver or self.view.cause == self.order == "failback":
            self.order = None

    def tick(self, now):
        """Decide until nothing moves; gives the order to be forwarded."""
        for _ in range(6):
            after, transition, _, forward = decide(self.view, self.evidence(now), PATIENT, now)
            if transition is None:
                self.forget_order(False)
                return forward
            if (after.state, after.serving) != (self.view.state, self.view.serving):
                self.entered = now
            self.view = after
            self.forget_order(transition.by == "operator")
            self.epochs.append(after.epoch)
        raise AssertionError(f"{self.name} does not come to rest: {self.view}")


@dataclass
class Pair:
    """Two servers and a network between them that delays, loses and doubles as the schedule says."""

    rng: random.Random
    delay: int
    servers: dict[str, Server] = field(
        default_factory=lambda: {HOME: Server(HOME, BACKUP), BACKUP: Server(BACKUP, HOME)}
    )
    flying: list[tuple[int, Mail]] = field(default_factory=list)
    now: int = 0
    both: list[int] = field(default_factory=list)
    lossy: bool = False
    cut: bool = False

    def run(self, seconds):
        """Let time pass."""
        for _ in range(seconds):
            self.now += 1
            self._deliver()
            for server in self.servers.values():
                if server.up:
                    self._tick(server)
            if len(self.serving()) > 1:
                self.both.append(self.now)

    def serving(self):
        """Who serves by its own view."""
        return [one.name for one in self.servers.values() if one.up and one.view.serving == one.name]

    def at_rest(self):
        """Whether both agree on normal operation."""
        one, other = self.servers.values()
        return one.view == other.view and one.view.state == "normal"

    def _tick(self, server):
        before = server.view
        forward = server.tick(self.now)
        beat = (self.now + (server.name == HOME) * 3) % HEARTBEAT == 0
        if forward or beat or server.view != before:
            mail = Mail(server.name, self.now, server.start, server.challenge, server.view, forward)
            copies = 1 + (self.lossy and self.rng.random() < 0.2)
            self.flying += [(self.now + 1 + self.rng.randrange(self.delay), mail) for _ in range(copies)]

    def _deliver(self):
        due = [mail for at, mail in self.flying if at <= self.now]
        self.flying = [(at, mail) for at, mail in self.flying if at > self.now]
        self.rng.shuffle(due)
        for mail in due:
            receiver = self.servers[BACKUP if mail.sender == HOME else HOME]
            lost = self.cut or (self.lossy and self.rng.random() < 0.3)
            if receiver.up and not lost:
                receiver.take(mail, self.now)


def assert_no_epoch_fell(pair):
    """Each server's epochs only rise."""
    for server in pair.servers.values():
        for one, other in itertools.pairwise(server.epochs):
            assert not newer(one, other, HOME)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32), delay=st.integers(1, DELAY))
def test_while_they_hear_each_other_never_two_serve(seed, delay):
    """Orders, short restarts and mails in any order: the role is given before it is taken, and comes home at last."""
    pair = Pair(random.Random(seed), delay)
    for _ in range(6):
        pair.run(pair.rng.randrange(1, 90))
        server = pair.servers[pair.rng.choice((HOME, BACKUP))]
        action = pair.rng.choice(("failover", "failback", "restart"))
        if action == "restart":
            server.restart(pair.now)
        else:
            server.order = action
    pair.run(120)
    for server in pair.servers.values():
        server.order = None
    if pair.servers[HOME].view.state != "normal":
        pair.servers[HOME].order = "failback"
    pair.run(150)
    assert pair.both == []
    assert pair.at_rest(), [server.view for server in pair.servers.values()]
    assert_no_epoch_fell(pair)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32), delay=st.integers(1, 100))
def test_after_any_faults_one_server_serves_and_the_home_again(seed, delay):
    """Cuts, losses, doubles, crashes and delays beyond failover.after: when they end, so does every split."""
    pair = Pair(random.Random(seed), delay, lossy=True)
    for _ in range(5):
        pair.cut = pair.rng.random() < 0.4
        server = pair.servers[pair.rng.choice((HOME, BACKUP))]
        if server.up and pair.rng.random() < 0.5:
            server.up = False
        elif not server.up:
            server.restart(pair.now)
        pair.run(pair.rng.randrange(1, 200))
    pair.cut, pair.lossy, pair.delay, pair.flying = False, False, 3, []
    for server in pair.servers.values():
        if not server.up:
            server.restart(pair.now)
    pair.run(250)
    pair.both.clear()
    pair.run(150)
    assert pair.both == []
    assert pair.at_rest(), [server.view for server in pair.servers.values()]
    assert_no_epoch_fell(pair)


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

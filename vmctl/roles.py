"""Who serves: a table from the state of a service and what is known to the next state, with the reason in words.

The rows of TABLE are tried in order and the first that fits decides; the docs print the same rows. Whoever makes a
transition sets an epoch above all that it knows. While both servers hear each other only the serving one makes
transitions, and the other adopts them: the role is given away before it is taken. Nothing here reads a clock or a
disk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from vmctl.errors import NothingToFailBack, NotYet, PeerUnreachable
from vmctl.evidence import FOR_EVER, Evidence, Order, Policy, Situation, receiver
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
    STATES,
    TIMEOUT,
    UNWELL,
    Epoch,
    State,
    View,
)
from vmctl.waiting import waiting

if TYPE_CHECKING:
    from collections.abc import Callable


class Transition(NamedTuple):
    """One move, to be journalled before it is acted on. `by` is `vmctl`, `peer` (adopted) or `operator`."""

    before: View
    after: View
    reason: str
    by: Literal["vmctl", "peer", "operator"]


class Decision(NamedTuple):
    """What follows from the evidence.

    `waiting_for` says in words what a service that is not in normal operation waits for. `forward` is an order to be
    passed on to the peer, because only the server that serves can give the role away. `called_off` says why an order
    is void. `wants` tells that this server serves, or would if the arbiter or the peer let it. `due` is in how many
    seconds the passing of time alone may bring the next transition.
    """

    view: View
    transition: Transition | None
    waiting_for: tuple[str, ...]
    forward: Order | None
    called_off: str = ""
    wants: bool = False
    due: float = FOR_EVER


Who = Literal["serving", "other", "either"]
Target = Literal[
    "normal", "resilience", "recovering", "mine", "other", "same", "home", "theirs", "aside", "forward", "off"
]

KEPT: Final = "kept"
SERVED: Final[tuple[State, ...]] = ("normal", "resilience", "recovering")
AWAY: Final[tuple[State, ...]] = ("resilience", "recovering")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    `to` is a state, or `mine` (normal at the home, resilience at the backup: this server takes the service), `other`
    (likewise, for the peer: this server gives it), `same` (only epoch and cause change), `home` (the home changes, and
    who serves goes on), `theirs` (the peer's view as it is), `aside` (nobody serves until this server may again),
    `forward` (nothing but to pass the order on), `off` (nothing but to call the order off).
    """

    states: tuple[State, ...]
    who: Who
    when: str
    guard: Callable[[Situation], bool]
    to: Target
    cause: str
    reason: str
    comment: str = ""
    by: Literal["vmctl", "peer", "operator"] = "vmctl"

    def fits(self, s: Situation) -> bool:
        """Whether this row decides."""
        if s.view.state not in self.states:
            return False
        return (self.who == "either" or (self.who == "serving") == s.serving) and self.guard(s)


TABLE: Final[tuple[Row, ...]] = (
    # A server that may not serve any longer.
    Row(
        SERVED, "serving", "an arbiter is asked, and neither its lease nor the peer's promise counts any longer",
        lambda s: not s.may,
        "aside", LEASE, "the arbiter's lease ran out, and {peer} has not promised to take nothing",
        "Before the lease ends at the arbiter: then nobody serves, rather than two.",
    ),
    # A server that starts.
    Row(
        ("starting",), "either", "the peer serves, at an epoch not older than the one known here",
        lambda s: s.peer_serves and not s.peer_older,
        "theirs", KEPT, "{peer} serves", by="peer",
    ),
    Row(
        ("starting",), "either", "the peer is heard and does not serve; of both journals the newest epoch names this server, "
        "which is not fit to serve while the peer is, and there is no pause",
        lambda s: s.said is not None and not s.peer_serves and s.claimed_by_me and s.better_there and not s.seen.paused,
        "other", UNWELL, "{me} was the last to serve, but {unfit}", "It is given by the one that both know as the last.",
    ),
    Row(
        ("starting",), "either", "the peer is heard and does not serve; of both journals the newest epoch names this server",
        lambda s: s.said is not None and not s.peer_serves and s.claimed_by_me and s.may,
        "mine", KEPT, "{me} was the last to serve, as both servers know",
        "Both servers decide alike, whichever of them starts.",
    ),
    Row(
        ("starting",), "either", "the peer is heard, neither server has ever served, and this one is the home",
        lambda s: s.said is not None and s.claim is None and s.at_home and s.may,
        "mine", START, "nobody has served before and {me} is the home",
    ),
    Row(
        ("starting",), "either",
        "no answer for `failover.start_wait`, or the arbiter's lease is one and begins the epoch after the one known here; by "
        "its own journal this server served last",
        lambda s: s.said is None and s.claimed_by_me and s.may and (s.waited or s.as_it_was),
        "mine", KEPT, "{unanswered}, and {me} was the last to serve",
        "Shorter than the peer's `failover.after`, so that a restart is over before the peer takes the service.",
    ),
    Row(
        ("starting",), "either",
        "no answer for `failover.start_wait` and `failover.after`; failover is automatic, or this is the home and nobody "
        "is known to have served",
        lambda s: s.said is None
        and s.seen.started_for >= s.policy.start_wait + s.policy.after
        and (s.takes_over or (s.at_home and s.claim is None and s.may)),
        "mine", SILENCE, "{unheard}, and nobody serves",
        "Its failover clock starts when the wait for an answer ends.",
    ),
    # What the peer has made or knows.
    Row(
        SERVED, "serving", "the peer serves too, at a newer epoch", lambda s: s.peer_newer and s.peer_serves,
        "theirs", KEPT, "a split is over: both servers served, and {peer} has the newer epoch",
        "The stores merge while the winner serves.", by="peer",
    ),
    Row(
        SERVED, "either", "the peer has a newer epoch, and somebody serves in it",
        lambda s: s.peer_newer and not s.peer_starts and (s.peer_serves or s.may),
        "theirs", KEPT, "{peer} decided so", "The way in which a role that was given is taken.", by="peer",
    ),
    Row(
        SERVED, "serving", "the peer starts and knows a newer epoch", lambda s: s.peer_newer and s.peer_starts,
        "same", KEPT, "{peer} starts and knows a newer epoch, but {me} serves",
        "Who serves goes on; the server that starts adopts no older epoch than its own.",
    ),
    Row(
        SERVED, "other", "the peer starts, and of both journals the newest epoch names this server",
        lambda s: s.peer_starts and s.claimed_by_me and s.may,
        "mine", KEPT, "{peer} gave the service to {me} before it was started again",
        "A handover whose giver fell before it was taken.",
    ),
    Row(
        SERVED, "serving", "the mode was changed, and with it the home", lambda s: s.moved_home,
        "home", MODE, "{new_home} is the home in the present mode",
        "Who serves goes on. Where that is not the home, the service goes home as after any failure, without its hold-down.",
    ),
    # A person's order, typed at the server that is to serve.
    Row(
        STATES, "other", "an order moves the role here, and the peer is not heard (at a start: for `failover.start_wait`), or "
        "the order is for now and the peer misses heartbeats",
        lambda s: s.forced and (s.view.state != "starting" or s.waited),
        "mine", FORCED, "ordered while {peer} could not be heard",
        "The gate is waived: the peer may be dead.", by="operator",
    ),
    Row(
        SERVED, "other", "an order moves the role here, and the peer is heard", lambda s: s.ordered_here and s.seen.heard,
        "forward", KEPT, "", "Who serves gives the role away; nobody takes it from a server that is heard.",
    ),
    # The server that serves is silent, or not fit to.
    Row(
        ("normal",), "other", "the home is silent for `failover.after`, or says nothing of the service and the arbiter lends it "
        "here, and this server takes over",
        lambda s: (s.silent or s.mute) and s.takes_over,
        "resilience", SILENCE, "{unheard}",
        "It takes over by itself if failover is automatic, it is fit and not cut off, there is no pause, and the service has "
        "not moved too often.",
    ),
    Row(
        AWAY, "other", "the backup is silent for `failover.after`, or says nothing of the service and the arbiter lends it "
        "here, and this server takes over",
        lambda s: (s.silent or s.mute) and s.takes_over,
        "normal", SILENCE, "{unheard}; the gate is waived, as {backup} cannot serve",
        "The gate binds only a move away from a server that can still serve.",
    ),
    Row(
        ("normal",), "serving", "the home is not fit to serve, and the backup is",
        lambda s: s.better_there and s.policy.automatic and s.free,
        "resilience", UNWELL, "{unfit}",
    ),
    Row(
        AWAY, "serving", "the backup is not fit to serve, and the home is",
        lambda s: s.better_there and s.policy.automatic and s.free,
        "normal", UNWELL, "{unfit}; the gate is waived, as {backup} cannot serve",
    ),
    # The server that serves.
    Row(
        ("normal",), "serving", "`failover` is ordered, the backup is heard, and holds all that it has to",
        lambda s: s.seen.order == "failover" and s.seen.heard and s.seen.gate_completed,
        "resilience", ORDER, "failover was ordered while both servers were well", by="operator",
    ),
    Row(
        ("normal",), "serving", "`failover` is ordered, and `handover.drain` is over before the backup holds all that it has to",
        lambda s: s.seen.order == "failover" and s.seen.ordered_for >= s.policy.drain,
        "off", ORDER, "the handover was called off: after {drain} {backup} still lacked something", by="operator",
    ),
    Row(
        ("resilience",), "serving", "`failback` is ordered, and the home is heard",
        lambda s: s.seen.order == "failback" and s.seen.heard,
        "recovering", FAILBACK, "failback was ordered", by="operator",
    ),
    Row(
        ("resilience",), "serving", "the home is heard; failback was ordered before, or the mode was changed",
        lambda s: s.seen.heard and s.view.cause in {FAILBACK, MODE},
        "recovering", FAILBACK, "a person's order to go home still stands",
    ),
    Row(
        ("resilience",), "serving",
        "the home has answered what it was asked in this state, and is fit; the cause is not a person's order; there is no "
        "pause",
        lambda s: s.returned and s.seen.peer_fit and s.view.cause != ORDER and not s.seen.paused,
        "recovering", RETURN, "{home} is heard again",
        "What was under way when the home was lost does not bring it back. What a person moved while both servers were well "
        "stays until a person orders it back.",
    ),
    Row(
        ("resilience",), "serving", "the home, moved away from by order, is silent for `failover.after`",
        lambda s: s.view.cause == ORDER and s.silent,
        "same", SILENCE, "{home} has not been heard for {quiet}", "When it returns it recovers as after any failure.",
    ),
    Row(
        ("recovering",), "serving", "the home is silent for `failover.after`", lambda s: s.silent,
        "resilience", SILENCE, "{home} has not been heard for {quiet}",
    ),
    Row(
        ("recovering",), "serving", "the home is not fit to serve, and did not go there by order",
        lambda s: s.seen.heard and not s.seen.peer_fit and s.view.cause != FAILBACK,
        "resilience", UNWELL, "{home} is not fit to serve", "The hold-down begins anew.",
    ),
    Row(
        ("recovering",), "serving", "`failback` is ordered",
        lambda s: s.seen.order == "failback" and s.view.cause != FAILBACK,
        "same", FAILBACK, "failback was ordered; the gate still holds",
        "An order waives the hold-down and the policy `manual`, never the gate.", by="operator",
    ),
    Row(
        ("recovering",), "serving", "the gate is met, and failback was ordered",
        lambda s: s.gate and s.view.cause == FAILBACK,
        "normal", FAILBACK, "failback was ordered, and the gate is met",
    ),
    Row(
        ("recovering",), "serving",
        "the gate is met, no call is in progress, `failback.hold` is over, the policy is not `manual`, and the service may "
        "go home by itself",
        lambda s: s.gate and s.calm and s.policy.failback != "manual" and s.free_to_return
        and s.seen.in_state_for >= s.policy.hold,
        "normal", GATE, "{home} has been back for {held}, and the gate is met",
        "A move home leaves one more for a failover after it.",
    ),
    Row(
        ("recovering",), "serving",
        "the policy is `automatic`, `failback.timeout` is over, and synchronization has at least restarted",
        lambda s: s.policy.failback == "automatic"
        and s.seen.heard
        and s.seen.peer_fit
        and s.seen.gate_restarted
        and s.free_to_return
        and s.seen.in_state_for >= max(s.policy.timeout, s.policy.hold),
        "normal", TIMEOUT, "{home} has been back for {held}: failback.timeout ended before the gate was met and calls had ended",
    ),
)  # fmt: skip


def decide(view: View, evidence: Evidence, policy: Policy, now: int) -> Decision:
    """What becomes of a service by what is known; `now` is the wall time in microseconds, for the view's `since`.

    At most one row acts: ask again with the new view until there is no transition. Whoever carries out an order
    (`by` is `operator`) or calls it off takes it out of the evidence. Never raises.
    """
    situation = Situation(view, evidence, policy)
    row = _row(situation)
    if row is None or row.to in {"forward", "off"}:
        off = row.reason.format(**situation.names) if row is not None and row.to == "off" else ""
        forward = evidence.order if row is not None and row.to == "forward" else None
        return Decision(view, None, waiting(situation), forward, off, wants(view, evidence, policy, now), situation.due)
    after = _becomes(row, situation, now)
    transition = Transition(view, after, row.reason.format(**situation.names), row.by)
    in_state_for = evidence.in_state_for if row.to == "same" else 0.0
    seen = replace(evidence, in_state_for=in_state_for)
    then = Situation(after, seen, policy)
    return Decision(after, transition, waiting(then), None, "", wants(after, seen, policy, now), then.due)


def wants(view: View, evidence: Evidence, policy: Policy, now: int) -> bool:
    """Whether this server serves, or would take the service at once if the arbiter or the peer let it."""
    if view.serving == evidence.me or evidence.permit is None:
        return view.serving == evidence.me
    allowed = Situation(view, replace(evidence, permit=FOR_EVER, leased=True), policy)
    row = _row(allowed)
    return row is not None and row.to not in {"forward", "off"} and _becomes(row, allowed, now).serving == evidence.me


def _row(situation: Situation) -> Row | None:
    return next((row for row in TABLE if row.fits(situation)), None)


def check_order(view: View, evidence: Evidence, order: Order) -> Literal["already"] | None:
    """Whether a person's order can be taken; "already" when a failover has nothing to do.

    Raises NothingToFailBack when the home serves, PeerUnreachable when the server that is to serve cannot be heard
    from here, NotYet when both servers are still settling who serves.
    """
    to = receiver(order, view, evidence)
    if view.serving == to:
        if order == "failover":
            return "already"
        raise NothingToFailBack(f"{view.service} is served by its home {view.home} already")
    if to == evidence.peer and not evidence.heard:
        raise PeerUnreachable(
            f"{view.service} cannot move to {to}: {to} is not heard",
            why="a role is given only to a server that answers; otherwise nobody might serve",
            hint=f"start 'vmctl serve' on {to}; or, when {evidence.me} is to be shut down, give the order there",
        )
    if view.state == "starting" and evidence.heard:
        raise NotYet(
            f"{view.service} is starting: {evidence.me} and {evidence.peer} are settling who serves it",
            hint="give the order again when 'vmctl status' names the server that serves",
        )
    return None


def table_markdown() -> str:
    """The table for the docs: a numbered row of Markdown for each Row, in the order in which they are tried."""
    lines = ["| | in | decided by | when | becomes | cause | note |", "|--:|---|---|---|---|---|---|"]
    for number, row in enumerate(TABLE, 1):
        states = "any" if row.states == STATES else ", ".join(row.states)
        who = {"serving": "who serves", "other": "who does not serve", "either": "each server"}[row.who]
        who = "the server that starts" if row.states == ("starting",) else who
        cells = (str(number), states, who, row.when, _TARGETS.get(row.to, row.to), _cause(row), row.comment)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def diagram_mermaid() -> str:
    """The rows that change the state, as a Mermaid state diagram; each arrow bears the number of its row."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for number, row in enumerate(TABLE, 1):
        for state in row.states:
            for target in _arrow_ends(row, state):
                arrows.setdefault((state, target), []).append(str(number))
    lines = [f"    {state} --> {target} : {', '.join(rows)}" for (state, target), rows in arrows.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> starting", *lines]) + "\n"


_TARGETS: Final = {
    "mine": "normal at the home, resilience at the backup",
    "other": "normal at the home, resilience at the backup, at the peer",
    "same": "(the same, at a new epoch)",
    "home": "normal at the home, resilience at the backup, with the new home",
    "theirs": "(as the peer's view says)",
    "aside": "starting",
    "forward": "(the order is forwarded to the peer)",
    "off": "(the order is called off)",
}


def _becomes(row: Row, s: Situation, now: int) -> View:
    if row.to == "theirs" and s.said is not None:
        return s.said
    if row.to == "aside":
        return s.view.started(now, LEASE)
    number = max(s.view.epoch.number, s.said.epoch.number if s.said else 0) + 1
    epoch = Epoch(max(number, s.seen.lease_number), s.seen.me)
    if row.to == "same":
        return replace(s.view, epoch=epoch, cause=s.view.cause if row.cause == KEPT else row.cause)
    cause = row.cause if row.cause != KEPT else s.claim.cause if s.claim else START
    home = s.home if row.to == "home" else s.view.home
    serving = {"mine": s.seen.me, "home": s.seen.me, "other": s.seen.peer, "normal": home}.get(row.to, s.backup)
    state: State = "normal" if serving == home else "recovering" if row.to == "recovering" else "resilience"
    return View(s.view.service, home, serving, state, epoch, now, cause)


def _cause(row: Row) -> str:
    return "" if row.to in {"theirs", "forward", "off"} else "(kept)" if row.cause == KEPT else f"`{row.cause}`"


def _arrow_ends(row: Row, state: State) -> tuple[str, ...]:
    if row.to in {"mine", "other"}:
        return {"starting": ("normal", "resilience"), "normal": ("resilience",)}.get(state, ("normal",))
    if row.to == "home":
        return {"normal": ("resilience",)}.get(state, ("normal",))
    if row.to == "aside":
        return ("starting",)
    return () if row.to in {"same", "theirs", "forward", "off"} else (row.to,)

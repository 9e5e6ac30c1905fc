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
from vmctl.evidence import Evidence, Order, Policy, Situation, waiting
from vmctl.view import (
    FAILBACK,
    FORCED,
    GATE,
    ORDER,
    RETURN,
    SILENCE,
    START,
    STATES,
    TIMEOUT,
    Epoch,
    State,
    View,
)

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
    passed on to the peer, because only the server that serves can give the role away.
    """

    view: View
    transition: Transition | None
    waiting_for: tuple[str, ...]
    forward: Order | None


Who = Literal["serving", "other", "either"]
Target = Literal["normal", "resilience", "recovering", "mine", "same", "theirs", "forward"]

KEPT: Final = "kept"
SERVED: Final[tuple[State, ...]] = ("normal", "resilience", "recovering")
AWAY: Final[tuple[State, ...]] = ("resilience", "recovering")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    `to` is a state, or `mine` (normal at the home, resilience at the backup: this server takes the service), `same`
    (only epoch and cause change), `theirs` (the peer's view as it is), `forward` (nothing but to pass the order on).
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
        mine = self.who == "either" or (self.who == "serving") == s.serving
        return s.view.state in self.states and mine and self.guard(s)


TABLE: Final[tuple[Row, ...]] = (
    # A server that starts.
    Row(
        ("starting",), "either", "the peer serves, at an epoch not older than the one known here",
        lambda s: s.peer_serves and not s.peer_older,
        "theirs", KEPT, "{peer} serves", by="peer",
    ),
    Row(
        ("starting",), "either", "the peer is heard and does not serve; of both journals the newest epoch names this server",
        lambda s: s.said is not None and not s.peer_serves and s.claimed_by_me,
        "mine", KEPT, "{me} was the last to serve, as both servers know",
        "Both servers decide alike, whichever of them starts.",
    ),
    Row(
        ("starting",), "either", "the peer is heard, neither server has ever served, and this one is the home",
        lambda s: s.said is not None and s.claim is None and s.at_home,
        "mine", START, "nobody has served before and {me} is the home",
    ),
    Row(
        ("starting",), "either", "no answer for `failover.start_wait`, and by its own journal this server served last",
        lambda s: s.said is None and s.claimed_by_me and s.waited,
        "mine", KEPT, "{peer} did not answer, and {me} was the last to serve",
        "Shorter than the peer's `failover.after`, so that a restart is over before the peer takes the service.",
    ),
    Row(
        ("starting",), "either",
        "no answer for `failover.start_wait` and `failover.after`; failover is automatic, or this is the home and nobody "
        "is known to have served",
        lambda s: s.said is None
        and s.seen.started_for >= s.policy.start_wait + s.policy.after
        and (s.policy.automatic or (s.at_home and s.claim is None)),
        "mine", SILENCE, "{peer} has not been heard for {quiet} and nobody serves",
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
        lambda s: s.peer_newer and not s.peer_starts,
        "theirs", KEPT, "{peer} decided so", "The way in which a role that was given is taken.", by="peer",
    ),
    Row(
        SERVED, "serving", "the peer starts and knows a newer epoch", lambda s: s.peer_newer and s.peer_starts,
        "same", KEPT, "{peer} starts and knows a newer epoch, but {me} serves",
        "Who serves goes on; the server that starts adopts no older epoch than its own.",
    ),
    Row(
        SERVED, "other", "the peer starts, and of both journals the newest epoch names this server",
        lambda s: s.peer_starts and s.claimed_by_me,
        "mine", KEPT, "{peer} gave the service to {me} before it was started again",
        "A handover whose giver fell before it was taken.",
    ),
    # A person's order, typed at the server that is to serve.
    Row(
        SERVED, "other", "an order moves the role here, and the peer is heard", lambda s: s.ordered_here and s.seen.heard,
        "forward", KEPT, "", "Who serves gives the role away; nobody takes it from a server that is heard.",
    ),
    Row(
        STATES, "other", "an order moves the role here, and the peer is not heard (at a start: for `failover.start_wait`)",
        lambda s: s.ordered_here and not s.seen.heard and (s.view.state != "starting" or s.waited),
        "mine", FORCED, "ordered while {peer} could not be heard",
        "The gate is waived: the peer may be dead.", by="operator",
    ),
    # The server that serves is silent.
    Row(
        ("normal",), "other", "the home is silent for `failover.after`, and failover is automatic",
        lambda s: s.silent and s.policy.automatic,
        "resilience", SILENCE, "{home} has not been heard for {quiet}",
    ),
    Row(
        AWAY, "other", "the backup is silent for `failover.after`, and failover is automatic",
        lambda s: s.silent and s.policy.automatic,
        "normal", SILENCE, "{backup} has not been heard for {quiet}; the gate is waived, as {backup} cannot serve",
        "The gate binds only a move away from a server that can still serve.",
    ),
    # The server that serves.
    Row(
        ("normal",), "serving", "`failover` is ordered, and the backup is heard",
        lambda s: s.seen.order == "failover" and s.seen.heard,
        "resilience", ORDER, "failover was ordered while both servers were well", by="operator",
    ),
    Row(
        ("resilience",), "serving", "`failback` is ordered, and the home is heard",
        lambda s: s.seen.order == "failback" and s.seen.heard,
        "recovering", FAILBACK, "failback was ordered", by="operator",
    ),
    Row(
        ("resilience",), "serving", "the home is heard; failback was ordered before",
        lambda s: s.seen.heard and s.view.cause == FAILBACK,
        "recovering", FAILBACK, "failback was ordered before {me} was started again",
    ),
    Row(
        ("resilience",), "serving", "the home is heard; the cause is not a person's order",
        lambda s: s.seen.heard and s.view.cause != ORDER,
        "recovering", RETURN, "{home} is heard again",
        "What a person moved while both servers were well stays until a person orders it back.",
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
        ("recovering",), "serving", "the gate is met, `failback.hold` is over, and the policy is not `manual`",
        lambda s: s.gate and s.policy.failback != "manual" and s.seen.in_state_for >= s.policy.hold,
        "normal", GATE, "{home} has been back for {held}, and the gate is met",
    ),
    Row(
        ("recovering",), "serving",
        "the policy is `automatic`, `failback.timeout` is over, and synchronization has at least restarted",
        lambda s: s.policy.failback == "automatic"
        and s.seen.heard
        and s.seen.gate_restarted
        and s.seen.in_state_for >= max(s.policy.timeout, s.policy.hold),
        "normal", TIMEOUT, "{home} has been back for {held}: failback.timeout ended before the gate was met",
    ),
)  # fmt: skip


def decide(view: View, evidence: Evidence, policy: Policy, now: int) -> Decision:
    """What becomes of a service by what is known; `now` is the wall time in microseconds, for the view's `since`.

    At most one row acts: ask again with the new view until there is no transition. Whoever carries out an order
    (`by` is `operator`) takes it out of the evidence. Never raises.
    """
    situation = Situation(view, evidence, policy)
    row = next((row for row in TABLE if row.fits(situation)), None)
    if row is None or row.to == "forward":
        return Decision(view, None, waiting(situation), evidence.order if row else None)
    after = _becomes(row, situation, now)
    transition = Transition(view, after, row.reason.format(**situation.names), row.by)
    in_state_for = evidence.in_state_for if row.to == "same" else 0.0
    then = Situation(after, replace(evidence, in_state_for=in_state_for), policy)
    return Decision(after, transition, waiting(then), None)


def check_order(view: View, evidence: Evidence, order: Order) -> Literal["already"] | None:
    """Whether a person's order can be taken; "already" when a failover has nothing to do.

    Raises NothingToFailBack when the home serves, PeerUnreachable when the server that is to serve cannot be heard
    from here, NotYet when both servers are still settling who serves.
    """
    backup = evidence.peer if evidence.me == view.home else evidence.me
    receiver = backup if order == "failover" else view.home
    if view.serving == receiver:
        if order == "failover":
            return "already"
        raise NothingToFailBack(f"{view.service} is served by its home {view.home} already")
    if receiver == evidence.peer and not evidence.heard:
        raise PeerUnreachable(
            f"{view.service} cannot move to {receiver}: {receiver} is not heard",
            why="a role is given only to a server that answers; otherwise nobody might serve",
            hint=f"start 'vmctl serve' on {receiver}; or, when {evidence.me} is to be shut down, give the order there",
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
    "same": "(the same, at a new epoch)",
    "theirs": "(as the peer's view says)",
    "forward": "(the order is forwarded to the peer)",
}


def _becomes(row: Row, s: Situation, now: int) -> View:
    if row.to == "theirs" and s.said is not None:
        return s.said
    epoch = Epoch(max(s.view.epoch.number, s.said.epoch.number if s.said else 0) + 1, s.seen.me)
    if row.to == "same":
        return replace(s.view, epoch=epoch, cause=s.view.cause if row.cause == KEPT else row.cause)
    state: State = "normal" if row.to == "normal" or (row.to == "mine" and s.at_home) else "resilience"
    state = "recovering" if row.to == "recovering" else state
    serving = s.view.home if state == "normal" else s.backup
    cause = row.cause if row.cause != KEPT else s.claim.cause if s.claim else START
    return View(s.view.service, s.view.home, serving, state, epoch, now, cause)


def _cause(row: Row) -> str:
    return "" if row.to in {"theirs", "forward"} else "(kept)" if row.cause == KEPT else f"`{row.cause}`"


def _arrow_ends(row: Row, state: State) -> tuple[str, ...]:
    if row.to == "mine":
        return {"starting": ("normal", "resilience"), "normal": ("resilience",)}.get(state, ("normal",))
    return () if row.to in {"same", "theirs", "forward"} else (row.to,)

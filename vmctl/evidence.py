"""What one server knows of one service at one moment, what may be asked of that, and what the service waits for.

Nothing here reads a clock or a disk: times come in as seconds that have passed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from vmctl.clock import duration
from vmctl.view import FAILBACK, ORDER, Claim, View, newer, top_claim

Order = Literal["failover", "failback"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that one server knows about one service at one moment. Times are seconds that count through suspend.

    `heard`: a mail is held that echoes a challenge of this start, not older than failover.after. `silent_for` is the
    time since the peer was last heard, None when it was never heard since this start. `peer_view` comes from such a
    mail only. `in_state_for` counts from the view's `since`. `order` is a person's, given here or forwarded by the
    peer. `waiting_gate` says in words what the gate still lacks.
    """

    me: str
    peer: str
    heard: bool = False
    silent_for: float | None = None
    peer_view: View | None = None
    started_for: float = 0.0
    in_state_for: float = 0.0
    order: Order | None = None
    gate_restarted: bool = False
    gate_completed: bool = False
    waiting_gate: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The evidence as the journal keeps it."""
        view = None if self.peer_view is None else self.peer_view.as_json()
        return {**asdict(replace(self, peer_view=None)), "waiting_gate": list(self.waiting_gate), "peer_view": view}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the config says about failover and failback; times in seconds."""

    after: float
    automatic: bool
    start_wait: float
    failback: Literal["graceful", "automatic", "manual"]
    gate: Literal["restarted", "completed"]
    hold: float
    timeout: float


@dataclass(frozen=True, slots=True)
class Situation:
    """A view and the evidence, as the rows ask about them."""

    view: View
    seen: Evidence
    policy: Policy

    @property
    def backup(self) -> str:
        """The server that is not the home."""
        return self.seen.peer if self.at_home else self.seen.me

    @property
    def at_home(self) -> bool:
        """Whether this server is the service's home."""
        return self.seen.me == self.view.home

    @property
    def serving(self) -> bool:
        """Whether this server serves."""
        return self.view.serving == self.seen.me

    @property
    def said(self) -> View | None:
        """What the peer says of this service; None when it is not heard or its config has another home for it."""
        theirs, mine = self.seen.peer_view, self.view
        if theirs is None or not self.seen.heard or (theirs.service, theirs.home) != (mine.service, mine.home):
            return None
        return theirs if theirs.serving in {None, self.seen.me, self.seen.peer} else None

    @property
    def peer_serves(self) -> bool:
        """Whether the peer says that it serves."""
        return self.said is not None and self.said.serving == self.seen.peer

    @property
    def peer_starts(self) -> bool:
        """Whether the peer says that it starts."""
        return self.said is not None and self.said.state == "starting"

    @property
    def peer_newer(self) -> bool:
        """Whether the peer knows a newer epoch."""
        return self.said is not None and newer(self.said.epoch, self.view.epoch, self.view.home)

    @property
    def peer_older(self) -> bool:
        """Whether the peer does not know the newest epoch yet."""
        return self.said is not None and newer(self.view.epoch, self.said.epoch, self.view.home)

    @property
    def claim(self) -> Claim | None:
        """Of what both know, who serves or served last."""
        return top_claim(self.view.claim, self.said.claim if self.said else None, self.view.home)

    @property
    def claimed_by_me(self) -> bool:
        """Whether this server serves or served last."""
        return self.claim is not None and self.claim.server == self.seen.me

    @property
    def quiet_for(self) -> float:
        """Seconds since the peer was heard, or since this start."""
        return self.seen.started_for if self.seen.silent_for is None else self.seen.silent_for

    @property
    def waited(self) -> bool:
        """Whether the time is over in which a server that starts only asks."""
        return self.seen.started_for >= self.policy.start_wait

    @property
    def silent(self) -> bool:
        """Whether the peer was not heard for failover.after."""
        return not self.seen.heard and self.quiet_for >= self.policy.after

    @property
    def ordered_here(self) -> bool:
        """Whether a person's order moves the role to this server."""
        receivers = {"failover": self.backup, "failback": self.view.home}
        return not self.serving and receivers.get(self.seen.order or "") == self.seen.me

    @property
    def gate(self) -> bool:
        """Whether synchronization is as far as the policy asks before the role goes home."""
        return self.seen.heard and (
            self.seen.gate_completed if self.policy.gate == "completed" else self.seen.gate_restarted
        )

    @property
    def names(self) -> dict[str, str]:
        """What the reasons speak of."""
        return {
            "me": self.seen.me,
            "peer": self.seen.peer,
            "home": self.view.home,
            "backup": self.backup,
            "quiet": duration(self.quiet_for),
            "held": duration(self.seen.in_state_for),
        }


def waiting(s: Situation) -> tuple[str, ...]:
    """What a service that is not in normal operation waits for, and for how long where that is known."""
    if s.view.state == "starting":
        return _waiting_at_start(s)
    if not s.serving:
        return _waiting_aside(s)
    if s.view.state == "resilience":
        if s.view.cause == ORDER:
            return ("a person's 'vmctl failback', as a person ordered it here",)
        return (f"{s.view.home} to be heard again",)
    return () if s.view.state == "normal" else _waiting_to_go_home(s)


def _waiting_at_start(s: Situation) -> tuple[str, ...]:
    if s.said is not None:
        if s.peer_serves:
            return (f"{s.seen.peer} to confirm that it serves, at an epoch newer than the one known here",)
        return (f"{s.seen.peer} to take the service, as it was the last to serve or is the home",)
    answer = f"an answer from {s.seen.peer}"
    if s.seen.heard:
        answer = f"{s.seen.peer} to name this service: compare vmctl.yaml on both servers"
    limit = s.policy.start_wait if s.claimed_by_me else s.policy.start_wait + s.policy.after
    if s.claimed_by_me or s.policy.automatic or (s.at_home and s.claim is None):
        return (f"{answer}; without one {s.seen.me} serves in {_left(limit, s.seen.started_for)}",)
    return (f"{answer}, or a person's 'vmctl {'failback' if s.at_home else 'failover'}' on {s.seen.me}",)


def _waiting_aside(s: Situation) -> tuple[str, ...]:
    """What a server waits for that knows that the other one serves."""
    if s.seen.heard:
        return () if s.view.state == "normal" else (f"{s.view.serving} to give the service back",)
    order = "failback" if s.at_home else "failover"
    if s.policy.automatic:
        return (f"{s.seen.peer} to be heard; {s.seen.me} takes the service in {_left(s.policy.after, s.quiet_for)}",)
    return (f"{s.seen.peer} to be heard, or a person's 'vmctl {order}' on {s.seen.me}",)


def _waiting_to_go_home(s: Situation) -> tuple[str, ...]:
    if not s.seen.heard:
        return (f"{s.view.home} to be heard again",)
    words = () if s.gate else (s.seen.waiting_gate or (f"synchronization to be {s.policy.gate}",))
    if s.view.cause == FAILBACK:
        return words
    if s.policy.failback == "manual":
        return (*words, "a person's 'vmctl failback'")
    if s.seen.in_state_for < s.policy.hold:
        words = (*words, f"the hold-down, for another {_left(s.policy.hold, s.seen.in_state_for)}")
    if s.policy.failback == "automatic" and not s.gate:
        words = (*words, f"or for failback.timeout, in {_left(s.policy.timeout, s.seen.in_state_for)}")
    return words


def _left(limit: float, passed: float) -> str:
    return duration(max(0.0, limit - passed))

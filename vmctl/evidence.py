"""What one server knows of one service at one moment, and what may be asked of that.

Nothing here reads a clock or a disk: times come in as seconds that have passed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from vmctl.clock import duration
from vmctl.view import Claim, View, newer, top_claim

Order = Literal["failover", "failback"]

FOR_EVER: Final = 1e12  # seconds
MISSED: Final = 3  # heartbeats after which a silent peer may be taken for dead, on a person's word


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that one server knows about one service at one moment. Times are seconds that count through suspend.

    `heard`: a mail is held that echoes a challenge of this start, not older than failover.after. `silent_for` is the
    time since the peer was last heard, None when it was never heard since this start. `peer_view` comes from such a
    mail only, and so does `peer_fit`. `in_state_for` counts from the view's `since`. `order` is a person's, given here
    or forwarded by the peer, `ordered_for` its age; `now` takes the service from a peer that is silent for less than
    failover.after. `home` is the service's home in the present mode; "" for that of the view. `waiting_gate` says in
    words what the gate, or the drain of an order, still lacks.

    `unfit` says why this server is not fit to serve, "" where it is; `cut_off` that it reaches none of its own
    targets. `calls` are those in progress here, None if that is not known. `moves` counts how often the service moved
    by itself within the last hour. `permit` is for how long this server may serve by the arbiter's lease or the
    peer's promise, None where no arbiter is asked; `leased` tells that it is the lease, and `lease_number` is the
    number of the epoch that the arbiter wrote with it.
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
    ordered_for: float = 0.0
    now: bool = False
    home: str = ""
    unfit: str = ""
    peer_fit: bool = True
    cut_off: bool = False
    calls: int | None = 0
    paused: bool = False
    moves: int = 0
    permit: float | None = None
    leased: bool = False
    lease_number: int = 0

    def as_json(self) -> dict[str, Any]:
        """The evidence as the journal keeps it."""
        view = None if self.peer_view is None else self.peer_view.as_json()
        return {**asdict(replace(self, peer_view=None)), "waiting_gate": list(self.waiting_gate), "peer_view": view}


def receiver(order: Order, view: View, seen: Evidence) -> str:
    """The server that is to serve by an order."""
    backup = seen.peer if seen.me == view.home else seen.me
    return backup if order == "failover" else view.home


@dataclass(frozen=True, slots=True)
class Policy:
    """What the config says about failover and failback; times in seconds, `most_moves` in an hour."""

    after: float
    automatic: bool
    start_wait: float
    failback: Literal["graceful", "automatic", "manual"]
    gate: Literal["restarted", "completed"]
    hold: float
    timeout: float
    drain: float = 10.0
    most_moves: int = 3
    heartbeat: float = 10.0


@dataclass(frozen=True, slots=True)
class Situation:
    """A view and the evidence, as the rows ask about them."""

    view: View
    seen: Evidence
    policy: Policy

    # Who is who

    @property
    def backup(self) -> str:
        """The server that is not the home."""
        return self.seen.peer if self.at_home else self.seen.me

    @property
    def at_home(self) -> bool:
        """Whether this server is the service's home."""
        return self.seen.me == self.view.home

    @property
    def home(self) -> str:
        """The service's home in the present mode."""
        return self.seen.home or self.view.home

    @property
    def moved_home(self) -> bool:
        """Whether the mode was changed, and with it the home, since this view was made."""
        return self.home != self.view.home

    @property
    def serving(self) -> bool:
        """Whether this server serves."""
        return self.view.serving == self.seen.me

    # What the peer says

    @property
    def said(self) -> View | None:
        """What the peer says of this service; None when it is not heard or its config has another home for it.

        Of a server that starts only who served last counts: its home may be that of a mode which was changed since.
        """
        theirs, mine = self.seen.peer_view, self.view
        if theirs is None or not self.seen.heard or theirs.service != mine.service:
            return None
        if theirs.home not in {mine.home, self.home} and theirs.last is None:
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
        return self.said is not None and newer(self.said.epoch, self.view.epoch, self.home)

    @property
    def peer_older(self) -> bool:
        """Whether the peer does not know the newest epoch yet."""
        return self.said is not None and newer(self.view.epoch, self.said.epoch, self.home)

    @property
    def claim(self) -> Claim | None:
        """Of what both know, who serves or served last."""
        return top_claim(self.view.claim, self.said.claim if self.said else None, self.home)

    @property
    def claimed_by_me(self) -> bool:
        """Whether this server serves or served last."""
        return self.claim is not None and self.claim.server == self.seen.me

    # Who may and who can

    @property
    def may(self) -> bool:
        """Whether this server may serve: nobody else does by the arbiter's word or the peer's. Always without an arbiter."""
        return self.seen.permit is None or self.seen.permit > 0

    @property
    def as_it_was(self) -> bool:
        """Whether the arbiter lends the service and nobody had it in an epoch that is not known here.

        Else this server has slept, or was put back to an earlier state.
        """
        return self.seen.leased and self.seen.lease_number <= self.view.epoch.number + 1

    @property
    def fit(self) -> bool:
        """Whether this server is fit to serve."""
        return not self.seen.unfit

    @property
    def better_there(self) -> bool:
        """Whether the peer is heard and fit to serve while this server is not."""
        return not self.fit and self.seen.heard and self.seen.peer_fit

    @property
    def free(self) -> bool:
        """Whether the service may move by itself: no pause, and not moved too often."""
        return not self.seen.paused and self.seen.moves < self.policy.most_moves

    @property
    def free_to_return(self) -> bool:
        """Whether it may move home by itself: that leaves one more move for a failover after it."""
        return not self.seen.paused and self.seen.moves < self.policy.most_moves - 1

    @property
    def takes_over(self) -> bool:
        """Whether this server takes over from a silent one, by itself."""
        return self.policy.automatic and self.free and self.may and self.fit and not self.seen.cut_off

    # How long

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
    def mute(self) -> bool:
        """Whether the arbiter lends this server what the peer serves: that is heard, but cannot tell of it, nor renew."""
        return self.seen.heard and self.said is None and self.seen.leased and not self.serving

    @property
    def returned(self) -> bool:
        """Whether the peer was heard in the present state: what it sent before may have been under way for long."""
        return self.seen.heard and self.quiet_for <= self.seen.in_state_for

    @property
    def quiet(self) -> bool:
        """Whether the peer misses its heartbeats, which counts for a person's order only."""
        return self.quiet_for >= MISSED * self.policy.heartbeat

    @property
    def due(self) -> float:
        """Seconds until a time is over that a row asks for; FOR_EVER where none is running."""
        seen, policy = self.seen, self.policy
        running = [
            (self.quiet_for, policy.after),
            (seen.started_for, policy.start_wait),
            (seen.started_for, policy.start_wait + policy.after),
            (seen.in_state_for, policy.hold),
            (seen.in_state_for, policy.timeout),
        ]
        if seen.order:
            running += [(seen.ordered_for, policy.drain), (self.quiet_for, MISSED * policy.heartbeat)]
        return min((limit - passed for passed, limit in running if passed < limit), default=FOR_EVER)

    # Orders and gates

    @property
    def ordered_here(self) -> bool:
        """Whether a person's order moves the role to this server."""
        order = self.seen.order
        return order is not None and not self.serving and receiver(order, self.view, self.seen) == self.seen.me

    @property
    def forced(self) -> bool:
        """Whether such an order takes the role without the peer: it is not heard, or misses heartbeats and `now` is said."""
        unheard = not self.seen.heard or self.mute
        return self.ordered_here and self.may and (unheard or (self.seen.now and self.quiet))

    @property
    def gate(self) -> bool:
        """Whether synchronization is as far as the policy asks before the role goes home, and the home is fit."""
        completed = self.seen.gate_completed if self.policy.gate == "completed" else self.seen.gate_restarted
        return self.seen.heard and self.seen.peer_fit and completed

    @property
    def calm(self) -> bool:
        """Whether no call is in progress here that a graceful move would cut."""
        return self.seen.calls == 0

    @property
    def names(self) -> dict[str, str]:
        """What the reasons speak of."""
        peer, quiet = self.seen.peer, duration(self.quiet_for)
        mute = f"{peer} is heard, but says nothing of this service"
        return {
            "unheard": mute if self.seen.heard else f"{peer} has not been heard for {quiet}",
            "unanswered": mute if self.seen.heard else f"{peer} did not answer",
            "me": self.seen.me,
            "peer": peer,
            "home": self.view.home,
            "backup": self.backup,
            "new_home": self.home,
            "quiet": quiet,
            "held": duration(self.seen.in_state_for),
            "unfit": self.seen.unfit,
            "drain": duration(self.policy.drain),
        }

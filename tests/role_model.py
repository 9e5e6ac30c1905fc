"""A model of two servers that decide by the role table, over mail and an arbiter that are as bad as a schedule says.

It keeps of the peer what the product keeps, and nothing else, in a hundredth of the time: the product's own code is driven
by the simulation. A second is one step; mails and answers of the arbiter take their time. The hour within which moves are
counted is a shorter one here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.evidence import Evidence, Policy
from vmctl.roles import decide
from vmctl.view import View, fresh_view

if TYPE_CHECKING:
    import random

HOME, BACKUP = NAMES = ("primary", "secondary")
SERVICE = "voicemail"
HEARTBEAT = 10
# With delays of 5 s at most an answer to a start takes 2 * (10 + 5) s, less than start_wait; and a peer that restarts is
# heard again within failover.after.
PATIENT = Policy(
    after=80.0, automatic=True, start_wait=31.0, failback="graceful", gate="completed", hold=20.0, timeout=600.0,
    drain=10.0, most_moves=3, heartbeat=HEARTBEAT,
)  # fmt: skip
TTL, MARGIN = 60, 2
PROMISE = int(PATIENT.after) - HEARTBEAT
HOUR = 600


class Made(NamedTuple):
    """A transition that a server made, when, and on what."""

    at: int
    before: View
    after: View
    by: str
    reason: str
    seen: Evidence


@dataclass
class Mail:
    """A heartbeat: what the sender tells, its challenge (start and time), and the newest challenge of the recipient."""

    sender: str
    sent: int
    start: int
    echo: tuple[int, int] | None
    view: View
    order: str | None
    fit: bool
    asks: bool
    promise: int
    agreed: tuple[int, str, str, bool]  # number, server, home, paused


@dataclass
class Lease:
    """What the arbiter holds of the service."""

    server: str | None = None
    until: int = 0
    number: int = 0


@dataclass
class Asked:
    """A question to the arbiter on its way: what it is, since when, and when it is there and answered."""

    server: str
    start: int
    what: str
    number: int
    sent: int
    there: int
    back: int
    answer: Any = None


@dataclass
class Server:
    """One server: what it keeps of its peer's mails and of the arbiter's answers, and decide() at each tick."""

    name: str
    peer: str
    arbitrated: bool = False
    view: View = field(default_factory=lambda: fresh_view(SERVICE, HOME))
    up: bool = True
    frozen: bool = False
    start: int = 0
    echoed: int | None = None  # the time of my newest challenge that the peer echoed
    newest: Mail | None = None
    challenge: tuple[int, int] | None = None
    order: str | None = None
    ordered: int = 0
    now: bool = False
    unfit: bool = False
    cut_off: bool = False
    calls: int = 0
    made: list[Made] = field(default_factory=list)
    entered: int = 0
    moves: list[int] = field(default_factory=list)
    agreed: tuple[int, str, str, bool] = (0, "", HOME, False)
    lease_until: int = 0
    lease_number: int = 0
    asked_at: int = -1000
    waits: bool = False
    bound: int = -1  # until when it has promised to take nothing
    permitted: int = 0  # until when the last tick found that it may serve
    wants: bool = False
    off: int = 0
    woken: bool = True
    beat: int = 0

    def restart(self, now):
        """A new process: journal and promise remain, mails, challenges and leases are gone."""
        self.view = self.view.started(now)
        self.start, self.echoed, self.newest, self.challenge, self.order, self.up = now, None, None, None, None, True
        self.entered, self.lease_until, self.asked_at, self.permitted = now, 0, -1000, 0
        self.frozen = self.waits = self.wants = False
        self.woken, self.beat = True, now
        if self.bound > now:
            self.bound = now + PROMISE  # how much of it has passed is not known

    def take(self, mail, now):
        """Keep what a mail says, if it echoes a challenge of this start that is not too old."""
        if self.challenge is None or mail.sent > self.challenge[1]:
            self.challenge = (mail.start, mail.sent)
        if mail.echo is None or mail.echo[0] != self.start or now - mail.echo[1] >= PATIENT.after:
            return
        self.echoed = max(mail.echo[1], self.echoed or 0)
        if self.newest is None or mail.sent >= self.newest.sent:
            self.newest = mail
            if mail.order and not self.order:
                self.order, self.ordered, self.now = mail.order, now, False
            self.agreed = max(self.agreed, mail.agreed)

    def heard(self, now):
        """Whether the peer is."""
        return self.echoed is not None and now - self.echoed < PATIENT.after

    def permit(self, now):
        """For how long this server may serve."""
        if not self.arbitrated:
            return None
        if self.bound > now:
            return 0.0
        promised = self.newest.echo[1] + self.newest.promise - MARGIN if self.newest and self.newest.promise else 0
        return float(max(self.lease_until, promised) - now)

    def evidence(self, now):
        """What is known at `now`."""
        hears = self.heard(now)
        mail = self.newest if hears else None
        theirs = mail.view if mail else None
        in_step = theirs is not None and theirs.epoch == self.view.epoch
        if self.order == "failover":
            in_step = mail is not None and mail.sent > self.ordered
        return Evidence(
            self.name, self.peer, hears, None if self.echoed is None else float(now - self.echoed), theirs,
            started_for=float(now - self.start), in_state_for=float(now - self.entered), order=self.order,
            gate_restarted=in_step, gate_completed=in_step, ordered_for=float(now - self.ordered), now=self.now,
            home=self.agreed[2], unfit="it is unwell" if self.unfit else "", peer_fit=mail is None or mail.fit,
            cut_off=self.cut_off, calls=self.calls, paused=self.agreed[3],
            moves=sum(now - at < HOUR for at in self.moves), permit=self.permit(now), leased=self.lease_until > now,
            lease_number=self.lease_number if self.lease_until > now else 0,
        )  # fmt: skip

    def forget_order(self, done, now):
        """An order is repeated until it is carried out, has nothing to do, or is too old."""
        backup = NAMES[self.view.home == HOME]
        receiver = {"failover": backup, "failback": self.view.home}.get(self.order)
        if (
            done
            or self.view.serving == receiver
            or self.view.cause == self.order == "failback"
            or (now - self.ordered > PATIENT.after)
        ):
            self.order = None

    def tick(self, now):
        """Decide until nothing moves; gives the order to be forwarded."""
        for _ in range(8):
            seen = self.evidence(now)
            after, transition, _, forward, off, wants, _ = decide(self.view, seen, PATIENT, now)
            self.wants = wants
            if transition is None:
                self.off += bool(off)
                self.forget_order(bool(off), now)
                self.permitted = now + int(self.permit(now) or 0)
                return forward
            if (after.state, after.serving) != (self.view.state, self.view.serving):
                self.entered = now
            if (
                None not in {after.serving, self.view.serving}
                and after.serving != self.view.serving
                and transition.by != "operator"
            ):
                self.moves.append(now)
            self.view = after
            self.forget_order(transition.by == "operator", now)
            self.made.append(Made(now, *transition[:2], transition.by, transition.reason, seen))
        raise AssertionError(f"{self.name} does not come to rest: {self.view}")

    def promise(self, now):
        """For how long it promises to take nothing, because the peer asks."""
        mail = self.newest if self.heard(now) else None
        if not self.arbitrated or mail is None or not mail.asks or self.wants or self.view.serving == self.name:
            return 0
        if self.lease_until > now:
            return 0
        self.bound = now + PROMISE
        return PROMISE

    def released(self):
        """The peer gave the service here: what was promised to it is over."""
        mail = self.newest
        if mail and mail.view.serving == self.name:
            self.bound = -1

    def serves(self, now):
        """Whether whoever asks it at this moment is told that it serves."""
        return self.up and self.view.serving == self.name and (not self.arbitrated or self.permitted > now)


@dataclass
class Pair:
    """Two servers, the mail between them and an arbiter, all as slow and lossy as the schedule says."""

    rng: random.Random
    delay: int
    arbitrated: bool = False
    servers: dict[str, Server] = field(default_factory=dict)
    flying: list[tuple[int, Mail]] = field(default_factory=list)
    questions: list[Asked] = field(default_factory=list)
    lease: Lease = field(default_factory=Lease)
    now: int = 0
    both: list[int] = field(default_factory=list)
    nobody: list[int] = field(default_factory=list)
    lossy: bool = False
    cut: set = field(default_factory=set)  # the senders whose mail is lost
    etcd_cut: set = field(default_factory=set)  # the servers that do not reach the arbiter
    etcd_delay: int = 2
    sent: list[Mail] = field(default_factory=list)
    pace: int = 1  # how long a server rests that nothing wakes

    def __post_init__(self):
        self.servers = {name: Server(name, NAMES[name == HOME], self.arbitrated) for name in NAMES}

    def run(self, seconds):
        """Let time pass."""
        for _ in range(seconds):
            self.now += 1
            self._arbitrate()
            self._deliver()
            for server in self.servers.values():
                if server.up and not server.frozen and (server.woken or self.now % self.pace == 0):
                    server.woken = False
                    self._tick(server)
            count = len(self.serving())
            if count > 1:
                self.both.append(self.now)
            if count == 0:
                self.nobody.append(self.now)

    def serving(self):
        """Who serves, by what each would answer now."""
        return [one.name for one in self.servers.values() if one.serves(self.now)]

    def at_rest(self):
        """Whether both agree on normal operation."""
        one, other = self.servers.values()
        return one.view == other.view and one.view.state == "normal" and len(self.serving()) == 1

    def order(self, name, verb, *, now=False):
        """A person orders at a server."""
        server = self.servers[name]
        if server.up and not server.frozen:
            server.order, server.ordered, server.now, server.woken = verb, self.now, now, True

    def agree(self, name, *, home=None, paused=None):
        """A person sets the mode, or a pause, at a server."""
        server = self.servers[name]
        number, _, old_home, old_pause = server.agreed
        server.agreed = (number + 1, name, home or old_home, old_pause if paused is None else paused)

    def _tick(self, server):
        before = server.view
        server.released()
        forward = server.tick(self.now)
        self._lease(server)
        beat = self.now >= server.beat
        if forward or beat or server.view != before:
            server.beat = self.now + HEARTBEAT
            asks = server.arbitrated and server.wants and server.lease_until - self.now < TTL // 2
            mail = Mail(
                server.name, self.now, server.start, server.challenge, server.view, forward, not server.unfit, asks,
                server.promise(self.now), server.agreed,
            )  # fmt: skip
            self.sent.append(mail)
            copies = 1 + (self.lossy and self.rng.random() < 0.2)
            self.flying += [(self.now + 1 + self.rng.randrange(self.delay), mail) for _ in range(copies)]

    def _deliver(self):
        due = [mail for at, mail in self.flying if at <= self.now]
        self.flying = [(at, mail) for at, mail in self.flying if at > self.now]
        self.rng.shuffle(due)
        for mail in due:
            receiver = self.servers[NAMES[mail.sender == HOME]]
            lost = mail.sender in self.cut or (self.lossy and self.rng.random() < 0.3)
            if receiver.up and not lost:
                receiver.woken = True
                receiver.take(mail, self.now)  # of a frozen process the spool is read later; its age tells

    # The arbiter

    def _lease(self, server):
        """Ask for the lease, renew it or give it up, one question at a time."""
        if not server.arbitrated or server.waits:
            return
        held = server.lease_until > self.now
        if not server.wants and held:
            self._ask(server, "release")
            server.lease_until = 0
        elif server.wants and self.now - server.asked_at >= (TTL // 3 if held else 5):
            self._ask(server, "renew")

    def _ask(self, server, what):
        there = self.now + self.rng.randrange(self.etcd_delay)
        number = server.view.epoch.number
        server.asked_at = self.now
        server.waits = True
        back = there + self.rng.randrange(self.etcd_delay)
        self.questions.append(Asked(server.name, server.start, what, number, self.now, there, back))

    def _arbitrate(self):
        for one in self.questions:
            if one.answer is None and one.there <= self.now:
                lost = one.server in self.etcd_cut
                one.answer = "lost" if lost else self._answer(one)
        for one in [each for each in self.questions if each.answer is not None and each.back <= self.now]:
            server = self.servers[one.server]
            if server.frozen:
                continue
            self.questions.remove(one)
            if not server.up or server.start != one.start:
                continue
            server.waits, server.woken = False, True
            if one.answer == "lost" or one.what == "release" or one.server in self.etcd_cut:
                continue
            mine, number = one.answer
            server.lease_until = one.sent + TTL - MARGIN if mine and server.wants else 0
            server.lease_number = number

    def _answer(self, one):
        lease = self.lease
        if one.what == "release":
            if lease.server == one.server:
                lease.server = None
            return (False, lease.number)
        free = lease.server is None or lease.until <= self.now
        if free or lease.server == one.server:
            taken = free or lease.server != one.server
            lease.number = max(lease.number, one.number) + 1 if taken else max(lease.number, one.number)
            lease.server, lease.until = one.server, self.now + TTL
            return (True, lease.number)
        return (False, lease.number)


def policy(**changes):
    """The model's policy with changes."""
    return replace(PATIENT, **changes)

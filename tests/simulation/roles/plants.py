"""Deliberate bugs of roles, each planted by replacing one function of the product; see simulation.plants."""

import dataclasses

from simulation.plants import Plant
from vmctl import journal, knowledge, roles
from vmctl.agreement import Agreement
from vmctl.contact import Contact
from vmctl.evidence import Situation
from vmctl.failover import Failover
from vmctl.leases import Leases
from vmctl.moves import Moves
from vmctl.orders import VERBS, Orders
from vmctl.permits import _BOUND, PERMITS, Permits

from .schedule import RoleProfile

PLANTS = {}


def plant(owner, name, kinds, *, seeds=60, first=0, fates=None, **how):
    """Register a bug: the decorated function stands in the place of `owner.name`."""

    def register(bug):
        profile = RoleProfile(tuple(kinds.split()), dict(fates or {"direct": 1.0}), **how)
        stands = getattr(owner, name)
        there = property(bug) if isinstance(stands, property) else bug() if isinstance(stands, tuple) else bug
        PLANTS[bug.__name__] = Plant(bug.__name__, bug.__doc__, ((owner, name, there),), profile, seeds, first)
        return bug

    return register


def table(words, guard):
    """The table of roles with another guard in the row whose `when` says this."""
    return tuple(dataclasses.replace(row, guard=guard) if words in row.when else row for row in roles.TABLE)


# The permit to serve


@plant(Permits, "of", "net arbiter freeze", arbiter=True)
def lease_not_checked(self, service):
    """A server takes and serves without a look at its lease."""
    return 1000.0 if self._asked else None


@plant(
    Leases,
    "_granted",
    "arbiter freeze net",
    arbiter=True,
    acts=16,
    more={"line": 4.0, "freeze": 3.0},
    seeds=150,
    first=14,
)
def lease_counts_from_the_answer(self, lease, grant, sent, now):
    """A lease counts from when its answer came."""
    _granted(self, lease, grant, now, now)


_granted = Leases._granted


@plant(knowledge, "answer", "freeze net", arbiter=True)
def answers_never_expire(*values, **words):
    """What is told counts until it is told otherwise."""
    return dataclasses.replace(_answer(*values, **words), until=None)


_answer = knowledge.answer

ASKED = (("no_line", "primary", 100), ("cut_both", "primary", 4))
PROMISED = {"arbiter": True, "acts": 2, "after": 90}  # a promise lasts for a heartbeat less


@plant(Permits, "_bound", "net arbiter orders", script=(*ASKED, ("take", "secondary", 70)), **PROMISED)
def promise_not_kept(_self, _service):
    """What was promised to the other server binds nobody."""
    return 0.0


@plant(
    Permits,
    "started",
    "net arbiter orders process",
    script=(*ASKED, ("restart_and_take", "secondary", 70)),
    power=0.0,
    **PROMISED,
)
def promise_forgotten_at_a_start(self):
    """A promise is over when its process is."""
    self._index.set_note(_BOUND, {})
    self._index.set_note(PERMITS, {})


@plant(Permits, "promises", "net arbiter orders", script=(*ASKED, ("take", "secondary", 70)), **PROMISED)
def promise_given_and_not_made(self, asked, _wanted):
    """A promise is said to whoever asks, and not kept."""
    return dict.fromkeys(asked, self._promise) if self._asked and isinstance(asked, list) else {}


# Epochs


@plant(roles, "_becomes", "process net")
def epoch_not_raised(row, s, now):
    """A transition keeps its epoch."""
    after = _becomes(row, s, now)
    return after if row.to in {"theirs", "aside"} else dataclasses.replace(after, epoch=s.view.epoch)


_becomes = roles._becomes


@plant(Situation, "peer_newer", "process net")
def older_epoch_adopted(self):
    """Whatever the peer says is newer."""
    return self.said is not None and self.said.epoch != self.view.epoch


# Starting, and hearing


@plant(journal, "_carried", "process net")
def boot_serves_at_once(entry):
    """A server that starts goes on as its journal says."""
    return _carried({**entry, "kind": "rotation"})


_carried = journal._carried


@plant(Contact, "_issued", "process replay", acts=16, more={"replay": 5.0, "start": 0.3}, seeds=200, first=9)
def old_mail_counts_as_heard(self, echo):
    """A mail counts as an answer, whatever it echoes."""
    return self._clock.steady()


@plant(Situation, "silent", "process net freeze")
def hold_down_of_the_failover_skipped(self):
    """One missing heartbeat is silence."""
    return self.quiet_for >= self.policy.heartbeat * 1.5


@plant(Situation, "takes_over", "net around process", more={"unwell": 3.0}, first=5)
def unwell_takes_over(self):
    """A server that is unwell takes over."""
    return self.policy.automatic and self.free and self.may and not self.seen.cut_off


@plant(Situation, "takes_over", "net process freeze")
def nobody_takes_over(_self):
    """Failover is off."""
    return False


PUT_BACK = (("back_up", "primary", 30), ("leave", "primary", 30), ("put_back", "primary", 30))


@plant(Failover, "was_rolled_back", "memory", script=PUT_BACK, acts=2)
def rolled_back_serves(_self):
    """A server that was put back to an earlier state counts as fit."""


# What holds a move


THERE_AND_BACK = (("ask_for", "secondary", 25), ("ask_for", "primary", 15))


@plant(Situation, "gate", "orders", script=THERE_AND_BACK, acts=2)
def gate_skipped(self):
    """The home that is heard gets its service back."""
    return self.seen.heard


@plant(roles, "TABLE", "net process")
def hold_down_of_the_failback_skipped():
    """The home gets its service back at once."""
    return table("`failback.hold` is over", lambda s: s.gate and s.calm and s.free_to_return)


@plant(Situation, "calm", "net process around", more={"calls": 5.0, "unwell": 0.2, "cut_off": 0.2}, first=10)
def calls_are_cut(_self):
    """Calls in progress hold nothing."""
    return True


@plant(roles, "TABLE", "orders", more={"leave": 2.0}, seeds=100)
def drain_skipped():
    """An ordered handover does not wait until the other server holds everything."""
    return table(
        "`failover` is ordered, the backup is heard, and", lambda s: s.seen.order == "failover" and s.seen.heard
    )


@plant(Agreement, "paused", "pause net process", more={"pause": 3.0, "resume": 0.2}, first=25)
def pause_ignored(_self, _agreed):
    """A pause holds nothing."""


@plant(
    Moves,
    "lately",
    "net process around",
    acts=30,
    more={"unwell": 6.0, "cut_off": 0.1, "calls": 0.1},
    seeds=100,
    first=5,
)
def flap_limit_ignored(_self, _service):
    """A service moves as often as it may."""
    return 0


# Orders, and the mode


@plant(Orders, "hear", "net", script=(*THERE_AND_BACK, ("replay_newest", "primary", 30)), acts=2, after=90)
def order_taken_twice(self, told, services):
    """An order that is passed on again is taken again."""
    new = []
    for service, order in told.items() if isinstance(told, dict) else ():
        if (
            service in services
            and isinstance(order, dict)
            and order.get("verb") in VERBS
            and service not in self._all()
        ):
            self._keep(service, {name: str(order.get(name, "")) for name in ("id", "verb", "by", "reason")})
            new.append(service)
    return new


@plant(roles, "_becomes", "mode net", dual=True, seeds=40, first=4)
def mode_moves_the_service(row, s, now):
    """When the mode changes, the new home has the service at once."""
    after = _becomes(row, s, now)
    return dataclasses.replace(after, serving=s.home, state="normal") if row.to == "home" else after

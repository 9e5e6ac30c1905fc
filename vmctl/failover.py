"""Who serves, at one server: gathers the evidence, asks the table, writes the journal, tells the peer.

The journal is the state: every decision starts from it, under the store's lock. What may be lost with the index
(orders not yet carried out, what a service waits for) are notes there.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from vmctl.agreement import Agreed, Agreement, both_have
from vmctl.errors import JournalError
from vmctl.evidence import FOR_EVER, MISSED, Evidence, Order, Policy, Situation
from vmctl.gate import Gate
from vmctl.moves import Moves
from vmctl.orders import Ordered, Orders
from vmctl.permits import Permits
from vmctl.recap import Recap
from vmctl.roles import check_order, decide
from vmctl.view import FAILBACK, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vmctl.index import Index
    from vmctl.leases import Leases
    from vmctl.probes import Probes
    from vmctl.replica import Replica
    from vmctl.roles import Decision, Transition

log = logging.getLogger("vmctl.failover")

ROLLED_BACK: Final = "rolled_back"  # the mark of the gate behind which this server is whole again
_LAST_ENTRIES = 12
_WAYS = 3  # times the slowest way there and back that `failover.after` has to last
_MOST_STEPS = 6  # a start, an adoption, a new home and a move can follow each other; more would be a bug


class Failover:
    """The roles as one server knows them and moves them.

    Without `probes` the server counts as well, and without `leases` no arbiter is asked: that is for the daemon.
    """

    def __init__(self, replica: Replica, *, probes: Probes | None = None, leases: Leases | None = None) -> None:
        self._replica = replica
        self._index = replica.index
        self._clock = replica.clock
        self._contact = replica.contact
        self._journal = replica.journal
        self._me = replica.server.name
        config = replica.config
        self._config = config
        self._probes = probes
        self._policy = Policy(
            config.failover.after, config.failover.automatic, config.failover.start_wait,
            cast("Any", config.failback.policy), cast("Any", config.failback.gate), config.failback.hold,
            config.failback.timeout, config.handover.drain, config.failover.most_moves, config.sync.heartbeat,
        )  # fmt: skip
        self.agreement = Agreement(config, self._index, self._journal, self._clock, self._me)
        self.permits = Permits(config, self._index, self._contact, self._clock, leases)
        self._orders = Orders(self._index, self._clock)
        self._moves = Moves(self._index, self._clock)
        self._recap = Recap(self._journal, self._contact, self._clock, self._me)
        self._gate = Gate(
            self._index, self._contact, self._clock, me=self._me, peer=replica.peer.name, lag=config.sync.lag
        )
        self._wanted: dict[str, int] = {}
        self.mode = config.mode  # as of the last tick
        self.due = 0.0  # the steady time of the next tick that the passing of time asks for
        self.draining: set[str] = set()  # the orders whose handover waits for the peer to hold everything
        self.awaits_look = False  # whether a look at the store goes on that a person asked for, or a handover
        self.recovering: list[str] = []  # the services that this server serves until they go home

    def start(self) -> None:
        """A new start of this server: it serves nobody until the peer, the arbiter, or the wait for them has answered."""
        with self._replica.locked():
            homes = self.agreement.read().homes
            self._journal.start(homes, at=self._clock.wall(), server=self._me)
            with self._index.transaction():
                self._contact.forget()
                self._index.set_note("started", self._moment())
                self._index.set_note("entered", dict.fromkeys(homes, self._moment()))
                self.permits.started()

    def ask_from_now(self) -> None:
        """The time in which a server that starts only asks begins when it can be answered."""
        with self._index.transaction():
            self._index.set_note("started", self._moment())

    def views(self) -> dict[str, View]:
        """The present view of each service."""
        return self._journal.views(self.agreement.read().homes)

    def serving(self) -> dict[str, bool]:
        """By service whether this server serves it at this moment."""
        return {name: view.serving == self._me and self.permits.of(name) != 0.0 for name, view in self.views().items()}

    # The tick

    def tick(self, *, automatic: bool = True) -> bool:
        """Decide for each service until nothing changes; tells whether a role moved.

        Without `automatic` silence moves nothing: a command that runs now and then has not listened in between.
        """
        began = self._clock.steady()
        self.due = FOR_EVER  # also where the journal cannot be trusted: then no time brings anything
        with self._replica.locked():
            agreed, moved = self._hear_agreed()
            self.mode = agreed.mode
            policy = self._policy_now(automatic=automatic)
            notes: dict[str, dict[str, Any]] = {"waiting": {}, "forward": {}}
            self._wanted, serving, self.recovering, self.draining = {}, [], [], set()
            views = self._journal.views(agreed.homes)
            self._count_from_now(views)
            for service, known in views.items():
                self._release(service)
                decision = self._settle(known, policy, agreed, began)
                moved = moved or decision.view != known
                self.due = min(self.due, self._clock.steady() + decision.due)
                self._drop_order(decision)
                notes["waiting"][service] = list(decision.waiting_for)
                if decision.forward:
                    notes["forward"][service] = self._orders.to_forward(service)
                if decision.wants:
                    self._wanted[service] = decision.view.epoch.number
                if decision.view.serving == self._me:
                    order = self._orders.of(service)
                    self.draining |= {order.id} if order is not None else set()
                    serving.append(service)
                    self.recovering += [service] if decision.view.state == "recovering" else []
            self.permits.note(serving)
            pause = self.agreement.paused(agreed)
            self._note(notes | {"paused": pause and pause.as_json()} | self._surroundings())
        return moved

    def ask_arbiter(self) -> None:
        """Ask for what the last tick wanted, and give back all else. Tell everybody who serves before."""
        self.permits.ask(self._wanted)

    def _hear_agreed(self) -> tuple[Agreed, bool]:
        """What is agreed on, with what the peer has newer; tells whether there was any."""
        facts = self._contact.facts() if self._contact.heard else {}
        heard = "agreed" in facts and self.agreement.hear(facts["agreed"], facts["sent"])
        return self.agreement.read(), heard

    def _release(self, service: str) -> None:
        """What was promised to the peer is over when the peer itself says that this server is to serve."""
        facts = self._contact.facts() if self._contact.heard else {}
        said = _view_of(facts, service)
        if said is not None and said.serving == self._me and service not in facts.get("asks", []):
            self.permits.release(service)

    def _policy_now(self, *, automatic: bool) -> Policy:
        policy = self._policy if automatic else replace(self._policy, automatic=False)
        if not self._silence_tells():
            policy = replace(policy, automatic=False)
        if self._configs_differ():  # two servers with two policies: only a person's order moves a role
            policy = replace(policy, automatic=False, failback="manual")
        return policy

    def _silence_tells(self) -> bool:
        """Whether silence is the peer's, and not that of mail servers in between, which may hold mail for hours."""
        if not (self._config.relayed(self._me) or self._contact.facts().get("relayed") is True):
            return True
        slowest = self._contact.slowest_way()  # 0: nothing is known yet, and so silence tells nothing
        return self._config.failover.through_relays and 0 < _WAYS * slowest <= self._policy.after

    def _surroundings(self) -> dict[str, Any]:
        """What the status shows of what is around this server."""
        if self._probes is None:
            return {}
        return {"probes": self._probes.as_json(), "arbiter": self.permits.trouble}

    def _note(self, notes: Mapping[str, Any]) -> None:
        changed = {name: value for name, value in notes.items() if value != self._index.note(name)}
        if changed:
            with self._index.transaction():
                for name, value in changed.items():
                    self._index.set_note(name, value)

    def _settle(self, view: View, policy: Policy, agreed: Agreed, began: float) -> Decision:
        """Decide for one service until nothing changes, and journal each transition.

        A process that stood still since `began` has not listened meanwhile, and takes nothing for silence.
        """
        for _ in range(_MOST_STEPS):
            order = self._orders.of(view.service)
            evidence = self._evidence(view, order, agreed)
            if self._clock.steady() - began > policy.after / 2:
                policy = replace(policy, automatic=False)
            decision = decide(view, evidence, policy, self._clock.wall())
            move = decision.transition
            if move is None:
                break
            self._carry_out(move, evidence, order)
            view = decision.view
        return decision

    def _carry_out(self, move: Transition, evidence: Evidence, order: Ordered | None) -> None:
        """Write a transition to the journal, then note what counts from it."""
        if move.by == "peer":
            move = move._replace(reason=self._recap.hear(move))
        if move.by == "operator" and order and order.reason:
            move = move._replace(reason=f"{move.reason}: {order.reason}")
        operator = (order.by if order else "") or None
        self._journal.transition(move, evidence, at=self._clock.wall(), server=self._me, operator=operator)
        service = move.after.service
        log.warning("%s: %s -> %s: %s", service, move.before.state, move.after.state, move.reason)
        with self._index.transaction():
            if (move.before.state, move.before.since) != (move.after.state, move.after.since):
                self._entered(move.after)
            if move.by == "operator":
                self._orders.settle(service)
            self._moves.note(move)

    def _configs_differ(self) -> bool:
        """Whether the two vmctl.yaml differ, by the peer's last word: it does not matter whether it is heard now."""
        theirs = self._contact.facts().get("config")
        return theirs is not None and theirs != self._config.digest

    # What the peer is told, and tells

    def facts(self) -> dict[str, Any]:
        """What every mail tells the peer of the roles; where the journal cannot be trusted, that this server is not fit."""
        try:
            agreed = self.agreement.read()
            views, moves = self._journal.views(agreed.homes), self._recap.told()
        except JournalError:
            return {"fit": False}
        asked = self._contact.facts().get("asks") if self._contact.heard else None
        return {
            "views": {name: view.as_json() for name, view in views.items()},
            "orders": self._index.note("forward") or {},
            "moves": moves,
            "agreed": agreed.values,
            "fit": not self.unfit,
            "behind": self._replica.behind,
            "config_keys": self._config.digests if self._configs_differ() else {},
            "asks": self.permits.asks(self._wanted),
            "promises": self.permits.promises(asked, self._wanted),
        }

    def hear_orders(self, orders: Any) -> None:
        """Orders that the peer forwards in a fresh mail, because this server serves. Each is taken once.

        None is taken where the journal cannot be trusted: no role moves then, and the peer says it again with each mail.
        """
        with contextlib.suppress(JournalError):
            self.views()
            for service in self._orders.hear(orders, self._config.services):
                self._begin_drain(service)

    # Orders

    def order(self, service: str, verb: Order, by: str, *, reason: str = "", now: bool = False) -> str:
        """Take a person's order; tells "already" when there is nothing to do, else "taken".

        Raises what `check_order` raises. The order is carried out by the next ticks, here or at the peer.
        """
        with self._replica.locked():
            view, evidence = self.look(service)
            if check_order(view, evidence, verb) == "already":
                return "already"
            self._orders.give(service, verb, by, reason=reason, now=now)
            self._begin_drain(service)
        return "taken"

    def look(self, service: str) -> tuple[View, Evidence]:
        """A service and what is known of it at this moment."""
        agreed = self.agreement.read()
        view = self._journal.views(agreed.homes)[service]
        return view, self._evidence(view, self._orders.of(service), agreed)

    def misses_heartbeats(self, silent_for: float) -> bool:
        """Whether a peer that is silent for so long may be taken for dead, on a person's word."""
        return silent_for >= MISSED * self._policy.heartbeat

    @property
    def index(self) -> Index:
        """The index of this server."""
        return self._index

    @property
    def peer_pending(self) -> int | None:
        """How many records the peer has still to send, by its newest word; None if there is none."""
        pending = self._contact.facts().get("pending")
        return pending if type(pending) is int else None

    def pause(self, by: str, *, on: bool, seconds: float | None = None) -> None:
        """Let no role of the network move by itself, for `seconds` or until it is resumed; or resume."""
        with self._replica.locked():
            self.agreement.set_pause(by, on=on, seconds=seconds)

    def set_mode(self, mode: str, by: str) -> bool:
        """Change the mode of the network; tells whether it changed. Raises ModeRefused."""
        with self._replica.locked():
            return self.agreement.set_mode(mode, by)

    def peer_agrees(self, name: str) -> bool:
        """Whether the peer, by its newest mail, has the value of this name that this server has."""
        theirs = self._contact.facts().get("agreed") if self._contact.heard else None
        return both_have(self.agreement.read(), theirs, name)

    def is_ordered(self, service: str) -> bool:
        """Whether there is an order for a service that is still to be carried out."""
        return self._orders.of(service) is not None

    def withdraw(self, service: str) -> None:
        """Take back an order that was not carried out."""
        with self._replica.locked():
            self._orders.settle(service)

    def last_event(self, service: str) -> str:
        """What the journal told last of a service that was no transition: that an order is void, say."""
        told = [entry for entry in self._journal.entries(limit=_LAST_ENTRIES) if entry.get("kind") == "event"]
        return next((str(entry.get("event")) for entry in reversed(told) if entry.get("service") == service), "")

    def _begin_drain(self, service: str) -> None:
        """What either side holds now has to be over there before the service is handed over."""
        if self.views()[service].state == "normal":
            with self._index.transaction():
                self._gate.set(service)

    def _drop_order(self, decision: Decision) -> None:
        """Settle the order for a service that has done its work, was called off, or is too old to surprise anybody."""
        view, service = decision.view, decision.view.service
        order = self._orders.of(service)
        if order is None:
            return
        # failback stays with the serving server as the view's cause, so the order itself has done its work
        away = view.serving not in {view.home, None}
        done = away if order.verb == "failover" else view.serving == view.home or view.cause == FAILBACK
        late = order.age is None or order.age > self._policy.after + self._policy.drain
        words = decision.called_off or (f"the order {order.verb} could not be carried out and is void" if late else "")
        if not done and not words:
            return
        if not done:
            self._journal.append(
                "event", at=self._clock.wall(), server=self._me, service=service, event=words, by=f"operator {order.by}"
            )
        self._orders.settle(service)

    # Evidence

    def _evidence(self, view: View, order: Ordered | None, agreed: Agreed) -> Evidence:
        service, heard = view.service, self._contact.heard
        facts = self._contact.facts() if heard else {}
        progress = self._gate.progress(service)
        if self.awaits_look:
            progress = progress._replace(lacks=(f"a look at the store of {self._me}", *progress.lacks))
        seen = Evidence(
            me=self._me,
            peer=self._replica.peer.name,
            heard=heard,
            silent_for=self._contact.silent_for(),
            peer_view=_view_of(facts, service),
            started_for=self._since(self._index.note("started")),
            in_state_for=self._since((self._index.note("entered") or {}).get(service)),
            order=order.verb if order else None,
            gate_restarted=progress.restarted,
            gate_completed=progress.completed,
            waiting_gate=progress.lacks,
            ordered_for=(order.age or 0.0) if order else 0.0,
            now=order.now if order else False,
            home=agreed.homes[service],
            unfit=self.unfit,
            peer_fit=facts.get("fit") is not False,
            cut_off=self._probes is not None and self._probes.cut_off,
            calls=self._probes.calls(service) if self._probes is not None else 0,
            paused=self.agreement.paused(agreed) is not None,
            moves=self._moves.lately(service),
            permit=self.permits.of(service),
            leased=self.permits.leased(service),
            lease_number=self.permits.number(service),
        )
        if heard and Situation(view, seen, self._policy).said is None:  # what it does not know it cannot take
            lacks = (f"{seen.peer} to tell of this service: see 'vmctl status' there",)
            seen = replace(seen, peer_fit=False, gate_restarted=False, gate_completed=False, waiting_gate=lacks)
        return seen

    @property
    def unfit(self) -> str:
        """Why this server is not fit to serve; "" where it is."""
        if self._probes is not None and not self._probes.health.well:
            return f"the voicemail application of {self._me} is unwell: {self._probes.health.why}"
        if self._gate.is_set(ROLLED_BACK):
            if self._replica.behind or not self._gate.progress(ROLLED_BACK).completed:
                return f"{self._me} was put back to an earlier state, and does not hold again all that it held"
            with self._index.transaction():
                self._gate.drop(ROLLED_BACK)
        return ""

    def was_rolled_back(self) -> None:
        """This server was put back to an earlier state: it is whole again when it holds what the peer holds now."""
        with self._index.transaction():
            self._gate.set(ROLLED_BACK)

    def _entered(self, view: View) -> None:
        entered = self._index.note("entered") or {}
        self._index.set_note("entered", {**entered, view.service: self._moment()})
        if view.state == "recovering":
            self._gate.set(view.service)

    def _count_from_now(self, views: Iterable[str]) -> None:
        """How long a state has lasted is not known after another boot, nor after the index was lost."""
        entered, boot = self._index.note("entered") or {}, self._clock.boot()
        unknown = [service for service in views if (entered.get(service) or {}).get("boot") != boot]
        if unknown:
            with self._index.transaction():
                self._index.set_note("entered", {**entered, **dict.fromkeys(unknown, self._moment())})

    def _moment(self) -> dict[str, Any]:
        return {"steady": self._clock.steady(), "boot": self._clock.boot()}

    def _since(self, moment: dict[str, Any] | None) -> float:
        if not moment or moment["boot"] != self._clock.boot():
            return 0.0
        return max(0.0, self._clock.steady() - float(moment["steady"]))


def _view_of(facts: dict[str, Any], service: str) -> View | None:
    try:
        return View.from_json((facts.get("views") or {}).get(service))
    except (ValueError, AttributeError):
        return None

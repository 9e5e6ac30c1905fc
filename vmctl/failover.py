"""Who serves, at one server: gathers the evidence, asks the table, writes the journal, tells the peer.

The journal is the state: every decision starts from it, under the store's lock. What may be lost with the index
(orders not yet carried out, what a service waits for) are notes there.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from vmctl.clock import duration
from vmctl.errors import JournalError
from vmctl.evidence import Evidence, Order, Policy
from vmctl.roles import check_order, decide
from vmctl.view import FAILBACK, View, newer

if TYPE_CHECKING:
    from vmctl.replica import Replica
    from vmctl.roles import Decision, Transition

log = logging.getLogger("vmctl.failover")

_DONE_ORDERS = 50
_MOST_MOVES = 12
_MOST_STEPS = 4  # a start, an adoption and a move can follow each other; more would be a bug


class Failover:
    """The roles as one server knows them and moves them."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._index = replica.index
        self._clock = replica.clock
        self._me = replica.server.name
        self._homes = {name: service.home for name, service in replica.config.services.items()}
        failover, failback = replica.config.failover, replica.config.failback
        self._policy = Policy(
            failover.after, failover.automatic, failover.start_wait,
            cast("Any", failback.policy), cast("Any", failback.gate), failback.hold, failback.timeout,
        )  # fmt: skip

    def start(self) -> None:
        """A new start of this server: it serves nobody until the peer, or the wait for it, has answered."""
        with self._replica.locked():
            self._replica.journal.start(self._homes, at=self._clock.wall(), server=self._me)
            with self._index.transaction():
                self._replica.contact.forget()
                self._index.set_note("started", self._moment())
                self._index.set_note("entered", {})

    def views(self) -> dict[str, View]:
        """The present view of each service."""
        return self._replica.journal.views(self._homes)

    def tick(self, *, automatic: bool = True) -> bool:
        """Decide for each service until nothing changes; tells whether a role moved.

        Without `automatic` silence moves nothing: a command that runs now and then has not listened in between.
        """
        policy = self._policy if automatic else replace(self._policy, automatic=False)
        moved = False
        with self._replica.locked():
            if self._configs_differ():  # two servers with two policies: only a person's order moves a role
                policy = replace(policy, automatic=False, failback="manual")
            waiting, forward = {}, {}
            for service, known in self.views().items():
                decision = self._settle(known, policy)
                moved = moved or decision.view != known
                self._drop_satisfied(service, decision.view)
                waiting[service] = list(decision.waiting_for)
                if decision.forward:
                    forward[service] = self._orders().get(service)
            with self._index.transaction():
                for name, value in (("waiting", waiting), ("forward", forward)):
                    if value != self._index.note(name):
                        self._index.set_note(name, value)
        return moved

    def _settle(self, view: View, policy: Policy) -> Decision:
        """Decide for one service until nothing changes, and journal each transition."""
        for _ in range(_MOST_STEPS):
            evidence, order = self._evidence(view.service, view)
            decision = decide(view, evidence, policy, self._clock.wall())
            move = decision.transition
            if move is None:
                break
            if move.by == "peer":
                move = move._replace(reason=self._catch_up(move))
            operator = (order or {}).get("by") or None
            self._replica.journal.transition(move, evidence, at=self._clock.wall(), server=self._me, operator=operator)
            log.warning("%s: %s -> %s: %s", view.service, move.before.state, move.after.state, move.reason)
            with self._index.transaction():
                if (move.before.state, move.before.since) != (move.after.state, move.after.since):
                    self._entered(decision.view)
                if move.by == "operator":
                    self._settle_order(view.service)
            view = decision.view
        return decision

    def _configs_differ(self) -> bool:
        contact = self._replica.contact
        theirs = contact.facts().get("config") if contact.heard else None
        return theirs is not None and theirs != self._replica.config.digest

    def facts(self) -> dict[str, Any]:
        """What every mail tells the peer of the roles; nothing where the journal cannot be trusted."""
        try:
            views, moves = self.views(), self._own_moves()
        except JournalError:
            return {}
        return {
            "views": {name: view.as_json() for name, view in views.items()},
            "orders": self._index.note("forward") or {},
            "moves": moves,
        }

    def _own_moves(self) -> list[dict[str, Any]]:
        """The last transitions that this server made, for a peer that was away."""
        entries = self._replica.journal.entries(limit=_MOST_MOVES)
        made = [entry for entry in entries if entry.get("kind") == "transition" and entry.get("by") != "peer"]
        return [{name: entry.get(name) for name in ("service", "from", "to", "reason", "at")} for entry in made]

    def _catch_up(self, move: Transition) -> str:
        """Journal what the peer did before the transition that is adopted now, and give the adopted one's reason."""
        reason = move.reason
        for made in self._replica.contact.facts().get("moves") or []:
            try:
                before, after = View.from_json(made["from"]), View.from_json(made["to"])
                why, at = str(made["reason"])[:400], str(made["at"])[:40]
            except (ValueError, KeyError, TypeError):
                continue
            if after.service != move.after.service:
                continue
            if after.epoch == move.after.epoch:
                reason = f"{move.reason}: {why}"
            elif newer(after.epoch, move.before.epoch, after.home) and newer(move.after.epoch, after.epoch, after.home):
                self._replica.journal.append(
                    "transition", at=self._clock.wall(), server=self._me, service=after.service, reason=why, by="peer",
                    evidence={"made": at}, **{"from": before.as_json(), "to": after.as_json()},
                )  # fmt: skip
        return reason

    # Orders

    def order(self, service: str, verb: Order, by: str) -> str:
        """Take a person's order; tells "already" when there is nothing to do, else "taken".

        Raises what `check_order` raises. The order is carried out by the next ticks, here or at the peer.
        """
        with self._replica.locked():
            view = self.views()[service]
            evidence, _ = self._evidence(service, view)
            if check_order(view, evidence, verb) == "already":
                return "already"
            with self._index.transaction():
                self._keep_order(service, {"id": secrets.token_hex(8), "verb": verb, "by": by})
        return "taken"

    def withdraw(self, service: str) -> None:
        """Take back an order that was not carried out."""
        with self._replica.locked(), self._index.transaction():
            self._settle_order(service)

    def hear_orders(self, orders: Any) -> None:
        """Orders that the peer forwards in a fresh mail, because this server serves. Each is taken once."""
        if not isinstance(orders, dict):
            return
        done = self._index.note("done_orders") or []
        for service, order in orders.items():
            if service not in self._homes or not isinstance(order, dict) or order.get("id") in done:
                continue
            if order.get("verb") in {"failover", "failback"} and service not in self._orders():
                words = {name: str(order.get(name, ""))[:80] for name in ("id", "verb", "by")}
                with self._index.transaction():
                    self._keep_order(service, words)

    def _orders(self) -> dict[str, Any]:
        return dict(self._index.note("orders") or {})

    def _keep_order(self, service: str, order: dict[str, Any]) -> None:
        self._index.set_note("orders", {**self._orders(), service: order | self._moment()})

    def _settle_order(self, service: str) -> None:
        orders = self._orders()
        order = orders.pop(service, None)
        if order is not None:
            self._index.set_note("orders", orders)
            done = self._index.note("done_orders") or []
            self._index.set_note("done_orders", [*done[-_DONE_ORDERS:], order["id"]])

    def _drop_satisfied(self, service: str, view: View) -> None:
        order = self._orders().get(service)
        if order is None:
            return
        # failback stays with the serving server as the view's cause, so the order itself has done its work
        away = view.serving not in {view.home, None}
        done = away if order["verb"] == "failover" else not away or view.cause == FAILBACK
        # an order that could not be carried out in this time must not surprise anybody later
        late = order["boot"] != self._clock.boot() or self._since(order) > self._policy.after
        if done or late:
            if not done:
                words = f"the order {order['verb']} could not be carried out and is void"
                by = f"operator {order.get('by')}"
                self._replica.journal.append(
                    "event", at=self._clock.wall(), server=self._me, service=service, event=words, by=by
                )
            with self._index.transaction():
                self._settle_order(service)

    # Evidence

    def _evidence(self, service: str, view: View) -> tuple[Evidence, dict[str, Any] | None]:
        contact = self._replica.contact
        heard = contact.heard
        facts = contact.facts() if heard else {}
        order = self._orders().get(service)
        lacks, restarted = self._gate(view, facts)
        evidence = Evidence(
            me=self._me,
            peer=self._replica.peer.name,
            heard=heard,
            silent_for=contact.silent_for(),
            peer_view=_view_of(facts, service),
            started_for=self._since(self._index.note("started")),
            in_state_for=self._since((self._index.note("entered") or {}).get(service)),
            order=order["verb"] if order else None,
            gate_restarted=restarted,
            gate_completed=not lacks,
            waiting_gate=tuple(lacks),
        )
        return evidence, order

    def _gate(self, view: View, facts: dict[str, Any]) -> tuple[list[str], bool]:
        """What synchronization still lacks before the role may go home, and whether it has restarted."""
        mark = (self._index.note("gates") or {}).get(view.service)
        if view.state != "recovering" or mark is None:
            return ["synchronization has not restarted"], False
        if facts.get("echoed", 0.0) < mark["steady"] or mark["boot"] != self._clock.boot():
            return ["a fresh mail in each direction"], False
        if mark.get("theirs") is None:
            mark["theirs"] = facts.get("last", 0)
            with self._index.transaction():
                self._index.set_note("gates", {**(self._index.note("gates") or {}), view.service: mark})
        lag = self._replica.config.sync.lag
        count, oldest = self._index.shelf.owed()  # what is parked comes by a person's word only: it holds no gate
        lacks = []
        if oldest is not None:
            age = (self._clock.wall() - oldest) / 1_000_000
            if oldest <= mark["mine"] or age >= lag:
                lacks.append(f"{count} records from {self._me}, the oldest {duration(max(age, 0))} old")
        owed = facts.get("pending", 0) - facts.get("parked", 0)
        if owed > 0:
            age = (facts["sent"] - facts["passed"]) / 1_000_000
            if facts["passed"] < mark["theirs"] or age >= lag:
                lacks.append(f"{owed} records from {self._replica.peer.name}")
        return lacks, True

    def _entered(self, view: View) -> None:
        entered = self._index.note("entered") or {}
        self._index.set_note("entered", {**entered, view.service: self._moment()})
        if view.state == "recovering":
            mark = {**self._moment(), "mine": self._index.last_number, "theirs": None}
            self._index.set_note("gates", {**(self._index.note("gates") or {}), view.service: mark})

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

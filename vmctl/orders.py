"""What persons ordered and is not carried out yet: kept in the index, passed on to the server that serves, each once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from vmctl.clock import Clock
    from vmctl.evidence import Order
    from vmctl.index import Index

_ORDERS: Final = "orders"
_DONE: Final = "done_orders"
_MOST_DONE: Final = 50
_LONGEST: Final = 200
VERBS: Final[tuple[Order, ...]] = ("failover", "failback")


class Ordered(NamedTuple):
    """An order: its id, what is ordered, by whom and why, whether it is for now, and its age in seconds.

    `age` is None for one of another boot of this machine.
    """

    id: str
    verb: Order
    by: str
    reason: str
    now: bool
    age: float | None


class Orders:
    """The orders of one server, at most one a service."""

    def __init__(self, index: Index, clock: Clock) -> None:
        self._index = index
        self._clock = clock

    def of(self, service: str) -> Ordered | None:
        """The order for a service that is still to be carried out."""
        found = self._all().get(service)
        if found is None:
            return None
        same = found["boot"] == self._clock.boot()
        age = max(0.0, self._clock.steady() - float(found["steady"])) if same else None
        return Ordered(found["id"], found["verb"], found["by"], found.get("reason", ""), bool(found.get("now")), age)

    def give(self, service: str, verb: Order, by: str, *, reason: str = "", now: bool = False) -> None:
        """Keep a person's order."""
        self._keep(service, {"id": os.urandom(8).hex(), "verb": verb, "by": by, "reason": reason, "now": now})

    def hear(self, told: Any, services: Collection[str]) -> list[str]:
        """Keep the orders that the peer passes on in a fresh mail; the services of those that are new."""
        done, new = self._index.note(_DONE) or [], []
        for service, order in told.items() if isinstance(told, dict) else ():
            if service not in services or not isinstance(order, dict) or order.get("id") in done:
                continue
            if order.get("verb") in VERBS and service not in self._all():
                words = {name: str(order.get(name, ""))[:_LONGEST] for name in ("id", "verb", "by", "reason")}
                self._keep(service, words)
                new.append(service)
        return new

    def to_forward(self, service: str) -> dict[str, Any] | None:
        """The order as a mail passes it on."""
        order = self.of(service)
        return order and {"id": order.id, "verb": order.verb, "by": order.by, "reason": order.reason}

    def settle(self, service: str) -> None:
        """It was carried out, or is void."""
        orders = self._all()
        order = orders.pop(service, None)
        if order is not None:
            done = self._index.note(_DONE) or []
            with self._index.transaction():
                self._index.set_note(_ORDERS, orders)
                self._index.set_note(_DONE, [*done[-_MOST_DONE:], order["id"]])

    def _keep(self, service: str, order: dict[str, Any]) -> None:
        moment = {"steady": self._clock.steady(), "boot": self._clock.boot()}
        with self._index.transaction():
            self._index.set_note(_ORDERS, {**self._all(), service: order | moment})

    def _all(self) -> dict[str, Any]:
        return dict(self._index.note(_ORDERS) or {})

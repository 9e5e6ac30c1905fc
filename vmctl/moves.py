"""How often a service moved by itself within the last hour: what moves too often is left where it is, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vmctl.view import FAILBACK, FORCED, MODE, ORDER

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.index import Index
    from vmctl.roles import Transition

HOUR: Final = 3600.0
_MOVES: Final = "moves"
_MOST: Final = 1000
_ORDERED: Final = frozenset({ORDER, FORCED, FAILBACK, MODE})


class Moves:
    """The moves that one server made or adopted. A move that a person ordered is not counted."""

    def __init__(self, index: Index, clock: Clock) -> None:
        self._index = index
        self._clock = clock

    def note(self, move: Transition) -> None:
        """Count a transition after which another server serves than before; inside a transaction of the index."""
        before, after = move.before.claim, move.after.claim
        if before is None or after is None or before.server == after.server or move.after.cause in _ORDERED:
            return
        moment = {"steady": self._clock.steady(), "boot": self._clock.boot(), "wall": self._clock.wall()}
        moves = self._index.note(_MOVES) or {}
        kept = [one for one in moves.get(move.after.service, []) if self._ago(one) < HOUR]
        self._index.set_note(_MOVES, {**moves, move.after.service: [*kept[-_MOST:], moment]})

    def lately(self, service: str) -> int:
        """How many moves are not an hour old."""
        return sum(self._ago(one) < HOUR for one in (self._index.note(_MOVES) or {}).get(service, []))

    def _ago(self, moment: dict[str, Any]) -> float:
        """Seconds since; after a restart of the machine the wall clock has to do."""
        if moment["boot"] == self._clock.boot():
            return self._clock.steady() - float(moment["steady"])
        return abs(self._clock.wall() - int(moment["wall"])) / 1_000_000

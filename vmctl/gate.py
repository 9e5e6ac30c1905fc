"""How far synchronization is before a role may move: a mark is set, and what either side held then has to be over there.

There is a mark for each service that goes home or is handed over, and one for this server itself, after it was rolled
back. The records that are parked come by a person's word only, so they hold nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmctl.clock import duration

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.contact import Contact
    from vmctl.index import Index

_GATES: Final = "gates"


class Progress(NamedTuple):
    """What synchronization still lacks, in words, and whether a fresh mail went in each direction since the mark."""

    lacks: tuple[str, ...]
    restarted: bool

    @property
    def completed(self) -> bool:
        """Whether nothing is lacking any more."""
        return self.restarted and not self.lacks


NOT_BEGUN: Final = Progress(("synchronization has not restarted",), restarted=False)


class Gate:
    """The marks of one server."""

    def __init__(self, index: Index, contact: Contact, clock: Clock, *, me: str, peer: str, lag: float) -> None:
        self._index = index
        self._contact = contact
        self._clock = clock
        self._me = me
        self._peer = peer
        self._lag = lag

    def set(self, name: str) -> None:
        """What is held from now on counts; inside a transaction."""
        mark = {
            "steady": self._clock.steady(),
            "boot": self._clock.boot(),
            "mine": self._index.last_number,
            "theirs": None,
        }
        self._keep(name, mark)

    def drop(self, name: str) -> None:
        """The mark has done its work; inside a transaction."""
        gates = self._index.note(_GATES) or {}
        if name in gates:
            self._index.set_note(_GATES, {other: mark for other, mark in gates.items() if other != name})

    def is_set(self, name: str) -> bool:
        """Whether there is such a mark."""
        return name in (self._index.note(_GATES) or {})

    def progress(self, name: str) -> Progress:
        """How far it is since the mark of this name was set."""
        mark = (self._index.note(_GATES) or {}).get(name)
        facts = self._contact.facts() if self._contact.heard else {}
        if mark is None:
            return NOT_BEGUN
        if facts.get("echoed", 0.0) < mark["steady"] or mark["boot"] != self._clock.boot():
            return Progress(("a fresh mail in each direction",), restarted=False)
        if mark.get("theirs") is None:
            mark["theirs"] = facts.get("last", 0)
            with self._index.transaction():
                self._keep(name, mark)
        return Progress((*self._own(mark), *self._theirs(mark, facts)), restarted=True)

    def _own(self, mark: dict[str, Any]) -> list[str]:
        if not self._index.was_scanned:
            return [f"a look at all of the store of {self._me}"]
        count, oldest = self._index.shelf.owed()
        if oldest is None:
            return []
        age = (self._clock.wall() - oldest) / 1_000_000
        if oldest > mark["mine"] and age < self._lag:
            return []
        return [f"{count} records from {self._me}, the oldest {duration(max(age, 0))} old"]

    def _theirs(self, mark: dict[str, Any], facts: dict[str, Any]) -> list[str]:
        if facts.get("behind") is True:  # it has said that it has them, and they are not in its files yet
            return [f"what came to {self._peer} to be in its files, or its store to be looked at"]
        owed = facts.get("pending", 0) - facts.get("parked", 0)
        if owed <= 0:
            return []
        age = (facts["sent"] - facts["passed"]) / 1_000_000
        return [f"{owed} records from {self._peer}"] if facts["passed"] < mark["theirs"] or age >= self._lag else []

    def _keep(self, name: str, mark: dict[str, Any]) -> None:
        self._index.set_note(_GATES, {**(self._index.note(_GATES) or {}), name: mark})

"""Byte ranges of recordings that travel in pieces: those that came, and those that the peer is still to get.

Pieces of any sizes fit together: the bound of a mail may change between two of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TABLES: Final = """
CREATE TABLE IF NOT EXISTS parts (sha256 TEXT, start INTEGER, stop INTEGER, PRIMARY KEY (sha256, start)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS offers (sha256 TEXT, start INTEGER, stop INTEGER, PRIMARY KEY (sha256, start)) WITHOUT ROWID;
"""
Span = tuple[int, int]


class Ranges:
    """One of the two tables in the index of one server; `run` executes SQL in the index's transaction."""

    def __init__(self, run: Callable[..., Any], table: str) -> None:
        self._run = run
        self._table = table

    def recordings(self) -> list[str]:
        """The SHA-256 of each recording that has a range here."""
        return [row[0] for row in self._run(f"SELECT DISTINCT sha256 FROM {self._table} ORDER BY sha256")]  # noqa: S608 - our own words; values are parameters

    def of(self, sha256: str) -> list[Span]:
        """The ranges of a recording, in order: none touches the next."""
        rows = self._run(f"SELECT start, stop FROM {self._table} WHERE sha256 = ? ORDER BY start", (sha256,))  # noqa: S608 - our own words; values are parameters
        return [(row[0], row[1]) for row in rows]

    def all(self) -> dict[str, list[Span]]:
        """The ranges of every recording."""
        found: dict[str, list[Span]] = {}
        for sha256, start, stop in self._run(f"SELECT sha256, start, stop FROM {self._table} ORDER BY sha256, start"):  # noqa: S608 - our own words; values are parameters
            found.setdefault(sha256, []).append((start, stop))
        return found

    def add(self, sha256: str, start: int, stop: int) -> None:
        """Add a range."""
        self._set(sha256, united([*self.of(sha256), (start, stop)]))

    def cut(self, sha256: str, start: int, stop: int) -> None:
        """Take a range away; what is left of those that it meets stays."""
        self._set(sha256, without(self.of(sha256), [(start, stop)]))

    def drop(self, sha256: str) -> None:
        """Forget a recording."""
        self._run(f"DELETE FROM {self._table} WHERE sha256 = ?", (sha256,))  # noqa: S608 - our own words; values are parameters

    def _set(self, sha256: str, spans: list[Span]) -> None:
        self.drop(sha256)
        for start, stop in spans:
            self._run(f"INSERT INTO {self._table} VALUES (?, ?, ?)", (sha256, start, stop))  # noqa: S608 - our own words; values are parameters


def united(spans: Iterable[Span]) -> list[Span]:
    """The same bytes in as few ranges as there can be, in order."""
    found: list[Span] = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


def without(spans: Iterable[Span], holes: Iterable[Span]) -> list[Span]:
    """What of the ranges no hole covers, in order."""
    left = []
    gone = united(holes)
    for start, stop in united(spans):
        at = start
        for hole_start, hole_stop in gone:
            if at < hole_start < stop:
                left.append((at, hole_start))
            if hole_start < stop:
                at = max(at, hole_stop)
        if at < stop:
            left.append((at, stop))
    return left

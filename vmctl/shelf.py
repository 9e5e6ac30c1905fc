"""What holds nothing up any more: the peer's server refuses it for good or puts it off, or the peer holds it back.

A row is a record at a version, or a piece of its recording. It stays over restarts, until the record changes, the peer
acknowledges it, or a person retries it. A row that a person gave up keeps the record from being offered, and no more.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmctl.refusals import Piece, Thing, Version

if TYPE_CHECKING:
    from collections.abc import Callable

TABLES: Final = """
CREATE TABLE IF NOT EXISTS parked (
    packet TEXT PRIMARY KEY, key TEXT NOT NULL, version TEXT NOT NULL, facts TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS parked_record ON parked (key, version);
CREATE TABLE IF NOT EXISTS holds (key TEXT PRIMARY KEY, version TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
"""
_PARKED_NOW = (
    "SELECT DISTINCT parked.key FROM parked CROSS JOIN records ON records.key = parked.key"
    " AND records.version = parked.version WHERE parked.key IN (SELECT key FROM unacked)"
)
_STALE = (
    "NOT EXISTS (SELECT 1 FROM records WHERE records.key = parked.key AND records.version = parked.version"
    " AND (records.base IS NOT '=' OR json_extract(parked.facts, '$.acked')))"
)


class Parked(NamedTuple):
    """One row. `packet` is the id of the mail, `reply` what the peer or its server said, `since` in microseconds.

    `acked`: the peer had acknowledged the record already when the piece of its recording was refused. `put_off`: it was
    refused for now only, each time, and is tried again by itself.
    """

    packet: str
    key: str
    version: str
    reply: str
    since: int
    tries: int = 1
    piece: tuple[str, int, int] | None = None
    acked: bool = False
    given_up: bool = False
    put_off: bool = False

    @property
    def thing(self) -> Thing:
        """What it is that is not sent."""
        return Piece(*self.piece) if self.piece else Version(self.key, self.version)


class Shelf:
    """The rows in the index of one server; `run` executes SQL in the index's transaction."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def put(self, parked: Parked) -> None:
        """Set a thing aside, or change what is known of it."""
        packet, key, version, *facts = parked
        text = json.dumps(dict(zip(Parked._fields[3:], facts, strict=True)))
        self._run("INSERT OR REPLACE INTO parked VALUES (?, ?, ?, ?)", (packet, key, version, text))

    def all(self) -> list[Parked]:
        """Every row, the oldest first."""
        rows = self._run("SELECT packet, key, version, facts FROM parked")
        found = [Parked(row[0], row[1], row[2], **json.loads(row[3])) for row in rows]
        return sorted(found, key=lambda parked: (parked.since, parked.packet))

    def drop(self, packet: str) -> None:
        """Take a thing up again: it is sent like any other."""
        self._run("DELETE FROM parked WHERE packet = ?", (packet,))

    def clear(self) -> None:
        """The peer is another: what the former one refused is offered again, save what a person gave up."""
        self._run("DELETE FROM parked WHERE NOT json_extract(facts, '$.given_up')")

    def stale(self) -> list[Parked]:
        """The rows that are of no use any more: the record changed, or the peer has it."""
        rows = self._run(f"SELECT packet, key, version, facts FROM parked WHERE {_STALE}")  # noqa: S608 - our own words; values are parameters
        return [Parked(row[0], row[1], row[2], **json.loads(row[3])) for row in rows]

    def owed(self) -> tuple[int, int | None]:
        """How many records the peer lacks that will be sent by themselves, and the number of the oldest change in these.

        A record that was changed again before it was acknowledged is as old as the first of these changes.
        """
        idle = {row[0] for row in self._run(_PARKED_NOW)}  # few, as a rule; what the peer lacks may be everything
        lacking = int(self._run("SELECT count(*) FROM unacked").fetchone()[0])
        rows = self._run("SELECT key, first FROM unacked ORDER BY first LIMIT ?", (len(idle) + 1,)).fetchall()
        return lacking - len(idle), next((first for key, first in rows if key not in idle), None)

    # What this server holds back of what the peer sent

    def hold(self, key: str, version: str, reason: str) -> None:
        """Remember to tell the peer that a version cannot be taken, or not whole."""
        self._run("INSERT OR REPLACE INTO holds VALUES (?, ?, ?)", (key, version, reason))

    def holds(self, limit: int) -> list[tuple[str, str, str]]:
        """What the peer is to be told of: key, version and reason."""
        rows = self._run("SELECT key, version, reason FROM holds ORDER BY key LIMIT ?", (limit,))
        return [(row[0], row[1], row[2]) for row in rows]

    def told(self, key: str, version: str) -> None:
        """The peer was told."""
        self._run("DELETE FROM holds WHERE key = ? AND version = ?", (key, version))

"""What is to be said to the peer of its records: which versions are here, which are wanted whole, which recordings lack.

A recording is awaited when it was looked for and is not here. What waits for it, an acknowledgement or a file to be
written, is not looked at again until it has come: a backlog of thousands of long recordings must not cost a look at
each of them for every mail. Whoever finds it says so; and what is due to be asked for is looked for once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmctl.rare import Rare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TABLES: Final = """
CREATE TABLE IF NOT EXISTS acks (key TEXT PRIMARY KEY, version TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wants (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS awaited (sha256 TEXT PRIMARY KEY) WITHOUT ROWID;
"""
WAITS: Final = "(lives AND ifnull(audio IN (SELECT sha256 FROM awaited), 0))"  # of a record
_NEEDED = "records.audio = sha256 AND lives AND (todo OR kind = 'conflict' OR key IN (SELECT key FROM acks))"


class Ack(NamedTuple):
    """A version to acknowledge, the recording (SHA-256) without which it may not be, and whether a file shows the record."""

    key: str
    version: str
    audio: str | None
    shown: bool


class Replies:
    """The rows in the index of one server; `run` executes SQL in the index's transaction."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self.rare = self._wants, self._awaited = Rare(run, "wants"), Rare(run, "awaited")

    # Versions that are here

    def add_ack(self, key: str, version: str) -> None:
        """Remember to acknowledge a version in the next mail."""
        self._run("INSERT OR REPLACE INTO acks VALUES (?, ?)", (key, version))

    def acks(self, most: int = -1) -> list[Ack]:
        """The versions to acknowledge whose recordings are not awaited, `most` of them at most."""
        query = f"""SELECT acks.key, acks.version, CASE WHEN lives THEN audio END, shown IS NOT NULL
            FROM acks LEFT JOIN records USING (key) WHERE ifnull(NOT {WAITS}, 1) ORDER BY acks.key LIMIT ?"""  # noqa: S608 - our own words; values are parameters
        return [Ack(*row) for row in self._run(query, (most,))]

    def are_more_than(self, number: int) -> bool:
        """Whether more versions than so many are to be acknowledged now."""
        if self._run("SELECT 1 FROM acks LIMIT 1 OFFSET ?", (number,)).fetchone() is None:
            return False  # as nearly always: of all there are, and some wait for their recordings
        query = f"SELECT 1 FROM acks LEFT JOIN records USING (key) WHERE ifnull(NOT {WAITS}, 1) LIMIT 1 OFFSET ?"  # noqa: S608 - our own words; values are parameters
        return self._run(query, (number,)).fetchone() is not None

    def ack_of(self, key: str) -> str | None:
        """The version of a record that is to be acknowledged, now or when its recording has come."""
        row = self._run("SELECT version FROM acks WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def drop_ack(self, key: str, version: str) -> None:
        """The acknowledgement left."""
        self._run("DELETE FROM acks WHERE key = ? AND version = ?", (key, version))

    # Records to be sent whole

    def add_want(self, key: str) -> None:
        """Remember to ask for a record whole."""
        self._run("INSERT OR REPLACE INTO wants VALUES (?)", (key,))
        self._wants.filled()

    def wants(self) -> list[str]:
        """The records to ask for."""
        return [row[0] for row in self._run("SELECT key FROM wants ORDER BY key")]

    def drop_want(self, key: str) -> None:
        """The record came whole."""
        if self._wants:
            self._run("DELETE FROM wants WHERE key = ?", (key,))

    def drop_wants(self) -> None:
        """The peer sends everything again."""
        self._run("DELETE FROM wants")

    # Recordings that are not here

    def awaits(self, sha256: str) -> None:
        """A recording was looked for and is not here."""
        self._run("INSERT OR IGNORE INTO awaited VALUES (?)", (sha256,))
        self._awaited.filled()

    def came(self, recordings: Iterable[str]) -> None:
        """These recordings are here."""
        for sha256 in recordings if self._awaited else ():
            self._run("DELETE FROM awaited WHERE sha256 = ?", (sha256,))

    def awaited(self) -> dict[str, int]:
        """The recordings that something waits for, by SHA-256, and their sizes: of what is needed most first."""
        # CROSS JOIN: SQLite would begin with all records, which are many more
        query = f"""SELECT sha256, min(json_extract(state, '$.fields.audio.is.size')) FROM awaited CROSS JOIN records ON {_NEEDED}
            GROUP BY sha256 ORDER BY min(rank), min(key)"""  # noqa: S608 - our own words; values are parameters
        return {row[0]: int(row[1]) for row in self._run(query)}

    def tidy(self) -> None:
        """Forget the recordings that nothing waits for any more."""
        self._run(f"DELETE FROM awaited WHERE NOT EXISTS (SELECT 1 FROM records WHERE {_NEEDED})")  # noqa: S608 - our own words; values are parameters

"""What an index remembers of the dead: since when, whether they were purged, and what it has forgotten again.

A record that was deleted can be restored until it is purged. Of one that was purged only the tombstone is left, and
when that has been kept for long enough it is dropped. What is left then is one number, that of the newest birth ever
dropped, and for each incarnation the bound below which this server once held all of its changes: who comes along with
an older copy, says by its birth that it was deleted here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmctl.model import KINDS
from vmctl.rare import Rare

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.model import Record

# `since`: when it was found dead or purged here (microseconds); `swept`: its files are gone, too.
TABLE: Final = """
CREATE TABLE IF NOT EXISTS dead (
    key TEXT PRIMARY KEY, since INTEGER NOT NULL, purged INTEGER NOT NULL, swept INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS dead_since ON dead (purged, since);
CREATE INDEX IF NOT EXISTS unswept ON dead (key) WHERE purged AND NOT swept;
INSERT OR IGNORE INTO dead SELECT key, number, 0, 0 FROM records WHERE NOT lives;
CREATE TABLE IF NOT EXISTS unburied (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_BOUNDS, _DROPPED = "bounds", "dropped"


class Dead(NamedTuple):
    """A record that can still be restored: since when it is dead here (microseconds), and the mailbox of what lay in one."""

    key: str
    since: int
    kind: str
    mailbox: str | None


class Tombstones:
    """The table of the dead in the index of one server; `run` executes SQL in the index's transaction.

    CROSS JOIN has SQLite begin with the dead: it knows nothing of how few they are, and would begin with all records.
    """

    def __init__(
        self, run: Callable[..., Any], note: Callable[[str], Any], set_note: Callable[[str, Any], None]
    ) -> None:
        self._run = run
        self._note = note
        self._set_note = set_note
        self.rare = self._dead, self._unburied = Rare(run, "dead"), Rare(run, "unburied")

    def take(self, record: Record, wall: int) -> None:
        """Note whether a record is dead or purged now, and since when.

        A clock that is behind must not end a retention early, so no time counts that is below the change itself.
        """
        if record.lives and not self._dead:
            return
        row = self._run("SELECT purged FROM dead WHERE key = ?", (record.key,)).fetchone()
        if record.kind in KINDS and (row is not None if record.lives else not record.is_purged):
            self._run("INSERT OR IGNORE INTO unburied VALUES (?)", (record.key,))
            self._unburied.filled()
        if record.lives:
            if row is not None:
                self._run("DELETE FROM dead WHERE key = ?", (record.key,))
            return
        if row is None or bool(row[0]) != record.is_purged:
            since = max(wall, record.changed_at)
            self._run("INSERT OR REPLACE INTO dead VALUES (?,?,?,0)", (record.key, since, record.is_purged))
            self._dead.filled()

    def unburied(self) -> list[str]:
        """What died, or lives again, since its tomb was written last: the file is to be written, or to be removed."""
        return [row[0] for row in self._run("SELECT key FROM unburied ORDER BY key")]

    def is_unburied(self, key: str) -> bool:
        """Whether the tomb of a record is to be written or removed."""
        return bool(self._unburied) and self._run("SELECT 1 FROM unburied WHERE key = ?", (key,)).fetchone() is not None

    def buried(self, key: str) -> None:
        """The tomb of a record says what the index does."""
        self._run("DELETE FROM unburied WHERE key = ?", (key,))

    def is_purged(self, key: str) -> bool:
        """Whether nothing of a record is to be restored any more."""
        return self._run("SELECT 1 FROM dead WHERE key = ? AND purged", (key,)).fetchone() is not None

    def not_after(self, now: int) -> None:
        """What a clock that was ahead dated into the future died now."""
        self._run("UPDATE dead SET since = ? WHERE since > ?", (now, now))

    def purgeable(self, before: int) -> list[Dead]:
        """What died before a time, is not purged, has no file any more, and is known as dead to the peer; the oldest first."""
        query = """SELECT key, since, kind, mailbox FROM dead CROSS JOIN records USING (key)
            WHERE NOT purged AND since < ? AND base = '=' AND shown IS NULL ORDER BY since, key"""
        return [Dead(*row) for row in self._run(query, (before,))]

    def unswept(self, most: int) -> list[tuple[str, str | None]]:
        """What was purged on both servers, and its recording (SHA-256): their files are to go."""
        query = """SELECT key, audio FROM dead CROSS JOIN records USING (key)
            WHERE purged AND NOT swept AND base = '=' AND shown IS NULL ORDER BY key LIMIT ?"""
        return [(row[0], row[1]) for row in self._run(query, (most,))]

    def swept(self, key: str) -> None:
        """The files of a purged record are gone."""
        self._run("UPDATE dead SET swept = 1 WHERE key = ? AND purged", (key,))

    def droppable(self, before: int, most: int) -> list[str]:
        """What was purged before a time, on both servers, and whose files are gone."""
        query = """SELECT key FROM dead CROSS JOIN records USING (key)
            WHERE purged AND swept AND since < ? AND base = '=' ORDER BY since, key LIMIT ?"""
        return [row[0] for row in self._run(query, (before, most))]

    def drop(self, record: Record) -> None:
        """Forget a record that was purged on both servers; its birth is remembered."""
        assert record.is_purged, "only what was purged is forgotten"  # noqa: S101
        self._set_note(_DROPPED, max(self.dropped_birth, record.born.number))
        for table in ("dead", "unburied", "records"):
            self._run(f"DELETE FROM {table} WHERE key = ?", (record.key,))  # noqa: S608 - our own words; values are parameters

    @property
    def dropped_birth(self) -> int:
        """The newest birth of all records that were ever forgotten here; 0 before the first."""
        return int(self._note(_DROPPED) or 0)

    # What this server once held

    def set_bound(self, incarnation: str, number: int) -> None:
        """Every change of an incarnation up to this number is here, or was."""
        bounds = self._note(_BOUNDS) or {}
        if number > bounds.get(incarnation, 0):
            self._set_note(_BOUNDS, bounds | {incarnation: number})

    def bound(self, incarnation: str) -> int:
        """The number up to which every change of an incarnation is here, or was; 0 where none is known."""
        return int((self._note(_BOUNDS) or {}).get(incarnation, 0))

    def was_dropped(self, record: Record, mine: str, last: int) -> bool:
        """Whether a living record that is unknown here was deleted here, and forgotten since.

        So it was if this server once held every birth, save and restore that keeps it alive, and has forgotten younger
        records than it. `mine` is this server's incarnation, `last` its newest change.
        """
        if not record.lives or record.born.number > self.dropped_birth:
            return False
        bounds = (self._note(_BOUNDS) or {}) | {mine: last}
        keeps = [(by, number) for by, number in record.kept.items() if number > record.deleted.get(by, 0)]
        return all(number <= bounds.get(by, 0) for by, number in keeps)

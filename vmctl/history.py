"""Earlier versions of settings, callflows, prompts, mailboxes and greetings, as this server took them.

Whenever the index takes another document of such a record, made here or come from the peer, it is noted in the same
transaction. The newest version is the present one; `keep` more are kept behind it. Each server has its own versions
and numbers them in the order in which it took them. A record that is purged has no history any more.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmctl.entry import audio_of
from vmctl.model import ABSENT, CALLFLOW, GREETING, MAILBOX, PROMPT, SETTINGS, canonical

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.model import Record

KINDS: Final = (SETTINGS, CALLFLOW, PROMPT, MAILBOX, GREETING)

TABLE: Final = """
CREATE TABLE IF NOT EXISTS history (
    key TEXT, number INTEGER, taken INTEGER NOT NULL, at INTEGER NOT NULL, by TEXT NOT NULL, document TEXT, audio TEXT,
    PRIMARY KEY (key, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS history_audio ON history (audio) WHERE audio IS NOT NULL;
"""
_COLUMNS = "key, number, taken, at, by, document"


class Version(NamedTuple):
    """What a record was, from the moment when this server took it until the next version.

    `number` counts from 1; `taken` is the number of the change here, `at` when the edit was made that led to it (both
    microseconds) and `by` the incarnation where it was made. The document of a deleted record is None.
    """

    key: str
    number: int
    taken: int
    at: int
    by: str
    document: dict[str, Any] | None


class History:
    """The table of versions in the index of one server; `run` executes SQL in the index's transaction."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self.keep = 20

    def take(self, record: Record, taken: int, former: Record | None) -> None:
        """Note what a record is now, if it is another than before; `former` is what it was, should no version be known."""
        if record.is_purged:
            self._run("DELETE FROM history WHERE key = ?", (record.key,))
            return
        newest = self._newest(record.key)
        if newest is None and former is not None:
            newest = self._add(former, 1, former.changed_at, {})
        if newest is not None and _same(newest.document, _content(record)):
            return
        number = newest.number + 1 if newest else 1
        self._add(record, number, taken, newest.document if newest else {})
        if number > self.keep:
            self._run("DELETE FROM history WHERE key = ? AND number < ?", (record.key, number - self.keep))

    def of(self, key: str) -> list[Version]:
        """The versions of a record, the newest first."""
        rows = self._run(f"SELECT {_COLUMNS} FROM history WHERE key = ? ORDER BY number DESC", (key,))  # noqa: S608 - our own words; values are parameters
        return list(map(_version, rows))

    def all(self) -> list[Version]:
        """The versions of all records, in the order in which they were taken, the newest first."""
        rows = self._run(f"SELECT {_COLUMNS} FROM history ORDER BY taken DESC, key, number DESC")  # noqa: S608 - our own words; values are parameters
        return list(map(_version, rows))

    def names_audio(self, sha256: str) -> bool:
        """Whether some version has this recording."""
        return self._run("SELECT 1 FROM history WHERE audio = ?", (sha256,)).fetchone() is not None

    def _newest(self, key: str) -> Version | None:
        query = f"SELECT {_COLUMNS} FROM history WHERE key = ? ORDER BY number DESC LIMIT 1"  # noqa: S608 - our own words; values are parameters
        row = self._run(query, (key,)).fetchone()
        return None if row is None else _version(row)

    def _add(self, record: Record, number: int, taken: int, before: dict[str, Any] | None) -> Version:
        at, by = _made(record, before)
        version = Version(record.key, number, taken, at, by, _content(record))
        text = None if version.document is None else json.dumps(version.document, separators=(",", ":"))
        audio = audio_of(version.document or {})
        row = (*version[:5], text, audio["sha256"] if audio else None)
        self._run("INSERT OR REPLACE INTO history VALUES (?,?,?,?,?,?,?)", row)
        return version


def _content(record: Record) -> dict[str, Any] | None:
    return record.document if record.lives else None


def _same(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    return canonical(one) == canonical(other)


def _made(record: Record, before: dict[str, Any] | None) -> tuple[int, str]:
    """When and where the newest of the edits was made that led from `before` (None: it was not there) to the record."""
    now = record.document
    if record.lives and before is not None:
        names = [name for name in record.fields if now.get(name, ABSENT) != before.get(name, ABSENT)]
        stamps = [record.fields[name].stamp for name in names]
        if stamps:
            newest = max(stamps)
            return newest.at, newest.by
    return max(((number, by) for by, number in record.vector.items()), default=(0, ""))


def _version(row: tuple[str, int, int, int, str, str | None]) -> Version:
    return Version(*row[:5], None if row[5] is None else json.loads(row[5]))

"""Which mails left lately, by Message-ID, and what mail servers on the way said of them since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE: Final = """
CREATE TABLE IF NOT EXISTS letters (
    message_id TEXT PRIMARY KEY, subject TEXT NOT NULL, size INTEGER NOT NULL, at INTEGER NOT NULL,
    action TEXT, why TEXT, told INTEGER
) WITHOUT ROWID;
"""
_KEEP: Final = 8 * 86_400_000_000  # microseconds: mail servers give up after five days
_FORGET_EVERY: Final = 64


class Letters:
    """The rows in the index of one server; `run` executes SQL in the index's transaction."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._count = 0

    def left(self, message_id: str, subject: str, size: int, at: int) -> None:
        """A mail of `size` bytes left (microseconds)."""
        self._run(
            "INSERT OR REPLACE INTO letters (message_id, subject, size, at) VALUES (?, ?, ?, ?)",
            (message_id, subject, size, at),
        )
        if self._count % _FORGET_EVERY == 0:
            self._run("DELETE FROM letters WHERE at < ?", (at - _KEEP,))
        self._count += 1

    def bounced(self, message_id: str, action: str, why: str, at: int) -> int | None:
        """A server said what became of a mail; its size, or None where it did not leave here."""
        self._run(
            "UPDATE letters SET action = ?, why = ?, told = ? WHERE message_id = ?", (action, why, at, message_id)
        )
        row = self._run("SELECT size FROM letters WHERE message_id = ?", (message_id,)).fetchone()
        return None if row is None else int(row[0])

    def told(self, since: int) -> list[dict[str, Any]]:
        """What was said of mails after a moment, the newest first."""
        rows = self._run(
            "SELECT subject, at, action, why, told FROM letters WHERE told > ? ORDER BY told DESC LIMIT 100", (since,)
        )
        return [dict(zip(("subject", "left", "action", "why", "told"), row, strict=True)) for row in rows]

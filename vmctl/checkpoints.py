"""The checkpoints that this server gave in its mails: who is echoed one that he does not know was rolled back.

Each is a change number with random bits, kept until the peer has echoed one that is five days younger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE: Final = """
CREATE TABLE IF NOT EXISTS checkpoints (number INTEGER PRIMARY KEY, nonce TEXT NOT NULL);
"""
_CONFIRMED = "confirmed"
_KEPT = 5 * 86_400_000_000  # microseconds below the newest confirmed one: as long as a relay holds a mail


class Checkpoint(NamedTuple):
    """A checkpoint, without its incarnation."""

    number: int
    nonce: str


class Checkpoints:
    """The rows in the index of one server; `run` executes SQL in the index's transaction, the others its notes."""

    def __init__(
        self, run: Callable[..., Any], meta: Callable[[str, str], str], set_meta: Callable[[str, str], None]
    ) -> None:
        self._run = run
        self._meta = meta
        self._set_meta = set_meta

    def add(self, number: int, nonce: str) -> None:
        """Remember a checkpoint before it leaves in a mail."""
        self._run("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", (number, nonce))

    def unconfirmed(self, most: int) -> tuple[list[Checkpoint], int]:
        """The newest that were given since the confirmed one, and the number above which these are all."""
        rows = self._run(
            "SELECT number, nonce FROM checkpoints WHERE number > ? ORDER BY number DESC LIMIT ?",
            (self.confirmed, most),
        ).fetchall()
        found = sorted(Checkpoint(*row) for row in rows)
        return found, self.confirmed if len(found) < most else found[0].number - 1

    @property
    def confirmed(self) -> int:
        """The number of the newest checkpoint that the peer has echoed; 0 before the first."""
        return int(self._meta(_CONFIRMED, "0"))

    def confirm(self, echoed: Checkpoint) -> bool:
        """Whether an echoed checkpoint is one of ours; those that are long confirmed are forgotten, and taken for ours."""
        confirmed = self.confirmed
        if not self._run("SELECT 1 FROM checkpoints WHERE number = ? AND nonce = ?", echoed).fetchone():
            oldest = self._run("SELECT min(number) FROM checkpoints").fetchone()[0]
            return echoed.number <= confirmed and (oldest is None or echoed.number < oldest)
        if echoed.number > confirmed:
            self._set_meta(_CONFIRMED, str(echoed.number))
            self._run("DELETE FROM checkpoints WHERE number < ?", (echoed.number - _KEPT,))
        return True

    def doubt(self, since: int) -> None:
        """A checkpoint was forgotten that came after the one numbered `since`.

        All above the newest of ours up to that may be of another life, so it is not confirmed, either.
        """
        common = self._run("SELECT max(number) FROM checkpoints WHERE number <= ?", (since,)).fetchone()[0] or 0
        self._set_meta(_CONFIRMED, str(min(self.confirmed, common)))

    def drop_all(self) -> None:
        """A new incarnation begins without any."""
        self._run("DELETE FROM checkpoints")
        self._set_meta(_CONFIRMED, "0")

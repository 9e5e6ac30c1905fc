"""Which mails have come already: each has a checkpoint of its own, by which a copy of it is known.

Merging the same mail again changes nothing, so nothing rests on this memory; it tells a person that mails come twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

TABLES: Final = """
CREATE TABLE IF NOT EXISTS seen (
    number INTEGER NOT NULL, incarnation TEXT NOT NULL, PRIMARY KEY (number, incarnation)
) WITHOUT ROWID;
"""
_KEEP: Final = 30 * 86_400_000_000  # change numbers, which are microseconds of the wall clock


class Seen:
    """The rows in the index of one server; `run` executes SQL in the index's transaction."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def again(self, checkpoint: dict[str, Any] | None) -> bool:
        """Note that the mail with this checkpoint came; tells whether it came before, within the last 30 days."""
        number, incarnation = (checkpoint or {}).get("number"), (checkpoint or {}).get("incarnation")
        if type(number) is not int or not isinstance(incarnation, str) or not 0 <= number < 2**63:
            return False
        if self._run("INSERT OR IGNORE INTO seen VALUES (?, ?)", (number, incarnation)).rowcount == 0:
            return True
        self._run("DELETE FROM seen WHERE number < ?", (number - _KEEP,))
        return False

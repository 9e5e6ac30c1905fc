"""What is at fault in a store, named until it is mended: most of it are files that people have to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vmctl.rare import Rare

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE: Final = """
CREATE TABLE IF NOT EXISTS faults (path TEXT PRIMARY KEY, why TEXT NOT NULL, mend TEXT NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID;
"""
NO_FILE: Final = "vmctl:"  # so begin the names of faults that no file has


class Faults:
    """The rows in the index of one server; `run` executes SQL in the index's transaction."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self.rare = Rare(run, "faults")

    def all(self) -> list[dict[str, Any]]:
        """What is at fault, most of it files that cannot be read or are odd: path, why, mend, since (microseconds)."""
        names = ("path", "why", "mend", "since")
        return [dict(zip(names, row, strict=True)) for row in self._run("SELECT * FROM faults ORDER BY path")]

    def set(self, path: str, why: str, mend: str, since: int) -> bool:
        """Name a fault; tells whether it is new."""
        old = self._run("SELECT why FROM faults WHERE path = ?", (path,)).fetchone()
        if old is not None and old[0] == why:
            return False
        self._run("INSERT OR REPLACE INTO faults VALUES (?,?,?,?)", (path, why, mend, since))
        self.rare.filled()
        return True

    def has(self, path: str) -> bool:
        """Whether something is named by this path."""
        return self._run("SELECT 1 FROM faults WHERE path = ?", (path,)).fetchone() is not None

    def drop(self, path: str) -> None:
        """The fault is mended."""
        if self.rare:
            self._run("DELETE FROM faults WHERE path = ?", (path,))

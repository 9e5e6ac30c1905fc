"""How the files and message folders of a store looked when they were last read: what looks the same is left alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from vmctl.entry import Look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TABLES: Final = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, folder TEXT NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
    inode INTEGER NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID;
DROP INDEX IF EXISTS by_folder;
CREATE TABLE IF NOT EXISTS folders (
    path TEXT PRIMARY KEY, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, inode INTEGER NOT NULL,
    looked INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS listed (
    path TEXT PRIMARY KEY, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, inode INTEGER NOT NULL,
    looked INTEGER NOT NULL, names TEXT NOT NULL) WITHOUT ROWID;
"""
_MANY = 1000  # rows


class Looks:
    """The rows in the index of one server; `run` executes SQL in the index's transaction, `run_many` for many rows.

    `came` is told the SHA-256 of whatever lies in a file of the store. In a transaction the looks of files are written
    many at a time.
    """

    def __init__(
        self, run: Callable[..., Any], run_many: Callable[[str, Iterable[tuple[Any, ...]]], None],
        came: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._run = run
        self._run_many = run_many
        self._came = came
        self._lasts = False
        self._new: dict[str, tuple[Look, str]] = {}  # files, not written yet
        self._expected: set[str] = set()  # folders, in this transaction

    def begin(self) -> None:
        """A transaction begins."""
        self._lasts = True

    def write(self) -> None:
        """Write what is new."""
        rows = ((path, path.rpartition("/")[0], *look, digest) for path, (look, digest) in sorted(self._new.items()))
        self._run_many("INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?,?)", rows)
        self._new.clear()

    def end(self) -> None:
        """It is over; what was not written is not to be."""
        self._lasts = False
        self._new.clear()
        self._expected.clear()

    def file(self, path: str) -> tuple[Look, str] | None:
        """How a file looked and the SHA-256 of its bytes."""
        if path in self._new:
            return self._new[path]
        row = self._run("SELECT size, mtime, ctime, inode, digest FROM files WHERE path = ?", (path,)).fetchone()
        return None if row is None else (Look(*row[:4]), row[4])

    def files_in(self, folder: str) -> dict[str, tuple[Look, str]]:
        """The known files of one folder."""
        self.write()
        rows = self._run(
            "SELECT path, size, mtime, ctime, inode, digest FROM files WHERE path > ? AND path < ? AND folder = ?",
            (f"{folder}/", f"{folder}0", folder),  # "0" is what follows on "/"
        )
        return {row[0]: (Look(*row[1:5]), row[5]) for row in rows}

    def files(self, paths: Iterable[str]) -> dict[str, tuple[Look, str]]:
        """Of these files those that are known."""
        self.write()
        rows = self._run(
            "SELECT path, size, mtime, ctime, inode, digest FROM files WHERE path IN (SELECT value FROM json_each(?))",
            (json.dumps(list(paths)),),
        )
        return {row[0]: (Look(*row[1:5]), row[5]) for row in rows}

    def set_file(self, path: str, look: Look, digest: str) -> None:
        """Remember how a file looks and what it holds."""
        self._new[path] = look, digest
        if not self._lasts or len(self._new) >= _MANY:
            self.write()
        self._came(digest)

    def drop_file(self, path: str) -> None:
        """Forget a file."""
        self._new.pop(path, None)
        self._run("DELETE FROM files WHERE path = ?", (path,))

    def folders(self) -> dict[str, tuple[int, int, int, int]]:
        """Message folders: mtime, ctime, inode, and when they were looked at (all ns but the inode)."""
        return {row[0]: (row[1], row[2], row[3], row[4]) for row in self._run("SELECT * FROM folders")}

    def set_folder(self, path: str, mtime: int, ctime: int, inode: int, looked: int) -> None:
        """Remember how a message folder looked, and when."""
        self._run("INSERT OR REPLACE INTO folders VALUES (?,?,?,?,?)", (path, mtime, ctime, inode, looked))

    # Other folders, with the names in them. Of what is in a row all is known: nothing in it waits to be read.

    def listed(self) -> dict[str, tuple[tuple[int, int, int, int], list[str]]]:
        """Mtime, ctime, inode and when it was listed (ns), and the names, of each folder that need not be listed again."""
        return {row[0]: (row[1:5], row[5].split("/")) for row in self._run("SELECT * FROM listed")}

    def set_listed(self, path: str, look: tuple[int, int, int, int], names: list[str]) -> None:
        """Remember a folder and what is in it."""
        self._run("INSERT OR REPLACE INTO listed VALUES (?,?,?,?,?,?)", (path, *look, "/".join(names)))

    def drop_listed(self, path: str) -> None:
        """Have a folder listed by the next scan."""
        self._run("DELETE FROM listed WHERE path = ?", (path,))

    def expect_folder(self, path: str) -> None:
        """Have a message folder listed by the next scan, there or not, unless it is known."""
        if path not in self._expected:
            self._run("INSERT OR IGNORE INTO folders VALUES (?,0,0,0,0)", (path,))
            if self._lasts:
                self._expected.add(path)

    def drop_folder(self, path: str) -> None:
        """Forget a message folder."""
        self._expected.discard(path)
        self._run("DELETE FROM folders WHERE path = ?", (path,))

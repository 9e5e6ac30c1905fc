"""SQLite as the index uses it: a file that is opened or made, durable at each commit, whose faults come out as ours."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from typing import TYPE_CHECKING, Any, Final

from vmctl import beneath
from vmctl.errors import DiskFull, IndexDamaged, StoreBusy, StoreNewer, StoreUnusable, VmctlError

if TYPE_CHECKING:
    from pathlib import Path

_OPENING, _OPEN_AGAIN = 10.0, 0.02  # seconds
_WAIT_FOR_WRITER = 30.0  # seconds
_FILES = ("", "-wal", "-shm", "-journal")

Fault: Final = sqlite3.DatabaseError  # what SQLite raises
Rows = sqlite3.Cursor  # what a statement gives


class _Cursor(sqlite3.Cursor):
    """A cursor whose rows come out with our errors: damage may show at any of them."""

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except Fault as error:
            raise ours(error) from error

    def fetchone(self) -> Any:
        try:
            return super().fetchone()
        except Fault as error:
            raise ours(error) from error

    def fetchall(self) -> list[Any]:
        try:
            return super().fetchall()
        except Fault as error:
            raise ours(error) from error


class Connection(sqlite3.Connection):
    """An open database."""

    def cursor(self, *_: Any) -> Any:
        """A cursor whose rows come out with our errors."""
        return super().cursor(_Cursor)


def connect(path: Path, tables: str, format: int, *, create: bool) -> Connection:  # noqa: A002 - SQLite's user_version
    """Open the file, or make it, with the `tables` of this `format`; statements that are run again change nothing.

    Raises StoreUnusable, StoreBusy, DiskFull, IndexDamaged or StoreNewer.
    """
    _check_plain(path)
    if create:
        with contextlib.suppress(OSError):  # it is there, or SQLite will say why it cannot be
            # the umask may let others read what SQLite makes; what it makes beside it gets the mode of this. One that is
            # there is not opened: to close it would let go of the locks that SQLite has on it here (fcntl(2))
            os.close(beneath.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        where = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
        db = sqlite3.connect(
            where, uri=True, isolation_level=None, timeout=_WAIT_FOR_WRITER, check_same_thread=False, factory=Connection
        )
        try:
            _set_journal(db)
            version = _version(db)
            if version > format and db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                raise StoreNewer(f"{path} has format {version}, this vmctl knows {format}")  # noqa: TRY301
            if version != format:
                _make(db, tables, format)
        except BaseException:
            db.close()
            raise
    except Fault as error:
        raise ours(error) from error
    return db


def as_it_is(path: Path, format: int) -> Connection | None:  # noqa: A002
    """The file alone, without lock or log; None where that cannot be read either, or is of another format."""
    with contextlib.suppress(Fault, IndexDamaged, StoreUnusable):
        _check_plain(path)
        where = f"{path.absolute().as_uri()}?immutable=1"
        db = sqlite3.connect(where, uri=True, isolation_level=None, factory=Connection)
        with contextlib.suppress(Fault, VmctlError):
            if _version(db) == format:
                return db
        db.close()
    return None


def _check_plain(path: Path) -> None:
    """Raise StoreUnusable where a link, or anything else than a file, is in the way: SQLite follows links by itself."""
    for suffix in _FILES:
        beside = path.with_name(path.name + suffix)
        try:
            there = beneath.status(beside)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreUnusable(f"cannot open {path}", why=error.strerror or str(error)) from error
        if not stat.S_ISREG(there.st_mode):
            raise StoreUnusable(
                f"{beside} is no plain file", why="symbolic links are not followed", hint="move it away"
            )


def ours(error: sqlite3.DatabaseError) -> VmctlError:
    """What SQLite raised as one of our errors."""
    text = str(error)
    if not isinstance(error, sqlite3.OperationalError) or "malformed JSON" in text:
        return IndexDamaged("the index .vmctl/index.db is damaged", why=text)
    if "full" in text or getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_SHMSIZE":  # no room for its -shm
        return DiskFull("no room on the disk for the index", why=text)
    if "locked" in text:
        return StoreBusy("another process keeps the index locked", why=text)
    return StoreUnusable("the index cannot be used", why=text)


def _version(db: Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _set_journal(db: Connection) -> None:
    """Set WAL. SQLite does not wait for the others here: they may be making the same file at this moment."""
    deadline = time.monotonic() + _OPENING
    while True:
        try:
            db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=OFF;")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(_OPEN_AGAIN)


def _make(db: Connection, tables: str, format: int) -> None:  # noqa: A002
    """Make the tables, unless another process did so while this one waited for its turn."""
    db.execute("BEGIN IMMEDIATE")
    version = _version(db)
    if version not in range(1, format + 1) and db.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise IndexDamaged("the index .vmctl/index.db is damaged", why="it is a database of another program")
    if version < format:
        for statement in filter(None, map(str.strip, tables.split(";"))):
            db.execute(statement)
        db.execute(f"PRAGMA user_version={format}")
    db.execute("COMMIT")
